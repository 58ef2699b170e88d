"""The tasks that the server returns: one by its id, and all finished ones, page by page."""

import asyncio
from pathlib import Path

import aiohttp
import orjson
import pytest
from yarl import URL

from poller.core.protocols import Clock
from poller.core.timestamps import epoch
from poller.sandbox import Fate, Scenario, parse_durations
from tests.support.simulation import Simulation
from tests.support.site import BASE, json_of, visited

SOME_FAIL = Scenario(seed=3, fates={Fate.COMPLETE_WITH_ERRORS: 0.2}, durations=parse_durations("fixed:5"))


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, SOME_FAIL)


async def page(session: aiohttp.ClientSession, **query: str) -> tuple[list[bytes], str]:
    async with session.get("/v1/finished", params=query) as response:
        assert response.status == 200, await response.text()
        assert response.content_type == "application/x-ndjson"
        return (await response.read()).splitlines(), response.headers["X-Next-After"]


async def test_one_task_is_shown_before_and_after_it_finished(simulation: Simulation) -> None:
    ids = simulation.write_ids(5)
    task_id = ids.read_text().splitlines()[1].split(",")[0]
    async with visited(simulation, ids) as session:
        await asyncio.sleep(2)
        async with session.get(f"/v1/tasks/{task_id}") as response:
            before = await json_of(response)
        assert (before["state"], before["kind"], before["record"], before["account"]) == (
            "waiting",
            None,
            None,
            "default",
        )
        assert before["due_at"] > before["fed_at"]
        assert before["ref"] == {"url": "https://example.com/0.png"}
        await asyncio.sleep(30)
        async with session.get(f"/v1/tasks/{task_id}") as response:
            after = await json_of(response)
    record = next(record for record in simulation.records() if record["task_id"] == task_id)
    assert (after["state"], after["kind"], after["record"], after["due_at"]) == (
        "finished",
        record["kind"],
        record,
        None,
    )
    assert list(after["deliveries"].values()) == ["delivered"]
    assert (after["seen_at"], after["account_pause"]) == (record["seen_at"], None)
    assert len(after["poll_log"]) == after["polls"] == record["polls"]
    assert after["poll_log"][-1]["outcome"] == "finished"


@pytest.mark.parametrize("name", ["unknown", "..%2F..", "%00", "a%20b", "x" * 1000])
async def test_an_id_that_was_not_fed_is_404_in_json(simulation: Simulation, name: str) -> None:
    url = URL(f"{BASE}/v1/tasks/{name}", encoded=True)
    async with visited(simulation) as session, session.get(url) as response:
        assert (response.status, (await json_of(response))["error"]) == (404, "not_found")


async def test_paging_brings_every_finished_task_once_in_the_order_of_the_file(simulation: Simulation) -> None:
    ids = simulation.write_ids(57)
    async with visited(simulation, ids) as session:
        await asyncio.sleep(60)
        lines, after = [], "0"
        while True:
            part, after = await page(session, after=after, limit="10")
            if not part:
                break
            lines += part
        assert (await page(session))[0] == lines
        assert (await page(session, after=after)) == ([], after)
    assert lines == (simulation.folder / "finished.jsonl").read_bytes().splitlines()
    assert len(lines) == 57


async def test_a_waiting_client_receives_a_finished_task_within_a_second(simulation: Simulation) -> None:
    loop = asyncio.get_running_loop()
    async with visited(simulation, simulation.write_ids(1)) as session:
        lines, _ = await page(session, wait_s="60")
        assert loop.time() < 15
        assert simulation.clock() - (epoch(orjson.loads(lines[0])["seen_at"]) or 0) < 1
        began = loop.time()
        assert (await page(session, after="1", wait_s="20"))[0] == []
        assert 20 <= loop.time() - began < 21


@pytest.mark.parametrize(
    "query",
    [
        {"after": "x"},
        {"after": "-1"},
        {"after": "9" * 30},
        {"limit": "1.5"},
        {"limit": "10001"},
        {"wait_s": "61"},
        {"wait_s": "nan"},
    ],
)
async def test_an_unusable_query_is_refused_by_the_name_of_its_parameter(
    simulation: Simulation, query: dict[str, str]
) -> None:
    async with visited(simulation) as session, session.get("/v1/finished", params=query) as response:
        assert response.status == 400
        assert next(iter(query)) in (await json_of(response))["message"]


async def test_head_returns_the_cursor_without_the_records(simulation: Simulation) -> None:
    async with visited(simulation, simulation.write_ids(4)) as session:
        await asyncio.sleep(30)
        async with session.head("/v1/finished") as response:
            assert (response.status, response.headers["X-Next-After"], await response.read()) == (200, "4", b"")
