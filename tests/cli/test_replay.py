"""`poller replay`: a file never gets a record twice, and a replay that is refused changes nothing."""

import asyncio
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from poller.cli.commands import replay as replay_command
from poller.cli.commands.replay import replay_to
from poller.core.deliveries import Delivery, Retry, Selection, Written
from poller.core.errors import ConfigError, Exit, PollerError, SinkError, StoreLocked
from poller.core.model import Chunk, Fed, Finished, Kind, Position, Settled
from poller.core.protocols import Clock
from poller.core.record import render
from poller.engine import DeliveryLoop
from poller.engine.metrics import Metrics
from poller.reports.ledger import imbalances
from poller.sandbox import Fate, Scenario, parse_durations
from poller.sinks import SinkEnvironment, make_sink
from poller.sinks.files.sink import FileSink
from poller.store import open_store
from tests.support.simulation import Simulation, settings_for
from tests.support.virtual import VirtualLoop

SEVERAL = Scenario(fates={Fate.COMPLETE: 0.7, Fate.CANCELED: 0.3}, requests=1000)
EVERYTHING = Selection()
CANCELED = Selection(kinds=frozenset({"canceled"}))
T = TypeVar("T")


def contents(folder: Path) -> dict[str, Any]:
    """Return all rows of the state, and the bytes of all other files."""
    with closing(sqlite3.connect(folder / "poller.db")) as connection:
        rows = list(connection.iterdump())
    return {"state": rows} | {
        path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and "poller.db" not in path.name
    }


async def finished_run(folder: Path, clock: Clock, sink: str = "jsonl:finished.jsonl") -> Simulation:
    simulation = Simulation(folder, clock, SEVERAL)
    kind, _, name = sink.partition(":")
    assert await simulation.run(simulation.write_ids(40), {"sinks": [f"{kind}:{folder / name}"]}) in (0, 1)
    return simulation


async def replay(folder: Path, clock: Clock, sink: str, selection: Selection = EVERYTHING) -> Exit:
    kind, _, name = sink.partition(":")
    return await replay_to(settings_for(folder), f"{kind}:{folder / name}", selection, clock)


@pytest.mark.parametrize("sink", ["jsonl:finished.jsonl", "csv:finished.csv"])
@pytest.mark.parametrize("selection", [EVERYTHING, CANCELED])
async def test_a_replay_to_a_file_that_has_the_records_is_refused_and_changes_nothing(
    tmp_path: Path, clock: Clock, sink: str, selection: Selection
) -> None:
    await finished_run(tmp_path, clock, sink)
    before = contents(tmp_path)
    with pytest.raises(SinkError, match="would write them twice") as refused:
        await replay(tmp_path, clock, sink, selection)
    assert contents(tmp_path) == before
    assert "finished-2." in str(refused.value)


async def test_after_a_replay_to_a_new_sink_the_ledger_still_has_the_sinks_of_the_run(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = await finished_run(tmp_path, clock)
    assert await replay(tmp_path, clock, "csv:more.csv") is Exit.ALL_COMPLETE
    assert await replay(tmp_path, clock, "jsonl:more.jsonl") is Exit.ALL_COMPLETE
    attached = [sums for sums in (await simulation.sums()).sinks if sums.attached]
    assert len(attached) == 3
    assert {(sums.delivered, sums.undelivered) for sums in attached} == {(40, 0)}


@pytest.mark.parametrize("sink", ["jsonl:finished.jsonl", "csv:finished.csv"])
async def test_a_file_that_was_deleted_is_written_again_as_a_whole(tmp_path: Path, clock: Clock, sink: str) -> None:
    simulation = await finished_run(tmp_path, clock, sink)
    file = tmp_path / sink.partition(":")[2]
    before = file.read_bytes()
    file.unlink()
    assert await replay(tmp_path, clock, sink) is Exit.ALL_COMPLETE
    assert file.read_bytes() == before
    sums = await simulation.sums()
    assert imbalances(sums) == []
    assert [each.undelivered for each in sums.sinks] == [0]
    await simulation.run(simulation.folder / "ids.csv", {"sinks": [f"{sink.partition(':')[0]}:{file}"]})
    assert file.read_bytes() == before


@pytest.mark.parametrize("stopped_after", ["a kill", "a file that is in the way"])
async def test_a_replay_that_was_stopped_is_completed_by_the_same_command(
    tmp_path: Path, clock: Clock, stopped_after: str
) -> None:
    await finished_run(tmp_path, clock)
    file, sink = tmp_path / "finished.jsonl", f"jsonl:{tmp_path}/finished.jsonl"
    before = file.read_bytes()
    store = await open_store(f"sqlite:///{tmp_path}/poller.db", clock=clock)
    await store.attach_sinks([sink])
    await store.replay(sink, EVERYTHING, from_start=True)
    if stopped_after == "a kill":  # with ten records in the file
        batch = await store.undelivered(sink, 10)
        lines = b"".join(each.body + b"\n" for each in batch)
        file.write_bytes(lines)
        await store.delivered(sink, batch, Written(position=b"%d" % len(lines)))
    await store.close()
    if stopped_after == "a kill":
        assert await replay(tmp_path, clock, "jsonl:finished.jsonl") is Exit.ALL_COMPLETE
    else:
        with pytest.raises(SinkError, match="did not write"):
            await replay(tmp_path, clock, "jsonl:finished.jsonl")
    assert file.read_bytes() == before


async def test_records_that_the_sink_refuses_are_not_code_0(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_sink: object, batch: Sequence[Delivery]) -> Written:
        return Written(refused={each.number: "too large" for each in batch[:2]})

    await finished_run(tmp_path, clock)
    monkeypatch.setattr("poller.sinks.files.sink.FileSink.write", refuse)
    assert await replay(tmp_path, clock, "jsonl:canceled.jsonl", CANCELED) is Exit.NOT_ALL_COMPLETE
    assert await replay(tmp_path, clock, "jsonl:second.jsonl") is Exit.NOT_ALL_COMPLETE


async def test_why_a_new_sink_does_not_take_a_selection_yet_is_logged(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, tries = FileSink.write, count()

    async def be_full(sink: FileSink, batch: Sequence[Delivery]) -> Written | Retry:
        return Retry(reason="no room", wait_s=60.0) if next(tries) < 3 else await write(sink, batch)

    simulation = await finished_run(tmp_path, clock)
    monkeypatch.setattr(FileSink, "write", be_full)
    assert await replay(tmp_path, clock, "jsonl:canceled.jsonl", CANCELED) is Exit.ALL_COMPLETE
    assert capsys.readouterr().err.count('"reason":"no room"') == 1
    assert len(simulation.records("canceled.jsonl")) > 0


async def test_a_selection_is_not_taken_for_the_whole_of_a_deleted_file(tmp_path: Path, clock: Clock) -> None:
    await finished_run(tmp_path, clock)
    (tmp_path / "finished.jsonl").unlink()
    before = contents(tmp_path)
    with pytest.raises(SinkError, match="would not be the whole file"):
        await replay(tmp_path, clock, "jsonl:finished.jsonl", CANCELED)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("sink", ["jsonl:notes.txt", "jsonl:no/such/folder.jsonl", "csv:no/such/folder.csv"])
async def test_a_new_sink_that_cannot_be_opened_stays_unknown(tmp_path: Path, clock: Clock, sink: str) -> None:
    await finished_run(tmp_path, clock)
    (tmp_path / "notes.txt").write_text("mine\n")
    before = contents(tmp_path)
    for selection in (EVERYTHING, CANCELED):
        with pytest.raises(SinkError):
            await replay(tmp_path, clock, sink, selection)
    with pytest.raises(ConfigError, match="no dead letters"):
        await replay(tmp_path, clock, sink, Selection(dead=True))
    assert contents(tmp_path) == before


async def test_a_run_whose_second_sink_is_refused_leaves_the_state_as_it_was(tmp_path: Path, clock: Clock) -> None:
    simulation = await finished_run(tmp_path, clock)
    (tmp_path / "notes.txt").write_text("mine\n")
    before = contents(tmp_path)
    with pytest.raises(SinkError, match="did not write"):
        await simulation.run(
            tmp_path / "ids.csv", {"sinks": [f"jsonl:{tmp_path}/{name}" for name in ("a", "notes.txt")]}
        )
    (tmp_path / "a").unlink()
    assert contents(tmp_path) == before


async def test_a_new_file_gets_everything_once_and_a_selection_only_its_records(tmp_path: Path, clock: Clock) -> None:
    simulation = await finished_run(tmp_path, clock)
    await replay(tmp_path, clock, "jsonl:second.jsonl")
    await replay(tmp_path, clock, "jsonl:canceled.jsonl", CANCELED)
    assert simulation.records("second.jsonl") == simulation.records()
    assert simulation.records("canceled.jsonl") == [
        record for record in simulation.records() if record["kind"] == "canceled"
    ]
    assert {each.name.rpartition("/")[2] for each in (await simulation.sums()).sinks} == {
        "finished.jsonl",
        "second.jsonl",
    }


class FileCommands(RuleBasedStateMachine):
    """Runs, replays, and what people do to files between them: no file ever has a record twice."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.file, self.kept = self.folder / "finished.jsonl", self.folder / "kept"
        self.numbers = count()
        self.now = 1.8e9
        self.loop = VirtualLoop()

    def teardown(self) -> None:
        self.loop.close()
        shutil.rmtree(self.folder)

    def do(self, command: Coroutine[Any, Any, T]) -> T | None:
        """Run a command. One that is refused leaves everything as it was."""
        before = contents(self.folder) if (self.folder / "poller.db").exists() else None
        try:
            return self.loop.run_until_complete(command)
        except PollerError:
            assert before is None or contents(self.folder) == before
            return None

    @rule(tasks=st.integers(0, 3))
    def run(self, tasks: int) -> None:
        self.do(self._run(tasks))

    async def _run(self, tasks: int) -> None:
        store = await open_store(f"sqlite:///{self.folder}/poller.db", clock=lambda: self.now)
        environment = SinkEnvironment(clock=lambda: self.now, rng=Random(0), environ={}, hidden=frozenset())
        sink = make_sink(f"jsonl:{self.file}", environment)
        loop = DeliveryLoop(sink, store=store, metrics=Metrics(), clock=lambda: self.now, give_up_s=None)
        try:
            await loop.open((await store.positions([sink.name]))[sink.name])
            await store.attach_sinks([sink.name])
            fed = tuple(Fed(account="default", task_id=f"task-{next(self.numbers)}") for _ in range(tasks))
            await store.add(await store.new_source("-"), Chunk(fed=fed, rejected=(), blank=0, position=Position()))
            ended = Finished(status="COMPLETE", num_errors=0, result=b"{}")
            claimed = await store.claim("default", tasks)
            await store.record(
                [Settled(task=task, record=render(task, ended, Kind.COMPLETE, seen_at=self.now)) for task in claimed]
            )
            loop.end()
            await loop.run()
        finally:
            await loop.close()
            await store.close()

    @rule(name=st.sampled_from(["finished.jsonl", "other.jsonl"]), some=st.booleans())
    def replay(self, name: str, some: bool) -> None:
        selection = Selection(since=self.now - 1) if some else EVERYTHING
        self.do(replay(self.folder, lambda: self.now, f"jsonl:{name}", selection))

    @precondition(lambda self: self.file.exists())
    @rule()
    def delete(self) -> None:
        self.file.unlink()

    @precondition(lambda self: self.file.exists())
    @rule()
    def keep(self) -> None:
        shutil.copy(self.file, self.kept)

    @precondition(lambda self: self.kept.exists())
    @rule()
    def restore(self) -> None:
        shutil.copy(self.kept, self.file)

    @invariant()
    def no_file_has_a_record_twice(self) -> None:
        for path in self.folder.glob("*.jsonl"):
            found = Counter(orjson.loads(line)["task_id"] for line in path.read_bytes().splitlines())
            assert [task_id for task_id, times in found.items() if times > 1] == []


TestFileCommands = FileCommands.TestCase
TestFileCommands.settings = hypothesis_settings(max_examples=25, stateful_step_count=12)


async def test_beside_a_running_poller_a_replay_is_refused_with_what_can_be_done(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("fixed:30")))
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(simulation.write_ids(2)))
        await asyncio.sleep(5)
        with pytest.raises(StoreLocked, match=r"Stop it first; only dead letters .*--dead"):
            replay_command.replay(sink=f"jsonl:{tmp_path}/finished.jsonl", state=f"sqlite:///{tmp_path}/poller.db")
