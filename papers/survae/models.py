"""The models of the paper's experiments, with its hyper-parameters."""

from collections.abc import Sequence

from papers.survae.bijections import Affine, AffineCoupling, Logit, Reverse, SoftplusInverse
from papers.survae.distributions import StandardNormal, StandardUniform
from papers.survae.flow import Flow
from papers.survae.nets import MLP
from papers.survae.surjections import Abs, SignedAbs
from papers.survae.transforms import Transform

__all__ = ["couplings", "toy_absflow", "toy_flow"]


def couplings(count: int, hidden: Sequence[int], scale_fn: str) -> list[Transform]:
    """Affine couplings on (B, 2) with `Reverse` between them, not after the last."""
    layers: list[Transform] = []
    for _ in range(count):
        layers += [AffineCoupling(MLP(1, hidden, 2), scale_fn), Reverse()]
    return layers[:-1]


def toy_flow(density: str, hidden: Sequence[int] = (200, 100)) -> Flow:
    """The flow of figure 4: four affine couplings on $N(0, I)$.

    Arguments:
        density: Which of `densities.DENSITIES`; the scale function is ``exp`` on the checkerboard and
            ``softplus`` elsewhere (official code).
        hidden: The widths of the coupling nets.
    """
    scale_fn = "exp" if density == "checkerboard" else "softplus"
    return Flow(StandardNormal((2,)), couplings(4, hidden, scale_fn))


def toy_absflow(density: str, hidden: Sequence[int] = (200, 100)) -> Flow:
    r"""The flow of figure 4 with absolute-value surjections.

    On the mirror-symmetric densities it is `toy_flow` behind $|x|$ and a map from the quadrant to the plane:
    $[0, 4]^2$ by logit, or all of it by inverse softplus for ``eight_gaussians``, whose tails leave the
    square (there the official command fails). The checkerboard needs no coupling: $|x_1|$ with a learned
    sign leaves a uniform density, so the classifier is the whole model.

    Arguments:
        density: Which of `densities.DENSITIES`.
        hidden: The widths of the coupling nets or of the classifier.
    """
    if density == "checkerboard":
        to_unit_square = Affine(scale=(1 / 4, 1 / 8), shift=(0, 1 / 2))
        return Flow(StandardUniform((2,)), [SignedAbs(MLP(2, hidden, 1), [0]), to_unit_square])
    to_plane = [SoftplusInverse()] if density == "eight_gaussians" else [Affine(scale=1 / 4), Logit()]
    return Flow(StandardNormal((2,)), [Abs(), *to_plane, *couplings(4, hidden, "softplus")])
