"""Cuts the power: records what the real process does to its folder, rebuilds what a cut would leave, and resumes.

`python -m campaign.power --cuts 200`. What a reader had seen before the cut must still be true in the end.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from campaign import trace
from campaign.crash import AT_A_TIME, KILL
from campaign.disk import Disk, Step, Sync, steps
from campaign.rig import IDS, LOG, Shape, own_folder, rigged
from campaign.targets import TARGETS
from campaign.trace import Point

FILES = ("jsonl", "rotated", "sql")  # what a power cut can take back


async def record(shape: Shape, folder: Path, kill_before: Point | None) -> list[Step]:
    """Run once, or killed and then to the end; return all that was done to the folder."""
    done: list[Step] = []
    async with rigged(folder, shape) as rig:
        for number in range(2):
            log = folder.parent / f"log{number}"
            watching = trace.watching(log, rig.paths(), whole=True)
            if kill_before is not None and number == 0:
                watching += ["-e", f"inject={kill_before.call}:{KILL}:when={kill_before.number}"]
            ended = await rig.run(before=watching)
            done += steps(log, folder)
            if ended.settled and done:
                return done
    raise SystemExit(f"the recorded run failed with {ended.code}: {ended.stderr[-2000:]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A power cut after `after` steps."""

    after: int
    chance: int | None  # the seed of what survives; None: nothing that was not synced


def cuts(done: Sequence[Step], count: int, rng: Random) -> list[Cut]:
    """Return where to cut: half of them around syncs, the others anywhere, and each fourth one as hard as can be."""
    around = [at + more for at, step in enumerate(done) if isinstance(step, Sync) for more in (0, 1)]
    chosen = rng.sample(around, min(count // 2, len(around)))
    chosen += [rng.randrange(len(done) + 1) for _ in range(count - len(chosen))]
    return [
        Cut(after=after, chance=None if number % 4 == 0 else rng.getrandbits(32)) for number, after in enumerate(chosen)
    ]


async def cut_and_resume(shape: Shape, done: Sequence[Step], recorded_in: Path, cut: Cut) -> list[str]:
    """Cut the power, resume from what is left; return what does not hold in the end."""
    disk = Disk(str(recorded_in))
    for step in done[: cut.after]:
        disk.apply(step)
    chance = None if cut.chance is None else Random(cut.chance)  # noqa: S311 - seeded chance, no secret
    with tempfile.TemporaryDirectory() as base:
        async with rigged(own_folder(base), shape) as rig:
            _fill(rig.folder, disk.seen())
            rig.observe()
            _fill(rig.folder, disk.cut(chance))
            wrong = await rig.finish()
    return [f"{cut} of {len(done)} steps: {words}" for words in wrong]


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Replace the folder's files by these; keep the ids."""
    for path in folder.iterdir():
        if path.name not in (IDS, LOG, "stdout.ndjson"):
            path.unlink()
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)


async def cut_all(shape: Shape, kill_before: Point | None, count: int, rng: Random) -> tuple[int, list[str]]:
    """Record a run and cut it `count` times; return how many steps it has, and what did not hold."""
    with tempfile.TemporaryDirectory() as base:
        folder = own_folder(base)
        done = await record(shape, folder, kill_before)
        waiting, found = iter(cuts(done, count, rng)), []

        async def work() -> None:
            for cut in waiting:
                found.extend(await cut_and_resume(shape, done, folder, cut))

        async with asyncio.TaskGroup() as workers:
            for _ in range(AT_A_TIME):
                workers.create_task(work())
    return len(done), found


async def campaign(options: argparse.Namespace, show: Callable[[str], None]) -> bool:
    """Run what the options ask for; return whether everything held."""
    rng, held, began = Random(options.seed), True, time.monotonic()  # noqa: S311 - seeded chance, no secret
    shape = Shape(targets=[TARGETS[name] for name in options.targets], tasks=options.tasks, seed=options.seed)
    kills = [None, *(Point(call="pwrite64", number=rng.randrange(20, 200)) for _ in range(options.recordings - 1))]
    for kill_before in kills:
        count = options.cuts // len(kills)
        steps_done, found = await cut_all(shape, kill_before, count, rng)
        what = "an undisturbed run" if kill_before is None else f"a run killed before {kill_before}, and its recovery"
        show(f"{what}: {steps_done:,} steps, {count} power cuts, {len(found)} violations")
        for words in found:
            show(f"  VIOLATION {words}")
        held &= not found
    show(f"  {time.monotonic() - began:.0f} s, seed {options.seed}")
    return held


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m campaign.power", description=__doc__)
    parser.add_argument("--cuts", type=int, default=20, metavar="N", help="power cuts in all [20]")
    parser.add_argument(
        "--recordings", type=int, default=2, metavar="N", help="runs to cut, all but one killed first [2]"
    )
    parser.add_argument("--tasks", type=int, default=12, metavar="N", help="tasks of a run [12]")
    parser.add_argument("--targets", nargs="+", choices=FILES, default=FILES, help="the sinks [all with files]")
    parser.add_argument("--seed", type=int, default=1, help="of ids, outcomes and chance [1]")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the campaign that the command line asks for; exit 1 where anything did not hold."""
    if reason := trace.usable():
        raise SystemExit(reason)
    options = parse(sys.argv[1:])
    sys.exit(not asyncio.run(campaign(options, lambda words: print(words, flush=True))))  # noqa: T201 - a report


if __name__ == "__main__":
    main()
