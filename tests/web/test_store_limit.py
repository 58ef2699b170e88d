"""A state that stops answering, or fails, holds up no request: each has its answer in time. In memory, virtual time."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from poller.core.errors import StoreError
from poller.core.model import Chunk
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.store.sqlite.store import SqliteStore
from tests.support.simulation import Simulation, named
from tests.support.site import json_of, visited

TEXT = {"Content-Type": "text/plain"}
READS = ("sources", "next_due_at", "undelivered", "records", "task_details", "account")
MANY = ("\n" * 6).join(f"id{number}" for number in range(9000))  # two transactions


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:9999")))


async def never(*_: object) -> Any:
    await asyncio.sleep(1e6)


@pytest.mark.parametrize("path", ["/v1/tasks/id1", "/v1/finished", "/v1/finished?wait_s=60"])
async def test_a_read_that_is_not_answered_is_a_503_with_the_reason(
    simulation: Simulation, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    async with visited(simulation) as session:
        for read in READS:
            monkeypatch.setattr(SqliteStore, read, never)
        began_at = loop.time()
        async with session.get(path) as response:
            answer = await json_of(response)
        assert (response.status, answer["error"]) == (503, "unavailable")
        assert "does not answer" in answer["message"]
        assert loop.time() - began_at < 10
        monkeypatch.undo()


async def test_page_health_and_metrics_are_served_from_memory_while_the_store_does_not_answer(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    async with visited(simulation, simulation.write_ids(3)) as session:
        await asyncio.sleep(5)
        async with session.get("/v1/overview") as response:
            before = await json_of(response)
        await asyncio.sleep(5)
        for read in READS:
            monkeypatch.setattr(SqliteStore, read, never)
        for path, within_s in (("/v1/overview", 5), ("/metrics", 9), ("/healthz", 1), ("/readyz", 1)):
            began_at = loop.time()
            async with session.get(path) as response:
                assert response.status == 200
                text = await response.text()
                shown = await json_of(response) if path == "/v1/overview" else {}
            assert loop.time() - began_at < within_s
            assert path != "/metrics" or "poller_sink_oldest_undelivered_age_seconds{" in text
            assert not shown or shown["ledger"] == before["ledger"]
        assert before["ledger"]["sources"]
        monkeypatch.undo()


async def test_tasks_that_are_not_stored_in_time_are_a_503_that_counts_them_as_pending(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, add = asyncio.get_running_loop(), SqliteStore.add
    is_stopped = asyncio.Event()

    async def second_waits(store: SqliteStore, source: int, chunk: Chunk) -> Any:
        if is_stopped.is_set():
            await asyncio.sleep(60)
        is_stopped.set()
        return await add(store, source, chunk)

    monkeypatch.setattr(SqliteStore, "add", second_waits)
    async with visited(simulation) as session:
        began_at = loop.time()
        async with session.post("/v1/tasks", data=MANY, headers=TEXT) as response:
            answer = await json_of(response)
        assert (response.status, answer["error"]) == (503, "unwritable")
        assert loop.time() - began_at < 10
        assert int(response.headers["Retry-After"]) > 0
        assert 0 < answer["accepted"] < 9000
        assert answer["lines"] + answer["pending"] == 9000 + 5 * 8999
        await asyncio.sleep(300)
        assert (await simulation.sums()).waiting == 9000  # stored as soon as the store answers


@pytest.mark.parametrize("failing", ["add", "new_source"])
async def test_tasks_whose_storing_failed_are_a_503_that_counts_those_on_disk(
    simulation: Simulation, failing: str, monkeypatch: pytest.MonkeyPatch, events: list[Any]
) -> None:
    works = getattr(SqliteStore, failing)
    calls: list[object] = []

    async def fails(store: SqliteStore, *arguments: Any) -> Any:
        calls.append(arguments)
        if failing == "new_source" or len(calls) > 1:
            raise StoreError("The disk is gone.")
        return await works(store, *arguments)

    async with visited(simulation) as session:
        monkeypatch.setattr(SqliteStore, failing, fails)
        async with session.post("/v1/tasks", data=MANY, headers=TEXT) as response:
            answer = await json_of(response)
        assert (response.status, answer["error"]) == (503, "unavailable")
        assert answer["message"] == "The disk is gone. The counted lines are stored."
        assert answer["accepted"] == (await simulation.sums()).waiting < 9000
        assert not named(events, "tasks.fed")
        monkeypatch.undo()


async def test_a_defect_while_storing_is_a_500_and_the_run_continues(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(*_: object) -> Any:
        raise RuntimeError("unforeseen")

    async with visited(simulation) as session:
        monkeypatch.setattr(SqliteStore, "add", breaks)
        async with session.post("/v1/tasks", data="id1", headers=TEXT) as response:
            assert (response.status, (await json_of(response))["error"]) == (500, "defect")
        monkeypatch.undo()
        async with session.post("/v1/tasks", data="id1", headers=TEXT) as response:
            assert (response.status, (await json_of(response))["accepted"]) == (200, 1)
