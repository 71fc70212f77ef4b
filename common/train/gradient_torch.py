"""The gradient of a batch of PyTorch models as one flat graph of aten operations, traced once and made cheaper.

`torch.func` says what is wanted, `vmap(grad_and_value(loss))`, but interprets it anew each time; the traced graph
computes the same without that. It is a pure function: in-place operations of the model become ordinary ones.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize, grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from common.errors import RefigureError

__all__ = ["CapturedGradient", "Members", "Tensors", "captured_gradient", "clean"]

Tensors = dict[str, Tensor]
SHAPES = 8
"""Batches of so many different shapes are traced; more are taken for a mistake."""

aten = torch.ops.aten
VIEWS = {
    aten.alias.default, aten.detach.default, aten.expand.default, aten.permute.default, aten.select.int,
    aten.slice.Tensor, aten.squeeze.dim, aten.squeeze.dims, aten.t.default, aten.transpose.int,
    aten.unsqueeze.default, aten.view.default, aten._unsafe_view.default,
}  # fmt: skip
WITH_ONE = {aten.mul.Scalar, aten.mul.Tensor, aten.div.Scalar, aten.div.Tensor, aten.pow.Tensor_Scalar}
"""Operations that change nothing when their second argument is the number 1."""


@dataclass(frozen=True)
class Members:
    """One model per seed; each tensor has a leading axis of seeds."""

    parameters: Tensors
    """What is trained."""
    buffers: Tensors
    """What is not: fixed, or updated in place by the model, such as running statistics."""
    module: nn.Module | None = None
    """The model without its values, or None where a model is a dict of tensors."""

    def bind(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function(model, *args)` as a function of (one member's parameters, its buffers, *args), ready for vmap."""
        if self.module is None:
            return lambda parameters, buffers, *args: function({**parameters, **buffers}, *args)
        bound = _Bound(self.module, function)

        def call(parameters: Tensors, buffers: Tensors, *args: Any) -> Any:
            state = {f"module.{name}": value for name, value in {**parameters, **buffers}.items()}
            return functional_call(bound, state, args)

        return call


class _Bound(nn.Module):
    """A function of a module as a module, so that `functional_call` reaches any method and not only `forward`."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *args: Any) -> Any:
        return self.function(self.module, *args)


def captured_gradient(loss: Callable[..., Any], members: Members, *, shared: bool = False) -> "CapturedGradient":
    """The gradient of `loss(model, batch)`, a scalar or (scalar, {"name": scalar}), for all `members` at once.

    The batch has a leading axis of members, or is `shared` by them.
    """
    return CapturedGradient(members.bind(loss), shared)


@dataclass
class CapturedGradient:
    """(parameters, buffers, batch) -> (metrics with "loss", gradients, buffers that changed), each (members, ...).

    A batch is a tensor or nested dicts, lists and tuples of them. The first one of each shape is traced.

    Raises:
        RefigureError: A batch that holds something else or lacks the axis of members, a ninth shape, a loss that
            draws random numbers.
    """

    call: Callable[..., Any]
    shared: bool = False
    graphs: dict[Any, tuple[fx.GraphModule, list[str], list[str]]] = field(default_factory=dict)
    """By the batch's `key`: the graph, the names of its metrics and of the buffers that it changes."""

    def __call__(self, parameters: Tensors, buffers: Tensors, batch: Any) -> tuple[Tensors, Tensors, Tensors]:
        leaves, spec = pytree.tree_flatten(batch)
        key = self.key(leaves, spec)
        tensors = [*parameters.values(), *buffers.values(), *leaves]
        if key not in self.graphs:
            self._check(leaves, len(next(iter(parameters.values()))))
            self.graphs[key] = self._trace(list(parameters), list(buffers), tensors, spec)
        graph, metrics, changed = self.graphs[key]
        results = iter(graph.forward(*tensors))
        one, two, three = ({name: next(results) for name in names} for names in (metrics, parameters, changed))
        return one, two, three

    @staticmethod
    def key(leaves: list[Tensor], spec: pytree.TreeSpec) -> Any:
        """What decides which graph a flattened batch needs."""
        try:
            return spec, *((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves)
        except AttributeError:
            raise RefigureError("a batch holds tensors only; anything else would stay as it was at first") from None

    def _check(self, leaves: list[Tensor], members: int) -> None:
        shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
        if not self.shared and any(leaf.shape[:1] != (members,) for leaf in leaves):
            raise RefigureError(
                f"a batch of shape {shapes} for {members} members; give it a leading axis of {members}, or shared=True"
            )
        if len(self.graphs) == SHAPES:
            raise RefigureError(f"batches of {SHAPES} shapes were traced, and now {shapes}; keep to a few shapes")

    def _trace(
        self, parameters: list[str], buffers: list[str], tensors: list[Tensor], spec: pytree.TreeSpec
    ) -> tuple[fx.GraphModule, list[str], list[str]]:
        names: list[str] = []

        def single(parameters: Tensors, buffers: Tensors, batch: Any) -> tuple[Tensor, tuple[Tensors, Tensors]]:
            own = {name: value.clone() for name, value in buffers.items()}  # which the model may change in place
            found = self.call(parameters, own, batch)
            value, metrics = found if isinstance(found, tuple) else (found, {})
            return value, ({"loss": value, **metrics}, own)

        def flat(*tensors: Tensor) -> list[Tensor]:
            inputs = iter(tensors)
            state = [{name: next(inputs) for name in group} for group in (parameters, buffers)]
            batch = pytree.tree_unflatten(list(inputs), spec)
            batched: Callable[..., Any] = vmap(grad_and_value(single, has_aux=True), (0, 0, None if self.shared else 0))
            gradients, (_, (metrics, new)) = batched(*state, batch)
            names[:] = metrics
            # contiguous, like the parameters: PyTorch's fused optimisers on the CPU do not look at strides
            return [*metrics.values(), *(gradients[name].contiguous() for name in parameters), *new.values()]

        try:
            graph = make_fx(functionalize(flat))(*tensors)
        except RuntimeError as error:
            if "random operation" in str(error):
                raise RefigureError("the loss draws random numbers; let the batch bring them along") from error
            raise
        changed = _drop_unchanged(graph.graph, buffers)
        clean(graph, *tensors)
        return graph, names, changed


def _drop_unchanged(graph: fx.Graph, buffers: list[str]) -> list[str]:
    """Take from the outputs (the last are `buffers`) those that the model does not change; names of the others."""
    if not buffers or any("batch_norm" in str(node.target) for node in graph.nodes):
        return buffers  # native_batch_norm changes its inputs, and its schema does not say so
    (output,) = graph.find_nodes(op="output")
    results: list[Any] = list(output.args[0])
    first = len(results) - len(buffers)
    copies = [node.target is aten.clone.default and node.args[0].op == "placeholder" for node in results[first:]]
    kept = [result for result, copied in zip(results[first:], copies, strict=True) if not copied]
    output.args = (results[:first] + kept,)
    return [name for name, copied in zip(buffers, copies, strict=True) if not copied]


def clean(graph: fx.GraphModule, *inputs: Tensor) -> None:
    """Make a functional graph of aten operations cheaper, in place, for inputs of these shapes, strides and devices.

    Views that lead back to what they come from, products with 1 and nodes without use go. On the CPU, whose batched
    matrix product is slow for thin matrices, one with contraction size 1 becomes a broadcast product, and one with
    1 to 7 columns, fewer than rows, the transpose of the transposed product. Values change by rounding at most.

    Outputs that were contiguous stay so, and each gets memory of its own: optimisers write to gradients.
    """
    packed = [result.is_contiguous() for result in _Measured(graph).run(*inputs)]
    nodes: list[Any] = list(graph.graph.nodes)
    for node in nodes:
        source = node
        while source.target in VIEWS:
            source = source.args[0]
            if source.meta["layout"] == node.meta["layout"]:
                node.replace_all_uses_with(source)
                break
    if not any("as_strided" in str(node.target) for node in nodes):  # which depends on how its input lies in memory
        for node in nodes:
            if node.target in WITH_ONE and type(node.args[1]) in (int, float) and node.args[1] == 1:
                if node.meta["kind"] == node.args[0].meta["kind"]:
                    node.replace_all_uses_with(node.args[0])
            elif node.target is aten.bmm.default and node.meta["kind"][-1].type == "cpu":
                _replace_thin(graph.graph, node)
    graph.graph.eliminate_dead_code()

    results = _Measured(graph).run(*inputs)
    constants = [getattr(graph, node.target) for node in graph.graph.find_nodes(op="get_attr")]
    taken = {tensor.untyped_storage().data_ptr() for tensor in (*inputs, *constants)}
    (output,) = graph.graph.find_nodes(op="output")
    outputs: list[Any] = list(output.args[0])
    for place, (result, contiguous) in enumerate(zip(results, packed, strict=True)):
        memory = result.untyped_storage().data_ptr()
        if memory in taken or (contiguous and not result.is_contiguous()):
            outputs[place] = _packed(graph.graph, outputs[place], before=output)
        taken.add(memory)
    output.args = (outputs,)
    graph.recompile()


def _replace_thin(graph: fx.Graph, product: Any) -> None:
    """Compute a batched matrix product, (batch, rows, inner) by (batch, inner, columns), in a cheaper way if thin."""
    left, right = product.args
    _, rows, inner = left.meta["kind"][0]
    columns = right.meta["kind"][0][2]
    with graph.inserting_before(product):
        if inner == 1:
            new = graph.call_function(aten.mul.Tensor, (left, right))
        elif 1 <= columns < min(8, rows):
            factors = tuple(graph.call_function(aten.transpose.int, (factor, 1, 2)) for factor in (right, left))
            new = graph.call_function(aten.transpose.int, (graph.call_function(aten.bmm.default, factors), 1, 2))
        else:
            return
    new.meta = dict(product.meta)
    product.replace_all_uses_with(new)


def _packed(graph: fx.Graph, node: fx.Node, before: fx.Node) -> fx.Node:
    with graph.inserting_before(before):
        return graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})


class _Measured(fx.Interpreter):
    """Runs a graph once, notes the layout of each tensor, and makes contiguous what an operation needs to be so."""

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = super().run_node(n)
        except RuntimeError:  # a view, say, of a product that is now a transposed one
            if not (n.args and isinstance(n.args[0], fx.Node)):
                raise
            packed = _packed(n.graph, n.args[0], before=n)
            self.env[packed] = self.env[n.args[0]].clone(memory_format=torch.contiguous_format)
            n.args = (packed, *n.args[1:])
            value = super().run_node(n)
        if isinstance(value, Tensor):
            shape, strides = tuple(value.shape), value.stride()
            n.meta["layout"] = (shape, strides, value.storage_offset(), value.dtype)
            n.meta["kind"] = (shape, strides, value.dtype, value.device)
        return value
