"""The training loop for PyTorch: one model per seed as one batch, a captured step, checkpoint, resume and NaN guard.

A paper writes the model and the loss of one seed and hands over the rest:

    def loss(model, batch):  # batch: (64, 2); a scalar, or (scalar, {"name": scalar})
        return -model.log_prob(batch).mean()

    def batches(index):  # a pure function of the step, counted from 0: (seeds, 64, 2)
        return torch.stack([points[rows(seed, index)] for seed in seeds])

    members = batch_seeds(lambda seed: Flow(), seeds, torch_device())
    members = train(loss, members, adam(1e-3), batches, steps=10_000, chunk=100, recorder=run)

The loss is traced: its Python runs once, so what changes from step to step (random draws too) comes with the batch.
Every metric has one value a seed, and the log holds lists. To evaluate: `members.bind(function)` under `vmap`.
"""

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.utils import _pytree as pytree

from common.errors import RefigureError
from common.train.gradient_torch import CapturedGradient, Members, Tensors, captured_gradient
from common.train.recorder import Recorder
from common.train.seeding import torch_generator
from common.train.trees import flatten, unflatten

__all__ = ["Members", "adam", "batch_seeds", "captured_gradient", "train"]

Optimiser = Callable[[list[Tensor]], torch.optim.Optimizer]
WARM_UP = 3
"""Steps of a shape that run one by one on CUDA before the next is captured, as PyTorch's manual advises."""


def batch_seeds(
    init: Callable[[int], nn.Module | Tensors], seeds: Sequence[int], device: torch.device | str = "cpu"
) -> Members:
    """`init(seed)` of every seed, stacked on `device`.

    `init` builds on the CPU, each time with PyTorch's global generator seeded by (seed, "init"); the generator is put
    back afterwards. A module's parameters that require gradients are trained; of a dict, the tensors of floating type.
    """
    models: list[Any] = []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.default_generator.manual_seed(torch_generator(seed, "init").initial_seed())
            models.append(init(seed))
    first, module = models[0], None
    if isinstance(first, nn.Module):
        trained = {name for name, value in first.named_parameters() if value.requires_grad}
        parameters, buffers = stack_module_state(models)
        stacked, module = {**parameters, **buffers}, copy.deepcopy(first).to("meta")
    else:
        trained = {name for name, value in first.items() if value.is_floating_point()}
        stacked = {name: torch.stack([model[name] for model in models]) for name in first}
    if not trained:
        raise RefigureError(f"init built {type(first).__name__} without a tensor of floating type to train")
    stacked = {name: value.detach().to(device) for name, value in stacked.items()}
    return Members(
        parameters={name: value for name, value in stacked.items() if name in trained},
        buffers={name: value for name, value in stacked.items() if name not in trained},
        module=module,
    )


def adam(learning_rate: float, **options: Any) -> Optimiser:
    """PyTorch's Adam, fused into one operation, and ready to be captured on CUDA."""

    def make(parameters: list[Tensor]) -> torch.optim.Optimizer:
        settings = {"fused": True, "capturable": parameters[0].is_cuda, **options}
        return torch.optim.Adam(parameters, lr=learning_rate, **settings)

    return make


def train(
    loss: Callable[..., Any],
    members: Members,
    optimiser: Optimiser,
    batches: Callable[[int], Any],
    *,
    steps: int,
    chunk: int,
    recorder: Recorder,
    shared: bool = False,
    reduce: Literal["mean", "last"] = "mean",
    guard: bool = True,
) -> Members:
    """`members` (a copy: the caller's stay as they are) after `steps` steps of `optimiser` on `loss(model, batch)`.

    `batches(index)` must be a pure function of the step: tensors with a leading axis of members, or without one if
    `shared`. `optimiser` makes a `torch.optim` optimiser for a list of tensors: `adam(1e-3)`, or
    `functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)`. It must treat elements alike (one that looks at whole
    tensors, to clip their norm, would let members influence one another).

    Metrics are "loss" and what `loss` adds; after each chunk their mean over it, or their last value, goes to
    `recorder.log`. Chunks end at multiples of `chunk` whatever happened before. The checkpoint holds parameters,
    buffers and the optimiser's state: a run that was killed and resumes ends bit-identical to an uninterrupted one.

    `guard`: a metric that is not finite raises RefigureError naming the first such step and member, and no state in
    which a tensor lost its finiteness is ever saved, so the last checkpoint stays a good one.
    """
    if steps < 0 or chunk < 1:
        raise RefigureError(f"a loop needs steps >= 0 and chunk >= 1, not steps={steps}, chunk={chunk}")
    members = replace(
        members,
        parameters={name: value.detach().clone() for name, value in members.parameters.items()},
        buffers={name: value.detach().clone() for name, value in members.buffers.items()},
    )
    step = _Step(captured_gradient(loss, members, shared=shared), members, optimiser)
    finite = {name for name, array in flatten(step.state()).items() if _is_finite(array)}

    done = 0
    if (found := recorder.restore()) is not None:
        done, flat = found
        if done > steps:
            raise RefigureError(f"the checkpoint is at step {done}, beyond the {steps} steps asked for; delete it")
        step.restore(flat)

    while done < steps:
        length = min(chunk - done % chunk, steps - done)
        rows = [step(batches(index)) for index in range(done, done + length)]
        metrics = {name: torch.stack([row[name] for row in rows]).double().cpu().numpy() for name in rows[0]}
        if guard:
            _check_metrics(metrics, done, steps)
        done += length
        recorder.log(done, {name: _reduced(name, values, reduce) for name, values in metrics.items()})
        if recorder.due() or done == steps:
            flat = flatten(step.state())
            if guard:
                _check_state(flat, finite, done)
            recorder.save(done, flat)
        recorder.progress(done, steps)
    return members


class _Step:
    """One step of training: gradient and optimiser, written into the members' tensors. On CUDA, a captured graph.

    The warm-up before a capture is made of true steps, and capturing computes nothing: no state needs to be put back.
    """

    def __init__(self, gradient: CapturedGradient, members: Members, optimiser: Optimiser) -> None:
        self.gradient, self.members, self.make = gradient, members, optimiser
        self.optimiser = optimiser(list(members.parameters.values()))
        self.device = next(iter(members.parameters.values())).device
        if self.device.type == "cuda":
            if any(group.get("capturable") is False for group in self.optimiser.param_groups):
                raise RefigureError("this optimiser cannot be captured on CUDA as it is; give it capturable=True")
            self.side = torch.cuda.Stream(self.device)
        self.warm: Counter[Any] = Counter()
        self.graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensors]] = {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds, by the names of the parameters and buffers."""
        of = {name: dict(self.optimiser.state.get(value, {})) for name, value in self.members.parameters.items()}
        return {"parameters": self.members.parameters, "buffers": self.members.buffers, "optimiser": of}

    def restore(self, flat: Mapping[str, np.ndarray]) -> None:
        """Go on from a checkpoint. An optimiser has no state before its first step: a copy of it takes one."""
        copies = {name: value.clone() for name, value in self.members.parameters.items()}
        primed = self.make(list(copies.values()))
        for value in copies.values():
            value.grad = torch.zeros_like(value)
        primed.step()
        like = {**self.state(), "optimiser": {name: dict(primed.state[value]) for name, value in copies.items()}}
        found = unflatten(like, flat)
        for group, ours in (("parameters", self.members.parameters), ("buffers", self.members.buffers)):
            for name, value in ours.items():
                value.copy_(found[group][name])
        for name, value in self.members.parameters.items():
            self.optimiser.state[value] = found["optimiser"][name]

    def __call__(self, batch: Any) -> Tensors:
        """The metrics at the parameters before the step, each (members,)."""
        with torch.no_grad():
            if self.device.type != "cuda":
                return self._advance(batch)
            with torch.cuda.device(self.device):
                return {name: value.clone() for name, value in self._replay(batch).items()}

    def _advance(self, batch: Any) -> Tensors:
        metrics, gradients, changed = self.gradient(self.members.parameters, self.members.buffers, batch)
        for name, value in self.members.parameters.items():
            value.grad = gradients[name]
        self.optimiser.step()
        for name, value in changed.items():
            self.members.buffers[name].copy_(value)
        return metrics

    def _replay(self, batch: Any) -> Tensors:
        leaves, spec = pytree.tree_flatten(batch)
        key = self.gradient.key(leaves, spec)
        if key not in self.graphs and self.warm[key] < WARM_UP:
            self.warm[key] += 1
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                metrics = self._advance(batch)
            torch.cuda.current_stream().wait_stream(self.side)
            return metrics
        if key not in self.graphs:
            inputs = [leaf.clone() for leaf in leaves]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                metrics = self._advance(pytree.tree_unflatten(inputs, spec))
            self.graphs[key] = graph, inputs, metrics
        graph, inputs, metrics = self.graphs[key]
        for ours, leaf in zip(inputs, leaves, strict=True):
            ours.copy_(leaf)
        graph.replay()
        return metrics


def _reduced(name: str, values: np.ndarray, how: str) -> float | list[float]:
    if values.ndim > 2:
        raise RefigureError(f"metric {name!r} has shape {values.shape[2:]} a member and step; give a scalar")
    return (values[-1] if how == "last" else values.mean(axis=0)).tolist()


def _check_metrics(metrics: Mapping[str, np.ndarray], done: int, steps: int) -> None:
    first = [(tuple(bad[0]), name) for name, values in metrics.items() if len(bad := np.argwhere(~np.isfinite(values)))]
    if first:
        (offset, *member), name = min(first, key=lambda found: found[0][0])
        raise RefigureError(
            f"metric {name!r} is {metrics[name][offset, *member]} at step {done + offset + 1} of {steps}, member "
            f"{', '.join(map(str, member))}; training stopped and the last good checkpoint was kept; lower the "
            f"learning rate or clip gradients"
        )


def _check_state(flat: Mapping[str, np.ndarray], finite: set[str], done: int) -> None:
    for name, array in flat.items():
        if (name in finite or name.startswith("optimiser/")) and not _is_finite(array):
            raise RefigureError(
                f"state {name!r} is no longer finite by step {done}; training stopped and the last good checkpoint was "
                f"kept; lower the learning rate or clip gradients"
            )


def _is_finite(array: np.ndarray) -> bool:
    return array.dtype.kind not in "fcV" or bool(np.isfinite(array).all())
