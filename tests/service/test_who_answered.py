"""Only HubSpot's own answer about a task decides about it: strangers' answers, wrong addresses, wrong accounts."""

import asyncio
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.core.accounts import Pause
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Fate, Outage, Scenario, parse_durations
from poller.sandbox.reply import (
    SandboxReply,
    SandboxRequest,
    error,
    html,
    json_reply,
    scope_missing,
    token_refused,
    unknown_id,
    wrong_path,
)
from tests.support.simulation import Simulation, assert_each_has_its_right_outcome_once, named

Events = list[MutableMapping[str, Any]]
pytestmark = pytest.mark.usefixtures("events")

SHORT = Scenario(seed=3, durations=parse_durations("lognormal:30,0.8"), fates={}, latency_s=(0.05, 0.3))
NO_MARKS = {"x-hubspot-correlation-id": ""}


def strangers(code: int, content: Any) -> SandboxReply:
    return replace(json_reply(code, content), headers=NO_MARKS)


REFUSALS: list[tuple[SandboxReply, Pause, str]] = [
    (strangers(404, {"message": "no Route matched with those values"}), Pause.UNKNOWN_ANSWER, "proxy or gateway"),
    (strangers(404, {"message": "Not Found"}), Pause.UNKNOWN_ANSWER, "proxy or gateway"),
    (strangers(404, {"detail": "Not Found"}), Pause.UNKNOWN_ANSWER, "proxy or gateway"),
    (strangers(404, {"status": 404, "error": "Not Found", "path": "/"}), Pause.UNKNOWN_ANSWER, "proxy or gateway"),
    (strangers(400, {"title": "Bad Request"}), Pause.UNKNOWN_ANSWER, "proxy or gateway"),
    (replace(html(403, "Access denied"), headers=NO_MARKS), Pause.UNKNOWN_ANSWER, "proxy or gateway"),
    (wrong_path(), Pause.WRONG_PATH, "status_path"),
    (html(405, "Method Not Allowed"), Pause.WRONG_PATH, "status_path"),
    (SandboxReply(code=301, headers={"Location": "https://www.hubspot.com/?a=b"}), Pause.WRONG_HOST, "hubspot.com/:"),
    (error(488, "WRONG_HUBLET", "x", "c", correctHublet="eu1"), Pause.WRONG_REGION, "https://api-eu1.hubapi.com"),
]


def stage_from(simulation: Simulation, reply: SandboxReply, from_s: float, to_s: float = float("inf")) -> None:
    def stage(_ask: SandboxRequest, answer: SandboxReply) -> SandboxReply:
        return replace(reply, wait_s=0.1) if from_s <= asyncio.get_running_loop().time() < to_s else answer

    simulation.api.stage = stage


@pytest.mark.parametrize(("reply", "pause", "remedy"), REFUSALS)
async def test_at_the_start_it_ends_a_finite_run_with_78_within_30_s_and_makes_no_outcome(
    tmp_path: Path,
    clock: Clock,
    events: Events,
    capsys: pytest.CaptureFixture[str],
    reply: SandboxReply,
    pause: Pause,
    remedy: str,
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(20)
    stage_from(simulation, reply, 0.0)
    assert await simulation.run(ids) is Exit.CONFIG
    assert remedy in capsys.readouterr().err
    assert asyncio.get_running_loop().time() < 30
    assert [event["pause"] for event in named(events, "lane.paused")] == [pause]
    assert (await simulation.sums()).finished == 0
    simulation.api.stage = lambda _, answer: answer
    assert await simulation.run(ids) is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)


@pytest.mark.parametrize(("reply", "pause", "remedy"), REFUSALS)
async def test_later_it_pauses_the_account_by_name_until_it_is_gone(
    tmp_path: Path, clock: Clock, reply: SandboxReply, pause: Pause, remedy: str
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(20)
    stage_from(simulation, reply, 15.0, 600.0)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"deadline_s": 300}))
        await asyncio.sleep(120)
        account = (await simulation.sums()).accounts["default"]
    assert account.pause == pause
    assert remedy in (account.pause_detail or "")
    assert running.result() is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)


@pytest.mark.parametrize(("reply", "pause", "_remedy"), [*REFUSALS, (token_refused("c"), Pause.TOKEN_REFUSED, "")])
async def test_give_up_s_is_kept_for_every_such_pause(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], reply: SandboxReply, pause: Pause, _remedy: str
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(20)
    stage_from(simulation, reply, 15.0)
    assert await simulation.run(ids, {"give_up_s": 60}) is Exit.UNREACHABLE
    assert "account default: no good answer for" in capsys.readouterr().err
    assert 74 <= asyncio.get_running_loop().time() <= 140
    assert (await simulation.sums()).accounts["default"].pause == pause


@pytest.mark.parametrize(
    ("reply", "from_the_start"),
    [(token_refused("c"), False), (scope_missing("files", "c"), False), (strangers(404, {}), True)],
)
async def test_one_id_that_is_always_refused_is_that_tasks_own_failure(
    tmp_path: Path, clock: Clock, events: Events, reply: SandboxReply, from_the_start: bool
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(30)
    refused = ids.read_text().splitlines()[1].split(",")[0]

    def stage(ask: SandboxRequest, answer: SandboxReply) -> SandboxReply:
        begun = from_the_start or simulation.records()
        return replace(reply, wait_s=0.1) if refused in ask.path and begun else answer

    simulation.api.stage = stage
    (tmp_path / "finished.jsonl").touch()
    assert await simulation.run(ids, {"deadline_s": 900}) is Exit.NOT_ALL_COMPLETE
    kinds = {record["task_id"]: record["kind"] for record in simulation.records()}
    assert {task_id for task_id, kind in kinds.items() if kind != "complete"} == {refused}
    assert kinds[refused] == "timed_out"
    assert 900 <= asyncio.get_running_loop().time() <= 1300
    assert named(events, "lane.paused") == []


async def test_another_apis_status_word_makes_no_outcome_and_ends_the_start_of_a_finite_run(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A health answer was a running task's once: each task of a wrong host ended as timed out, for good."""
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(10)
    stage_from(simulation, strangers(200, {"status": "ok"}), 0.0)
    assert await simulation.run(ids, {"deadline_s": 15}) is Exit.CONFIG
    assert "does not answer as HubSpot does (no_status). Check base_url" in capsys.readouterr().err
    assert (await simulation.sums()).finished == 0


OTHERS_TOKEN = "pat-na1-another-account"


def knows_no_id_by(token: str) -> Callable[[SandboxRequest, SandboxReply], SandboxReply]:
    """Return a stage on which another account answers to this token: it knows none of the ids."""

    def stage(ask: SandboxRequest, answer: SandboxReply) -> SandboxReply:
        return replace(unknown_id("x", "c"), wait_s=0.1) if ask.token == token else answer

    return stage


async def test_another_accounts_token_is_noticed_before_anything_is_written_and_the_right_one_heals_it(
    tmp_path: Path, clock: Clock, events: Events, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids, secret = simulation.write_ids(100), tmp_path / "token"
    secret.write_text(f"{OTHERS_TOKEN}\n")
    simulation.api.stage = knows_no_id_by(OTHERS_TOKEN)
    assert await simulation.run(ids, {"token_file": str(secret)}) is Exit.CONFIG
    assert "none of the latest 50 ids" in capsys.readouterr().err
    assert asyncio.get_running_loop().time() < 30
    assert [event["pause"] for event in named(events, "lane.paused")] == [Pause.WRONG_ACCOUNT]
    assert (await simulation.sums()).finished == 0
    secret.write_text("pat-na1-0123456789abcdef\n")
    assert await simulation.run(ids, {"token_file": str(secret)}) is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)


@pytest.mark.parametrize("requests", [100, 10])  # in 10 s: with few, the first ids are polled again before the last
async def test_another_accounts_token_is_noticed_too_where_an_earlier_run_was_answered(
    tmp_path: Path, clock: Clock, events: Events, requests: int
) -> None:
    simulation, secret = Simulation(tmp_path, clock, SHORT), tmp_path / "token"
    flags = {"token_file": str(secret), "requests": requests}
    secret.write_text("pat-na1-0123456789abcdef\n")
    assert await simulation.run(simulation.write_ids(20), flags) is Exit.ALL_COMPLETE
    ids = simulation.write_ids(60)
    simulation.api.stage = knows_no_id_by(OTHERS_TOKEN)
    secret.write_text(f"{OTHERS_TOKEN}\n")
    assert await simulation.run(ids, flags) is Exit.CONFIG
    assert [event["pause"] for event in named(events, "lane.paused")] == [Pause.WRONG_ACCOUNT]
    assert (await simulation.sums()).finished == 20
    secret.write_text("pat-na1-0123456789abcdef\n")
    assert await simulation.run(ids, flags) is Exit.ALL_COMPLETE
    assert (await simulation.sums()).finished == 80


@pytest.mark.parametrize("count", [100, 20])
async def test_a_token_file_that_becomes_another_accounts_ends_no_task_and_the_right_one_heals_it(
    tmp_path: Path, clock: Clock, events: Events, count: int
) -> None:
    simulation = Simulation(tmp_path, clock, replace(SHORT, durations=parse_durations("uniform:5,400")))
    ids, secret = simulation.write_ids(count), tmp_path / "token"
    secret.write_text("pat-na1-0123456789abcdef\n")
    simulation.api.stage = knows_no_id_by(OTHERS_TOKEN)

    async def rotate() -> None:
        await asyncio.sleep(60)
        secret.write_text(f"{OTHERS_TOKEN}\n")
        await asyncio.sleep(900)
        assert simulation.service is not None
        assert simulation.service.lanes["default"].gate.pause is Pause.WRONG_ACCOUNT
        secret.write_text("pat-na1-0123456789abcdef\n")

    async with asyncio.TaskGroup() as group:
        group.create_task(rotate())
        assert await simulation.run(ids, {"token_file": str(secret)}) is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert {event["pause"] for event in named(events, "lane.paused")} == {Pause.WRONG_ACCOUNT}


async def test_many_unknown_ids_in_a_row_are_not_found_where_a_task_of_an_earlier_run_is_still_known(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    await simulation.run(simulation.write_ids(20))
    known = simulation.api.stats().requests_total
    unknown = tmp_path / "unknown.txt"
    unknown.write_text("".join(f"AAAAEZ{number:05}\n" for number in range(100)))
    assert await simulation.run(unknown) is Exit.NOT_ALL_COMPLETE
    assert Counter(record["kind"] for record in simulation.records()) == {"complete": 20, "not_found": 100}
    assert named(events, "lane.paused") == []
    assert simulation.api.stats().requests_total - known <= 2 * 100 + 25  # and a few of the known task


@pytest.mark.parametrize(("count", "trusts"), [(3, False), (30, False), (120, True)])
async def test_ids_that_are_unknown_all_together_are_not_found_where_they_are_few_or_the_person_trusts_them(
    tmp_path: Path, clock: Clock, events: Events, count: int, trusts: bool
) -> None:
    simulation = Simulation(tmp_path, clock, replace(SHORT, fates={Fate.UNKNOWN: 1.0}))
    ids = simulation.write_ids(count)
    assert await simulation.run(ids, {"polling": {"trust_unknown": trusts}}) is Exit.NOT_ALL_COMPLETE
    assert {record["kind"] for record in simulation.records()} == {"not_found"}
    assert all(record["message"] for record in simulation.records())
    assert len(simulation.records()) == count
    assert asyncio.get_running_loop().time() < 100
    assert named(events, "lane.paused") == []


async def test_ids_that_are_unknown_to_some_of_hubspots_servers_are_not_found_by_accident(
    tmp_path: Path, clock: Clock
) -> None:
    """Three of ten answers said "unknown" for five minutes, also of tasks whose status had just been reported: two such
    answers in a row made a tenth of them `not_found`, for good."""
    simulation = Simulation(tmp_path, clock, SHORT)
    ids, rng = simulation.write_ids(20), Random(1)

    def stage(_ask: SandboxRequest, answer: SandboxReply) -> SandboxReply:
        is_wrong = 5 < asyncio.get_running_loop().time() < 300 and rng.random() < 0.3
        return replace(unknown_id("x", "c"), wait_s=0.1) if is_wrong else answer

    simulation.api.stage = stage
    assert await simulation.run(ids) is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert simulation.api.stats().requests_total < 6 * 20


@pytest.mark.parametrize(("from_s", "code"), [(0.0, Exit.CONFIG), (20.0, Exit.ALL_COMPLETE)])
async def test_a_host_that_answers_everything_with_nothing_ends_no_task_at_its_deadline(
    tmp_path: Path, clock: Clock, events: Events, from_s: float, code: Exit
) -> None:
    """An empty answer may mean "not finished yet", so no account was paused, and each task ended as timed out."""
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(10)
    stage_from(simulation, SandboxReply(code=204), from_s, 1500.0)
    assert await simulation.run(ids, {"deadline_s": 600}) is code
    assert [event["pause"] for event in named(events, "lane.paused")][:1] == [Pause.OUTAGE]
    assert simulation.api.stats().requests_total < 10 * 10
    simulation.api.stage = lambda _, answer: answer
    assert await simulation.run(ids, {"deadline_s": 600}) is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)


@pytest.mark.parametrize(
    ("killed", "count", "outage_s", "fault"),  # each pair of two values
    [
        (False, 1, 7200.0, "503"),
        (True, 1, 600.0, "reset"),
        (False, 3, 600.0, "reset"),
        (True, 3, 7200.0, "503"),
        (False, 8, 600.0, "503"),
        (True, 8, 7200.0, "reset"),
    ],
)
async def test_an_outage_across_the_deadline_ends_no_task_however_few_are_left(
    tmp_path: Path, clock: Clock, count: int, outage_s: float, killed: bool, fault: str
) -> None:
    outages = (Outage(from_s=30, to_s=30 + outage_s, fault=fault),)
    simulation = Simulation(tmp_path, clock, replace(SHORT, durations=parse_durations("fixed:90"), outages=outages))
    ids = simulation.write_ids(count)
    flags = {"deadline_s": 200}
    if killed:
        async with simulation.serving():
            await simulation.run_for(150, ids, flags)
            await simulation.run_for(150, ids, flags)
            assert await simulation.run(ids, flags) is Exit.ALL_COMPLETE
    else:
        assert await simulation.run(ids, flags) is Exit.ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert simulation.api.stats().requests_total < 60 + 40 * count + outage_s / 8


@pytest.mark.parametrize("content", ["<html>Sign in</html>", '{"ok": true}', "[]"])
async def test_a_host_that_answers_everything_with_200_is_a_wrong_one_at_the_start_of_a_finite_run(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(60)
    stage_from(simulation, replace(html(200, content), headers=NO_MARKS), 0.0)
    assert await simulation.run(ids) is Exit.CONFIG
    assert "does not answer as HubSpot does" in capsys.readouterr().err
    assert asyncio.get_running_loop().time() < 30
    assert (await simulation.sums()).finished == 0


async def test_a_single_id_that_is_refused_at_the_start_ends_a_finite_run_within_30_s(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(1)
    stage_from(simulation, wrong_path(), 0.0)
    assert await simulation.run(ids) is Exit.CONFIG
    assert asyncio.get_running_loop().time() < 30


async def test_a_token_that_is_refused_at_the_start_still_ends_with_77(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(5)
    stage_from(simulation, token_refused("c"), 0.0)
    assert await simulation.run(ids) is Exit.TOKEN_REFUSED
    assert "account default: HubSpot refused the token" in capsys.readouterr().err
