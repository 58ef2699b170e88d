"""`python -m campaign.fleet --trials 3`: blows to a fleet of real processes, and the invariants that must hold.

Prints the blows by kind, and each violation with the seed that repeats its trial; exit 1 where there is one.
"""

import argparse
import asyncio
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from campaign.bugs import HOUSE, planted
from campaign.fleet.invariants import violations
from campaign.fleet.server import own_server
from campaign.fleet.shape import Shape
from campaign.fleet.trial import carry_out, prepared
from campaign.planted.fleet import FLEET_BUGS, FOUND_BY


async def campaign(
    shapes: list[Shape], *, keep: Path | None = None, tree: Path | None = None
) -> tuple[Counter[str], int, list[str]]:
    """Carry out the trials; return the blows by kind, the number of tasks, and the violations. The replicas run the
    program of `tree`, this one by default."""
    blows, tasks, wrong = Counter[str](), 0, []
    with own_server() as server, tempfile.TemporaryDirectory() as temporary:
        for shape in shapes:
            folder = (keep or Path(temporary)) / f"seed-{shape.seed}"
            folder.mkdir(parents=True)
            async with prepared(shape, folder, server, f"fleet_{shape.seed}", tree or HOUSE) as trial:
                found = await carry_out(trial)
                found += violations(trial.history)
            blows += trial.history.blows()
            tasks += len(trial.history.records)
            wrong += [f"seed {shape.seed}: {words}" for words in found]
    return blows, tasks, wrong


def plant(name: str, copy: Path) -> Path:
    """Copy the program with a bug in it; return where it is. Raises `StopIteration` for a bug that there is not."""
    bug = next(bug for bug in FLEET_BUGS if bug.name == name)
    shutil.copytree(HOUSE / "poller", copy / "poller", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / bug.file).write_text(planted(bug))
    return copy


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1, help="of the first trial")
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--accounts", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=60.0, help="of blows, in each trial")
    parser.add_argument("--every", type=float, default=4.0, help="seconds between two blows")
    parser.add_argument("--rest", type=float, default=Shape().rest_s, help="seconds after them while no less is left")
    parser.add_argument("--window", type=float, default=2.0, help="seconds of each account's window")
    parser.add_argument("--kinds", nargs="*", default=list(Shape().kinds), help="of blows")
    parser.add_argument("--lasts", nargs="*", type=float, default=list(Shape().lasts_s), help="seconds, one of")
    parser.add_argument("--pooled", action="store_true", help="PgBouncer in session mode is before the server")
    parser.add_argument("--clocks", default="", help="of the replicas, such as '+1d,-1h,+0 x1.1'; feeds no rows")
    parser.add_argument("--former", type=Path, help="a tree of an earlier version, of which the replicas are at first")
    parser.add_argument("--plant", metavar="BUG", help="a bug of `planted/fleet.py` that the replicas are to have")
    parser.add_argument("--find", nargs="*", metavar="BUG", help="plant these bugs, one after the other, and find each")
    parser.add_argument("--keep", type=Path, help="a folder for configs and logs, which stay")
    return parser


def run(args: argparse.Namespace, *, only: str = "") -> list[str]:
    """Carry out the trials that these arguments describe; print and return what does not hold, of one invariant where
    it is named."""
    shapes = [
        Shape(
            seed=args.seed + number,
            replicas=args.replicas,
            accounts=args.accounts,
            seconds=args.seconds,
            every_s=args.every,
            kinds=args.kinds,
            lasts_s=args.lasts,
            is_pooled=args.pooled,
            clocks=args.clocks.split(",") if args.clocks else (),
            former=args.former,
            feeds_rows=not args.clocks and "step" not in args.kinds,
            rest_s=args.rest,
            window_s=args.window,
        )
        for number in range(args.trials)
    ]
    with tempfile.TemporaryDirectory() as copy:
        tree = None if args.plant is None else plant(args.plant, Path(copy))
        blows, tasks, found = asyncio.run(campaign(shapes, keep=args.keep, tree=tree))
    wrong = [words for words in found if only in words]
    counted = ", ".join(f"{kind} {count}" for kind, count in sorted(blows.items()))
    print(f"{len(shapes)} trials, {tasks:,} tasks; blows: {counted}; {len(wrong)} violations", flush=True)  # noqa: T201 - a command
    for words in wrong:
        print(f"  VIOLATION {words}", flush=True)  # noqa: T201
    return wrong


def find(bugs: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Plant each bug and carry out the trial that finds it; return those whose invariant held."""
    missed = []
    for bug in bugs or FOUND_BY:
        invariant, words = FOUND_BY[bug]
        print(f"{bug}: {words}", flush=True)  # noqa: T201 - a command
        if not run(parser.parse_args([*words.split(), "--plant", bug]), only=f" {invariant}:"):
            print(f"  MISSED: {invariant} held", flush=True)  # noqa: T201
            missed.append(bug)
    return missed


def main() -> None:
    """Run the campaign; exit 1 where an invariant does not hold, or with `--find` where it does."""
    parser = _parser()
    args = parser.parse_args()
    sys.exit(bool(run(args) if args.find is None else find(args.find, parser)))


if __name__ == "__main__":
    main()
