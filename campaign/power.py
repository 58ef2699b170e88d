"""Cuts the power: records what the real process does to its folder, rebuilds the folder as a cut would leave it, goes on.

`python -m campaign.power --cuts 200`. What a reader had seen before the cut must still be true in the end.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from campaign import trace
from campaign.crash import AT_A_TIME, KILL
from campaign.disk import Disk, Step, Sync, steps
from campaign.rig import IDS, Shape, rigged
from campaign.targets import TARGETS
from campaign.trace import Point

FILES = ("jsonl", "sql")  # what a power cut can take back


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
            if ended.settled:
                return done
    raise SystemExit(f"the recorded run failed with {ended.code}: {ended.stderr[-2000:]}")


def instants(done: Sequence[Step], count: int, rng: Random) -> list[int]:
    """Return after how many steps to cut: around each sync first, then anywhere."""
    around = [at + more for at, step in enumerate(done) if isinstance(step, Sync) for more in (0, 1)]
    chosen = rng.sample(around, min(count // 2, len(around)))
    return sorted(chosen + [rng.randrange(len(done) + 1) for _ in range(count - len(chosen))])


async def cut_and_go_on(shape: Shape, done: Sequence[Step], recorded_in: Path, at: int, rng: Random) -> list[str]:
    """Cut the power after `at` steps, go on in what is left; return what does not hold in the end."""
    disk = Disk(str(recorded_in))
    for step in done[:at]:
        disk.apply(step)
    with tempfile.TemporaryDirectory() as place:
        async with rigged(Path(place).resolve(), shape) as rig:
            _fill(rig.folder, disk.seen())
            rig.look()
            _fill(rig.folder, disk.cut(rng))
            return await rig.finish()


def _fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Let the folder hold these files, and of others only the ids."""
    for path in folder.iterdir():
        if path.name not in (IDS, "stdout.ndjson"):
            path.unlink()
    for name, content in files.items():
        (folder / Path(name).name).write_bytes(content)


async def campaign(options: argparse.Namespace, say: Callable[[str], None]) -> bool:
    """Run what the options ask for; return whether everything held."""
    rng, violations, began = Random(options.seed), 0, time.monotonic()
    shape = Shape(targets=[TARGETS[name] for name in options.targets], tasks=options.tasks, seed=options.seed)
    kills = [None, *(Point(call="pwrite64", number=rng.randrange(20, 200)) for _ in range(options.recordings - 1))]
    for kill_before in kills:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place).resolve() / "rig"
            folder.mkdir()
            done = await record(shape, folder, kill_before)
            cuts = instants(done, options.cuts // len(kills), rng)
            found = await _cut_all(shape, done, folder, cuts, rng)
        what = "an undisturbed run" if kill_before is None else f"a run killed before {kill_before}, and its recovery"
        say(f"{what}: {len(done):,} steps, {len(cuts)} power cuts, {len(found)} violations")
        for words in found:
            say(f"  VIOLATION {words}")
        violations += len(found)
    say(f"  {time.monotonic() - began:.0f} s, seed {options.seed}")
    return not violations


async def _cut_all(shape: Shape, done: Sequence[Step], folder: Path, cuts: Sequence[int], rng: Random) -> list[str]:
    waiting = iter([(at, rng.getrandbits(32)) for at in cuts])
    found: list[str] = []

    async def work() -> None:
        for at, seed in waiting:
            wrong = await cut_and_go_on(shape, done, folder, at, Random(seed))
            found.extend(f"cut after step {at} of {len(done)}, chance {seed}: {words}" for words in wrong)

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_A_TIME):
            workers.create_task(work())
    return found


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m campaign.power", description=__doc__)
    parser.add_argument("--cuts", type=int, default=20, metavar="N", help="so many power cuts in all [20]")
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
