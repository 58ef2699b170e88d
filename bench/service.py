"""This service as a person runs it: ids from a file, a SQLite state, a JSONL sink, logs at info. Measured from outside,
by the summaries in its log and the kernel's counters of its process.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import orjson

from bench.server import pinned

CLOCK_HZ = os.sysconf("SC_CLK_TCK")
ENVIRON = {
    "HUBSPOT_TOKEN": "bench",
    "POLLER_REQUESTS": "1000000",
    "POLLER_WINDOW_S": "1",
    "POLLER_WORKERS": "50",
    "POLLER_SUMMARY_EVERY_S": "1",
    "POLLER_POLLING__POLICY": "fixed",
    "POLLER_POLLING__FIRST_GAP_S": "0.01",
    "POLLER_POLLING__LONGEST_GAP_S": "0.02",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A process at one instant."""

    at: float  # wall clock
    processor_s: float
    resident_mb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that has ended."""

    exit_code: int
    began_at: float
    events: Sequence[dict[str, object]]  # of its log
    samples: Sequence[Sample]
    peak_mb: float

    def polls(self) -> tuple[float, float]:
        """Return polls a second and processor seconds a poll, between a tenth and nine tenths of all polls."""
        (began, first), (ended, last) = self.steady()
        return (last - first) / (ended - began), (self.processor(ended) - self.processor(began)) / (last - first)

    def steady(self) -> tuple[tuple[float, int], tuple[float, int]]:
        """Return the instants when a tenth and nine tenths of all polls were made, each with how many these were."""
        total = self.total_polls()
        steady = [(at, polls) for at, polls in self._summaries() if 0.1 * total <= polls <= 0.95 * total]
        if len(steady) < 2:
            raise SystemExit("the run was too short to be measured: use more tasks")
        return steady[0], steady[-1]

    def total_polls(self) -> int:
        """Return how many polls the run made."""
        return max((polls for _, polls in self._summaries()), default=0)

    def _summaries(self) -> list[tuple[float, int]]:
        return [
            (instant(event), int(str(event["polls"]))) for event in self.events if event["event"] == "run.summarized"
        ]

    def processor(self, at: float) -> float:
        """Return the processor seconds used up to an instant."""
        return value_at(at, [(each.at, each.processor_s) for each in self.samples])


def value_at(at: float, samples: Sequence[tuple[float, float]]) -> float:
    """Return a value that only grows at an instant, by the two samples around it."""
    for (before, low), (after, high) in pairwise(samples):
        if before <= at <= after:
            return low + (at - before) / (after - before) * (high - low)
    return samples[-1][1]


def instant(event: dict[str, object]) -> float:
    """Return when an event was logged."""
    return datetime.fromisoformat(str(event["timestamp"])).timestamp()


def run_service(
    folder: Path,
    base_url: str,
    inputs: Sequence[Path],
    *,
    core: int | None,
    until: str | None = None,
    seconds: float | None = None,
    while_running: Callable[[], None] | None = None,
    **environ: str,
) -> Run:
    """Run `poller run` in `folder` to its end, or to the first event named `until`, or for `seconds`, or until
    `while_running` has returned."""
    command = [shutil.which("poller", path=str(Path(sys.executable).parent)) or "poller", "run", *map(str, inputs)]
    log = folder / "log"
    began_at = time.time()
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, "--base-url", base_url],
            cwd=folder,
            stderr=stderr,
            env={**os.environ, **ENVIRON, **environ},
            preexec_fn=pinned(core),
        )
    samples: list[Sample] = []
    watcher = threading.Thread(target=_watch, args=(process.pid, log, until, seconds, samples))
    watcher.start()
    if while_running is not None:
        try:
            while_running()
        finally:
            process.terminate()
    _, status, usage = os.wait4(process.pid, 0)
    watcher.join()
    return Run(
        exit_code=os.waitstatus_to_exitcode(status),
        began_at=began_at,
        events=_events(log),
        samples=samples,
        peak_mb=usage.ru_maxrss / 1024,
    )


def _events(log: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in log.read_bytes().splitlines() if line.startswith(b"{")]


def _watch(pid: int, log: Path, until: str | None, seconds: float | None, samples: list[Sample]) -> None:
    stopped = False
    while (sample := _sample(pid)) is not None:
        samples.append(sample)
        is_late = seconds is not None and sample.at - samples[0].at > seconds
        if not stopped and (is_late or (until is not None and until.encode() in log.read_bytes())):
            os.kill(pid, 15)
            stopped = True
        time.sleep(0.05)


def _sample(pid: int) -> Sample | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    if fields[0] == "Z":
        return None
    processor_s = (int(fields[11]) + int(fields[12])) / CLOCK_HZ
    pages = int(fields[21])
    return Sample(at=time.time(), processor_s=processor_s, resident_mb=pages * os.sysconf("SC_PAGESIZE") / 2**20)
