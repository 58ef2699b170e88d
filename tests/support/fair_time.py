"""Time as a process has it on a busy machine: while it waits for a processor, its time does not count."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class FairClock:
    """Counts the seconds since it was made, but for those in which these processes waited for a processor.

    Of each process the first thread counts, which runs the event loop. Where the kernel does not show the waits, all
    seconds count.
    """

    def __init__(self, *pids: int) -> None:
        self._began = time.monotonic()
        self._waited_before = {pid: _waited_s(pid) or 0.0 for pid in (os.getpid(), *pids)}
        self._waited = dict(self._waited_before)

    def __call__(self) -> float:
        """Return the time until now; of a process that has ended, the waits of the latest call count."""
        for pid in self._waited:
            self._waited[pid] = _waited_s(pid) or self._waited[pid]
        waited_s = sum(self._waited[pid] - before for pid, before in self._waited_before.items())
        return time.monotonic() - self._began - waited_s


@contextmanager
def within(bound_s: float, *pids: int) -> Iterator[FairClock]:
    """Check that the block takes less than `bound_s`."""
    clock = FairClock(*pids)
    yield clock
    assert clock() < bound_s


def _waited_s(pid: int) -> float | None:
    with suppress(OSError, IndexError, ValueError):
        return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[1]) / 1e9
    return None
