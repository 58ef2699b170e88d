"""Input that cannot be read, and runs that are killed: a run does what it can, and its code is about its own work."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Fate, Scenario, parse_durations
from poller.sources.files import drop_folder
from tests.support.simulation import Simulation

LONG = Scenario(durations=parse_durations("fixed:120"), fates={})  # longer than a file is tried


@pytest.fixture
def refuse(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let no file be opened whose name ends so; an empty one: let all be."""
    refused, opened = [""], os.open

    def open_or_refuse(path: Any, *args: Any, **options: Any) -> int:
        if refused[0] and str(path).endswith(refused[0]):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(os, "open", open_or_refuse)
    return lambda name: refused.__setitem__(0, name)


@pytest.mark.parametrize("kind", ["folder", "glob"])
async def test_a_file_that_cannot_be_read_ends_no_run_before_all_else_is_done(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], refuse: Callable[[str], None], kind: str
) -> None:
    simulation, box = Simulation(tmp_path, clock, LONG), tmp_path / "box"
    box.mkdir()
    simulation.write_ids(5).rename(box / "a.csv")
    (box / "bad.csv").write_text("task_id\n" + "\n".join(simulation.api.preload(1)) + "\n")
    simulation.write_ids(5).rename(box / "c.csv")
    flags = {"sources": [{kind: str(box / "*.csv") if kind == "glob" else str(box)}]}
    refuse("bad.csv")
    for _ in range(2):
        capsys.readouterr()
        assert await simulation.run(None, flags) is Exit.WORK_LEFT
        message = capsys.readouterr().err
        assert f"input not read to its end (cannot read the input: {box}/bad.csv: Permission denied)" in message
        assert (await simulation.sums()).finished == 10
    refuse("")
    assert await simulation.run(None, flags) is Exit.ALL_COMPLETE
    assert (await simulation.sums()).finished == 11


async def test_a_file_that_cannot_be_read_any_more_ends_no_run_before_all_others_are_done(
    tmp_path: Path, clock: Clock, refuse: Callable[[str], None]
) -> None:
    """It is between two others of the command line, and could be read at the start."""
    simulation = Simulation(tmp_path, clock, LONG)
    paths = [simulation.write_ids(5).rename(tmp_path / name) for name in ("a.csv", "b.csv", "c.csv")]
    simulation.on_start = lambda _service: refuse("b.csv")
    flags = {"sources": [{"path": str(path)} for path in paths]}
    assert await simulation.run(None, flags) is Exit.WORK_LEFT
    assert (await simulation.sums()).finished == 10
    simulation.on_start = lambda _service: refuse("")
    assert await simulation.run(None, flags) is Exit.ALL_COMPLETE
    assert (await simulation.sums()).finished == 15


async def test_a_run_that_was_killed_after_it_had_read_its_input_leaves_its_failures_to_no_later_file(
    tmp_path: Path, clock: Clock
) -> None:
    (folder := tmp_path / "run").mkdir()
    all_fail = Scenario(durations=parse_durations("fixed:60"), fates={Fate.CANCELED: 1.0})
    simulation = Simulation(folder, clock, all_fail)
    await simulation.run_for(30, simulation.write_ids(10))  # its tasks wait
    assert await simulation.run(None) is Exit.NOT_ALL_COMPLETE
    simulation = Simulation(folder, clock, LONG)
    simulation.write_ids(10)
    assert await simulation.run(simulation.write_ids(10).rename(folder / "b.csv")) is Exit.ALL_COMPLETE


async def test_a_file_that_was_refused_right_before_a_kill_counts_once(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was noted and not yet moved, so that the next run refuses it, too."""
    (folder := tmp_path / "run").mkdir()
    (box := tmp_path / "box").mkdir()
    (box / "bad.csv").write_text("name,url\na,https://e.com/a.png\n")
    simulation, flags = Simulation(folder, clock, LONG), {"sources": [{"folder": str(box)}]}

    def refuse_move(*_args: Any, **_options: Any) -> Path:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as until_killed:
        until_killed.setattr(drop_folder, "move_into", refuse_move)
        await simulation.run_for(30, ids := simulation.write_ids(5), flags)
    capsys.readouterr()
    assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE
    assert "1  input refused as a whole" in capsys.readouterr().err
    assert (box / "failed" / "bad.csv").exists()
