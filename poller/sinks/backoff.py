"""How long a sink waits before it tries again: longer after each failure in a row, spread by full jitter. Pure."""

from collections.abc import Sequence
from random import Random

DOUBLING_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


def jittered_s(steps_s: Sequence[float], failures: int, rng: Random) -> float:
    """Return anything between nothing and the step of the n-th failure in a row; the last step stands for all later.

    Full jitter, for it spreads many senders best (AWS Architecture Blog, "Exponential Backoff And Jitter").
    """
    return rng.uniform(0.0, steps_s[min(failures, len(steps_s)) - 1])
