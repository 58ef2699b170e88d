"""A file that is given twice: the code and the words are about its own lines, whatever ran in between."""

import asyncio
import os
import sqlite3
from collections.abc import MutableMapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.reports.work import WORK
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.scenario import Fate
from poller.sources.files.open_file import OpenFile
from poller.sources.parsing import csv_table
from poller.sources.parsing.line import find_name
from tests.support.simulation import Simulation, named

HALF_FAIL = Scenario(seed=5, durations=parse_durations("fixed:2"), fates={Fate.CANCELED: 0.5})


class TwoFiles:
    """A file whose tasks all fail, and one whose tasks all complete."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.simulation = Simulation(folder, clock, HALF_FAIL)
        ids = self.simulation.api.preload(40)
        failing = [task_id for task_id in ids if self.simulation.api.expected(task_id).kind.value == "canceled"]
        self.failing_ids, self.good_ids = failing, [task_id for task_id in ids if task_id not in failing]
        self.failing = self.write("failing.txt", self.failing_ids)
        self.good = self.write("good.txt", self.good_ids)

    def write(self, name: str, lines: list[str]) -> Path:
        path = self.simulation.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    async def run(self, *paths: Path) -> list[Exit]:
        return [await self.simulation.run(path) for path in paths]


@pytest.fixture
async def files(tmp_path: Path, clock: Clock) -> TwoFiles:
    return TwoFiles(tmp_path, clock)


async def test_an_unchanged_file_has_its_own_code_whatever_ran_after_it(
    files: TwoFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = await files.run(files.good, files.failing, files.good, files.failing)
    assert codes == [Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE] * 2
    again = [part for part in capsys.readouterr().err.split(f"{WORK}\n")[1:] if "unchanged files" in part]
    failing, good = len(files.failing_ids), len(files.good_ids)
    assert f"{good:>9}  input lines of unchanged files, which an earlier run read" in again[0]
    assert "not complete" not in again[0].partition("unchanged files")[2]
    assert f"{failing:>9}  input lines of unchanged files, which an earlier run read" in again[1]
    assert (
        f"{failing:>9}  of these lines with a task that ended earlier and is not complete: poller report --state"
        in again[1]
    )


async def test_an_unchanged_file_with_rejected_lines_is_not_all_complete_each_time(files: TwoFiles) -> None:
    odd = files.write("odd.txt", [files.good_ids[0], "not an id"])
    assert await files.run(odd, files.good, odd) == [Exit.NOT_ALL_COMPLETE, Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE]


async def test_an_id_corrected_in_the_middle_of_a_large_file_is_read(
    files: TwoFiles, events: list[MutableMapping[str, Any]]
) -> None:
    """Beginning, end and size are those of the file that was read."""
    filler = [f"# {number:060}" for number in range(400)]
    wrong, right = "AAAAwrong-id"[: len(files.good_ids[1])].ljust(len(files.good_ids[1]), "x"), files.good_ids[1]
    path = files.write("ids.txt", [files.good_ids[0], *filler, wrong, *filler])
    await files.run(path)
    before = path.stat()
    path.write_text(path.read_text().replace(wrong, right))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    assert await files.run(path, path) == [Exit.ALL_COMPLETE, Exit.ALL_COMPLETE]
    assert {record["task_id"] for record in files.simulation.records()} == {files.good_ids[0], wrong, right}
    assert len(named(events, "source.found_changed")) == 1


async def test_an_id_corrected_in_the_middle_of_a_file_that_then_grew_is_read(files: TwoFiles) -> None:
    filler = [f"# {number:060}" for number in range(400)]
    one, two, three = files.good_ids[:3]
    path = files.write("ids.txt", [*filler, "x" * len(one), *filler])
    await files.run(path)
    path.write_text(path.read_text().replace("x" * len(one), one) + f"{two}\n{three}\n")
    assert await files.run(path) == [Exit.ALL_COMPLETE]
    assert {one, two, three} <= {record["task_id"] for record in files.simulation.records()}


async def test_a_file_that_was_only_copied_back_is_unchanged(
    files: TwoFiles, events: list[MutableMapping[str, Any]]
) -> None:
    await files.run(files.good)
    text = files.good.read_text()
    files.good.unlink()
    files.good.write_text(text)
    assert await files.run(files.good) == [Exit.ALL_COMPLETE]
    assert len(named(events, "source.found_unchanged")) == 1


async def test_failed_duplicates_are_noted_with_their_lines(files: TwoFiles) -> None:
    """A power loss right after the chunk hides nothing: the next run has the rest of the file alone."""
    await files.run(files.failing)
    more = files.write("more.txt", [*files.failing_ids, *files.good_ids])
    await files.simulation.run_for(0.3, more)
    left = await files.simulation.sums()
    assert left.sources[-1].failed == len(files.failing_ids)
    assert left.waiting
    await asyncio.sleep(60)
    assert await files.run(more) == [Exit.NOT_ALL_COMPLETE]


async def test_an_id_column_named_after_a_run_under_another_is_read(
    files: TwoFiles, events: list[MutableMapping[str, Any]]
) -> None:
    """What the message about ids of another system advises; the file is the same."""
    ids = files.good_ids
    rows = [f"{1000 + number},{task_id}" for number, task_id in enumerate(ids)]
    path = files.write("ids.csv", ["id,hubspot_task_id", *rows])
    simulation = files.simulation
    assert await simulation.run(path, {"input": {"id_column": "id"}}) == Exit.NOT_ALL_COMPLETE
    assert await simulation.run(path, {"input": {"id_column": "hubspot_task_id"}}) == Exit.ALL_COMPLETE
    assert set(ids) <= {record["task_id"] for record in simulation.records()}
    assert len(named(events, "source.found_misread")) == 1
    assert await simulation.run(path, {"input": {"id_column": "hubspot_task_id"}}) == Exit.ALL_COMPLETE
    assert len(named(events, "source.found_unchanged")) == 1


async def test_a_file_that_an_earlier_version_read_under_another_column_is_read_again(
    files: TwoFiles, monkeypatch: pytest.MonkeyPatch, events: list[MutableMapping[str, Any]]
) -> None:
    """The state of that version does not say how it read a file."""
    ids, others = files.good_ids[:5], files.write("others.txt", files.good_ids[5:])
    path = files.write("ids.csv", ["ID,Task ID", *(f"{1000 + number},{each}" for number, each in enumerate(ids))])
    with monkeypatch.context() as earlier:
        earlier.setattr(csv_table, "find_id", lambda columns, _id, _noun: find_name(columns, ("ID",)))
        await files.run(path, others)
    with closing(sqlite3.connect(files.simulation.folder / "poller.db")) as state, state:
        state.execute("UPDATE source SET digest = ''")
    assert await files.run(others, path, path) == [Exit.ALL_COMPLETE] * 3
    assert set(ids) <= {record["task_id"] for record in files.simulation.records()}
    assert [event["source"] for event in named(events, "source.found_misread")] == [str(path)]
    assert [event["source"] for event in named(events, "source.found_unchanged")] == [str(others), str(path)]


async def test_an_id_corrected_while_its_file_is_read_is_read_by_the_next_run(
    files: TwoFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its block was read, the end not yet."""
    one, right, three = files.good_ids[:3]
    filler = [f"# {number:060}" for number in range(400)]
    path = files.write("ids.txt", [one, *filler, "x" * len(right), *filler, three])
    fingerprint = OpenFile.fingerprint

    def correct_first(file: OpenFile, offset: int) -> str:
        if "x" * len(right) in (text := path.read_text()):
            with path.open("r+") as opened:
                opened.write(text.replace("x" * len(right), right))
        return fingerprint(file, offset)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(OpenFile, "fingerprint", correct_first)
        await files.run(path)
    os.utime(path)
    await files.run(path)
    assert {one, right, three} <= {record["task_id"] for record in files.simulation.records()}


async def test_the_run_after_one_that_left_input_unread_has_the_code_of_both_together(files: TwoFiles) -> None:
    """All that the first one had read was finished, so that nothing waited."""
    await files.run(files.failing)
    pipe = files.simulation.folder / "pipe"
    os.mkfifo(pipe)
    writing = os.open(pipe, os.O_RDWR)
    try:
        os.write(writing, files.failing.read_bytes())
        async with asyncio.TaskGroup() as group:
            stopped = group.create_task(files.simulation.run(pipe))
            await asyncio.sleep(60)
            files.simulation.drain()
    finally:
        os.close(writing)
    assert stopped.result() is Exit.WORK_LEFT
    assert (await files.simulation.sums()).waiting == 0
    new = files.good_ids[:2], files.good_ids[2:]
    paths = [files.write(f"new{number}.txt", ids) for number, ids in enumerate(new)]
    assert await files.run(*paths) == [Exit.NOT_ALL_COMPLETE, Exit.ALL_COMPLETE]


async def test_a_file_of_a_drop_folder_that_is_refused_as_a_whole_decides_the_code(
    files: TwoFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = files.simulation.folder / "in"
    folder.mkdir()
    flags = {"sources": [{"folder": str(folder)}]}

    async def run_with(**dropped: str) -> tuple[Exit, str]:
        for name, text in dropped.items():
            (folder / f"{name}.csv").write_text(text)
        return await files.simulation.run(None, flags), capsys.readouterr().err

    no_id = "name,url\na,https://e.com/a.png\n"
    code, message = await run_with(good=f"task_id\n{files.good_ids[0]}\n", no_id=no_id)
    assert code is Exit.NOT_ALL_COMPLETE
    assert "1  input refused as a whole" in message
    code, message = await run_with(one=no_id, two=no_id)
    assert code is Exit.NO_INPUT
    assert "no usable id in the input. 2 files are in `failed`" in message
    assert (await run_with(good=f"task_id\n{files.good_ids[1]}\n"))[0] is Exit.ALL_COMPLETE
    assert {path.name for path in (folder / "failed").iterdir()} == {"no_id.csv", "one.csv", "two.csv"}


async def test_a_source_that_a_service_cannot_read_decides_the_code(files: TwoFiles) -> None:
    odd = files.write("odd.csv", ["name,url", "a,https://e.com/a.png"])
    ends = {"sources": [{"glob": f"{odd}*", "follow": False}]}
    async with asyncio.TaskGroup() as group:
        running = group.create_task(files.simulation.run(files.good, ends | {"follow": True}))
        await asyncio.sleep(60)
        files.simulation.drain()
    assert running.result() is Exit.NOT_ALL_COMPLETE
