"""Plays `poller import` through the service's own timing: what a file costs in requests while rows wait to be started.

`python -m bench.imports` prints a line a workload. No sockets, no store and no clock; the limit is an even pace.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from bench.timing_lane import START_AT, SimulatedLane
from bench.timing_workloads import Draw, Import, lognormal, mixed
from poller.schedule import AccountTiming
from poller.schedule.policy import Polling
from poller.schedule.starts import POLLS_BEFORE_A_START, REPRICE_EVERY_S, StartRules, backlog_tradeoff
from poller.schedule.trial import Trial

ROWS, PER_SECOND, DEADLINE_S = 40_000, 9.9, 86_400.0
WORKLOADS: Mapping[str, tuple[Draw, float]] = {  # how long imports take, and the most requests a file
    "lognormal, median 30 s, sigma 1.2": (lognormal(30, 1.2), 2.25),
    "95 % about 5 s, 5 % in 15 to 45 min": (mixed(0.95, lognormal(5, 0.5), lambda rng: rng.uniform(900, 2700)), 2.5),
    "quick: lognormal, median 5 s, sigma 0.5": (lognormal(5, 0.5), 2.1),
}
FIRST_WITHIN_S = 15.0  # of the first import's end


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportCost:
    """What a play cost."""

    requests_a_file: float
    first_late_s: float  # from the first import's end to the first outcome
    used: float  # share of the limit that was used while rows waited, after the trial
    hours: float
    mean_late_s: float


class SimulatedImports(SimulatedLane):
    """One account that starts rows and polls what it started, in the order of `DueWork`."""

    def __init__(self, rows: int, took_s: Draw, rules: StartRules, *, seed: int, per_second: float) -> None:
        self._polling = Polling(deadline_s=DEADLINE_S)
        super().__init__([], AccountTiming("a", self._polling.tradeoff), per_second, DEADLINE_S)
        self._rows = rows
        self._took_s = took_s
        self._rules = rules
        self._trial = Trial(rules.trial)
        self._chance = Random(seed)  # noqa: S311 - a simulation
        self._imported: list[Import] = []
        self._imports = self._imported
        self._polls_in_row = 0
        self._repriced_at = -math.inf

    def work(self) -> ImportCost:
        """Play all rows to their outcomes."""
        free_at, idle_s, passed_at = START_AT, 0.0, None
        while self._rows or self._tasks:
            due_at = self._next_at(free_at)
            now = free_at if self._may_start() else due_at
            if self._rows and self._trial.is_over:
                passed_at = passed_at or free_at
                idle_s += now - free_at
                began_waiting = now
            self._reprice(now)
            if due_at <= now and (self._polls_in_row < POLLS_BEFORE_A_START or not self._may_start()):
                if (task := self._claim(now)) is None:
                    continue  # it was put off
                self._polls_in_row += 1
                self._poll(task, now)
                if task.key not in self._tasks:
                    self._trial.end(None)
            else:
                self._start(now)
            free_at = now + self._spacing_s
        started = START_AT if passed_at is None else passed_at
        seen = [each.completed_at + late for each, late in zip(self._imports, self.played.late_s, strict=True)]
        return ImportCost(
            requests_a_file=1 + sum(self.played.polls) / len(self._imports),
            first_late_s=min(seen) - min(each.completed_at for each in self._imports),
            used=1 - idle_s / max(began_waiting - started, 1.0),
            hours=(free_at - START_AT) / 3600,
            mean_late_s=sum(self.played.late_s) / len(seen),
        )

    def _may_start(self) -> bool:
        return self._rows > 0 and len(self._tasks) < self._rules.underway and not self._trial.holds

    def _start(self, now: float) -> None:
        at = now - START_AT
        self._rows -= 1
        self._polls_in_row = 0
        self._trial.count(1)
        self._imported.append(Import(requested_at=at, fed_at=at, took_s=self._took_s(self._chance)))
        self.played.polls.append(0)
        self.played.late_s.append(-1.0)
        self._order.append(len(self._imported) - 1)
        self._feed(now)

    def _reprice(self, now: float) -> None:
        if now - self._repriced_at >= REPRICE_EVERY_S:
            self._repriced_at = now
            waiting = self._rows if self._may_start() else 0
            self.timing.planner.reprice(backlog_tradeoff(self._polling, waiting, 1 / self._spacing_s))


def play_imports(took_s: Draw, *, rows: int = ROWS, seed: int = 1, per_second: float = PER_SECOND) -> ImportCost:
    """Return what importing `rows` files costs under the limit."""
    return SimulatedImports(rows, took_s, StartRules(), seed=seed, per_second=per_second).work()


def main() -> None:
    """Play each workload; exit 1 where one costs more than it may."""
    parser = argparse.ArgumentParser(prog="python -m bench.imports", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    missed = False
    for name, (took_s, most) in WORKLOADS.items():
        began = time.process_time()
        cost = play_imports(took_s, rows=args.rows, seed=args.seed)
        missed |= cost.requests_a_file > most or cost.first_late_s > FIRST_WITHIN_S
        print(
            f"{name:42} {cost.requests_a_file:.3f} requests a file (at most {most}), {cost.used:.1%} of the limit used,"
            f" first outcome {cost.first_late_s:.1f} s after its end, mean {cost.mean_late_s:.0f} s,"
            f" {cost.hours:.2f} h [{time.process_time() - began:.0f} s]"
        )
    sys.exit(missed)


if __name__ == "__main__":
    main()
