"""The Python API in real processes that are killed: each task comes once, and again only what the body had."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.processes import PATIENCE_S, environ, hubspot

PROGRAM = """
import asyncio, os, signal, sys
from poller import Poller

def die_at(count, taken):
    if len(taken) == count:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    taken, before, after = open("taken.txt").read().split(), *map(int, sys.argv[1:])
    with open("taken.txt", "a", buffering=1) as file:
        limits = {"requests": 1000, "window_s": 0.2}
        async with Poller(state="sqlite:///poller.db", base_url=os.environ["HUBSPOT"], **limits) as poller:
            await poller.feed(open("ids.txt").read().split())
            async for task in poller.finished():
                die_at(before, taken)
                print(task.task_id, file=file)
                taken.append(task.task_id)
                die_at(after, taken)

asyncio.run(main())
"""
NEVER = 10_000


def run_program(folder: Path, url: str, *, before: int = NEVER, after: int = NEVER) -> int:
    ran = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", PROGRAM, str(before), str(after)],
        cwd=folder,
        env=environ(HUBSPOT=url),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ran.returncode in (0, -9), ran.stderr
    assert ran.stdout == ""
    return ran.returncode


@pytest.mark.real_time
def test_over_kills_each_task_comes_once_and_again_only_where_the_body_was_killed_after_its_effect(
    tmp_path: Path,
) -> None:
    (tmp_path / "taken.txt").touch()
    with hubspot(imports=300) as simulated:
        ids = simulated.take(300)
        (tmp_path / "ids.txt").write_text("\n".join(ids))
        assert [run_program(tmp_path, simulated.url, before=count) for count in (0, 1, 137)] == [-9] * 3
        assert run_program(tmp_path, simulated.url, after=200) == -9
        assert [run_program(tmp_path, simulated.url) for _ in range(2)] == [0, 0]
    taken = (tmp_path / "taken.txt").read_text().split()
    repeated = [task_id for task_id, count in Counter(taken).items() if count > 1]
    assert set(taken) == set(ids)
    assert len(taken) == 301
    assert repeated == [taken[199]] == [taken[200]]
