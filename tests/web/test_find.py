"""Finding tasks over HTTP, downloading them, and trying dead letters again."""

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from poller.core.deliveries import Selection, Written
from poller.core.protocols import Clock
from poller.sandbox import Fate, Scenario, parse_durations
from poller.store import open_store
from tests.support.simulation import Simulation
from tests.support.site import SITE_TOKEN, WITH_TOKEN, json_of, visited

MANY_FAIL = Scenario(
    seed=3,
    fates={Fate.COMPLETE_WITH_ERRORS: 0.3, Fate.CANCELED: 0.2, Fate.NEVER: 0.1},
    durations=parse_durations("fixed:5"),
)


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, MANY_FAIL)


async def all_pages(session: aiohttp.ClientSession, query: list[tuple[str, str]]) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = []
    cursor: str | None = "0"
    while cursor is not None:
        async with session.get("/v1/tasks", params=[*query, ("cursor", cursor)]) as response:
            assert response.status == 200, await response.text()
            page = await json_of(response)
        tasks, cursor = tasks + page["tasks"], page["next_cursor"]
    return tasks


async def text_of(session: aiohttp.ClientSession, path: str, **query: str) -> str:
    async with session.get(path, params=query) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Disposition"].startswith("attachment; filename=")
        return (await response.read()).decode()


async def test_each_filter_finds_the_tasks_whose_records_match(simulation: Simulation) -> None:
    ids = simulation.write_ids(60)
    async with visited(simulation, ids) as session:
        await asyncio.sleep(60)
        records = simulation.records()
        failed = [record for record in records if not record["landed"]]
        assert 10 < len(failed) < 50
        for query, expected in (
            ([("landed", "false")], failed),
            ([("landed", "true")], [each for each in records if each["landed"]]),
            ([("kind", "canceled"), ("limit", "3")], [each for each in records if each["kind"] == "canceled"]),
            (
                [("kind", "canceled"), ("kind", "complete")],
                [each for each in records if each["kind"] in ("canceled", "complete")],
            ),
            ([("state", "finished"), ("host", "example.com")], records),
            ([("q", "/7.PNG")], [each for each in records if each["ref"]["url"].endswith("/7.png")]),
            ([("q", failed[0]["task_id"].lower())], failed[:1]),
            ([("since", "1h"), ("q", "")], records),
            ([("reason", "no such reason")], []),
        ):
            found = await all_pages(session, query)
            assert len(found) == len(expected)
            assert {(each["task_id"], each["kind"], each["landed"]) for each in found} == {
                (each["task_id"], each["kind"], each["landed"]) for each in expected
            }
        assert len(await all_pages(session, [("host", ""), ("q", "")])) == 60
        (waiting,) = [await all_pages(session, [("state", "waiting")])]
        assert len(waiting) == 60 - len(records) > 0
        assert {each["state"] for each in waiting} == {"waiting"}
        assert waiting[0]["due_at"] > waiting[0]["fed_at"]
        assert waiting[0]["host"] == "example.com"


async def test_a_file_has_every_task_that_matches(simulation: Simulation) -> None:
    ids = simulation.write_ids(40)
    async with visited(simulation, ids) as session:
        await asyncio.sleep(60)
        expected = {each["task_id"] for each in simulation.records() if not each["landed"]}
        lines = (await text_of(session, "/v1/tasks", landed="false", format="ids")).splitlines()
        objects = (await text_of(session, "/v1/tasks", landed="false", format="jsonl")).splitlines()
        text = await text_of(session, "/v1/tasks", landed="false", format="csv", limit="1")
        async with session.head("/v1/tasks", params={"format": "csv"}) as response:
            assert (response.status, await response.read()) == (200, b"")
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert (
        {*lines} == {orjson.loads(each)["task_id"] for each in objects} == {row["task_id"] for row in rows} == expected
    )
    assert {row["landed"] for row in rows} == {"no"}
    assert rows[0]["url"] == orjson.loads(rows[0]["ref"])["url"]


async def test_resubmitting_has_a_body_for_each_task_that_can_be_retried(simulation: Simulation) -> None:
    async with visited(simulation, simulation.write_ids(40)) as session:
        await asyncio.sleep(60)
        canceled = {each["ref"]["url"] for each in simulation.records() if each["kind"] == "canceled"}
        text = await text_of(session, "/v1/resubmit", kind="canceled", set="access=PRIVATE")
        assert await text_of(session, "/v1/resubmit", landed="true") == ""
        async with session.get("/v1/resubmit", params={"set": "colour=red"}) as response:
            assert response.status == 400
            assert "access" in (await json_of(response))["message"]
    bodies = [orjson.loads(line) for line in text.splitlines()]
    assert {body["url"] for body in bodies} == canceled
    assert {body["access"] for body in bodies} == {"PRIVATE"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "done"),
        ("kind", "failed"),
        ("landed", "maybe"),
        ("limit", "0"),
        ("limit", "1001"),
        ("cursor", "x"),
        ("cursor", "9" * 19),
        ("format", "xml"),
        ("since", "soon"),
    ],
)
async def test_an_unusable_condition_is_refused_by_its_name(simulation: Simulation, name: str, value: str) -> None:
    async with visited(simulation) as session, session.get("/v1/tasks", params={name: value}) as response:
        assert response.status == 400
        assert name in (await json_of(response))["message"]


# --- dead letters ----------------------------------------------------------------------------------------------------


async def with_dead_letters(simulation: Simulation) -> list[str]:
    """Run ten tasks to their end; then let the sink refuse three of them. Return their ids."""
    await simulation.run(simulation.write_ids(10), {"deadline_s": 60})
    store = await open_store(f"sqlite:///{simulation.folder}/poller.db", clock=simulation.clock)
    sink = f"jsonl:{simulation.folder}/finished.jsonl"
    await store.replay(sink, Selection())
    batch = await store.undelivered(sink, 10)
    refused = {delivery.number: "too large for it" for delivery in batch[:3]}
    await store.delivered(sink, batch, Written(refused=refused))
    await store.close()
    return [delivery.task_id for delivery in batch[:3]]


async def test_dead_letters_are_listed_and_tried_again(simulation: Simulation) -> None:
    dead = await with_dead_letters(simulation)
    sink = f"jsonl:{simulation.folder}/finished.jsonl"
    before = len(simulation.records())
    async with visited(simulation) as session:
        async with session.get("/v1/dead-letters") as response:
            listed = await json_of(response)
        assert [each["task_id"] for each in listed["dead_letters"]] == dead
        assert (listed["total"], listed["dead_letters"][0]["reason"]) == (3, "too large for it")
        assert listed["dead_letters"][0]["refused_at"].endswith("Z")
        one = {"sink": sink, "task_ids": dead[:1]}
        for body, retried in ((one, 1), (one, 0), ({"sink": sink}, 2)):
            async with session.post("/v1/dead-letters/retry", json=body) as response:
                assert (response.status, (await json_of(response))["retried"]) == (200, retried)
        await asyncio.sleep(5)
        async with session.get("/v1/dead-letters", params={"sink": sink}) as response:
            assert (await json_of(response))["total"] == 0
        async with session.get("/v1/overview") as response:
            (shown,) = (await json_of(response))["ledger"]["sinks"]
    sums = await simulation.sums()
    assert (shown["delivered"], shown["undelivered"], shown["dead"]) == (10, 0, 0)
    assert (sums.sinks[0].delivered, sums.sinks[0].dead) == (10, 0)
    assert len(simulation.records()) == before + 3


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (b"no json", 400, "bad_body"),
        (b"{}", 400, "bad_body"),
        (b'{"sink":"a","tasks":[]}', 400, "bad_body"),
        (b'{"sink":"jsonl:unknown"}', 404, "unknown_sink"),
    ],
)
async def test_a_wrong_body_changes_nothing(simulation: Simulation, body: bytes, status: int, error: str) -> None:
    async with visited(simulation) as session, session.post("/v1/dead-letters/retry", data=body) as response:
        assert (response.status, (await json_of(response))["error"]) == (status, error)


async def test_a_change_is_refused_from_another_site(simulation: Simulation) -> None:
    foreign = {"Origin": "https://evil.example"}
    body = {"sink": "a"}
    async with (
        visited(simulation) as session,
        session.post("/v1/dead-letters/retry", json=body, headers=foreign) as response,
    ):
        assert response.status == 403


async def test_a_change_needs_the_token(simulation: Simulation) -> None:
    async with visited(simulation, None, WITH_TOKEN) as session:
        async with session.post("/v1/dead-letters/retry", json={"sink": "a"}) as response:
            assert response.status == 401
        headers = {"Authorization": f"Bearer {SITE_TOKEN}"}
        async with session.post("/v1/dead-letters/retry", json={"sink": "a"}, headers=headers) as response:
            assert response.status == 404
