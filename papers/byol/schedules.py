"""Learning rate and decay of the target by the step (section 3.3 and appendix J)."""

import math

from common.errors import RefigureError

__all__ = ["learning_rate", "target_decay"]


def learning_rate(step: int, steps: int, warm_up: int, base: float, batch: int) -> float:
    """Linear from 0 over `warm_up` steps to base · batch / 256, then half a cosine to 0 over the remaining steps."""
    peak = base * batch / 256
    if step < warm_up:
        return peak * step / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def target_decay(step: int, steps: int, base: float) -> float:
    """τ_k = 1 - (1 - τ_base)(cos(πk/K) + 1)/2: from τ_base at the first step to 1 at the end.

    Raises:
        RefigureError: τ_base is outside of [0, 1].
    """
    if not 0 <= base <= 1:
        raise RefigureError(f"target decay tau = {base:g} is outside of [0, 1]: set tau to a value between 0 and 1")
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
