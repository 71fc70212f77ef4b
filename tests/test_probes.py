"""Probes against their optimality conditions and brute force."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.errors import RefigureError
from common.train.probes import LinearProbe, choose, fit_logistic, fit_minibatch, knn_predict
from common.train.seeding import numpy_rng, torch_generator


def blobs(name: str, n: int = 300, d: int = 5, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Three Gaussian clouds in d dimensions, the same centres for every name."""
    rng = numpy_rng(0, name)
    labels = rng.integers(3, size=n)
    centres = 2 * numpy_rng(0, "centres").normal(size=(3, d))
    return centres[labels] + noise * rng.normal(size=(n, d)), labels


@pytest.mark.parametrize("l2", [1e-3, 0.1, 1e4])
def test_the_gradient_of_the_logistic_objective_is_zero(l2: float) -> None:
    x, y = blobs("train", noise=3)
    x[:, 2] = 4  # a constant feature gets no weight
    probe = fit_logistic((x, y), l2)
    weight, bias = (parameter.clone().requires_grad_() for parameter in (probe.weight, probe.bias))
    penalised = weight * torch.as_tensor(x.std(axis=0))
    loss = F.cross_entropy(F.linear(torch.as_tensor(x), weight, bias), torch.as_tensor(y))
    (loss + l2 / 2 * penalised.square().sum()).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    np.testing.assert_allclose(weight.grad, 0, atol=1e-4 if l2 > 1 else 1e-6)
    np.testing.assert_allclose(bias.grad, 0, atol=2e-7)
    assert not weight[:, 2].any()


def test_a_logistic_probe_does_not_see_scale_or_shift() -> None:
    x, y = blobs("train")
    scale = np.array([1e-3, 1, 10, 1e3, 1e5])
    plain, moved = fit_logistic((x, y), 0.01), fit_logistic((scale * x - 7, y), 0.01)
    np.testing.assert_allclose(moved.weight.numpy() * scale, plain.weight, atol=1e-6)
    np.testing.assert_allclose(moved.bias, plain.bias + moved.weight.sum(dim=1) * 7, atol=1e-6)


def test_the_strength_is_chosen_on_validation_and_refitted_on_both() -> None:
    """Few samples, many noise features: a small L2 overfits, a huge one does not fit at all."""
    train, validation = blobs("train", n=40, d=60, noise=8), blobs("validation", n=500, d=60, noise=8)
    grid = [1e-6, 1.0, 1e5]
    probe, best = choose(fit_logistic, train, validation, grid)
    scores = [fit_logistic(train, l2).accuracy(*validation) for l2 in grid]
    assert best == 1.0 == grid[int(np.argmax(scores))]
    both = (np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]]))
    torch.testing.assert_close(probe.weight, fit_logistic(both, best).weight)


@pytest.mark.parametrize("kind", ["clapp", "byol"])
def test_a_minibatch_probe_reaches_the_optimum_and_repeats_itself(kind: str) -> None:
    train, test = blobs("train"), blobs("test")

    def optimiser(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
        if kind == "clapp":
            return torch.optim.Adam(parameters, 1e-2)
        return torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True)

    def fit(name: str) -> LinearProbe:
        generator = torch_generator(0, name)
        return fit_minibatch(train, optimiser, steps=300, batch=64, cosine=kind == "byol", generator=generator)

    probe = fit("a")
    assert torch.equal(probe.weight, fit("a").weight)
    assert not torch.equal(probe.weight, fit("b").weight)
    converged = fit_logistic(train, 0.0).accuracy(*test)
    assert probe.accuracy(*test) == pytest.approx(converged, abs=0.02)
    assert converged > 0.9


def test_one_minibatch_step_is_one_gradient_step() -> None:
    """From weights and an order that the generator draws; one batch holds everything here."""
    x, y = blobs("train")

    def fit(steps: int) -> LinearProbe:
        def sgd(parameters: list[torch.Tensor]) -> torch.optim.Optimizer:
            return torch.optim.SGD(parameters, 0.1)

        return fit_minibatch((x, y), sgd, steps=steps, batch=300, cosine=False, generator=torch_generator(0, "a"))

    initial = fit(0)
    weight = initial.weight.clone().requires_grad_()
    F.cross_entropy(F.linear(torch.as_tensor(x), weight, initial.bias), torch.as_tensor(y)).backward()
    assert weight.grad is not None
    torch.testing.assert_close(fit(1).weight, initial.weight - 0.1 * weight.grad)
    assert initial.weight.abs().max() <= 5**-0.5


def test_neighbours_by_brute_force() -> None:
    (x, y), (queries, _) = blobs("bank", n=60, noise=3), blobs("queries", n=1100, noise=3)
    predicted = knn_predict((x, y), queries, k=7, temperature=0.1)
    for query, label in zip(queries, predicted.tolist(), strict=True):
        cosines = x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosines)[:7]
        assert label == np.bincount(y[nearest], np.exp(cosines[nearest] / 0.1)).argmax()


def test_one_neighbour_remembers_its_bank() -> None:
    x, y = blobs("bank")
    np.testing.assert_array_equal(knn_predict((x.astype(np.float32), y), 3 * x, k=1, temperature=1e-3), y)


def test_mistakes_are_explained() -> None:
    x, y = blobs("train")
    with pytest.raises(RefigureError, match="NaN or infinity"):
        fit_logistic((np.where(x > 2, np.nan, x), y), 0.1)
    with pytest.raises(RefigureError, match=r"not float features \(N, D\)"):
        fit_logistic((x, y[:-1]), 0.1)
    with pytest.raises(RefigureError, match="labels lie below 0"):
        knn_predict((x, y - 1), x, k=1, temperature=0.1)
    with pytest.raises(RefigureError, match="k = 999"):
        knn_predict((x, y), x, k=999, temperature=0.1)
