"""POST /v1/imports: each row of a request is in the ledger once, is on disk, and is started by the run."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.sums import StartSums
from poller.reports.ledger import imbalances
from poller.reports.status import ledger_view
from poller.sandbox import Scenario, parse_durations
from tests.support.simulation import Simulation
from tests.support.site import json_of, visited

QUICK = Scenario(fates={}, durations=parse_durations("fixed:2"), requests=10_000)
FLAGS: dict[str, Any] = {
    "input": {"feeds": "imports"},
    "imports": {"options": {"access": "PRIVATE", "folderPath": "/p/{sku}"}},
}
CSV = "url,sku\nhttps://cdn.example.com/1.png,1\nhttps://cdn.example.com/1.png,1\nhttps://localhost/2.png,2\n"
LINES = '{"url": "https://cdn.example.com/3.png", "sku": "3"}\n'
ARRAY = '[{"url": "https://cdn.example.com/4.png", "sku": "4"}]'


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, QUICK)


async def test_rows_of_each_content_type_are_started_and_become_files(simulation: Simulation) -> None:
    async with visited(simulation, flags=FLAGS) as session:
        counted = []
        for content_type, body in (("text/csv", CSV), ("application/x-ndjson", LINES), ("application/json", ARRAY)):
            headers = {"Content-Type": content_type}
            async with session.post("/v1/imports", data=body, headers=headers) as response:
                assert response.status == 200, await response.text()
                answer = await json_of(response)
            counted.append((answer["lines"], answer["accepted"], answer["duplicate"], len(answer["rejected"])))
        assert counted == [(4, 1, 1, 1), (1, 1, 0, 0), (1, 1, 0, 0)]
        await asyncio.sleep(30)
    assert {(each["ref"]["sku"], each["result"]["path"].rpartition("/")[0]) for each in simulation.records()} == {
        ("1", "/p/1"),
        ("3", "/p/3"),
        ("4", "/p/4"),
    }
    assert imbalances(await simulation.sums()) == []


async def test_a_run_that_starts_no_imports_refuses_rows_and_names_the_remedy(simulation: Simulation) -> None:
    headers = {"Content-Type": "text/csv"}
    async with visited(simulation) as session, session.post("/v1/imports", data=CSV, headers=headers) as response:
        assert response.status == 409
        answer = await json_of(response)
    assert answer["error"] == "imports_off"
    assert "poller import --follow" in answer["message"]
    assert answer["lines"] == 0


async def test_rows_whose_columns_lack_an_option_store_nothing(simulation: Simulation) -> None:
    flags = FLAGS | {"imports": {"options": {"access": "PRIVATE"}}}
    async with (
        visited(simulation, flags=flags) as session,
        session.post("/v1/imports", data=CSV, headers={"Content-Type": "text/csv"}) as response,
    ):
        assert response.status == 400
        answer = await json_of(response)
    assert "gives the folder" in answer["message"]
    assert (await simulation.sums()).sources == ()


async def test_the_forecast_of_ids_leaves_out_another_accounts_trial_and_the_rows_of_a_paused_one(
    simulation: Simulation,
) -> None:
    slow = Simulation(simulation.folder, simulation.clock, replace(QUICK, durations=parse_durations("fixed:300")))
    accounts = {"eu": {"token_env": "HUBSPOT_TOKEN"}, "us": {"token_env": "HUBSPOT_TOKEN"}}
    flags = FLAGS | {"accounts": accounts, "account": "eu"}
    rows = "".join(f"https://cdn.example.com/{number}.png,{number}\n" for number in range(400))
    async with visited(slow, flags=flags) as session:
        for path, body in (("imports?account=eu", "url,sku\n" + rows), ("tasks?account=us", "AAAAEZ6whGI\n")):
            headers = {"Content-Type": "text/csv" if "imports" in path else "text/plain"}
            async with session.post(f"/v1/{path}", data=body, headers=headers) as response:
                assert response.status == 200, await response.text()
        found = []
        for action in ("", "pause"):
            if action:
                async with session.post(f"/v1/accounts/eu/{action}") as response:
                    assert response.status == 200
            await asyncio.sleep(10)
            async with session.get("/v1/overview") as response:
                found.append((await json_of(response))["forecast"])
        sums = await slow.sums()
    for forecast in found:
        assert forecast["is_partial"]
    assert (sums.blocked_rows, sums.unstarted) == (380, 0)


async def test_metrics_page_and_status_show_the_rows(simulation: Simulation) -> None:
    slow = Simulation(simulation.folder, simulation.clock, replace(QUICK, durations=parse_durations("fixed:60")))
    rows = "".join(f"https://cdn.example.com/{number}.png,{number}\n" for number in range(30))
    async with visited(slow, flags=FLAGS) as session:
        async with session.post(
            "/v1/imports", data="url,sku\n" + rows, headers={"Content-Type": "text/csv"}
        ) as response:
            assert response.status == 200
        await asyncio.sleep(20)  # the trial is under way
        async with session.get("/metrics") as response:
            metrics = await response.text()
        async with session.get("/v1/overview") as response:
            overview = await json_of(response)
            (lane,), forecast = overview["lanes"], overview["forecast"]
        async with session.get("/v1/tasks") as response:
            states = Counter(task["state"] for task in (await json_of(response))["tasks"])
        status = ledger_view(await slow.sums(), differences=[], heartbeat=None, now=0.0)
    assert 'poller_rows_unstarted{account="default"} 10.0' in metrics
    assert 'poller_imports_underway{account="default"} 20.0' in metrics
    trial = {"rows": 20, "started": 20, "landed": 0, "needed": 10}
    assert lane["imports"] == {"unstarted": 10, "underway": 20, "trial": trial}
    assert forecast["state"] == "too_early", "the trial's pace is not that of all rows"
    assert states == {"unstarted": 10, "waiting": 20}
    assert status.starts == StartSums(unstarted=10, underway=20, starts=20, accepted=20)


async def test_a_source_of_the_config_feeds_rows_to_a_run_that_polls_ids_beside_them(simulation: Simulation) -> None:
    (simulation.folder / "drop").mkdir()
    (simulation.folder / "drop" / "rows.csv").write_text(CSV)
    ids = simulation.write_ids(3)
    table = {"folder": str(simulation.folder / "drop"), "feeds": "imports", "follow": False}
    flags = {"sources": [table], "imports": FLAGS["imports"]}
    assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE, "a line is rejected"
    assert sorted(record.get("row") is not None for record in simulation.records()) == [False, False, False, True]


LATER = Scenario(
    fates={}, durations=parse_durations("fixed:600"), requests=10_000, faults={"start_400": 0.3, "start_lost": 0.3}
)


async def test_rows_without_a_task_are_found_listed_and_shown_as_tasks_are(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, LATER)
    lines = "".join(f"https://cdn.example.com/{number:02}.png,{number}\n" for number in range(40))
    headers, flags = {"Content-Type": "text/csv"}, {**FLAGS, "imports": {**FLAGS["imports"], "trial": 20}}
    async with visited(simulation, flags=flags) as session:
        async with session.post("/v1/imports", data="url,sku\n" + lines, headers=headers) as response:
            assert response.status == 200
        await asyncio.sleep(60)
        starts = (await simulation.sums()).starts
        assert starts is not None
        for state, expected in (
            ("unstarted", starts.unstarted),
            ("unsure", starts.unsure),
            ("underway", starts.underway),
            ("waiting", starts.unstarted + starts.unsure + starts.underway),
        ):
            async with session.get("/v1/tasks", params={"state": state, "host": "cdn.example.com"}) as response:
                tasks = (await json_of(response))["tasks"]
            assert len(tasks) == expected > 0
            shown_as = {"underway": {"waiting"}, "waiting": {"waiting", "unstarted", "unsure"}}
            assert {each["state"] for each in tasks} == shown_as.get(state, {state})
        async with session.get("/v1/tasks", params={"state": "unsure"}) as response:
            (row, *_) = (await json_of(response))["tasks"]
        async with session.get(f"/v1/tasks/{row['task_id']}") as response:
            shown = await json_of(response)
        assert (shown["state"], shown["row"]["lost"], shown["ref"]["url"]) == ("unsure", 1, row["url"])
        async with session.get("/v1/tasks", params={"kind": "not_started"}) as response:
            (ended, *_) = (await json_of(response))["tasks"]
        async with session.get(f"/v1/tasks/{ended['task_id']}") as response:
            assert (await json_of(response))["record"]["kind"] == "not_started"
        async with session.get("/v1/tasks", params={"state": "waiting", "format": "ids"}) as response:
            assert len((await response.text()).splitlines()) == starts.underway
        for path in ("start:unknown", "start:%00", "start:"):
            async with session.get(f"/v1/tasks/{path}") as response:
                assert response.status == 404
