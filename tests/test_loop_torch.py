"""The PyTorch trainer: as plain loops do, members alone, resume exact, bad states never kept, graphs true and lean."""

import functools
import itertools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorders import FolderRecorder, Interrupt, InterruptedRecorder
from torch import Tensor, nn
from torch.func import functionalize, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from common.errors import RefigureError
from common.train.gradient_torch import SHAPES, clean
from common.train.loop_torch import Members, adam, batch_seeds, captured_gradient, train
from common.train.seeding import torch_generator

torch.set_num_threads(1)
SEEDS = [0, 1, 2]
MOMENTUM = functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, nesterov=True)
OPTIMISERS = {"adam": adam(1e-2), "momentum": MOMENTUM, "sgd": functools.partial(torch.optim.SGD, lr=0.1)}
aten = torch.ops.aten


class Net(nn.Module):
    """Two inputs, one output, and what makes a state awkward: statistics, a mask, a counter, a frozen scale."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 1)
        )
        self.scale = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.register_buffer("mask", torch.tensor([1.0, 0.5]))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def predict(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.scale * self.body(x * self.mask)[:, 0]


def init(seed: int) -> Net:
    return Net()


def loss(model: Net, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    error = model.predict(batch) - batch[:, 0] * batch[:, 1]
    return error.square().mean(), {"bias": error.mean()}


def batches(index: int, seeds: list[int] = SEEDS) -> Tensor:
    return torch.stack([torch.randn(16, 2, generator=torch_generator(seed, "batch", index)) for seed in seeds])


def bits(members: Members) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in (members.parameters | members.buffers).items()}


def trained(folder: Path, seeds: list[int] = SEEDS, steps: int = 12, **settings: Any) -> Members:
    settings = {"optimiser": adam(1e-2), "chunk": 5, "recorder": FolderRecorder(folder), **settings}
    return train(loss, batch_seeds(init, seeds), batches=lambda i: batches(i, seeds), steps=steps, **settings)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_trains_as_one_plain_loop_a_seed_does(tmp_path: Path, name: str) -> None:
    before = torch.get_rng_state()
    members = trained(tmp_path, optimiser=OPTIMISERS[name])
    assert torch.equal(torch.get_rng_state(), before)
    losses = []
    for member, seed in enumerate(SEEDS):
        torch.default_generator.manual_seed(torch_generator(seed, "init").initial_seed())
        model = Net()
        optimiser = OPTIMISERS[name]([value for value in model.parameters() if value.requires_grad])
        losses.append([])
        for index in range(12):
            optimiser.zero_grad()
            value, _ = loss(model, batches(index)[member])
            value.backward()
            optimiser.step()
            losses[-1].append(value.item())
        for key, value in model.state_dict().items():
            ours = (members.parameters | members.buffers)[key][member]
            torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-5)
    assert members.buffers["calls"].tolist() == [12] * 3
    assert members.buffers["scale"].tolist() == [2.0] * 3
    logged = FolderRecorder(tmp_path).metrics()
    for step, part in ((5, slice(0, 5)), (10, slice(5, 10)), (12, slice(10, 12))):
        np.testing.assert_allclose(logged[step]["loss"], np.mean(np.array(losses)[:, part], axis=1), rtol=1e-4)
        assert logged[step].keys() == {"loss", "bias"}


def test_members_do_not_influence_one_another(tmp_path: Path) -> None:
    one = trained(tmp_path / "one", [0, 1, 2])
    other = trained(tmp_path / "other", [0, 8, 9])
    for name, value in (one.parameters | one.buffers).items():
        assert torch.equal((other.parameters | other.buffers)[name][0], value[0])
    assert not torch.equal(one.parameters["body.0.weight"][1], other.parameters["body.0.weight"][1])

    def poisoned(index: int) -> Tensor:
        batch = batches(index)
        batch[2] *= torch.nan if index == 3 else 1
        return batch

    sick = train(
        loss, batch_seeds(init, SEEDS), adam(1e-2), poisoned, steps=12, chunk=5,
        recorder=FolderRecorder(tmp_path / "sick"), guard=False,
    )  # fmt: skip
    assert all(torch.equal(value[:2], one.parameters[name][:2]) for name, value in sick.parameters.items())
    assert sick.parameters["body.3.weight"][2].isnan().all()


def test_a_gradient_laid_out_otherwise_than_its_parameter_reaches_the_optimiser(tmp_path: Path) -> None:
    """PyTorch's fused Adam on the CPU reads gradients as if they lay in memory as the parameters do."""

    def distance(model: dict[str, Tensor], batch: Tensor) -> Tensor:
        return (batch - model["w"].T).square().sum()

    start, target = Members({"w": torch.zeros(1, 2, 3)}, {}), torch.arange(6.0).view(1, 3, 2)
    settings = {"steps": 5, "chunk": 5, "recorder": FolderRecorder(tmp_path)}
    end = train(distance, start, adam(0.1), lambda index: target, **settings)
    weight = torch.zeros(2, 3, requires_grad=True)
    plain = torch.optim.Adam([weight], 0.1)
    for _ in range(5):
        plain.zero_grad()
        distance({"w": weight}, target[0]).backward()
        plain.step()
    torch.testing.assert_close(end.parameters["w"][0], weight.detach())


def test_the_given_members_stay_as_they_were(tmp_path: Path) -> None:
    members = batch_seeds(init, SEEDS)
    before = bits(members)
    after = train(loss, members, adam(1e-2), batches, steps=2, chunk=2, recorder=FolderRecorder(tmp_path))
    assert bits(members) == before != bits(after)
    assert bits(batch_seeds(init, SEEDS)) == before  # a function of the seeds, whatever was drawn before
    assert not members.parameters["body.0.weight"].requires_grad


def test_trained_members_are_evaluated_by_any_function_of_a_model(tmp_path: Path) -> None:
    members = batch_seeds(init, SEEDS)
    x = torch.randn(4, 2)
    found = vmap(members.bind(lambda model, x: model.body[3](model.body[0](x))), (0, 0, None))(
        members.parameters, members.buffers, x
    )
    hidden = torch.einsum("soi,ni->sno", members.parameters["body.0.weight"], x)
    expected = torch.einsum("soi,sni->sno", members.parameters["body.3.weight"], hidden)
    torch.testing.assert_close(found, expected + members.parameters["body.3.bias"][:, None])


def test_a_dict_of_tensors_is_a_model_too_and_members_may_share_a_batch(tmp_path: Path) -> None:
    """Least squares by gradient descent: w <- w - 2 rate (w - target), for a target that all share."""

    def quadratic(model: dict[str, Tensor], batch: dict[str, Tensor]) -> Tensor:
        return ((model["w"] - batch["target"]) ** 2).sum() + 0 * model["count"]

    start = batch_seeds(lambda seed: {"w": torch.full((2,), float(seed)), "count": torch.tensor(seed)}, SEEDS)
    assert (list(start.parameters), list(start.buffers)) == (["w"], ["count"])
    target = torch.tensor([1.0, 3.0])
    end = train(
        quadratic, start, OPTIMISERS["sgd"], lambda i: {"target": target}, steps=7, chunk=3, shared=True,
        recorder=FolderRecorder(tmp_path), reduce="last",
    )  # fmt: skip
    expected = target + 0.8**7 * (start.parameters["w"] - target)
    torch.testing.assert_close(end.parameters["w"], expected)
    last = 0.8**12 * (start.parameters["w"] - target).square().sum(1)
    np.testing.assert_allclose(FolderRecorder(tmp_path).metrics()[7]["loss"], last, rtol=1e-5)


# --- checkpoints


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize(("steps", "every", "fail_at"), [(17, 2, 4), (15, 1, 2), (3, 1, 1)])
def test_interrupted_anywhere_and_resumed_is_bit_identical(
    tmp_path: Path, name: str, steps: int, every: int, fail_at: int
) -> None:
    settings = {"steps": steps, "optimiser": OPTIMISERS[name]}
    whole = FolderRecorder(tmp_path / "whole", every=every)
    expected = trained(tmp_path, recorder=whole, **settings)
    with pytest.raises(Interrupt):
        trained(tmp_path, recorder=InterruptedRecorder(tmp_path / "broken", fail_at, every=every), **settings)
    resumed = FolderRecorder(tmp_path / "broken", every=every)
    assert bits(trained(tmp_path, recorder=resumed, **settings)) == bits(expected)
    assert resumed.metrics() == whole.metrics()
    one, other = (tmp_path / folder / "state.safetensors" for folder in ("whole", "broken"))
    assert one.read_bytes() == other.read_bytes()  # the optimiser's state too


def test_a_checkpoint_names_what_it_holds(tmp_path: Path) -> None:
    trained(tmp_path)
    found = FolderRecorder(tmp_path).restore()
    assert found is not None
    assert found[0] == 12
    assert found[1]["optimiser/body.0.weight/exp_avg"].shape == (3, 8, 2)
    assert {"parameters/body.3.bias", "buffers/mask", "buffers/body.1.running_var"} <= found[1].keys()


def test_a_finished_run_is_restored_without_a_step(tmp_path: Path) -> None:
    first = trained(tmp_path)

    def forbidden(*_: Any) -> Any:
        raise AssertionError("a finished run trained again")

    settings = {"chunk": 5, "recorder": FolderRecorder(tmp_path)}
    again = train(forbidden, batch_seeds(init, SEEDS), adam(1e-2), forbidden, steps=12, **settings)
    assert bits(again) == bits(first)
    with pytest.raises(RefigureError, match="at step 12, beyond the 10 steps"):
        trained(tmp_path, steps=10)
    with pytest.raises(RefigureError, match="momentum_buffer"):
        trained(tmp_path, steps=20, optimiser=MOMENTUM)


def run_script(source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    command = [sys.executable, "-c", source, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


KILLED = """
import os, sys
from pathlib import Path
from recorders import FolderRecorder
from test_loop_torch import trained

class Killer(FolderRecorder):
    def save(self, step, state):
        if step == int(sys.argv[2]):
            os._exit(9)
        super().save(step, state)

folder = Path(sys.argv[1])
trained(folder, steps=20, recorder=Killer(folder))
assert "jax" not in sys.modules
"""


@pytest.mark.slow
def test_killed_and_run_again_ends_the_same(tmp_path: Path) -> None:
    broken = run_script(KILLED, str(tmp_path / "broken"), "15")
    assert broken.returncode == 9, broken.stderr
    again = run_script(KILLED, str(tmp_path / "broken"), "-1")
    assert again.returncode == 0, again.stderr
    trained(tmp_path / "whole", steps=20)
    one, other = (tmp_path / name / "state.safetensors" for name in ("broken", "whole"))
    assert one.read_bytes() == other.read_bytes()
    assert FolderRecorder(one.parent).metrics() == FolderRecorder(other.parent).metrics()


# --- the guard


def scalars(value: float = 1.0) -> Members:
    return batch_seeds(lambda seed: {"w": torch.tensor(value)}, range(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_first_bad_step_and_its_member_are_named_and_the_last_good_state_kept(tmp_path: Path, bad: float) -> None:
    def product(index: int) -> Tensor:
        factors = torch.ones(4)
        if index >= 13:
            factors[2] = bad
        return factors

    def linear(model: dict[str, Tensor], factor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return model["w"] * 0.1, {"fine": model["w"] * 1, "watched": factor}

    recorder = FolderRecorder(tmp_path)
    with pytest.raises(RefigureError, match=r"'watched' is (nan|inf) at step 14 of 40, member 2; training stopped"):
        train(linear, scalars(), OPTIMISERS["sgd"], product, steps=40, chunk=5, recorder=recorder)
    found = recorder.restore()
    assert found is not None
    assert found[0] == 10
    np.testing.assert_allclose(found[1]["parameters/w"], 1 - 10 * 0.01, rtol=1e-5)
    assert list(recorder.metrics()) == [5, 10]


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_state_gone_bad_after_a_finite_loss_is_not_saved(tmp_path: Path, name: str) -> None:
    """sqrt(x w) at x = 0 is finite and its derivative is not."""

    def root(model: dict[str, Tensor], factor: Tensor) -> Tensor:
        return (factor * model["w"]).sqrt()

    recorder = FolderRecorder(tmp_path)
    at_ten = lambda index: torch.full((4,), float(index != 9))  # noqa: E731
    with pytest.raises(RefigureError, match=r"'(parameters/w|optimiser/w/.*)' is no longer finite by step 10"):
        train(root, scalars(100.0), OPTIMISERS[name], at_ten, steps=20, chunk=5, recorder=recorder)
    found = recorder.restore()
    assert found is not None
    assert found[0] == 5


def test_an_optimiser_gone_bad_alone_is_not_saved(tmp_path: Path) -> None:
    """The square of 1e30 overflows: Adam divides by infinity and the parameters stay finite, for ever."""
    recorder = FolderRecorder(tmp_path)
    with pytest.raises(RefigureError, match="'optimiser/w/exp_avg_sq' is no longer finite by step 2"):
        train(lambda m, x: m["w"] * x, scalars(), adam(0.1), lambda i: torch.full((4,), 1e30), steps=4, chunk=2,
              recorder=recorder)  # fmt: skip
    assert recorder.restore() is None


def test_a_meaningful_infinity_may_stay(tmp_path: Path) -> None:
    def clipped(model: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.minimum(model["w"], model["bound"]).square()

    members = Members({"w": torch.ones(4)}, {"bound": torch.full((4,), torch.inf)})
    end = train(
        clipped, members, adam(0.1), lambda i: torch.zeros(4), steps=3, chunk=3, recorder=FolderRecorder(tmp_path)
    )
    assert end.buffers["bound"].isinf().all()
    assert (end.parameters["w"] < 1).all()


# --- mistakes


def test_mistakes_are_explained(tmp_path: Path) -> None:
    recorder = FolderRecorder(tmp_path)

    def go(loss: Callable[..., Any], batch: Any, chunk: int = 1) -> None:
        train(loss, scalars(), adam(1e-2), lambda i: batch, steps=2, chunk=chunk, recorder=recorder)

    with pytest.raises(RefigureError, match="built dict without a tensor"):
        batch_seeds(lambda seed: {"w": torch.tensor(seed)}, SEEDS)
    with pytest.raises(RefigureError, match="chunk >= 1"):
        go(lambda m, x: m["w"], torch.ones(4), 0)
    with pytest.raises(RefigureError, match=r"shape \(3, 2\) for 4 members; give it a leading axis of 4, or shared"):
        go(lambda m, x: m["w"] * x.sum(), torch.ones(3, 2))
    with pytest.raises(RefigureError, match="tensors only"):
        go(lambda m, x: m["w"] * x[1], (torch.ones(4), 0.5))
    with pytest.raises(RefigureError, match="draws random numbers; let the batch bring them"):
        go(lambda m, x: m["w"] * torch.rand_like(x), torch.ones(4))
    with pytest.raises(RefigureError, match=r"metric 'm' has shape \(2,\)"):
        go(lambda m, x: (m["w"], {"m": x}), torch.ones(4, 2))


def test_another_shape_is_traced_anew_and_many_are_refused() -> None:
    runs = Counter[int]()

    def mean(model: dict[str, Tensor], batch: Tensor) -> Tensor:
        runs[len(batch)] += 1
        return (model["w"] * batch).mean()

    members = scalars()
    gradient = captured_gradient(mean, members)
    for _ in range(2):
        for size in range(1, SHAPES + 1):
            metrics, gradients, changed = gradient(members.parameters, {}, torch.full((4, size), float(size)))
            torch.testing.assert_close(metrics["loss"], torch.full((4,), float(size)))
            torch.testing.assert_close(gradients["w"], torch.full((4,), float(size)))
            assert changed == {}
    assert runs == dict.fromkeys(range(1, SHAPES + 1), 1)  # the loss itself ran once a shape
    with pytest.raises(RefigureError, match=rf"batches of {SHAPES} shapes were traced, and now \(4, 99\)"):
        gradient(members.parameters, {}, torch.ones(4, 99))


# --- the graph


def targets(graph: torch.fx.GraphModule) -> Counter[Any]:
    return Counter(node.target for node in graph.graph.nodes if node.op == "call_function")


def checked(function: Callable[..., Any], *inputs: Tensor) -> tuple[torch.fx.GraphModule, torch.fx.GraphModule]:
    """(traced, cleaned) graphs after a check that they agree and that outputs own their memory."""
    before, after = (make_fx(functionalize(function))(*inputs) for _ in range(2))
    clean(after, *inputs)
    copies = [value.clone() for value in inputs]
    expected, found = before.forward(*inputs), after.forward(*inputs)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
        assert other.is_contiguous() or not one.is_contiguous()
    for value in found:
        value.fill_(7)
    assert all(torch.equal(one, other) for one, other in zip(inputs, copies, strict=True))
    for one, other in zip(expected, after.forward(*inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    return before, after


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "one": lambda x: 1 * x,
    "power": lambda x: x**1.0,
    "turn": lambda x: x.transpose(1, 2).transpose(2, 1),
    "same": lambda x: x.expand(x.shape).view(x.shape),
    "flat": lambda x: x.reshape(-1).reshape(x.shape),
    "view": lambda x: (x + 0).view(-1).view(x.shape),
    "write": lambda x: (x + 0).index_fill_(1, torch.tensor([0]), 2.0),
    "rows": lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
}


@settings(max_examples=40, deadline=None)
@given(
    members=st.integers(1, 3),
    sizes=st.lists(st.sampled_from([1, 2, 3, 7, 8, 9]), min_size=3, max_size=5),
    between=st.lists(st.sampled_from(sorted(OPERATIONS)), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_cleaning_keeps_the_values_of_random_networks(
    members: int, sizes: list[int], between: list[str], seed: int
) -> None:
    rows, *widths = sizes
    generator = torch.Generator().manual_seed(seed)
    draw = functools.partial(torch.randn, dtype=torch.float64, generator=generator)
    weights = [draw(members, a, b) for a, b in itertools.pairwise(widths)]

    def forward(x: Tensor, *weights: Tensor) -> Tensor:
        for weight, name in zip(weights, between, strict=False):
            x = OPERATIONS[name](torch.bmm(x, weight))
        return x.sin().sum((1, 2)).sum()

    def both(*inputs: Tensor) -> list[Tensor]:
        return [forward(*inputs), *grad(forward, tuple(range(len(inputs))))(*inputs)]

    before, after = checked(both, draw(members, rows, widths[0]), *weights)
    assert targets(before)[aten.bmm.default] > 0
    assert not any(node.target is aten.pow.Tensor_Scalar and node.args[1] == 1 for node in after.graph.nodes)
    for node in after.graph.nodes:
        if node.target is aten.bmm.default:
            (_, rows, inner), columns = node.args[0].meta["layout"][0], node.meta["layout"][0][2]
            assert inner > 1
            assert columns >= min(8, rows)


def test_cleaning_removes_what_does_nothing() -> None:
    def idle(x: Tensor) -> list[Tensor]:
        y = (1 * x.transpose(0, 1).transpose(1, 0).expand(3, 4).detach()) ** 1.0
        return [y.view(3, 4)[:].exp(), (2 * x)[1:]]

    before, after = checked(idle, torch.randn(3, 4))
    assert len(before.graph.nodes) > 10
    assert targets(after) == {aten.exp.default: 1, aten.mul.Tensor: 1, aten.slice.Tensor: 1}


def test_thin_products_are_computed_otherwise() -> None:
    def products(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
        return [torch.bmm(a, b), torch.bmm(b, c).view(-1), torch.bmm(b.transpose(1, 2), b)]

    inputs = [torch.randn(2, *shape, dtype=torch.float64) for shape in ((9, 1), (1, 9), (9, 3))]
    _, after = checked(products, *inputs)
    assert targets(after)[aten.mul.Tensor] == 2  # (9, 1) by (1, 9), both times
    assert targets(after)[aten.bmm.default] == 1  # (1, 9) by (9, 3): few columns, but fewer rows
    _, after = checked(lambda a, b: [torch.bmm(a, b).view(-1)], torch.randn(2, 9, 8), torch.randn(2, 8, 3))
    assert targets(after)[aten.transpose.int] == 3
    (product,) = after.graph.find_nodes(op="call_function", target=aten.bmm.default)
    assert product.meta["layout"][0] == (2, 3, 9)
    checked(
        lambda a, b: [torch.bmm(a, b).as_strided((2, 9, 2), (27, 3, 1))], torch.randn(2, 9, 8), torch.randn(2, 8, 3)
    )


def test_outputs_that_would_share_memory_are_copied() -> None:
    checked(lambda a, b: [a, a * 1, b[0], b.exp(), (c := a + 1), c.view(-1), c], torch.randn(2, 3), torch.randn(2))


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPTIMISERS)
def test_captured_on_cuda_as_on_the_cpu_and_resumed_bit_identical(tmp_path: Path, name: str) -> None:
    """Past the warm-up the steps are replays; the last batch of each five is shorter: two graphs."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def sized(index: int) -> Tensor:
        return batches(index)[:, : 8 if index % 5 == 4 else 16]

    def go(folder: str, device: str, fail_at: int = 0) -> Members:
        path = tmp_path / folder
        recorder = InterruptedRecorder(path, fail_at) if fail_at else FolderRecorder(path)
        members = batch_seeds(init, SEEDS, device)
        data = lambda index: sized(index).to(device)  # noqa: E731
        return train(loss, members, OPTIMISERS[name], data, steps=40, chunk=10, recorder=recorder)

    host, whole = go("host", "cpu"), go("whole", "cuda")
    with pytest.raises(Interrupt):
        go("broken", "cuda", fail_at=3)
    again = go("broken", "cuda")
    for key, value in (whole.parameters | whole.buffers).items():
        assert value.is_cuda
        torch.testing.assert_close(value.cpu(), (host.parameters | host.buffers)[key], rtol=1e-2, atol=1e-3)
        assert torch.equal(value, (again.parameters | again.buffers)[key])
    assert FolderRecorder(tmp_path / "whole").metrics() == FolderRecorder(tmp_path / "broken").metrics()
    if name == "adam":
        with pytest.raises(RefigureError, match="capturable=True"):
            train(
                loss, batch_seeds(init, SEEDS, "cuda"), torch.optim.Adam, batches, steps=1, chunk=1,
                recorder=FolderRecorder(tmp_path / "plain"),
            )  # fmt: skip
