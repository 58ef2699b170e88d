"""An outage is never a task's outcome: the whole service through outages, refusals and hostile answers."""

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from poller.core.accounts import AccountState, Pause
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import FAULTS, Fate, Outage, Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest, error, html, scope_missing, throttled, wrong_path
from poller.sandbox.scenario import START_FAULTS
from tests.support.simulation import Simulation, assert_each_has_its_right_outcome_once, named

Events = list[MutableMapping[str, Any]]
pytestmark = pytest.mark.usefixtures("events")  # printed log lines would cost more than the polls

NO_MARKS = {"x-hubspot-correlation-id": ""}
SEVERAL = Scenario(
    seed=7,
    durations=parse_durations("lognormal:30,0.8"),
    fates={Fate.COMPLETE_WITH_ERRORS: 0.1, Fate.CANCELED: 0.05, Fate.UNKNOWN: 0.05},
    latency_s=(0.05, 0.3),
)


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def longest_pauses(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return for each reason the longest pause in the log."""
    longest: dict[str, float] = {}
    for event in named(events, "lane.resumed"):
        longest[event["pause"]] = max(longest.get(event["pause"], 0.0), event["paused_s"])
    return longest


async def test_an_outage_of_ten_minutes_costs_few_errors_no_outcome_and_full_pace_is_back_within_10_s(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    spans = ((200, 400, "503"), (400, 600, "reset"), (600, 800, "hang"))
    outages = tuple(Outage(from_s=start, to_s=end, fault=fault) for start, end, fault in spans)
    long = replace(SEVERAL, durations=parse_durations("uniform:0,1500"), outages=outages)
    simulation = Simulation(tmp_path, clock, long)
    ids = simulation.write_ids(400)
    arrived: list[float] = []

    def note(_ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        arrived.append(loop_time())
        return reply

    simulation.api.stage = note
    eager = {"deadline_s": 2000, "polling": {"policy": "backoff"}}  # learned timing has no use for the full pace here
    assert await simulation.run(ids, eager) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    stats = simulation.api.stats()
    failed = sum(stats.faults.values())
    assert failed < max(40, 0.05 * stats.requests_total)
    assert sum(200 <= at < 800 for at in arrived) < 120
    assert sum(810 <= at < 820 for at in arrived) >= 90  # polls that hung hold their slots a window longer
    assert stats.throttled_total == 0
    assert stats.max_in_window <= 100


async def test_deadlines_do_not_run_during_an_outage(tmp_path: Path, clock: Clock) -> None:
    outage = Outage(from_s=50, to_s=3650, fault="503")
    simulation = Simulation(tmp_path, clock, replace(SEVERAL, fates={Fate.NEVER: 1.0}, outages=(outage,)))
    await simulation.run(simulation.write_ids(20), {"deadline_s": 100})
    assert 3690 <= loop_time() <= 3650 + 50 + 70  # probes of a lane that asked little come every 60 s
    assert {record["kind"] for record in simulation.records()} == {"timed_out"}


async def test_a_token_refused_for_five_minutes_loses_nothing_and_the_file_s_new_one_works_within_seconds(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = Simulation(tmp_path, clock, replace(SEVERAL, fates={Fate.NEVER: 0.5}))
    ids, secret = simulation.write_ids(200), tmp_path / "token"
    secret.write_text("pat-na1-first-first\n")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"token_file": str(secret), "deadline_s": 200}))
        await asyncio.sleep(60)
        simulation.api.refuse_token("pat-na1-first-first")
        await asyncio.sleep(150)
        account = (await simulation.sums()).accounts["default"]
        asked = simulation.api.stats().requests_total
        await asyncio.sleep(150)
        assert simulation.api.stats().requests_total - asked <= 3
        secret.write_text("pat-na1-second-second\n")
        await asyncio.sleep(5)
        assert simulation.api.stats().requests_total - asked > 10
    assert account.pause == Pause.TOKEN_REFUSED
    assert account.pause_detail is not None
    assert "refused the token (401 INVALID_AUTHENTICATION)" in account.pause_detail
    assert running.result() is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert (await simulation.sums()).accounts["default"].pause is None
    assert longest_pauses(events)[Pause.TOKEN_REFUSED] == pytest.approx(300, abs=4)
    assert loop_time() == pytest.approx(500, abs=15)  # a deadline of 200 s, and 300 s in which it did not run


REFUSALS = ["401", "403", "423", "477", "500", "502", "503", "504", "530", "html404"]
HOSTILE = sorted(FAULTS.keys() - START_FAULTS - {*REFUSALS, "big_ints"})
REASONS = {
    "refusals": {
        "token_refused",
        "scope_missing",
        "wrong_path",
        "throttled_migrating",
        "http_423",
        "http_500",
        "http_503",
    },
    "bodies": {"unreadable_body", "body_too_large", "foreign_answer", "timeout", "body_cut", "wrong_host", "no_status"},
}


@pytest.mark.parametrize(("names", "reasons"), [(HOSTILE, REASONS["bodies"]), (REFUSALS, REASONS["refusals"])])
async def test_of_every_hostile_answer_a_twentieth_gives_each_task_its_right_outcome_and_is_counted_by_reason(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], names: list[str], reasons: set[str]
) -> None:
    faults = dict.fromkeys(names, 0.05) | {"big_ints": 0.3}
    simulation = Simulation(tmp_path, clock, replace(SEVERAL, faults=faults))
    ids = simulation.write_ids(200)
    assert await simulation.run(ids) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    stats = simulation.api.stats()
    assert stats.faults.keys() >= set(names)
    assert stats.throttled_total == 0
    assert loop_time() < 3 * 3600
    assert stats.requests_total < 10 * 200
    printed = capsys.readouterr().err.partition("failed requests of this run, by reason\n")[2]
    shown = printed.partition("\nlatest input")[0]
    counted = {reason: int(count) for count, reason in (line.split() for line in shown.splitlines())}
    assert {reason for reason, count in counted.items() if count >= 10} >= reasons


WEATHER = [*sorted(set(REFUSALS) - {"html404"}), "reset", "truncated", "empty", "html200", "hang", "drip"]


@pytest.mark.parametrize("seed", [3, 6, 7])
async def test_in_mixed_weather_in_which_nearly_half_of_the_polls_fail_no_task_waits_for_long(
    tmp_path: Path, clock: Clock, seed: int
) -> None:
    short = Scenario(seed=seed, durations=parse_durations("uniform:1,30"), faults=dict.fromkeys(WEATHER, 0.03))
    simulation = Simulation(tmp_path, clock, replace(short, requests=1000, window_s=2.0))
    ids = simulation.write_ids(400)
    assert await simulation.run(ids) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert loop_time() < 120
    assert simulation.api.stats().requests_total < 400 * 6


@pytest.mark.parametrize("count", [1, 3, 15])
@pytest.mark.parametrize("durations", ["fixed:1", "lognormal:30,0.8"])
async def test_tasks_that_are_broken_by_themselves_time_out_and_delay_no_other(
    tmp_path: Path, clock: Clock, count: int, durations: str
) -> None:
    """When only they wait, they look like an outage; polling a task that was answered before shows the difference."""
    simulation = Simulation(tmp_path, clock, replace(SEVERAL, fates={}, durations=parse_durations(durations)))
    ids = simulation.write_ids(30)
    broken = {line.split(",")[0] for line in ids.read_text().splitlines()[1 : 1 + count]}

    def stage(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        is_broken = any(task_id in ask.path for task_id in broken)
        return replace(error(500, "INTERNAL_ERROR", "internal error", "c"), wait_s=0.1) if is_broken else reply

    simulation.api.stage = stage
    assert await simulation.run(ids, {"deadline_s": 3600}) is Exit.NOT_ALL_COMPLETE
    kinds = {record["task_id"]: record["kind"] for record in simulation.records()}
    assert {task_id for task_id, kind in kinds.items() if kind == "timed_out"} == broken
    assert len(kinds) == 30
    assert 3600 <= loop_time() <= 3600 + 300 + 40 * count
    assert simulation.api.stats().requests_total < 30 * 20 + 40 * count


def http_date(clock: Clock, in_s: float = 0.0) -> str:
    return formatdate(clock() + in_s, usegmt=True)


async def account_after(simulation: Simulation, ids: Path, seconds: float) -> AccountState:
    """Run to the end; return what `poller status` reads of the account after `seconds`."""
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids))
        await asyncio.sleep(seconds)
        return (await simulation.sums()).accounts["default"]


@pytest.mark.parametrize(
    ("reply", "pause", "detail"),
    [
        (scope_missing("files", "c"), Pause.SCOPE_MISSING, "the token lacks the scope files"),
        (wrong_path(), Pause.WRONG_PATH, "this API path does not exist. Check base_url"),
        (html(530, "Error 1016"), Pause.TOKEN_REFUSED, "HubSpot refused the token (530)"),
        (error(503, "X", "down", "c"), Pause.OUTAGE, "most polls fail, the latest with http_503"),
        (replace(html(429, "Slow down"), headers=NO_MARKS), Pause.THROTTLED, "check the proxy or gateway on the way"),
        (throttled("DAILY", "c", None), Pause.DAILY_QUOTA, "the account's daily limit is used up"),
    ],
)
async def test_status_shows_why_the_lane_waits_and_it_resumes_by_itself_when_the_reason_is_gone(
    tmp_path: Path, clock: Clock, reply: SandboxReply, pause: Pause, detail: str
) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    ids = simulation.write_ids(30)

    def stage(_ask: SandboxRequest, answer: SandboxReply) -> SandboxReply:
        return replace(reply, wait_s=0.1) if 10 <= loop_time() < 120 else answer

    simulation.api.stage = stage
    account = await account_after(simulation, ids, 60)
    assert (account.pause, (await simulation.sums()).accounts["default"].pause) == (pause, None)
    assert detail in (account.pause_detail or "")
    assert_each_has_its_right_outcome_once(simulation, ids)


@pytest.mark.parametrize("form", ["seconds", "date"])
@pytest.mark.parametrize(("code", "pause"), [(429, Pause.THROTTLED), (477, Pause.MIGRATING)])
async def test_a_retry_after_in_seconds_or_as_a_date_is_kept(
    tmp_path: Path, clock: Clock, events: Events, code: int, pause: Pause, form: str
) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    ids = simulation.write_ids(30)
    arrived: list[float] = []

    def stage(_ask: SandboxRequest, good: SandboxReply) -> SandboxReply:
        arrived.append(loop_time())
        if not 20 <= loop_time() < 30:
            return good
        until = "77" if form == "seconds" else http_date(clock, 77)
        refusal = throttled("TEN_SECONDLY_ROLLING", "c", None)
        return replace(refusal, code=code, headers={"Retry-After": until, "Date": http_date(clock)}, wait_s=0.1)

    simulation.api.stage = stage
    await simulation.run(ids, {"polling": {"policy": "fixed", "longest_gap_s": 5}})  # not a learned gap
    first = next(at for at in arrived if at >= 20)
    again = next(at for at in arrived if at > first + 5)
    assert 75.9 <= again - first <= 79
    assert longest_pauses(events).keys() == {pause}
    assert_each_has_its_right_outcome_once(simulation, ids)
