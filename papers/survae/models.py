"""The models of the toy experiment (figure 4), with its hyper-parameters."""

from collections.abc import Sequence

import jax
from jaxtyping import PRNGKeyArray

from common.errors import RefigureError, suggest
from papers.survae.bijections import Affine, AffineCoupling, Logit, SoftplusInverse
from papers.survae.densities import DENSITIES
from papers.survae.distributions import StandardNormal, StandardUniform
from papers.survae.flow import Flow
from papers.survae.nets import MLP
from papers.survae.rearrangements import Reverse
from papers.survae.surjections import Abs, SignedAbs
from papers.survae.transforms import Transform

__all__ = ["couplings", "toy_absflow", "toy_flow"]


def couplings(count: int, hidden: Sequence[int], scale_fn: str, key: PRNGKeyArray) -> list[Transform]:
    """Affine couplings on (B, 2) with `Reverse` between them, not after the last."""
    layers: list[Transform] = []
    for net_key in jax.random.split(key, count):
        layers += [AffineCoupling(MLP(1, hidden, 2, key=net_key), scale_fn), Reverse()]
    return layers[:-1]


def toy_flow(density: str, key: PRNGKeyArray, hidden: Sequence[int] = (200, 100)) -> Flow:
    """The flow of figure 4: four affine couplings on $N(0, I)$.

    Arguments:
        density: Which of `densities.DENSITIES`; the scale function is ``exp`` on the checkerboard and
            ``softplus`` elsewhere (official code).
        key: Draws the weights.
        hidden: The widths of the coupling nets.

    Raises:
        RefigureError: Unknown density.
    """
    scale_fn = "exp" if _check_density(density) == "checkerboard" else "softplus"
    return Flow(StandardNormal((2,)), couplings(4, hidden, scale_fn, key))


def toy_absflow(density: str, key: PRNGKeyArray, hidden: Sequence[int] = (200, 100)) -> Flow:
    r"""The flow of figure 4 with absolute-value surjections.

    On the mirror-symmetric densities it is `toy_flow` behind $|x|$ and a map from the quadrant to the plane:
    $[0, 4]^2$ by logit, or all of it by inverse softplus for ``eight_gaussians``, whose tails leave the
    square (there the official command fails). The checkerboard needs no coupling: $|x_1|$ with a learned sign
    leaves a uniform density, so the classifier is the whole model.

    Arguments:
        density: Which of `densities.DENSITIES`.
        key: Draws the weights.
        hidden: The widths of the coupling nets or of the classifier.

    Raises:
        RefigureError: Unknown density.
    """
    if _check_density(density) == "checkerboard":
        to_unit_square = Affine(scale=(1 / 4, 1 / 8), shift=(0, 1 / 2))
        signed = SignedAbs(MLP(2, hidden, 1, key=key), elements=(0,))
        return Flow(StandardUniform((2,)), [signed, to_unit_square])
    to_plane = [SoftplusInverse()] if density == "eight_gaussians" else [Affine(scale=1 / 4), Logit()]
    return Flow(StandardNormal((2,)), [Abs(), *to_plane, *couplings(4, hidden, "softplus", key)])


def _check_density(density: str) -> str:
    """Returns the name of a density if it is known, or raises `RefigureError`."""
    if density not in DENSITIES:
        raise RefigureError(f"density {density!r}: {suggest(density, DENSITIES)}")
    return density
