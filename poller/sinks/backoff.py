"""How long a sink waits before a retry: longer after each failure in a row, spread by full jitter."""

from collections.abc import Sequence
from random import Random

from poller.core.deliveries import Retry

DOUBLING_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0)


def backoff_s(steps_s: Sequence[float], failures: int, rng: Random | None) -> float:
    """Return a wait between 0 and the step of the n-th failure in a row; after the last step, that one is repeated.

    Full jitter, because it spreads many senders best (AWS Architecture Blog, "Exponential Backoff And Jitter"). Without
    `rng`, the whole step: no one else waits for the disk.
    """
    step_s = steps_s[min(failures, len(steps_s)) - 1]
    return step_s if rng is None else rng.uniform(0.0, step_s)


class Backoff:
    """Counts failures in a row and doubles the wait, up to a minute."""

    def __init__(self, rng: Random | None = None) -> None:
        """`rng`: see `backoff_s`."""
        self._rng = rng
        self._failures = 0

    def reset(self) -> None:
        """Forget the failures after a success."""
        self._failures = 0

    def retry(self, reason: str) -> Retry:
        """Count a failure and return when to try again."""
        self._failures += 1
        return Retry(reason=reason, wait_s=backoff_s(DOUBLING_S, self._failures, self._rng))
