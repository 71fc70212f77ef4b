"""Probes against their optimality conditions, closed forms and brute force."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn import functional as F

from common.errors import RefigureError
from common.train.probes import choose, fit_logistic, fit_minibatch, fit_ridge, knn_predict, strengths
from common.train.seeding import numpy_rng, torch_generator


def blobs(name: str, n: int = 300, d: int = 5, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Three Gaussian clouds in d dimensions, the same centres for every name."""
    rng = numpy_rng(0, name)
    labels = rng.integers(3, size=n)
    centres = 2 * numpy_rng(0, "centres").normal(size=(3, d))
    return centres[labels] + noise * rng.normal(size=(n, d)), labels


def test_logistic_is_the_optimum_that_scipy_finds() -> None:
    x, y = blobs("train", noise=3)
    probe = fit_logistic((x, y), 0.1, standardise=False)
    features, labels = torch.as_tensor(x), torch.as_tensor(y)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = torch.tensor(flat, requires_grad=True)
        logits = F.linear(features, w[:15].view(3, 5), w[15:])
        loss = F.cross_entropy(logits, labels) + 0.05 * w[:15].square().sum()
        loss.backward()
        assert w.grad is not None
        return loss.item(), w.grad.numpy()

    optimum = minimize(objective, np.zeros(18), jac=True, method="BFGS", options={"gtol": 1e-9})
    fitted = np.concatenate([probe.weight.ravel(), probe.bias])
    assert objective(fitted)[0] == pytest.approx(optimum.fun, rel=1e-9)
    np.testing.assert_allclose(fitted[:15], optimum.x[:15], atol=1e-4)  # the bias has a free common shift
    assert probe.bias.sum().item() == pytest.approx(0, abs=1e-6)


def test_standardised_probe_does_not_see_scale_or_shift() -> None:
    x, y = blobs("train")
    test = blobs("test")
    moved = lambda z: 1e3 * np.arange(1, 6) * z - 7  # noqa: E731
    for fit in (fit_logistic, fit_ridge):
        plain = fit((x, y), 0.01)(test[0])
        np.testing.assert_allclose(fit((moved(x), y), 0.01)(moved(test[0])), plain, atol=1e-3)


@pytest.mark.parametrize("d", [5, 40], ids=["more samples than features", "fewer"])
def test_ridge_satisfies_its_normal_equations(d: int) -> None:
    x, y = blobs("train", n=30, d=d)
    probe = fit_ridge((x, y), 0.3, standardise=False)
    residual = np.eye(3)[y] - (x @ probe.weight.numpy().T + probe.bias.numpy())
    np.testing.assert_allclose(residual.mean(axis=0), 0, atol=1e-9)  # the bias is free
    np.testing.assert_allclose(residual.T @ x / 30, 0.3 * probe.weight.numpy(), atol=1e-9)


def test_strength_is_chosen_on_validation_and_refitted_on_both() -> None:
    """Few samples, many noise features: a small L2 overfits, a huge one does not fit at all."""
    train, validation = blobs("train", n=40, d=60, noise=8), blobs("validation", n=2000, d=60, noise=8)
    grid = [1e-6, 1e-1, 1e4]
    probe, best = choose(fit_ridge, train, validation, grid, refit=False)
    scores = [fit_ridge(train, l2).accuracy(*validation) for l2 in grid]
    assert grid.index(best) == int(np.argmax(scores))
    assert probe.accuracy(*validation) == max(scores)
    again, _ = choose(fit_ridge, train, validation, [best])
    both = (np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]]))
    torch.testing.assert_close(again.weight, fit_ridge(both, best).weight)
    assert len(strengths()) == 45
    assert (strengths()[0], strengths()[-1]) == pytest.approx((1e-6, 1e5))


def test_minibatch_probe_reaches_the_optimum_and_repeats_itself() -> None:
    train, test = blobs("train"), blobs("test")

    def fit(name: str) -> torch.Tensor:
        def sgd(parameters):  # type: ignore[no-untyped-def]
            return torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True)

        generator = torch_generator(0, name)
        return fit_minibatch(train, sgd, steps=150, batch=64, generator=generator, cosine=True)(test[0])

    logits = fit("a")
    assert torch.equal(fit("a"), logits)
    assert not torch.equal(fit("b"), logits)
    converged = fit_logistic(train, 0.0, standardise=False, max_iter=50)
    accuracy = (logits.argmax(1).numpy() == test[1]).mean()
    assert accuracy == pytest.approx(converged.accuracy(*test), abs=0.02)
    assert accuracy > 0.9


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("temperature", [None, 0.1])
def test_neighbours_by_brute_force(metric: str, temperature: float | None) -> None:
    (x, y), (queries, _) = blobs("bank", n=60, noise=3), blobs("queries", n=40, noise=3)
    predicted = knn_predict((x, y), queries, 7, temperature=temperature, metric=metric, rows=16)  # type: ignore[arg-type]
    for query, label in zip(queries, predicted.tolist(), strict=True):
        if metric == "cosine":
            close = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        else:
            close = -np.linalg.norm(x - query, axis=1)
        nearest = np.argsort(-close)[:7]
        weights = np.ones(7) if temperature is None else np.exp(close[nearest] / temperature)
        votes = np.bincount(y[nearest], weights, minlength=3)
        tied = np.flatnonzero(np.isclose(votes, votes.max(), rtol=1e-12))
        assert label == next(near for near in y[nearest] if near in tied)


def test_one_neighbour_remembers_its_bank() -> None:
    x, y = blobs("bank")
    np.testing.assert_array_equal(knn_predict((x.astype(np.float32), y), x, 1, metric="euclidean"), y)


def test_constant_features_and_missing_classes_are_harmless() -> None:
    x, y = blobs("train")
    x[:, 2] = 4
    keep = y < 2
    for fit in (fit_logistic, fit_ridge):
        probe = fit((x[keep], y[keep]), 1e-3, classes=5)
        assert probe.weight.shape == (5, 5)
        assert probe.accuracy(x[keep], y[keep]) > 0.9
        assert torch.isfinite(probe(x)).all()


def test_mistakes_are_explained() -> None:
    x, y = blobs("train")
    with pytest.raises(RefigureError, match="NaN or infinity"):
        fit_logistic((np.where(x > 2, np.nan, x), y), 0.1)
    with pytest.raises(RefigureError, match=r"float features \(N, D\)"):
        fit_ridge((x, y[:-1]), 0.1)
    with pytest.raises(RefigureError, match="labels must lie from 0 to 1"):
        fit_ridge((x, y), 0.1, classes=2)
    with pytest.raises(RefigureError, match="k = 999"):
        knn_predict((x, y), x, 999)
