"""Tests: small maps tap by tap are what PyTorch computes, with all derivatives."""

import pytest
import torch
import torch.nn.functional as F

from papers.clapp import fast_convolution
from papers.clapp.fast_convolution import convolve, correlate


@pytest.mark.parametrize("taps", [True, False], ids=["by taps", "plain"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 2), (4, 4), (3, 4), (5, 5)])
def test_is_the_convolution(shape: tuple[int, int], taps: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_convolution, "WIDE", 1 if taps else 10**9)
    monkeypatch.setattr(fast_convolution, "SMALL", 4)
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64, requires_grad=True)

    x, weight, bias = normal(3, 2, *shape), normal(4, 2, 3, 3), normal(4)
    plain = F.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(convolve(x, weight, bias), plain, rtol=1e-12, atol=1e-12)
    gradient = torch.randn(plain.shape, generator=generator, dtype=torch.float64)
    expected = torch.autograd.grad(plain, (x, weight, bias), gradient)
    torch.testing.assert_close(
        torch.autograd.grad(convolve(x, weight, bias), (x, weight, bias), gradient), expected, rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(correlate(gradient, x.detach()), expected[1], rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(convolve, (x, weight, None))
