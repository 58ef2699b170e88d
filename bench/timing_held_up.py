"""An incident in a running account: some hundred imports finish as usual, then nothing does for an hour.

`python -m bench.timing_held_up` prints how many polls in vain each waiting import costs in that hour.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from bench.timing_lane import START_AT, SimulatedLane
from bench.timing_lines import in_order
from bench.timing_workloads import Draw, Import, lognormal, mixed
from poller.core.model import Task
from poller.schedule import AccountTiming
from poller.schedule.policy import Polling

BEFORE, FED_A_SECOND, LINE_A_SECOND = 300, 2.0, 1.8
HOUR_S, DAY_S, AFTER_S = 3600.0, 86_400.0, 120.0
TOOK: dict[str, Draw] = {
    "5 s": lognormal(5, 0.8),
    "30 s": lognormal(30, 0.8),
    "2 min": lognormal(120, 0.8),
    "10 min": lognormal(600, 0.8),
    "two kinds": mixed(0.6, lognormal(8, 0.5), lognormal(300, 0.4)),
}
IN_LINE = "in a line"


def held_up(kind: str, waiting: int, rng: Random) -> tuple[list[Import], float]:
    """Return imports of which so many wait from the latest completion on, and its instant. After an hour the rest is
    completed within two minutes; a line goes on."""
    fed = [
        Import(requested_at=n / FED_A_SECOND - 0.5, fed_at=n / FED_A_SECOND, took_s=0) for n in range(BEFORE + waiting)
    ]
    if kind == IN_LINE:
        usual = [replace(one, started_at=None) for one in in_order(fed, lambda _at: LINE_A_SECOND)]
    else:
        usual = [replace(one, took_s=TOOK[kind](rng)) for one in fed]
    begins_at = sorted(one.completed_at for one in usual)[BEFORE - 1]

    def later(one: Import) -> Import:
        if one.completed_at <= begins_at:
            return one
        delay_s = HOUR_S if kind == IN_LINE else max(begins_at, one.fed_at) + HOUR_S - one.completed_at
        spread_s = 0.0 if kind == IN_LINE else rng.uniform(0, AFTER_S)
        return replace(one, took_s=one.took_s + delay_s + spread_s)

    return [later(one) for one in usual], begins_at


class _CountingLane(SimulatedLane):
    """Counts the polls in vain from an instant on."""

    def __init__(self, imports: Sequence[Import], from_s: float, until_s: float, per_second: float) -> None:
        rules = Polling()
        super().__init__(imports, AccountTiming("a", rules.tradeoff), per_second, rules.deadline_s)
        self._from_s, self._until_s = from_s, until_s
        self.in_vain = 0

    def _poll(self, task: Task, now: float) -> None:
        at = now - START_AT
        if self._from_s < at < self._until_s:
            self.in_vain += self._imports[int(task.task_id)].completed_at > at
        super()._poll(task, now)


def polls_in_vain(imports: Sequence[Import], from_s: float, for_s: float, per_second: float = 60.0) -> int:
    """Play the imports by the default and return the polls in vain of that time."""
    lane = _CountingLane(imports, from_s, from_s + for_s, per_second)
    lane.run()
    return lane.in_vain


def main() -> None:
    sys.stdout.write("| imports | waiting | polls in vain of each in the hour, by seed |\n|---|---|---|\n")
    for kind in (*TOOK, IN_LINE):
        for waiting in (60, 200):
            found = []
            for seed in (1, 2, 3):
                imports, begins_at = held_up(kind, waiting, Random(seed))  # noqa: S311 - a simulation
                found.append(polls_in_vain(imports, begins_at, HOUR_S) / waiting)
            sys.stdout.write(f"| {kind} | {waiting} | {', '.join(f'{each:.2f}' for each in found)} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
