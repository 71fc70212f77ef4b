"""Gradients through fixed points, and what is kept for them."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from papers.deq.cells import ConvCell, MultiscaleCell, TransformerCell, TrellisCell
from papers.deq.implicit import implicit, jacobian_penalty, phantom, spectral_radius, unrolled
from papers.deq.memory import saved_bytes
from papers.deq.solvers import anderson, broyden, fixed_point

SOLVE = partial(anderson, max_evals=200, tol=1e-14)


def contraction(size: int = 6, batch: int = 3, norm: float = 0.8) -> tuple[Tensor, Tensor, Tensor]:
    """A, x and what the loss is the product with."""
    torch.manual_seed(1)
    matrix = torch.randn(size, size, dtype=torch.float64)
    matrix *= norm / torch.linalg.matrix_norm(matrix, 2)
    x, slope = torch.randn(2, batch, size, dtype=torch.float64)
    return matrix.requires_grad_(), x.requires_grad_(), slope


def cell(matrix: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: torch.tanh(z @ matrix.T + x)


@pytest.mark.parametrize("solver", [fixed_point, anderson, broyden])
def test_implicit_gradients_equal_differences_and_a_long_unrolling(solver: Callable) -> None:
    matrix, x, slope = contraction()
    solve = partial(solver, max_evals=400, tol=1e-15)
    z0 = torch.zeros_like(x)

    def loss(matrix: Tensor, x: Tensor) -> Tensor:
        return (implicit(cell(matrix, x), z0, solve, solve).z * slope).sum()

    ours = torch.autograd.grad(loss(matrix, x), [matrix, x])
    long = torch.autograd.grad((unrolled(cell(matrix, x), z0, 300).z * slope).sum(), [matrix, x])
    for mine, other in zip(ours, long, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-10)
    assert torch.autograd.gradcheck(loss, (matrix, x), eps=1e-6, atol=1e-7)


def test_the_backward_solver_is_the_one_chosen() -> None:
    matrix, x, slope = contraction()
    few = partial(fixed_point, max_evals=3, tol=0.0, stop="abs")
    actual = implicit(cell(matrix, x), torch.zeros_like(x), SOLVE, few)
    assert not actual.backward
    rough = torch.autograd.grad((actual.z * slope).sum(), x)[0]
    assert actual.backward["info"].evaluations.tolist() == [3] * 3
    exact = torch.autograd.grad((implicit(cell(matrix, x), torch.zeros_like(x), SOLVE, SOLVE).z * slope).sum(), x)[0]
    assert 1e-3 < float((rough - exact).norm() / exact.norm()) < 0.5


def test_without_gradients_nothing_is_kept() -> None:
    matrix, x, _ = contraction()
    with torch.no_grad():
        actual = implicit(cell(matrix, x), torch.zeros_like(x), SOLVE, SOLVE)
    assert not actual.z.requires_grad
    with_them = implicit(cell(matrix, x), torch.zeros_like(x), SOLVE, SOLVE)
    assert torch.equal(actual.z, with_them.z)


def test_phantom_gradients_come_near_with_more_steps() -> None:
    """One step drops the Jacobian's inverse; many make up for it."""
    matrix, x, slope = contraction()
    exact = torch.autograd.grad((implicit(cell(matrix, x), torch.zeros_like(x), SOLVE, SOLVE).z * slope).sum(), x)[0]

    def error(steps: int) -> float:
        z = phantom(cell(matrix, x), torch.zeros_like(x), SOLVE, steps).z
        return float((torch.autograd.grad((z * slope).sum(), x)[0] - exact).norm() / exact.norm())

    assert error(1) > error(3) > error(10)
    assert error(80) < 1e-8
    with torch.no_grad():
        actual = phantom(cell(matrix, x), torch.zeros_like(x), SOLVE, 3)
    assert torch.equal(actual.z, phantom(cell(matrix, x), torch.zeros_like(x), SOLVE, 3).z)


def test_jacobian_penalty_and_spectral_radius() -> None:
    matrix, x, _ = contraction(8)
    f = cell(matrix, x)
    z = SOLVE(f, torch.zeros_like(x)).z
    jacobians = torch.stack([
        torch.autograd.functional.jacobian(lambda p, row=row: torch.tanh(matrix @ p + x[row]), z[row])
        for row in range(len(x))
    ])  # fmt: skip
    expected = jacobians.square().sum() / z.numel()
    penalty = jacobian_penalty(f, z, 4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(penalty, expected, rtol=0.03, atol=0)
    assert torch.autograd.grad(jacobian_penalty(f, z), matrix)[0].abs().sum() > 0
    radius = spectral_radius(f, z, 2000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(radius, torch.linalg.eigvals(jacobians).abs().amax(1), rtol=2e-3, atol=0)


def test_a_fixed_point_of_a_fixed_point_is_that_of_one_cell() -> None:
    """Stacking two layers is one layer of the pair (DEQ, theorem 2)."""
    (first, x, _), (second, _, _) = contraction(), contraction(norm=0.5)
    lower = SOLVE(cell(first, x), torch.zeros_like(x)).z
    upper = SOLVE(cell(second, lower), torch.zeros_like(x)).z

    def pair(z: Tensor) -> Tensor:
        low, high = z.chunk(2, 1)
        return torch.cat([cell(first, x)(low), cell(second, low)(high)], 1)

    both = SOLVE(pair, torch.zeros(len(x), 12, dtype=torch.float64)).z
    torch.testing.assert_close(both, torch.cat([lower, upper], 1), rtol=0, atol=1e-10)


def test_memory_for_the_backward_pass_does_not_grow_with_evaluations() -> None:
    torch.manual_seed(0)
    conv, x = ConvCell(8, 12, 4), torch.randn(2, 8, 6, 6)
    z0 = torch.zeros_like(x)

    def deq(evaluations: int) -> int:
        solve = partial(broyden, max_evals=evaluations, tol=0.0, stop="abs")
        return saved_bytes(lambda: implicit(conv.bind(x), z0, solve, solve).z, apart)

    apart = [*conv.parameters(), x, z0]
    one = saved_bytes(lambda: unrolled(conv.bind(x), z0.clone().requires_grad_(), 1).z, apart)
    assert deq(2) == deq(10) == deq(40) == one > 0
    layers = [saved_bytes(lambda count=count: unrolled(conv.bind(x), z0, count).z, apart) for count in (2, 3, 4)]
    assert layers[2] - layers[1] == layers[1] - layers[0] > 0


def test_dropout_masks_are_one_for_all_evaluations() -> None:
    torch.manual_seed(0)
    transformer, trellis = TransformerCell(8, 2, 4, 16, dropout=0.3), TrellisCell(4, dropout=0.3)
    images = MultiscaleCell([4, 4], 2, 2, dropout=0.3)
    for module, u, z in (
        (transformer, torch.randn(3, 5, 24), torch.randn(3, 5, 8)),
        (trellis, torch.randn(3, 5, 16), torch.randn(3, 5, 8)),
        (images, torch.randn(3, 4, 8, 8), torch.randn(3, 4 * 64 + 4 * 16)),
    ):
        f = module.bind(u)
        torch.testing.assert_close(f(z), f(z), rtol=0, atol=0)
        assert not torch.equal(f(z), module.bind(u)(z))
        module.eval()
        torch.testing.assert_close(module.bind(u)(z), module.bind(u)(z), rtol=0, atol=0)


def test_sequences_look_back_alone_and_memory_is_what_was_before() -> None:
    torch.manual_seed(0)
    module = TransformerCell(8, 2, 4, 16).double()
    u, z = torch.randn(2, 6, 24).double(), torch.randn(2, 6, 8).double()
    f = module.bind(u)
    later = z.clone()
    later[:, 4:] += 1
    torch.testing.assert_close(f(z)[:, :4], f(later)[:, :4])
    assert not torch.allclose(f(z)[:, 4:], f(later)[:, 4:])
    rest = module.bind(u, memory=z[:, :2])(z[:, 2:])
    torch.testing.assert_close(rest, f(z)[:, 2:])
    trellis = TrellisCell(4).double()
    u = torch.randn(2, 6, 16).double()
    whole = trellis.bind(u)(z)
    torch.testing.assert_close(trellis.bind(u[:, 2:], z[:, 1:2])(z[:, 2:]), whole[:, 2:])


@pytest.mark.parametrize(("length", "past"), [(5, 3), (150, 0), (70, 90)])
def test_attention_is_that_of_the_definition(length: int, past: int) -> None:
    """Query by query, key by key, with an embedding of each distance; longer than a block, too."""
    torch.manual_seed(0)
    module = TransformerCell(8, 2, 4, 16, deviation=0.5).double()
    u, z = torch.randn(1, past + length, 24).double(), torch.randn(1, past + length, 8).double()
    f = module.bind(u, memory=z[:, :past] if past else None)
    with torch.no_grad():
        q, k, v = (part.view(-1, 2, 4) for part in (module.qkv(z) + u)[0].chunk(3, 1))
        rates = 10_000 ** (-torch.arange(0, 8, 2).double() / 8)
        heard = torch.zeros(length, 2, 4).double()
        for i in range(length):
            keys = past + i + 1
            angles = torch.arange(past + i, -1, -1).double()[:, None] * rates
            far = module.distance(torch.cat([angles.sin(), angles.cos()], 1)).view(keys, 2, 4)
            for head in range(2):
                asked = q[past + i, head]
                scores = k[:keys, head] @ (asked + module.content_bias[head, 0])
                scores = scores + far[:, head] @ (asked + module.position_bias[head, 0])
                heard[i, head] = (scores / 2).softmax(0) @ v[:keys, head]
        y = F.layer_norm(z[:, past:] + module.out(heard.flatten(1)), (8,))
        expected = F.layer_norm(y + module.narrow(F.relu(module.widen(y))), (8,))
        torch.testing.assert_close(f(z[:, past:]), expected, rtol=0, atol=1e-12)
