"""Compares when-to-poll policies on simulated accounts and writes docs/timing-table.md and docs/timing.svg.

No sockets and no clock, only due times, a rate limit and chance by seed: `python -m bench.timing`.
`python -m bench.timing --trace FILE --limit N` plays your own account instead; bench/timing_trace.py has the format.
`python -m bench.timing --goals` holds the default against bench/timing_goals.py on lines, incidents and odd clocks.
"""

import argparse
import heapq
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

from bench.timing_goals import DEADLINES_S, HEAD, LINE_BY, Reached
from bench.timing_lane import play
from bench.timing_lines import LINES
from bench.timing_policies import OTHERS, Clairvoyant, Optimal, Policy, Poll
from bench.timing_report import plot, table
from bench.timing_trace import head, read_trace, row
from bench.timing_workloads import DEADLINE_S, WORKLOADS, Import
from poller.schedule.policy import LONGEST_GAP_S, Polling

SEED = 1
PROCESSES = 2
RATES = (60.0, 10.0)
COSTS_S = (0.02, 0.1, 0.2, 0.3, 0.6, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0)
OPTIMAL_COSTS_S = (0.1, 0.3, 1.0, 2.0, 4.0, 10.0, 30.0)
WARM_UP = 1 / 3  # of the tasks; the rest is the steady state
UNLIMITED = 1e6
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The polls and the lateness of a policy."""

    polls: float  # per task
    mean_s: float
    p95_s: float
    worst_s: float
    drained_s: float
    steady_polls: float
    steady_s: float
    put_offs: float = 0.0  # per task


def simulate(tasks: Sequence[Import], policy: Policy, per_second: float, deadline_s: float = DEADLINE_S) -> Result:
    """Poll each task until it is seen finished: longest due first, evenly paced, a poll taking no time."""
    queue = [(task.fed_at, -1, number, 0) for number, task in enumerate(tasks)]  # due, turn (-1: feeding), task, polls
    heapq.heapify(queue)
    polls, late_s = [0] * len(tasks), [-1.0] * len(tasks)
    free_at = now = 0.0
    turn = 0
    while queue:
        due_at, kind, number, before = heapq.heappop(queue)
        task = tasks[number]
        turn += 1
        if kind < 0:
            heapq.heappush(queue, (due_at + min(policy.first_poll_s(task), deadline_s), turn, number, 0))
            continue
        now = max(due_at, free_at)
        free_at = now + 1 / per_second
        polls[number] = before + 1
        finished = task.requested_at + task.took_s <= now
        gap_s = policy.gap_s(Poll(number=number, task=task, now=now, due_at=due_at, polls=before, finished=finished))
        if finished:
            late_s[number] = now - task.seen_from
        elif now < task.fed_at + deadline_s:
            heapq.heappush(queue, (min(now + gap_s, task.fed_at + deadline_s), turn, number, before + 1))
    return _result(polls, late_s, now)


def learned(tasks: Sequence[Import], per_second: float, polling: Polling) -> Result:
    """Play the service's own timing."""
    played = play(tasks, per_second, polling)
    return _result(played.polls, played.late_s, played.drained_s, played.put_offs)


def _result(polls: Sequence[int], late_s: Sequence[float], drained_s: float, put_offs: int = 0) -> Result:
    seen = sorted(late for late in late_s if late >= 0)
    warm = int(len(polls) * WARM_UP)
    steady = [late for late in late_s[warm:] if late >= 0]
    return Result(
        polls=sum(polls) / len(polls),
        mean_s=sum(seen) / max(1, len(seen)),
        p95_s=seen[int(len(seen) * 0.95)] if seen else 0.0,
        worst_s=seen[-1] if seen else 0.0,
        drained_s=drained_s,
        steady_polls=sum(polls[warm:]) / (len(polls) - warm),
        steady_s=sum(steady) / max(1, len(steady)),
        put_offs=put_offs / len(polls),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """All policies on one workload under one limit."""

    workload: str
    per_second: float
    others: Mapping[str, Result]
    default: Result
    by_cost: Mapping[float, Result]
    optimal: Sequence[Result]  # by rising poll cost, without a limit
    optimal_within: Sequence[Result]  # the same where no gap is longer than the default allows
    clairvoyant: Result

    def equal_or_better(self, other: Result) -> tuple[float, Result] | None:
        """Return poll cost and result of the fewest polls that is at most 5 % later and needs no more polls."""
        fitting = [
            (poll_cost_s, mine)
            for poll_cost_s, mine in self.by_cost.items()
            if mine.polls <= other.polls and mine.mean_s <= other.mean_s * 1.05
        ]
        return min(fitting, key=lambda each: each[1].polls, default=None)

    def over_the_bound(self, bound: Sequence[Result]) -> float:
        """Return the default's lateness in the steady state, over that of an optimal inspection with as many polls."""
        points = sorted((each.steady_polls, each.steady_s) for each in bound)
        for (fewer, later_s), (more, sooner_s) in pairwise(points):
            if fewer <= self.default.steady_polls <= more:
                share = (self.default.steady_polls - fewer) / max(more - fewer, 1e-9)
                return self.default.steady_s / (later_s + share * (sooner_s - later_s))
        return float("nan")


def compare(workload: str, per_second: float) -> Compared:
    tasks = WORKLOADS[workload](Random(SEED))  # noqa: S311 - a simulation
    return Compared(
        workload=workload,
        per_second=per_second,
        others={name: simulate(tasks, build(), per_second) for name, build in OTHERS.items()},
        default=learned(tasks, per_second, Polling(deadline_s=DEADLINE_S)),
        by_cost=_by_cost(tasks, per_second),
        optimal=_optimal(tasks, math.inf),
        optimal_within=_optimal(tasks, LONGEST_GAP_S),
        clairvoyant=simulate(tasks, Clairvoyant(), per_second),
    )


def _optimal(tasks: Sequence[Import], longest_gap_s: float) -> list[Result]:
    """Return the bound's results for each poll cost, without a limit on requests."""
    found = [Optimal(tasks, poll_cost_s, min(longest_gap_s, UNLIMITED)) for poll_cost_s in OPTIMAL_COSTS_S]
    return [simulate(tasks, policy, UNLIMITED) for policy in found]


def _by_cost(tasks: Sequence[Import], per_second: float) -> dict[float, Result]:
    return {cost_s: learned(tasks, per_second, at_cost(cost_s, DEADLINE_S)) for cost_s in COSTS_S}


def at_cost(poll_cost_s: float, deadline_s: float) -> Polling:
    """Return the rules of a person who sets this `poll_cost_s`."""
    return Polling(poll_cost_s=poll_cost_s, first_gap_s=min(1.0, poll_cost_s), deadline_s=deadline_s)


def policies(tasks: Sequence[Import], per_second: float) -> Iterator[tuple[str, Result]]:
    """Play the tasks through every policy; their deadline is the service's default."""
    yield "learned (default)", learned(tasks, per_second, Polling())
    for poll_cost_s in (0.3, 30.0):
        yield f"learned, poll_cost_s = {poll_cost_s:g}", learned(tasks, per_second, at_cost(poll_cost_s, DAY_S))
    for name, build in OTHERS.items():
        yield name, simulate(tasks, build(), per_second, DAY_S)
    yield "clairvoyant", simulate(tasks, Clairvoyant(), per_second, DAY_S)


def reach(workload: str, per_second: float, seed: int) -> Reached:
    """Play one workload by the default."""
    tasks = LINES[workload](Random(seed))  # noqa: S311 - a simulation
    line_by = next((field for start, field in LINE_BY.items() if workload.startswith(start)), None)
    deadline_s = next((after_s for start, after_s in DEADLINES_S.items() if workload.startswith(start)), DAY_S)
    result = learned(tasks, per_second, Polling(line_by=line_by, deadline_s=deadline_s))
    return Reached(
        workload=workload,
        per_second=per_second,
        polls=result.polls,
        late_s=result.mean_s,
        put_offs=result.put_offs,
    )


def _check_goals(docs: Path, seed: int) -> int:
    """Return 0 where every goal is reached."""
    names = [name for name in LINES for _ in RATES]
    rates = [rate for _ in LINES for rate in RATES]
    reached = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        for each in pool.map(reach, names, rates, [seed] * len(names)):
            reached.append(each)
            sys.stdout.write(each.row())
            sys.stdout.flush()
    if seed == SEED:
        (docs / "timing-lines.md").write_text(HEAD + "".join(each.row() for each in reached))
    return int(not all(each.is_reached for each in reached))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where table and plot go")
    parser.add_argument("--trace", type=Path, help="play this trace of an account instead; see bench/timing_trace.py")
    parser.add_argument("--limit", type=float, default=RATES[0], help="requests a second, with --trace")
    parser.add_argument("--goals", action="store_true", help="play the lines, incidents and clocks; exit 1 on a miss")
    parser.add_argument("--seed", type=int, default=SEED, help="of --goals")
    options = parser.parse_args()
    if not 0 < options.limit < math.inf:
        parser.error(f"--limit {options.limit:g}: must be a number of requests a second above 0, such as 10")
    if options.goals:
        sys.exit(_check_goals(options.docs, options.seed))
    if options.trace is not None:
        imports = read_trace(options.trace)
        sys.stdout.write(head())
        for name, result in policies(imports, options.limit):
            sys.stdout.write(row(name, result))
            sys.stdout.flush()
        return
    compared = []
    with ProcessPoolExecutor(PROCESSES) as pool:
        for each in pool.map(compare, list(WORKLOADS) * len(RATES), [rate for rate in RATES for _ in WORKLOADS]):
            compared.append(each)
            sys.stdout.write(table([each]) + "\n")
            sys.stdout.flush()
    (options.docs / "timing-table.md").write_text(table(compared))
    (options.docs / "timing.svg").write_text(plot([each for each in compared if each.per_second == RATES[0]]))


if __name__ == "__main__":
    main()
