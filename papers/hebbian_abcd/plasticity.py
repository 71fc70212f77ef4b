"""The plasticity rule: every synapse changes by its own coefficients and by what its two neurons do (section 3).

A synapse leads from a neuron `pre` with activation o_i to a neuron `post` with activation o_j. Weights of a layer and
their coefficients are (..., post, pre), activations (..., pre) and (..., post).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["RULES", "Coefficients", "hebbian_update", "normalised", "of_columns"]

Weights = Float[np.ndarray, "... post pre"]


class Coefficients(NamedTuple):
    """What is evolved, of every synapse of a layer; what a rule does not have is a number."""

    a: Weights | float = 0.0
    """A, of the product of both activations."""
    b: Weights | float = 0.0
    """B, of the activation before the synapse."""
    c: Weights | float = 0.0
    """C, of the activation behind it."""
    d: Weights | float = 0.0
    """D, of neither."""
    eta: Weights | float = 1.0
    """The learning rate, evolved like the others; it may be negative."""
    outside: Weights | float = 0.0
    """A D that the learning rate does not multiply."""


RULES = {
    "A": ("a",),
    "AD": ("a", "d"),
    "AD_lr": ("a", "d", "eta"),
    "ABC": ("a", "b", "c"),
    "ABC_lr": ("a", "b", "c", "eta"),
    "ABCD": ("a", "b", "c", "d"),
    "ABCD_lr": ("a", "b", "c", "eta", "d"),
    "ABCD_lr_D_out": ("a", "b", "c", "eta", "outside"),
    "ABCD_lr_D_in_and_out": ("a", "b", "c", "eta", "d", "outside"),
}
"""The coefficients of each rule, in the order in which they are evolved (official code); the paper's is `ABCD_lr`."""


def of_columns(rule: str, columns: Float[np.ndarray, "K ... post pre"]) -> Coefficients:
    """The coefficients of a rule from one array of all."""
    return Coefficients(**dict(zip(RULES[rule], columns, strict=True)))


def hebbian_update(
    w: Weights, k: Coefficients, pre: Float[np.ndarray, "... pre"], post: Float[np.ndarray, "... post"]
) -> Weights:
    """w + eta (A o_i o_j + B o_i + C o_j + D), the weights after one step of the environment."""
    o_i, o_j = pre[..., None, :], post[..., None]
    return w + k.eta * (k.a * o_i * o_j + k.b * o_i + k.c * o_j + k.d) + k.outside


def normalised(w: Weights) -> Weights:
    """The layer divided by its own largest absolute weight (all tasks but the quadruped; official code)."""
    return w / np.abs(w).max((-2, -1), keepdims=True)
