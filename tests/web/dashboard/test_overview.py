"""The live page's data equals the store's. In memory, on virtual time."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web

from poller.core.deliveries import Delivery, Written
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.core.sums import Sums
from poller.sandbox import Fate, Outage, Scenario, parse_durations
from poller.sinks.stdout import StdoutSink
from poller.web.dashboard import FILES
from poller.web.dashboard.snapshot import FRESH_S, Snapshots
from poller.web.responses import MAX_SEND_S
from tests.support.simulation import TOKEN, Simulation
from tests.support.site import SITE_TOKEN, WITH_TOKEN, json_of, visited

MIXED = Scenario(
    seed=3,
    durations=parse_durations("lognormal:40,0.8"),
    fates={Fate.COMPLETE_WITH_ERRORS: 0.2, Fate.CANCELED: 0.1, Fate.COMPLETE_WITHOUT_RESULT: 0.05, Fate.UNKNOWN: 0.05},
)


async def overview_of(session: aiohttp.ClientSession) -> Any:
    async with session.get("/v1/overview") as response:
        assert response.status == 200
        return await json_of(response)


async def at_one_instant(simulation: Simulation, session: aiohttp.ClientSession) -> tuple[Any, Sums]:
    """Return both, the overview new and no commit between the two looks. Records may be on their way to the sink."""
    for _ in range(100):
        await asyncio.sleep(FRESH_S + 0.03)
        overview, sums = await overview_of(session), await simulation.sums()
        counts = (overview["ledger"]["finished"], overview["ledger"]["sinks"][0]["delivered"])
        if counts == (sums.finished, sums.sinks[0].delivered):
            break
    return overview, sums


def assert_equal(overview: Any, sums: Sums) -> None:
    counts = overview["ledger"]
    assert (counts["finished"], counts["waiting"]) == (sums.finished, sums.waiting)
    assert (counts["tasks"], counts["complete"]) == (sums.finished + sums.waiting, sums.kinds.get("complete", 0))
    assert {kind: count for kind, count in counts["kinds"].items() if count} == dict(sums.kinds)
    assert {kind: count for kind, count in counts["landed"].items() if count} == dict(sums.landed)
    reasons = [(each["reason"], each["count"], each["landed"]) for each in overview["reasons"]]
    assert reasons[: len(sums.reasons)] == list(map(tuple, sums.reasons))
    hosts = overview["hosts"]
    assert (hosts["seen"], hosts["counted"]) == (sums.finished, sums.finished)
    assert sum(each["landed"] for each in hosts["hosts"]) == sum(sums.landed.values())
    assert counts["sinks"] == [asdict(sink) for sink in sums.sinks if sink.attached]
    assert counts["sources"] == [asdict(source) for source in sums.sources]


async def test_all_viewers_of_a_second_share_one_snapshot(clock: Clock) -> None:
    taken = list[str]()

    async def take() -> Any:
        taken.append("a snapshot")
        await asyncio.sleep(FRESH_S / 3)
        return taken[-1]

    snapshots = Snapshots(take, clock=clock)
    assert set(await asyncio.gather(*(snapshots.json() for _ in range(64)))) == {b'"a snapshot"'}
    assert len(taken) == 1
    await snapshots.json(fresh=True)
    assert len(taken) == 2


async def test_at_any_time_the_overview_equals_the_store(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    ids = simulation.write_ids(400)
    with ids.open("a") as more:
        more.write("../../oauth,bad\n")
    async with visited(simulation, ids) as session:
        for _ in range(12):
            await asyncio.sleep(60)
            overview, sums = await at_one_instant(simulation, session)
            assert_equal(overview, sums)
        assert overview["state"] == "idle"
        assert overview["forecast"]["state"] == "open"
        assert overview["took"]["total"] + overview["ledger"]["kinds"]["not_found"] == 400
        assert sum(overview["pace"]["finished"]) == 400
        assert overview["ledger"]["sinks"][0]["delivered"] == 400
        assert overview["rejected"] == 1


async def test_after_a_restart_it_continues_with_samples_and_durations(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, MIXED)
    ids = simulation.write_ids(400)
    await simulation.run_for(60, ids)
    async with visited(simulation, ids) as session:
        await asyncio.sleep(5)
        overview, sums = await at_one_instant(simulation, session)
        assert_equal(overview, sums)
        assert overview["took"]["total"] > 100
        assert all(reason["samples"] for reason in overview["reasons"])


async def test_the_forecast_is_near_the_real_end(tmp_path: Path, clock: Clock) -> None:
    """Rate-limited: 1,000 tasks that are done already, ten polls a second."""
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:1")))
    async with visited(simulation, simulation.write_ids(1000)) as session:
        await asyncio.sleep(40)
        forecast = (await overview_of(session))["forecast"]
        assert forecast["state"] == "estimated"
        await asyncio.sleep(forecast["at"] - clock() - 15)
        assert (await overview_of(session))["ledger"]["waiting"] > 0
        await asyncio.sleep(30)
        assert (await overview_of(session))["ledger"]["waiting"] == 0


@pytest.mark.parametrize(("fault", "state", "forecast"), [("401", "stuck", "blocked"), ("503", "paused", "blocked")])
async def test_a_paused_account_has_its_reason_and_shades_the_chart(
    tmp_path: Path, clock: Clock, fault: str, state: str, forecast: str
) -> None:
    scenario = Scenario(outages=(Outage(from_s=0, to_s=9999, fault=fault),))
    simulation = Simulation(tmp_path, clock, scenario)
    async with visited(simulation, simulation.write_ids(30)) as session:
        await asyncio.sleep(60)
        overview = await overview_of(session)
    (lane,) = overview["lanes"]
    assert overview["state"] == state
    assert overview["forecast"]["state"] == forecast
    assert lane["pause"] == lane["reading"]["state"]["pause"] is not None
    assert lane["meaning"]
    assert lane["needs_person"] is (state == "stuck")
    assert overview["pace"]["paused"][-1] == 1.0


async def test_of_two_accounts_a_paused_one_shades_half_of_the_chart(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(
        tmp_path, clock, Scenario(durations=parse_durations("fixed:300"), tokens=frozenset({TOKEN}))
    )
    ids = simulation.write_ids(20)
    rows = [f"{line},eu" for line in ids.read_text().splitlines()[1:]]
    ids.write_text("\n".join(["task_id,url,account", *rows, "AAAAEZ6whGI,https://a.example,us", ""]))
    accounts = {"eu": {"token_env": "HUBSPOT_TOKEN"}, "us": {"token_env": "WRONG_TOKEN"}}
    async with visited(
        simulation, ids, {"accounts": accounts, "account": "eu"}, {"WRONG_TOKEN": "pat-na1-of-another"}
    ) as session:
        await asyncio.sleep(60)
        overview, sums = await overview_of(session), await simulation.sums()
    assert simulation.service is not None
    assert simulation.service._metrics.blocked == sums.blocked == 1  # what the forecast leaves out
    assert {lane["account"]: lane["pause"] for lane in overview["lanes"]} == {"eu": None, "us": "token_refused"}
    assert overview["pace"]["paused"][-1] == 0.5


async def test_dead_letters_are_shown_with_the_reason_of_the_latest(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered: list[Delivery] = []

    async def refuse(_sink: StdoutSink, batch: Sequence[Delivery]) -> Written:
        delivered.extend(batch)
        return Written(refused={each.number: f"no room for {each.task_id}" for each in batch})

    monkeypatch.setattr(StdoutSink, "write", refuse)
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:20")))
    async with visited(simulation, simulation.write_ids(3), {"sinks": ["stdout"]}) as session:
        before = await overview_of(session)
        await asyncio.sleep(60)
        overview, sums = await overview_of(session), await simulation.sums()
    assert before["refusals"] == {}
    assert overview["ledger"]["sinks"][0]["dead"] == sums.sinks[0].dead == 3
    assert overview["refusals"] == {"stdout": f"no room for {delivered[-1].task_id}"}


async def events_of(session: aiohttp.ClientSession) -> list[tuple[str, Any]]:
    found = []
    async with session.get("/v1/overview/stream") as response:
        assert response.content_type == "text/event-stream"
        text = (await response.read()).decode()
    for event in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines())
        found.append((fields.get("event", ""), orjson.loads(fields["data"])))
    return found


async def test_a_stream_ends_with_the_end_of_the_run(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:30")))
    async with visited(simulation, simulation.write_ids(20), {"follow": False}) as session:
        events = await events_of(session)
    assert [name for name, _ in events].count("end") == 1
    name, last = events[-1]
    assert (name, last["state"], last["ledger"]["finished"]) == ("end", "finished", 20)
    assert last["ledger"]["sinks"][0]["delivered"] == 20
    instants = [overview["now"] for _, overview in events[:-1]]
    assert all(1.9 < later - earlier < 3.1 for earlier, later in pairwise(instants))


async def test_no_more_than_a_few_streams_are_served_at_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.web.dashboard.MAX_STREAMS", 1)
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("fixed:60")))
    async with visited(simulation, simulation.write_ids(2)) as session:
        async with session.get("/v1/overview/stream") as first:
            assert first.status == 200
            async with session.get("/v1/overview/stream") as second:
                assert second.status == 503
        await asyncio.sleep(5)
        async with session.get("/v1/overview/stream") as third:
            assert third.status == 200


async def test_a_viewer_that_takes_nothing_more_makes_room_for_another(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 clients that did not read kept every other page out, for good."""
    monkeypatch.setattr("poller.web.dashboard.MAX_STREAMS", 1)
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("fixed:600")))

    async def write(_self: web.StreamResponse, _data: bytes) -> None:
        await asyncio.sleep(math.inf)

    async with visited(simulation, simulation.write_ids(2)) as session:
        with monkeypatch.context() as stalled:
            stalled.setattr(web.StreamResponse, "write", write)
            first = await session.get("/v1/overview/stream")
            await asyncio.sleep(MAX_SEND_S + 1)
        async with session.get("/v1/overview/stream") as second:
            assert second.status == 200
        first.close()


@pytest.mark.parametrize("path", sorted(FILES))
async def test_the_files_of_the_page_hold_no_data_and_load_nothing_from_elsewhere(
    tmp_path: Path, clock: Clock, path: str
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario())
    async with visited(simulation) as session, session.get(path) as response:
        assert response.status == 200
        assert response.content_type == FILES[path][1]
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        body = await response.text()
    for foreign in ("https://", "http://", "//cdn", "@import", "innerHTML", "eval("):
        assert foreign not in body.replace("http://www.w3.org/2000/svg", "")


async def test_the_page_needs_no_token_but_its_data_does(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario())
    async with visited(simulation, None, WITH_TOKEN) as session:
        for path in ("/v1/overview", "/v1/overview/stream"):
            async with session.get(path) as response:
                assert response.status == 401
        async with session.get("/page/main.js") as response:
            assert response.status == 200
        async with session.get("/v1/overview", headers={"Authorization": f"Bearer {SITE_TOKEN}"}) as response:
            assert response.status == 200


def test_every_kind_has_its_name_and_its_colours() -> None:
    folder = files("poller.web.dashboard")
    names, style = folder.joinpath("text.js").read_text(), folder.joinpath("style.css").read_text()
    theme = files("poller.reports").joinpath("theme.css").read_text()
    for kind in Kind:
        assert f"  {kind}: " in names, kind
        assert f".kind-{kind} {{" in style, kind
        assert theme.count(f"--{kind}: #") == 2, kind
