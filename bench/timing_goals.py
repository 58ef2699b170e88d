"""What the default must reach on the workloads that are not independent: polls a task and mean lateness, not above.

`python -m bench.timing --goals` plays each of them under both limits, prints what was reached, and exits 1 where a goal
was missed.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Goal = tuple[float, float]  # polls a task, mean late s

GOALS: Mapping[str, Mapping[float, Goal]] = {  # by the start of the workload's name, and the limit
    "1 ": {60.0: (1.25, 1.0), 10.0: (1.25, 1.0)},
    "2 ": {60.0: (4.0, 12.0), 10.0: (1.5, 90.0)},
    "3 ": {60.0: (1.4, 2.0), 10.0: (1.4, 2.0)},
    "3b ": {60.0: (1.9, 5.0), 10.0: (1.8, 5.2)},
    "5 ": {60.0: (1.7, 65.0), 10.0: (1.6, 320.0)},
    "7 ": {60.0: (1.5, 25.0), 10.0: (1.5, 95.0)},
    "8 ": {60.0: (5.6, 15.0), 10.0: (3.4, 37.0)},
    "8b ": {60.0: (6.6, 6.5), 10.0: (3.2, 57.0)},
    "8c ": {60.0: (1.3, 1.4), 10.0: (1.3, 1.4)},
    "11- ": {60.0: (3.8, 12.0), 10.0: (2.8, 17.5)},
    "13 ": {60.0: (1.6, 50.0), 10.0: (1.2, 370.0)},
    "14 ": {60.0: (1.5, 3.2), 10.0: (1.5, 3.2)},
    "16 ": {60.0: (2.5, 8.0), 10.0: (1.9, 13.0)},
    "17 ": {60.0: (3.0, 7.0), 10.0: (2.3, 14.0)},
    "18 ": {60.0: (2.0, 14.0), 10.0: (1.4, 70.0)},
    "21 ": {60.0: (1.25, 1.5), 10.0: (1.15, 1.5)},
    "B ": {60.0: (1.8, 1.0), 10.0: (1.25, 2.0)},
}
LINE_BY = {"14 ": "attr"}  # what separates lines
DEADLINES_S = {"2 ": 7200.0, "23 ": 7200.0}  # where some imports never finish
POLL_COST_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """A workload under a limit, and what it cost."""

    workload: str
    per_second: float
    polls: float
    late_s: float
    put_offs: float

    @property
    def goal(self) -> Goal | None:
        found = [goals for start, goals in GOALS.items() if self.workload.startswith(start)]
        return found[0].get(self.per_second) if found else None

    @property
    def is_reached(self) -> bool:
        """A goal is a cost: a poll more is worth `POLL_COST_S` of lateness, and the other way round."""
        if self.goal is None:
            return True
        polls, late_s = self.goal
        return self.late_s + POLL_COST_S * self.polls <= late_s + POLL_COST_S * polls

    def row(self) -> str:
        goal = "–" if self.goal is None else "{:g} / {:g}".format(*self.goal)
        sign = "" if self.is_reached else " **missed**"
        return (
            f"| {self.workload} | {self.per_second:g} | {self.polls:.2f} / {self.late_s:.1f} | {goal}{sign} |"
            f" {self.put_offs:.1f} |\n"
        )


HEAD = (
    "| workload | requests a second | polls a task / mean late s | goal, not above | put-offs a task |\n"
    "|---|---|---|---|---|\n"
)
