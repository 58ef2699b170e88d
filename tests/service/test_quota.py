"""The whole service stays within HubSpot's limits, and uses them fully. The sandbox counts every arrival strictly."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.core.accounts import Pause
from poller.core.protocols import Clock
from poller.sandbox import Fate, Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest, Transmission
from tests.support.simulation import Simulation
from tests.support.virtual import EPOCH

pytestmark = pytest.mark.usefixtures("events")  # log lines would cost more than the polls

# Not learned timing: where nothing finishes for seconds, a standstill makes only few polls (schedule/standstill.py)
ALWAYS_DUE = {"polling": {"policy": "fixed", "longest_gap_s": 1}, "deadline_s": 1e6}
NEVER = Scenario(fates={Fate.NEVER: 1.0}, latency_s=(0.05, 0.1))
ONE_WAY_S = (0.0, 0.1)  # with their latency an answer takes 50 to 300 ms, and a request arrives anywhere in it
MEAN_LATENCY_S = 0.175


async def requests_per_s(
    simulation: Simulation, ids: Path, flags: Mapping[str, Any], *, from_s: float, to_s: float
) -> float:
    """Run from now until `to_s`; return the rate at which requests arrived since `from_s`."""
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids, flags))
        await asyncio.sleep(from_s)
        before = simulation.api.stats().requests_total
        await asyncio.sleep(to_s - from_s)
        after = simulation.api.stats().requests_total
        simulation.drain()
    return (after - before) / (to_s - from_s)


@pytest.mark.parametrize("limit_from", ["flags", "headers"])
@pytest.mark.parametrize(("requests", "window_s", "tasks"), [(100, 10.0, 100), (200, 2.0, 400)])
async def test_a_busy_lane_gets_97_percent_of_what_answer_anchored_slots_allow_and_never_a_429(
    tmp_path: Path, clock: Clock, requests: int, window_s: float, tasks: int, limit_from: str
) -> None:
    scenario = replace(NEVER, requests=requests, window_s=window_s, send_headers=limit_from == "headers")
    simulation = Simulation(tmp_path, clock, scenario, one_way_s=ONE_WAY_S)
    limits = {"requests": requests, "window_s": window_s} if limit_from == "flags" else {}
    ids = simulation.write_ids(tasks)
    rate = await requests_per_s(simulation, ids, ALWAYS_DUE | limits, from_s=2 * window_s, to_s=8 * window_s)
    assert simulation.api.stats().throttled_total == 0
    assert simulation.api.stats().max_in_window <= requests
    assert rate >= 0.97 * requests / (window_s + MEAN_LATENCY_S)


@pytest.mark.parametrize(("requests", "window_s", "tasks"), [(100, 10.0, 100), (200, 2.0, 500)])
async def test_a_tenth_of_the_answers_taking_3_s_bring_no_429(
    tmp_path: Path, clock: Clock, requests: int, window_s: float, tasks: int
) -> None:
    scenario = replace(NEVER, requests=requests, window_s=window_s, slow_share=0.1)
    simulation = Simulation(tmp_path, clock, scenario, one_way_s=ONE_WAY_S)
    rate = await requests_per_s(
        simulation, simulation.write_ids(tasks), ALWAYS_DUE, from_s=2 * window_s, to_s=8 * window_s
    )
    assert simulation.api.stats().throttled_total == 0
    assert simulation.api.stats().max_in_window <= requests
    assert rate >= 0.97 * requests / (window_s + 0.9 * MEAN_LATENCY_S + 0.1 * 3.1)


async def test_beside_another_client_that_takes_30_of_100_both_make_progress_and_429s_are_a_handful(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, NEVER, one_way_s=ONE_WAY_S)
    theirs: list[int] = []

    async def other() -> None:
        await asyncio.sleep(30)
        for _ in range(300 * 3):
            theirs.append(simulation.ask_as_another())
            await asyncio.sleep(1 / 3)

    async with asyncio.TaskGroup() as group:
        beside = group.create_task(other())
        ours = await requests_per_s(simulation, simulation.write_ids(100), ALWAYS_DUE, from_s=30, to_s=330)
        beside.cancel()
    assert simulation.api.stats().throttled_total <= 4
    assert theirs.count(429) <= 2
    assert ours * 300 - len(theirs) > 0.85 * 70 * 30


async def test_killed_and_restarted_every_3_s_no_window_ever_holds_more_than_the_limit(
    tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    simulation = Simulation(folder, clock, replace(NEVER, requests=50, window_s=2.0), one_way_s=ONE_WAY_S)
    ids, rng = simulation.write_ids(150), Random(4)
    async with simulation.serving():
        for _ in range(8):
            await simulation.run_for(rng.uniform(2.5, 3.5), ids, ALWAYS_DUE | {"requests": 50, "window_s": 2})
    stats = simulation.api.stats()
    assert stats.throttled_total == 0
    assert 40 <= stats.max_in_window <= 50
    assert stats.requests_total > 8 * 12


@pytest.mark.parametrize("limit_from", ["headers", "settings"])
async def test_a_daily_quota_of_1000_with_a_fifth_in_reserve_stops_at_800_and_resumes_after_the_reset(
    tmp_path: Path, clock: Clock, limit_from: str
) -> None:
    has_headers = limit_from == "headers"
    durations = parse_durations("mix:0.2@uniform:0,60,0.2@uniform:3600,3670,0.6@fixed:99999")  # always some finish
    scenario = replace(
        NEVER,
        durations=durations,
        requests=200,
        window_s=2.0,
        daily=1000,
        daily_every_s=3600.0,
        send_headers=has_headers,
    )
    simulation = Simulation(tmp_path, clock, scenario, one_way_s=ONE_WAY_S)
    limits = {} if has_headers else {"requests": 200, "window_s": 2, "daily_limit": 1000, "time_zone": "Etc/GMT+1"}
    ids = simulation.write_ids(400)
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids, ALWAYS_DUE | limits | {"daily_reserve": 0.2}))
        await asyncio.sleep(60)
        account = (await simulation.sums()).accounts["default"]
        assert simulation.api.stats().requests_total == 800
        await asyncio.sleep(3600 - 60 - 1)
        assert simulation.api.stats().requests_total <= 800 + (3 if has_headers else 0)
        await asyncio.sleep(61)
        assert simulation.api.stats().requests_total >= 1600
        simulation.drain()
    assert account.pause == Pause.DAILY_QUOTA
    assert account.pause_detail is not None
    assert "200 kept in reserve" in account.pause_detail
    assert account.resume_at == EPOCH + (86_400 if has_headers else 3600)
    assert simulation.api.stats().throttled_total == 0


async def test_restarts_forget_nothing_of_the_day_s_quota(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    simulation = Simulation(folder, clock, replace(NEVER, requests=200, window_s=2.0, send_headers=False))
    flags = ALWAYS_DUE | {"requests": 200, "window_s": 2, "daily_limit": 1000, "daily_reserve": 200}
    ids = simulation.write_ids(400)
    async with simulation.serving():
        for _ in range(8):
            await simulation.run_for(6.0, ids, flags)
        await simulation.run_for(12.0, ids, flags)
    account = (await simulation.sums()).accounts["default"]
    assert account.pause == Pause.DAILY_QUOTA
    assert 800 <= simulation.api.stats().requests_total <= 800 + 7 * 2


async def finished_at(folder: Path, clock: Clock, *, accounts: int, tasks: int, dead: str | None) -> dict[str, float]:
    """Run `accounts` accounts with `tasks` tasks each; return when each account's last task had its outcome."""
    scenario = Scenario(fates={}, durations=parse_durations("fixed:3"), window_per_token=True)
    simulation = Simulation(folder, clock, scenario, one_way_s=ONE_WAY_S)
    names = [f"account-{number}" for number in range(accounts)]
    ids = folder / "ids.jsonl"
    fed = [(name, simulation.api.start()) for _ in range(tasks) for name in names]
    ids.write_text("".join(f'{{"id": "{task_id}", "account": "{name}"}}\n' for name, task_id in fed))

    def fail(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        return (
            replace(reply, transmission=Transmission.HANG)
            if dead is not None and ask.token == f"pat-na1-{dead}"
            else reply
        )

    simulation.api.stage = fail
    flags = {"account": names[0], "accounts": {name: {"token_env": name.replace("-", "_")} for name in names}}
    environ = {name.replace("-", "_"): f"pat-na1-{name}" for name in names}
    begun = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids, flags, environ=environ))
        if dead is not None:
            await asyncio.sleep(120)
            simulation.drain()
    latest: dict[str, float] = {}
    for record in simulation.records():
        at = datetime.fromisoformat(record["seen_at"]).timestamp() - EPOCH - begun
        latest[record["account"]] = max(latest.get(record["account"], 0.0), at)
    return latest


async def test_of_60_accounts_a_dead_one_slows_no_other(tmp_path: Path, clock: Clock) -> None:
    size = {"accounts": 60, "tasks": 5}
    (tmp_path / "without").mkdir()
    (tmp_path / "beside").mkdir()
    without = await finished_at(tmp_path / "without", clock, **size, dead=None)
    beside = await finished_at(tmp_path / "beside", clock, **size, dead="account-7")
    assert len(without) == 60
    assert without.keys() - beside.keys() == {"account-7"}
    assert max(beside.values()) <= max(without.values()) + 0.5
    assert all(at <= without[name] + 1 for name, at in beside.items())
