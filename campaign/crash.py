"""Kills and fails the real process before each of its state-changing system calls in turn, and checks what is left.

`python -m campaign.crash --points all --double 200 --errors --random-kills 300`; nothing given runs a short version.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from campaign import trace
from campaign.rig import Ended, Rig, Shape, own_folder, rigged
from campaign.targets import SLOW_TARGETS, TARGETS, Receiver
from campaign.trace import Point
from poller.core.errors import Exit

CHOICE = TARGETS | SLOW_TARGETS
KILL = "signal=SIGKILL"
ARRIVAL = "POST"  # listed among the system calls: a request that has reached the webhook's receiver
DISK_FULL, BAD_DISK = "error=ENOSPC", "error=EIO"
BURST = 5  # calls that fail in a row, where a single one shows nothing
AT_A_TIME = 2
BIG_TASKS = 20_000
BIG_PACE = 5  # requests per 0.1 s, so that hundreds of kills find work to interrupt
LIFE_S = (0.02, 2.0)  # of a process that is killed at a random instant


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """A kill or a failing call that hits one run of a trial."""

    point: Point
    fault: str
    times: int = 1

    def __str__(self) -> str:
        return f"{self.fault} at {self.point}" + (f" and {self.times - 1} more" if self.times > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Blows to one rig, one run each; then it runs to its end and is checked."""

    shape: Shape
    blows: tuple[Blow, ...]

    def __str__(self) -> str:
        return f"seed {self.shape.seed}: " + ", then ".join(map(str, self.blows))


@dataclass(slots=True)
class Counts:
    """What a campaign counted."""

    trials: int = 0
    blows: int = 0  # that hit: the call was reached
    killed_at: Counter[str] = field(default_factory=Counter)  # by system call
    codes: Counter[str] = field(default_factory=Counter)  # how runs with a failing disk ended
    violations: list[str] = field(default_factory=list)

    def note(self, violations: Sequence[str], where: object) -> None:
        self.violations += [f"{where}: {words}" for words in violations]

    def __str__(self) -> str:
        lines = [f"{self.trials:,} trials, {self.blows:,} blows that hit, {len(self.violations)} violations"]
        if self.killed_at:
            lines.append("  killed before " + _counted(self.killed_at))
        if self.codes:
            lines.append("  exit codes of the runs whose disk failed: " + _counted(self.codes))
        return "\n".join([*lines, *(f"  VIOLATION {words}" for words in self.violations)])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


# --- trials ----------------------------------------------------------------------------------------------------------


async def reference(shape: Shape) -> list[Point]:
    """Run undisturbed; return the system calls that can be its last, in order."""
    with tempfile.TemporaryDirectory() as base:
        async with rigged(own_folder(base), shape) as rig:
            log = Path(base) / "log"
            ended = await rig.run(before=trace.watching(log, rig.paths()))
            if not ended.settled:
                raise SystemExit(f"the undisturbed run failed with {ended.code}: {ended.stderr[-2000:]}")
            return trace.points(log)


async def attempt(trial: Trial, counts: Counts) -> None:
    """Strike the blows, let the rig run to its end, and count."""
    with tempfile.TemporaryDirectory() as base:
        async with rigged(own_folder(base), trial.shape) as rig:
            counts.trials += 1
            for blow in trial.blows:
                log = Path(base) / "log"
                ended = await _strike(rig, blow, log)
                counts.blows += ended.code < 0 if blow.fault == KILL else trace.was_injected(log)
                counts.note(_check(ended, blow, counts), trial)
            counts.note(await (rig.violations(ended) if ended.settled else rig.finish()), trial)


async def _strike(rig: Rig, blow: Blow, log: Path) -> Ended:
    if blow.point.call == ARRIVAL:
        return await rig.run(kill_at_arrival=blow.point.number)
    return await rig.run(before=trace.injecting(log, rig.paths(), blow.point, blow.fault, times=blow.times))


def _check(ended: Ended, blow: Blow, counts: Counts) -> list[str]:
    """Count how a run under a blow ended; return what it must not do."""
    if blow.fault == KILL:
        counts.killed_at.update([blow.point.call] if ended.code < 0 else [])
        return [] if ended.code < 0 or ended.settled else [f"exit code {ended.code}: {ended.stderr[-400:]}"]
    counts.codes[f"{blow.fault.removeprefix('error=')} → {ended.code}"] += 1
    if ended.code < 0:
        return [f"the run hung: {ended.stderr[-400:]}"]
    if "Traceback" in ended.stderr or ended.code not in set(Exit) - {Exit.INTERNAL}:
        return [f"exit code {ended.code}, or a traceback: {ended.stderr[-1500:]}"]
    return []


def single_kills(shape: Shape, points: Sequence[Point], every: int) -> list[Trial]:
    return [Trial(shape=shape, blows=(Blow(point=point, fault=KILL),)) for point in points[::every]]


def arrivals(shape: Shape, every: int) -> list[Trial]:
    """A kill when a request has arrived and is not answered; in the undisturbed run each task has one."""
    points = [Point(call=ARRIVAL, number=number) for number in range(1, shape.tasks + 1)]
    return single_kills(shape, points if Receiver in shape.targets else [], every)


def double_kills(shape: Shape, points: Sequence[Point], count: int, rng: Random) -> list[Trial]:
    """A second kill while the first is being recovered from. A recovery has fewer calls: the earlier half is hit."""
    early = points[: len(points) // 2]
    return [
        Trial(shape=shape, blows=tuple(Blow(point=rng.choice(from_), fault=KILL) for from_ in (points, early)))
        for _ in range(count)
    ]


def failures(shape: Shape, points: Sequence[Point], every: int) -> list[Trial]:
    """Each kind of failure at each point; a full disk also for some calls in a row."""
    kinds = ((DISK_FULL, 1), (DISK_FULL, BURST), (BAD_DISK, 1))
    return [
        Trial(shape=shape, blows=(Blow(point=point, fault=fault, times=times),))
        for point in points[::every]
        for fault, times in kinds
    ]


async def random_kills(shape: Shape, kills: int, rng: Random, counts: Counts) -> None:
    """Kill one big run `kills` times at random instants; then let it end."""
    with tempfile.TemporaryDirectory() as base:
        async with rigged(own_folder(base), shape) as rig:
            counts.trials += 1
            for _ in range(kills):
                ended = await rig.run(kill_after_s=rng.uniform(*LIFE_S))
                counts.blows += ended.code < 0
                counts.killed_at["anything"] += ended.code < 0
            counts.note(await rig.finish(), f"{kills} random kills, seed {shape.seed}")


# --- the campaign ----------------------------------------------------------------------------------------------------


async def carry_out(trials: Sequence[Trial], counts: Counts, until: float, show: Callable[[str], None]) -> None:
    """Attempt the trials, some at a time, until they end or time is up."""
    waiting = iter(trials)

    async def work() -> None:
        for trial in waiting:
            if time.monotonic() > until:
                return
            found = len(counts.violations)
            await attempt(trial, counts)
            for violation in counts.violations[found:]:
                show(f"VIOLATION {violation}")
            if counts.trials % 50 == 0:
                show(f"  {counts.trials:,} of {len(trials):,}")

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_A_TIME):
            workers.create_task(work())


async def campaign(options: argparse.Namespace, show: Callable[[str], None]) -> bool:
    """Run what the options ask for; return whether everything held."""
    until = time.monotonic() + 60 * options.minutes
    rng = Random(options.seed)  # noqa: S311 - seeded chance, no secret
    targets = [CHOICE[name] for name in options.targets]
    shape = Shape(targets=targets, tasks=options.tasks, seed=options.seed, on_postgres=options.state == "postgres")
    held = True
    async for name, trials in _parts(shape, options, rng):
        counts, began = Counts(), time.monotonic()
        show(f"{name}: {len(trials):,} trials")
        await carry_out(trials, counts, until, show)
        show(f"{name}: {counts}\n  {time.monotonic() - began:.0f} s, seed {options.seed}")
        held &= not counts.violations and (counts.blows > 0 or not trials)  # what hit nothing has shown nothing
    if options.random_kills:
        counts, began = Counts(), time.monotonic()
        big = replace(shape, tasks=options.big_tasks, requests=BIG_PACE, workers=16)
        await random_kills(big, options.random_kills, rng, counts)
        show(
            f"random kills over {big.tasks:,} tasks: {counts}\n  {time.monotonic() - began:.0f} s, seed {options.seed}"
        )
        held &= not counts.violations and counts.blows > 0
    return held


async def _parts(shape: Shape, options: argparse.Namespace, rng: Random) -> AsyncIterator[tuple[str, Sequence[Trial]]]:
    for seed in range(options.seed, options.seed + options.seeds):
        seeded = replace(shape, seed=seed)
        points = await reference(seeded)
        calls = _counted(Counter(point.call for point in points))
        if options.points:
            yield f"kill before each of {len(points):,} calls ({calls})", single_kills(seeded, points, options.points)
            yield "kill at each request of the webhook", arrivals(seeded, options.points)
        if options.errors:
            yield "failing disk", failures(seeded, points, options.errors)
        if options.double and seed == options.seed:
            yield "double kills", double_kills(seeded, points, options.double, rng)


def _every(text: str) -> int:
    return 1 if text == "all" else int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m campaign.crash", description=__doc__)
    parser.add_argument(
        "--points", type=_every, default=0, metavar="all|K", help="kill before each, or every K-th, call"
    )
    parser.add_argument("--errors", type=_every, default=0, metavar="all|K", help="fail each, or every K-th, call")
    parser.add_argument("--double", type=int, default=0, metavar="N", help="number of double kills")
    parser.add_argument("--random-kills", type=int, default=0, metavar="N", help="number of kills of one big run")
    parser.add_argument("--big-tasks", type=int, default=BIG_TASKS, metavar="N", help=f"its tasks [{BIG_TASKS}]")
    parser.add_argument("--tasks", type=int, default=12, metavar="N", help="tasks of the reference run [12]")
    parser.add_argument(
        "--targets", nargs="+", choices=CHOICE, default=list(TARGETS), help="the sinks [all but postgres]"
    )
    parser.add_argument("--state", choices=("sqlite", "postgres"), default="sqlite", help="where the state is [sqlite]")
    parser.add_argument("--seed", type=int, default=1, help="of ids, outcomes and chance [1]")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="number of reference runs, with consecutive seeds [1]"
    )
    parser.add_argument("--minutes", type=float, default=120, help="begin no trial after this time [120]")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the campaign that the command line asks for; exit 1 where anything did not hold."""
    if reason := trace.usable():
        raise SystemExit(reason)
    options = parse(sys.argv[1:] or ["--points", "10", "--double", "10", "--errors", "25", "--random-kills", "10"])
    sys.exit(not asyncio.run(campaign(options, lambda words: print(words, flush=True))))  # noqa: T201 - a report


if __name__ == "__main__":
    main()
