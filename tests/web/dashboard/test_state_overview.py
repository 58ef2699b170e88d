"""The page of a state without its run: the same figures as the store's, and nothing can be changed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from poller.cli.commands.status import _watched
from poller.core.protocols import Clock
from poller.hubspot.tokens import EnvToken
from poller.sandbox import Scenario, parse_durations
from poller.store import read_store
from poller.web import StateContext, make_state_site
from tests.support.simulation import Simulation, settings_for
from tests.support.site import BASE, SITE_TOKEN, json_of, visited
from tests.support.virtual import MemoryConnector, serving
from tests.web.dashboard.test_overview import MIXED, assert_equal, overview_of


@asynccontextmanager
async def shown(
    simulation: Simulation,
    *,
    url: str | None = None,
    run: tuple[int, float] | None = None,
    token: str | None = None,
) -> AsyncIterator[aiohttp.ClientSession]:
    """Serve the page of the simulation's state."""
    store = await read_store(url or f"sqlite:///{simulation.folder}/poller.db")
    tokens = None if token is None else EnvToken("SITE_TOKEN", {"SITE_TOKEN": token})
    timings = settings_for(simulation.folder).timing_keys
    state = StateContext(store=store, clock=simulation.clock, deadline_s=86_400.0, timings=timings)
    site = make_state_site(state, tokens, lambda: run)
    async with (
        serving(site, auto_decompress=False) as server,
        aiohttp.ClientSession(BASE, connector=MemoryConnector(server)) as session,
    ):
        yield session
    await store.close()


async def test_a_finished_state_is_shown_as_it_is(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    await simulation.run(simulation.write_ids(700))
    async with shown(simulation) as session:
        overview = await overview_of(session)
    assert_equal(overview, await simulation.sums())
    assert (overview["state"], overview["is_read_only"], overview["run"]) == ("finished", True, None)
    assert overview["forecast"]["state"] == "done"
    assert sum(overview["pace"]["finished"]) == 700
    assert overview["took"]["total"] + overview["ledger"]["kinds"]["not_found"] == 700
    assert all(reason["samples"] for reason in overview["reasons"])
    assert [lane["account"] for lane in overview["lanes"]] == ["default"]


async def test_a_state_in_postgresql_is_shown_too(tmp_path: Path, clock: Clock, postgres_url: str) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    await simulation.run(simulation.write_ids(50), {"state": postgres_url})
    async with shown(simulation, url=postgres_url) as session:
        overview = await overview_of(session)
        async with session.get("/v1/tasks?state=finished&limit=100") as response:
            assert len((await json_of(response))["tasks"]) == 50
    assert (overview["ledger"]["finished"], overview["ledger"]["waiting"]) == (50, 0)
    assert sum(overview["pace"]["finished"]) == 50


async def test_the_trial_of_a_run_at_work_is_shown_and_not_that_of_a_run_that_is_gone(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:60"), requests=1000))
    rows = "".join(f"https://cdn.example.com/{number}.png\n" for number in range(30))
    imports = {"options": {"access": "PRIVATE", "folderPath": "/p"}, "trial": 20}
    async with visited(simulation, flags={"input": {"feeds": "imports"}, "imports": imports}) as session:
        async with session.post("/v1/imports", data="url\n" + rows, headers={"Content-Type": "text/csv"}) as response:
            assert response.status == 200
        await asyncio.sleep(20)
        async with shown(simulation, run=(7, clock())) as page:
            at_work = await overview_of(page)
        watched = await _watched(settings_for(tmp_path), clock())
        async with shown(simulation) as page:
            gone = await overview_of(page)
        await asyncio.sleep(180)
        async with shown(simulation, run=(7, clock())) as page:
            over = await overview_of(page)
    trial = {"rows": 20, "started": 20, "landed": 0, "needed": 10}
    assert at_work["lanes"][0]["imports"] == {"unstarted": 10, "underway": 20, "trial": trial}
    assert at_work["forecast"]["state"] == "too_early"
    assert watched.trials["default"].trial is not None
    assert [each["lanes"][0]["imports"] for each in (gone, over)] == [None, None]


async def test_the_slowest_task_is_forecast_as_by_the_run_itself(tmp_path: Path, clock: Clock) -> None:
    """By the same rule, from what the run stored just now."""
    scenario = Scenario(durations=parse_durations("mix:0.5@fixed:5,0.5@uniform:60,90"), requests=1000)
    simulation = Simulation(tmp_path, clock, scenario)
    await simulation.run(simulation.write_ids(400))
    async with visited(simulation, simulation.write_ids(400)) as session:
        await asyncio.sleep(12)
        assert simulation.service is not None
        for lane in simulation.service.lanes.values():
            lane.keep_knowledge()
        await simulation.service._store.flush()
        async with shown(simulation, run=(12, clock())) as of_state:
            own, seen = (await overview_of(session))["forecast"], (await overview_of(of_state))["forecast"]
        now = clock()
    last_s = 90 - 12
    assert all(last_s < each["slowest_at"] - now < 2.5 * last_s for each in (own, seen))
    assert seen["slowest_at"] - now == pytest.approx(own["slowest_at"] - now, rel=0.3)


async def test_no_end_is_forecast_before_the_rate_limit_allows_it(tmp_path: Path, clock: Clock) -> None:
    """Ten outcomes in a second are no pace for 2,000 tasks at 5 requests a second."""
    scenario = Scenario(durations=parse_durations("fixed:0"), fates={}, requests=50, window_s=10.0)
    simulation = Simulation(tmp_path, clock, scenario)
    await simulation.run_for(25, simulation.write_ids(2000), {"requests": 50, "window_s": 10.0})
    async with shown(simulation, run=(12, clock())) as session:
        overview = await overview_of(session)
    waiting, finished = overview["ledger"]["waiting"], overview["ledger"]["finished"]
    assert overview["forecast"]["earliest_at"] - clock() > 0.95 * waiting / 5
    assert overview["polls_per_task"] == overview["polls"] / finished


async def test_what_another_process_finishes_meanwhile_is_shown(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    ids = simulation.write_ids(400)
    await simulation.run_for(45, ids)
    async with shown(simulation, run=(12, clock())) as session:
        before = await overview_of(session)
        assert_equal(before, await simulation.sums())
        assert (before["state"], before["run"]["pid"]) == ("running", 12)
        await simulation.run(ids)
        after = await overview_of(session)
    assert before["ledger"]["waiting"] > 0
    assert_equal(after, await simulation.sums())
    assert sum(after["pace"]["finished"]) == 400


async def test_without_a_process_tasks_that_wait_are_stopped_and_have_no_forecast(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    await simulation.run_for(45, simulation.write_ids(400))
    async with shown(simulation) as session:
        overview = await overview_of(session)
    assert (overview["state"], overview["forecast"]["state"]) == ("stopped", "blocked")


async def test_a_task_is_answered_and_every_change_is_refused(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    ids = simulation.write_ids(3)
    await simulation.run(ids)
    task_id = ids.read_text().splitlines()[1].split(",")[0]
    before = (tmp_path / "poller.db").read_bytes()
    async with shown(simulation) as session:
        async with session.get(f"/v1/tasks/{task_id}") as response:
            assert (await json_of(response))["task_id"] == task_id
        async with session.get("/v1/openapi.json") as response:
            paths: dict[str, Any] = (await json_of(response))["paths"]
        changes = [(path, method) for path, each in paths.items() for method in each if method not in ("get", "head")]
        assert changes
        for path, method in changes:
            async with session.request(method, path.replace("{name}", "default"), data=b"AAAAEZ6whGI") as response:
                assert (response.status, (await json_of(response))["error"]) == (403, "read_only"), path
    assert (tmp_path / "poller.db").read_bytes() == before


@pytest.mark.parametrize(("given", "status"), [(None, 401), ("another", 401), (SITE_TOKEN, 200)])
async def test_with_a_token_set_it_is_needed_here_too(
    tmp_path: Path, clock: Clock, given: str | None, status: int
) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    await simulation.run(simulation.write_ids(1))
    async with shown(simulation, token=SITE_TOKEN) as session:
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        async with session.get("/v1/overview", headers=headers) as response:
            assert response.status == status
