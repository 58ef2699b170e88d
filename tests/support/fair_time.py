"""Time as a process has it on a busy machine: while it waits for a processor, its time does not count."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READ_EVERY_S = 0.05
LEAST_WORK_S = 0.05  # less shows no load
MOST = 2.5  # a suite on a loaded machine must end, too


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


class Load:
    """How much slower this process is than on a machine of its own: threads and servers that it waits for are, too."""

    def __init__(self) -> None:
        self._read_at = float("-inf")
        self._before = (0.0, 0.0)  # seconds with a processor, and waiting for one
        self._factor = 1.0

    def factor(self) -> float:
        """Return the elapsed time per second of work, of the latest while; from 1 to `MOST`."""
        now = time.monotonic()
        if now - self._read_at >= READ_EVERY_S and (usage := _usage_s(os.getpid())) is not None:
            worked_s, waited_s = usage[0] - self._before[0], usage[1] - self._before[1]
            if worked_s >= LEAST_WORK_S:
                self._factor = min(1.0 + waited_s / worked_s, MOST)
                self._before = usage
            self._read_at = now
        return self._factor


def _waited_s(pid: int) -> float | None:
    usage = _usage_s(pid)
    return None if usage is None else usage[1]


def _usage_s(pid: int) -> tuple[float, float] | None:
    """Return how long a process's first thread has had a processor, and waited for one; None where that is unknown."""
    with suppress(OSError, IndexError, ValueError):
        worked_ns, waited_ns, *_ = map(int, Path(f"/proc/{pid}/schedstat").read_text("ascii").split())
        return worked_ns / 1e9, waited_ns / 1e9
    return None
