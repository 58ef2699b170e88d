"""Plants each bug of `planted/` in a copy of the tree and runs the tests that should fail.

`python -m campaign.bugs [NAME…]`; exit 1 where a bug was missed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from campaign.planted import BUGS
from campaign.planted.bug import Bug

HOUSE = Path(__file__).parent.parent
COPIED = ("poller", "tests", "campaign", "docs", "pyproject.toml", "README.md", "config.example.toml")
AT_A_TIME = 2
SLOWEST_S = 600.0
MOST_FLAKY = 4  # flaky tests that one attempt may set aside
WITHOUT_POSTGRES = ("-k", "not postgres")  # what is not planted there does not need a server
SOME_FAILED = 1  # pytest's exit code
CAUGHT = {SOME_FAILED, 2}  # 2: the bug broke so much that nothing could be collected


@dataclass(frozen=True, slots=True, kw_only=True)
class BugResult:
    """Whether a bug was caught, by which test, and how long that took."""

    bug: Bug
    caught: bool
    test: str
    took_s: float

    def __str__(self) -> str:
        return f"{'caught' if self.caught else 'MISSED':<7} {self.bug.name:<42} {self.took_s:5.1f} s  {self.test}"


def planted(bug: Bug, house: Path = HOUSE) -> str:
    """Return the file's text with the bug in it. Raises `ValueError` where the bug does not fit any more."""
    file = house / bug.file
    count = file.read_text().count(bug.old) if file.is_file() else 0
    if count != 1:
        raise ValueError(f"{bug.name}: its text is {count} times in {bug.file}, not once; bring it up to date")
    return file.read_text().replace(bug.old, bug.new)


def misfits(house: Path = HOUSE) -> list[str]:
    """Return which bugs cannot be planted any more, and why."""
    found = [f"{bug.name} is listed twice" for bug in BUGS if sum(other.name == bug.name for other in BUGS) > 1]
    for bug in BUGS:
        try:
            compile(planted(bug, house), bug.file, "exec")
        except (ValueError, SyntaxError) as error:
            found.append(str(error))
        found += [f"{bug.name}: there is no {_test(name)}" for name in bug.tests if not (house / _test(name)).exists()]
    return found


def _test(name: str) -> str:
    return f"tests/{name}.py"


def attempt(bug: Bug, house: Path, tests: Sequence[str], failing: Sequence[str]) -> BugResult:
    """Plant the bug in a copy of `house` and run the tests there. A test that fails anyway does not count."""
    began = time.monotonic()
    unreliable = list(failing)
    with tempfile.TemporaryDirectory() as base:
        copy = Path(base)
        _copy(house, copy)
        (copy / bug.file).write_text(planted(bug, house))
        for _ in range(MOST_FLAKY):
            chosen = () if "postgres" in bug.file else WITHOUT_POSTGRES
            code, output = _run_tests(copy, ["-x", *chosen, *tests, *(f"--deselect={name}" for name in unreliable)])
            test = next(iter(_failed(output)), output[-300:])
            if code != SOME_FAILED or not _run_tests(house, [test])[0]:
                break
            unreliable.append(test)
    return BugResult(bug=bug, caught=code in CAUGHT, test=test, took_s=time.monotonic() - began)


def _copy(house: Path, copy: Path) -> None:
    for name in COPIED:
        if (house / name).is_dir():
            shutil.copytree(house / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(house / name, copy / name)


def _run_tests(copy: Path, words: Sequence[str]) -> tuple[int, str]:
    """Return pytest's exit code and output; a suite that hangs has caught the bug, too."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *words]
    environ = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, cwd=copy, env=environ, capture_output=True, text=True, check=False, timeout=SLOWEST_S
        )
    except subprocess.TimeoutExpired:
        return 1, f"FAILED no end within {SLOWEST_S:.0f} s"
    return done.returncode, done.stdout + done.stderr


def _failed(output: str) -> list[str]:
    """Return the tests that pytest's summary names as failed."""
    lines = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [line.split(" ", 1)[1].split(" - ")[0] for line in lines]


def try_all(bugs: Sequence[Bug], *, whole: bool) -> list[BugResult]:
    """Attempt the bugs, some at a time, and print each result. A test that fails without any bug does not count."""
    tests = {bug.name: ["tests"] if whole else [_test(name) for name in bug.tests] for bug in bugs}
    with tempfile.TemporaryDirectory() as base, ThreadPoolExecutor(AT_A_TIME) as pool:
        house = Path(base)  # the tree may change meanwhile
        _copy(HOUSE, house)
        failing = _failed(_run_tests(house, sorted({name for names in tests.values() for name in names}))[1])
        for name in failing:
            print(f"fails without any bug: {name}", flush=True)  # noqa: T201 - a report

        def attempt_and_print(bug: Bug) -> BugResult:
            result = attempt(bug, house, tests[bug.name], failing)
            print(result, flush=True)  # noqa: T201 - a report
            return result

        return list(pool.map(attempt_and_print, bugs))


def main() -> None:
    """Plant the bugs named on the command line, or all."""
    parser = argparse.ArgumentParser(prog="python -m campaign.bugs", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="bugs to plant [all]")
    parser.add_argument("--whole", action="store_true", help="run the whole suite, not only the tests that should fail")
    options = parser.parse_args()
    if wrong := misfits():
        raise SystemExit("\n".join(wrong))
    if unknown := set(options.names) - {bug.name for bug in BUGS}:
        raise SystemExit(f"there is no bug {', '.join(sorted(unknown))}")
    results = try_all([bug for bug in BUGS if not options.names or bug.name in options.names], whole=options.whole)
    missed = [result.bug.name for result in results if not result.caught]
    summary = f"{len(results) - len(missed)} of {len(results)} caught" + (
        f"; missed: {', '.join(missed)}" * bool(missed)
    )
    print(summary)  # noqa: T201 - a report
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
