"""What solvers must do by theory, and what they refuse."""

import warnings
from functools import partial

import pytest
import torch
from torch import Tensor

from common.errors import RefigureError
from papers.deq import iteration, plain_solvers, solvers
from papers.deq.cells import ConvCell
from papers.deq.iteration import DivergedError, Function
from papers.deq.solvers import anderson, broyden, fixed_point

SOLVERS = {"fixed point": fixed_point, "Anderson": anderson, "Broyden": broyden}


@pytest.fixture(autouse=True)
def double() -> None:
    """Double precision, the same draws."""
    torch.manual_seed(0)


def affine(size: int, radius: float) -> tuple[Tensor, Tensor]:
    """A z + b with a spectral norm."""
    matrix = torch.randn(size, size, dtype=torch.float64)
    return matrix * (radius / torch.linalg.matrix_norm(matrix, 2)), torch.randn(size, dtype=torch.float64)


def smooth(batch: int, size: int, norm: float = 0.9) -> tuple[Function, Tensor]:
    """tanh(A z + x), and where to begin."""
    matrix, _ = affine(size, norm)
    x = torch.randn(batch, size, dtype=torch.float64)
    return lambda z: torch.tanh(z @ matrix.T + x), torch.zeros(batch, size, dtype=torch.float64)


def plain(f: Function, z0: Tensor, name: str, steps: int, **options: float) -> list[Tensor]:
    """The points of a rule as the papers state it."""
    options |= {"f": f} if name == "newton" else {}
    return plain_solvers.solve(f, z0, partial(getattr(plain_solvers, name), **options), steps)


def test_linear_problems_end_after_as_many_steps_as_theory_says() -> None:
    size = 4
    matrix, b = affine(size, 0.8)
    exact = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix, b)
    start = torch.zeros(1, size, dtype=torch.float64)

    def f(z: Tensor) -> Tensor:
        return z @ matrix.T + b

    for solver, most, options in (
        (broyden, 2 * size + 1, {}),
        (anderson, size + 2, {"window": size + 1, "ridge": 0.0}),
    ):
        z, _, info = solver(f, start, max_evals=most, tol=1e-9, **options)
        assert bool(info.converged.all()), solver.__name__
        torch.testing.assert_close(z[0], exact, rtol=0, atol=1e-7)
    torch.testing.assert_close(plain(f, start, "newton", 1)[-1][0], exact, rtol=0, atol=1e-12)
    trace = fixed_point(f, start, max_evals=200, tol=0, stop="abs").trace[:, 0]
    rate = torch.linalg.eigvals(matrix).abs().max()
    torch.testing.assert_close((trace[50] / trace[30]) ** (1 / 20), rate, rtol=0.05, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_all_find_the_same_point(name: str) -> None:
    f, z0 = smooth(3, 20)
    expected = plain(f, z0, "newton", 20)[-1]
    z, trace, info = SOLVERS[name](f, z0, max_evals=300, tol=1e-11)
    torch.testing.assert_close(z, expected, rtol=0, atol=1e-9)
    assert bool(info.converged.all())
    assert len(trace) == int(info.evaluations.max())
    assert bool((info.residual < 1e-11).all())


@pytest.mark.parametrize(
    ("name", "options"),
    [("fixed_point", {}), ("anderson", {}), ("anderson", {"window": 3, "ridge": 1e-3}), ("broyden", {})],
)
def test_what_runs_is_what_the_papers_state(name: str, options: dict) -> None:
    """Point by point, on samples that do not influence one another."""
    f, z0 = smooth(3, 6, 2.0)
    points: list[Tensor] = []
    getattr(solvers, name)(lambda z: (points.append(z.clone()), f(z))[1], z0, max_evals=9, tol=0, stop="abs", **options)
    for point, expected in zip(points, plain(f, z0, name, 8, **options), strict=True):
        torch.testing.assert_close(point, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_a_ridge_that_scales_does_not_stall(scale: float) -> None:
    """However small the residuals; the official code's, added as it is, slows down."""
    f, z0 = smooth(2, 60, 0.99)
    scaled = lambda z: scale * f(z / scale)  # noqa: E731
    evaluations = [
        anderson(scaled, z0, max_evals=400, tol=1e-9, window=6, **options).info.evaluations.max()
        for options in ({}, {"ridge": 1e-4, "absolute": True})
    ]
    assert evaluations[0] < 0.7 * evaluations[1]
    assert evaluations[0] < 120


def hard_cell(seed: int, batch: int) -> tuple[Function, Tensor]:
    """A cell of the tutorial with weights so large that plain iteration cycles on some samples, and where to begin."""
    torch.manual_seed(seed)
    cell = ConvCell(8, 12, 4).double().requires_grad_(False)
    for conv in (cell.conv1, cell.conv2):
        conv.weight *= 8
    x = torch.randn(batch, 8, 4, 4, dtype=torch.float64)
    return cell.bind(x), torch.zeros_like(x)


@pytest.mark.parametrize("window", [2, 6, 20])
def test_where_anderson_stalls_broyden_goes_on(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where one sample of a batch stalls and the others converge."""
    f, z0 = hard_cell(10, 4)
    solution = anderson(f, z0, max_evals=600, tol=1e-11, window=window)
    assert bool(solution.info.converged.all())
    assert float((f(solution.z) - solution.z).flatten(1).norm(dim=1).max()) < 1e-8
    assert int(solution.info.evaluations.max()) == len(solution.trace)
    monkeypatch.setattr(solvers, "PATIENCE", 10_000)
    alone = anderson(f, z0, max_evals=600, tol=1e-11, window=window).info.converged
    assert bool(alone[0])
    assert bool(alone[1]) is (window == 20)


def test_anderson_solves_an_adjoint_whose_iteration_diverges() -> None:
    matrix, b = affine(60, 1.0)
    matrix *= 1.5 / torch.linalg.eigvals(matrix).abs().max()
    z, _, info = anderson(lambda z: z @ matrix.T + b, torch.zeros(3, 60, dtype=torch.float64), max_evals=400, tol=1e-10)
    assert bool(info.converged.all())
    exact = torch.linalg.solve(torch.eye(60, dtype=torch.float64) - matrix, b)
    torch.testing.assert_close(z, exact.expand(3, 60), rtol=0, atol=1e-6)


def test_comparisons_see_anderson_alone() -> None:
    """With a tolerance of 0, and as the official code has it."""
    f, z0 = hard_cell(20, 4)
    for options in ({"tol": 0.0}, {"tol": 1e-11, "absolute": True, "ridge": 1e-4}):
        _, trace, info = anderson(f, z0, max_evals=300, **options)
        assert len(trace) == 300
        assert not bool(info.converged.all())


def test_a_solver_that_ends_above_its_tolerance_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iteration, "_warned", set())
    f, z0 = hard_cell(20, 4)
    with pytest.warns(UserWarning, match=r"broyden: \d of 4 samples end above tol=1e-11 after all evaluations"):
        info = broyden(f, z0, max_evals=20, tol=1e-11).info
    assert not bool(info.converged.any())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        broyden(f, z0, max_evals=20, tol=1e-11)


def test_samples_that_have_converged_are_not_said_to_diverge() -> None:
    """They are evaluated further, wherever the rule leads them."""

    def f(z: Tensor) -> Tensor:
        return torch.cat([2 * z[:2], 1 - 0.9 * z[2:]])

    info = fixed_point(f, torch.full((3, 1), 100.0, dtype=torch.float64), max_evals=100, tol=0.51).info
    assert info.converged.tolist() == [True, True, True]


def test_one_sample_that_diverges_alone_in_the_end_does_not_stop_the_solve() -> None:
    """Most samples have converged and left; the last one grows beyond all bounds and ends at its best point."""
    slopes = torch.tensor([0.1] * 7 + [2.0], dtype=torch.float64)[:, None]

    def of(rows: Tensor) -> Function:
        return lambda z: 1 + slopes[rows] * z

    z0 = torch.zeros(8, 1, dtype=torch.float64)
    info = fixed_point(of(torch.arange(8)), z0, max_evals=60, tol=1e-6, stop="abs", narrow=of).info
    assert info.converged.tolist() == [True] * 7 + [False]


def test_where_broyden_diverges_after_anderson_its_best_points_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    f, z0 = hard_cell(20, 4)
    alone = anderson(f, z0, max_evals=solvers.PATIENCE + 1, tol=1e-11)

    def propose(self: object, z: Tensor, fz: Tensor, g: Tensor, out: Tensor) -> Tensor:
        return torch.full_like(z, torch.nan)

    monkeypatch.setattr(solvers._Broyden, "propose", propose)
    z, _, info = anderson(f, z0, max_evals=400, tol=1e-11)
    assert bool(z.isfinite().all())
    assert bool((info.residual <= alone.info.residual).all())


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("name", SOLVERS)
def test_samples_are_solved_as_if_alone(name: str, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has converged stays, however long the others take and however seldom anyone looks."""
    monkeypatch.setitem(iteration.CHECK_EVERY, "cpu", every)
    z0 = torch.arange(4.0, dtype=torch.float64)[:, None].repeat(1, 10)
    matrix, _ = affine(10, 0.9)
    x = torch.randn(4, 10, dtype=torch.float64)

    def of(rows: Tensor) -> Function:
        return lambda z: torch.tanh(z @ matrix.T + x[rows])

    together = SOLVERS[name](of(torch.arange(4)), z0, max_evals=60, tol=0.05)
    for row in range(4):
        alone = SOLVERS[name](of(torch.tensor([row])), z0[row : row + 1], max_evals=60, tol=0.05)
        torch.testing.assert_close(alone.z[0], together.z[row], rtol=0, atol=1e-9)
        assert alone.info.evaluations[0] == together.info.evaluations[row]


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_that_have_converged_stop_paying(name: str) -> None:
    matrix, _ = affine(10, 0.95)
    x = torch.cat([torch.zeros(6, 10), torch.randn(2, 10)]).double()  # six are at their fixed point
    paid = []

    def of(rows: Tensor) -> Function:
        def f(z: Tensor) -> Tensor:
            paid.append(len(z))
            return torch.tanh(z @ matrix.T + x[rows])

        return f

    z0, everyone = torch.zeros(8, 10).double(), torch.arange(8)
    whole = SOLVERS[name](of(everyone), z0, max_evals=50, tol=1e-6)
    assert set(paid) == {8}
    paid.clear()
    actual = SOLVERS[name](of(everyone), z0, max_evals=50, tol=1e-6, narrow=of)
    assert paid[0] == 8
    assert set(paid[1:]) <= {1, 2}
    torch.testing.assert_close(actual.z, whole.z, rtol=0, atol=1e-12)
    assert actual.info.evaluations.tolist() == whole.info.evaluations.tolist()
    assert bool(actual.trace[1:, :6].isnan().all())
    assert not bool(actual.trace[: int(actual.info.evaluations[7]), 7].isnan().any())


@pytest.mark.parametrize("name", SOLVERS)
def test_the_point_with_the_lowest_residual_is_given(name: str) -> None:
    """And nothing that f was given or gave is written over."""
    f, z0 = smooth(3, 8, 6.0)  # does not converge
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watched(z: Tensor) -> Tensor:
        image = f(z)
        seen.append((z.clone(), image, image.clone()))
        return image

    before = z0.clone()
    actual = SOLVERS[name](watched, z0, max_evals=25, tol=1e-12, stop="abs")
    torch.testing.assert_close(z0, before, rtol=0, atol=0)
    residuals = torch.stack([(image - z).norm(dim=1) for z, _, image in seen])
    torch.testing.assert_close(actual.trace, residuals)
    rows = residuals.argmin(0)
    expected = torch.stack([seen[int(row)][0][sample] for sample, row in enumerate(rows)])
    torch.testing.assert_close(actual.z, expected, rtol=0, atol=0)
    for _, image, copy in seen:
        torch.testing.assert_close(image, copy, rtol=0, atol=0)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_function_at_its_fixed_point(name: str) -> None:
    z, _, info = SOLVERS[name](lambda z: z, torch.ones(2, 3), max_evals=5, tol=0.0, stop="abs")
    assert bool((z == 1).all())
    assert info.residual.tolist() == [0, 0]


def test_the_batch_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The official code's norm is that of the whole batch."""
    f, z0 = smooth(3, 8)
    trace = fixed_point(f, z0, max_evals=4, tol=0.0, stop="rel", per_sample=False).trace
    image = f(z0)
    torch.testing.assert_close(trace[0], ((image - z0).norm() / image.norm()).expand(3))
    monkeypatch.setitem(iteration.CHECK_EVERY, "cpu", 4)
    few = fixed_point(f, z0, max_evals=100, tol=1e-3)
    monkeypatch.undo()
    each = fixed_point(f, z0, max_evals=100, tol=1e-3)
    assert few.info.evaluations.tolist() == each.info.evaluations.tolist()
    assert len(few.trace) % 4 == 0
    assert 0 <= len(few.trace) - len(each.trace) < 4


def test_a_sample_that_diverges_leaves_the_others_alone() -> None:
    """And is given the best point that it had."""

    def f(z: Tensor) -> Tensor:
        return torch.cat([0.5 * z[:2] + 1, 30 * z[2:] + 1])

    z, _, info = fixed_point(f, torch.ones(3, 2), max_evals=60, tol=1e-5)
    torch.testing.assert_close(z[:2], torch.full((2, 2), 2.0), rtol=0, atol=1e-3)
    assert info.converged.tolist() == [True, True, False]
    assert bool(z[2].isfinite().all())


def test_bad_input_is_told_in_a_line() -> None:
    start = torch.ones(2, 3)
    with pytest.raises(DivergedError, match=r"has grown from .* at evaluation \d+ of 200: .* penalise the Jacobian"):
        fixed_point(lambda z: 3 * z + 1, start, max_evals=200)
    with pytest.raises(DivergedError, match=r"is not finite at evaluation 2 of 30"):
        fixed_point(lambda z: torch.where(z == 1, 2.0, torch.nan), start)
    with pytest.raises(RefigureError, match=r"takes \(2, 3\) and gives \(2, 2\)"):
        broyden(lambda z: z[:, :2], start)
    with pytest.raises(RefigureError, match="max_evals >= 1"):
        anderson(lambda z: z, start, max_evals=0)
    with pytest.raises(RefigureError, match="window must be at least 1"):
        anderson(lambda z: z, start, window=0)


def test_a_tolerance_below_the_precision_warns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iteration, "_warned", set())
    with pytest.warns(UserWarning, match="below what float32 can reach"):
        fixed_point(torch.cos, torch.ones(1, 2), tol=1e-9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fixed_point(torch.cos, torch.ones(1, 2), tol=1e-9)
