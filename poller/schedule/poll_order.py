"""Decides, while more tasks are due than the limit lets through, which of two is polled next: one that was never polled
and is longer due, or one that was. Pure.

By due time alone, all first polls of what was fed at once come before any second one.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from poller.core.model import Task

WORTH = 0.9  # of a first poll's chance to find the import finished: then a task that was polled before has its turn
MOST_FIRST = 31  # first polls in a row, so that nothing waits for all of them


class Waiting(Protocol):
    """What waits for its poll."""

    @property
    def polls(self) -> int:
        """How often it was polled before."""


Each = TypeVar("Each", bound=Waiting)


class PollOrder:
    """The turns of one account. At most every other poll is taken from those that are longer due."""

    def __init__(self) -> None:
        self._first_polls = 0  # in a row

    def divide(self, due: Sequence[Task], limit: int, chance: Callable[[Task], float] | None) -> Sequence[Task]:
        """Return `due` in the order of its polls; only the first `limit` are for now. `due`: that many by due time,
        then others that were polled before. `chance`: that a poll finds it finished; None: nothing is known."""
        again = deque(due[limit:])
        if not again:
            return due
        longest, ordered = deque(due[:limit]), list[Task]()
        while longest and again and len(ordered) < limit:
            is_again = self.takes(longest[0], again[0], chance)
            ordered.append(again.popleft() if is_again else longest.popleft())
        return [*ordered, *longest, *again]

    def takes(self, longest: Each, again: Each, chance: Callable[[Each], float] | None) -> bool:
        """Return whether `again`, which was polled before, is polled next although the other is longer due."""
        if longest.polls or not self._first_polls:
            is_next = False
        elif self._first_polls >= MOST_FIRST or chance is None:
            is_next = True
        else:
            is_next = chance(again) >= WORTH * chance(longest)
        self._first_polls = 0 if is_next or longest.polls else self._first_polls + 1
        return is_next
