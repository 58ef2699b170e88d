"""Several sinks in one run of the whole service: none waits for a dead one, and after crashes each has everything."""

import asyncio
import csv
import io
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from aiohttp import web

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Fate, Scenario, parse_durations
from poller.sinks import written_files
from tests.support.simulation import Simulation

SEVERAL = Scenario(
    seed=7,
    durations=parse_durations("lognormal:30,0.8"),
    fates={Fate.COMPLETE_WITH_ERRORS: 0.1, Fate.CANCELED: 0.1},
    latency_s=(0.05, 0.3),
)


class Receiver:
    """A webhook receiver on loopback that is there only while `listening`."""

    def __init__(self, status: int = 204) -> None:
        self.status = status
        self.taken: list[tuple[str, bytes]] = []  # id and body
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        self.taken.append((request.headers["webhook-id"], await request.read()))
        return web.Response(status=self.status)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_post("/", self.handle)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = runner.addresses[0][1]
        try:
            yield self.url
        finally:
            await runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


def rows(folder: Path) -> dict[str, str]:
    with closing(sqlite3.connect(folder / "finished.db")) as connection:
        return dict(connection.execute("SELECT task_id, record FROM poller_finished"))


async def test_no_sink_waits_for_a_dead_receiver_which_later_gets_everything_in_order(
    tmp_path: Path, clock: Clock
) -> None:
    simulation, receiver = Simulation(tmp_path, clock, SEVERAL), Receiver()
    ids = simulation.write_ids(60)
    async with receiver.listening():
        pass  # its port is known now, and closed
    jsonl, database = f"jsonl:{tmp_path}/finished.jsonl", f"sql:sqlite:///{tmp_path}/finished.db"
    flags = {"sinks": [jsonl, database, f"webhook:{receiver.url}"]}
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, flags))
        await asyncio.sleep(900)
        assert len(simulation.records()) == len(rows(tmp_path)) == 60
        assert not running.done()
        assert simulation.service is not None
        assert simulation.service.pauses() == {f"webhook:{receiver.url}": "no connection"}
        async with receiver.listening():
            await running
    assert running.result() is Exit.NOT_ALL_COMPLETE
    assert [body for _, body in receiver.taken] == (tmp_path / "finished.jsonl").read_bytes().splitlines()


async def test_a_receiver_that_answers_410_stops_its_sink_alone(tmp_path: Path, clock: Clock) -> None:
    simulation, receiver = Simulation(tmp_path, clock, SEVERAL), Receiver(410)
    ids = simulation.write_ids(60)
    async with receiver.listening() as url:
        flags = {"sinks": [f"jsonl:{tmp_path}/finished.jsonl", f"webhook:{url}"]}
        assert await simulation.run(ids, flags) is Exit.CANNOT_CREATE
        assert len(receiver.taken) == 1
        assert len(simulation.records()) == 60
        receiver.status = 200
        assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE
    assert [body for _, body in receiver.taken[1:]] == (tmp_path / "finished.jsonl").read_bytes().splitlines()


@pytest.mark.parametrize("seed", range(2))
async def test_after_crashes_every_sink_has_each_outcome(tmp_path: Path, clock: Clock, seed: int) -> None:
    simulation, receiver, rng = Simulation(tmp_path, clock, SEVERAL), Receiver(), Random(seed)
    ids = simulation.write_ids(100)
    path = tmp_path / "finished-%Y%m%d.jsonl"
    async with receiver.listening() as url:
        sinks: list[str | dict[str, Any]] = [
            {"kind": "jsonl", "path": str(path), "rotate_bytes": 15_000},
            {"kind": "csv", "path": str(path.with_suffix(".csv")), "rotate_bytes": 15_000},
            f"sql:sqlite:///{tmp_path}/finished.db",
            {"kind": "webhook", "url": url, "batch": 1, "concurrency": 3},
        ]
        for _ in range(6):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(rng.uniform(3, 12)):
                    await simulation.run(ids, {"sinks": sinks})
        assert await simulation.run(ids, {"sinks": sinks}) is Exit.NOT_ALL_COMPLETE
    lines = [line for file in written_files(path) for line in file.read_bytes().splitlines()]
    csv_files = written_files(path.with_suffix(".csv"))
    csv_rows = [row for file in csv_files for row in csv.DictReader(io.StringIO(file.read_text(), newline=""))]
    in_files = {orjson.loads(line)["task_id"]: line for line in lines}
    assert len(written_files(path)) > 2
    assert len(lines) == len(in_files) == 100
    assert len(csv_files) > 1
    assert [row["task_id"] for row in csv_rows] == [orjson.loads(line)["task_id"] for line in lines]
    assert {task_id: record.encode() for task_id, record in rows(tmp_path).items()} == in_files
    assert {body for _, body in receiver.taken} == set(lines)
    assert len({message for message, _ in receiver.taken}) == 100, "doubles carry the same id"
