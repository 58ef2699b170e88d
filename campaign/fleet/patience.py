"""How long a trial waits for what is left. Pure: its clock is given."""

from collections.abc import Callable


class Patience:
    """Waits for as long as less is left than ever before: what only changes, such as a task that two replicas put off
    in turn, does not count."""

    def __init__(self, rest_s: float, *, clock: Callable[[], float]) -> None:
        """`rest_s`: how long it waits for less."""
        self._rest_s = rest_s
        self._clock = clock
        self._least: int | None = None
        self._until = clock() + rest_s

    def is_over(self, left: int | None) -> bool:
        """Return whether it has waited long enough. `left`: how much is left now; None where that is not known."""
        if left is not None and (self._least is None or left < self._least):
            self._least, self._until = left, self._clock() + self._rest_s
        return self._clock() >= self._until
