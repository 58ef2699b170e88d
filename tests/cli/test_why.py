"""`poller why`: everything that the state holds of one task, in any form of its id, also during a run."""

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import typer

from poller.cli.commands.status import print_status
from poller.cli.commands.why import print_task
from poller.core.accounts import AccountState
from poller.core.details import Poll, TaskDetails
from poller.core.errors import Exit
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.core.record import restore
from poller.core.text import NO_RUN
from poller.reports.task import task_text
from poller.sandbox import Scenario, parse_durations
from tests.support.simulation import Simulation, settings_for

SLOW = Scenario(durations=parse_durations("fixed:40"), fates={}, requests=1000)


async def answer(
    simulation: Simulation, named: str, capsys: pytest.CaptureFixture[str], *, as_json: bool = False
) -> tuple[Exit, str, str]:
    capsys.readouterr()
    code = await print_task(settings_for(simulation.folder), named, as_json=as_json, clock=simulation.clock)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


async def run_beside(simulation: Simulation, ids: Path, seconds: float, poll: Any) -> Any:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids))
        await asyncio.sleep(seconds)
        seen = await poll()
        await running
    return seen


async def test_a_task_is_shown_while_it_waits_and_when_it_is_finished(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(3)
    task_id = ids.read_text().splitlines()[1].split(",")[0]

    async def poll() -> tuple[Exit, str, str]:
        return await answer(simulation, task_id, capsys)

    code, waiting, _ = await run_beside(simulation, ids, 20.0, poll)
    assert code is Exit.ALL_COMPLETE
    assert "next poll due" in waiting
    assert "https://example.com/0.png" in waiting
    code, done, _ = await answer(simulation, task_id, capsys)
    assert code is Exit.ALL_COMPLETE
    assert "finished     complete" in done
    assert f"jsonl:{tmp_path}/finished.jsonl: delivered" in done
    polls = simulation.api.polls(task_id)
    assert f"polls        {polls}" in done
    assert done.count("at the gate") == polls
    assert "running PROCESSING; next" in done
    assert "finished COMPLETE; the last one" in done


async def test_the_json_of_a_task_holds_the_record_untouched(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(2)
    await simulation.run(ids)
    record = simulation.records()[0]
    code, out, _ = await answer(simulation, record["task_id"], capsys, as_json=True)
    task = orjson.loads(out)
    assert code is Exit.ALL_COMPLETE
    assert (task["state"], task["kind"], task["record"]) == ("finished", "complete", record)
    assert task["polls"] == len(task["poll_log"]) == record["polls"]
    assert task["deliveries"] == {f"jsonl:{tmp_path}/finished.jsonl": "delivered"}
    assert [poll["next_in_s"] is None for poll in task["poll_log"]] == [False] * (task["polls"] - 1) + [True]
    assert task["seen_at"] == record["seen_at"]
    assert (task["due_at"], task["errors"]) == (None, 0)
    assert task["poll_log"][-1]["detail"] == "COMPLETE"
    assert task["ref"] == record["ref"]


async def test_locators_and_urls_name_a_task_too(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    await simulation.run(simulation.write_ids(1))
    task_id = simulation.records()[0]["task_id"]
    url = f"https://api-na1.hubspot.com/files/v3/files/import-from-url/async/tasks/{task_id}/status"
    locator = orjson.dumps({"id": task_id, "links": {"status": url}}).decode()
    for named in (task_id, f" {task_id}\n", url, locator, f'"{task_id}"'):
        code, out, _ = await answer(simulation, named, capsys)
        assert (code, out.split()[0]) == (Exit.ALL_COMPLETE, task_id)


async def test_an_unknown_id_ends_with_1_and_what_may_help(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(1)
    ids.write_text(f"{ids.read_text()}bad id here,https://example.com/x.png\n")
    await simulation.run(ids)
    task_id = simulation.records()[0]["task_id"]
    code, out, err = await answer(simulation, "AAAAunknown", capsys)
    assert (code, out) == (Exit.NOT_ALL_COMPLETE, "")
    assert "task AAAAunknown is not in the state" in err
    assert f"has 1 task from {ids}" in err
    code, _, err = await answer(simulation, f"{task_id}=", capsys)
    assert code is Exit.NOT_ALL_COMPLETE
    assert f"similar: {task_id}" in err
    code, _, err = await answer(simulation, "here", capsys)
    assert "line 3" in err
    assert "was rejected" in err


@pytest.mark.parametrize("named", ["", "  ", "''", ","])
async def test_naming_nothing_is_a_wrong_command_line(
    named: str, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.BadParameter, match="names no task"):
        await answer(Simulation(tmp_path, clock, SLOW), named, capsys)


@pytest.mark.parametrize("named", ["a b", "../x", "https://example.com/a/b", "{", '{"a":1}', "[]"])
async def test_what_is_no_id_and_in_no_row_ends_with_1_and_both(
    named: str, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    await simulation.run(simulation.write_ids(2))
    code, out, err = await answer(simulation, named, capsys)
    assert (code, out) == (Exit.NOT_ALL_COMPLETE, "")
    assert "in its id or row, and it is no id: " in err


async def test_a_whole_url_names_its_task_though_others_begin_alike(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table cannot tell them apart: of `/download?id=1` and `?id=10` it shows no query."""
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(12)
    ids.write_text(ids.read_text().replace(".png", ""))
    await simulation.run(ids)
    task_id = next(each["task_id"] for each in simulation.records() if each["ref"]["url"].endswith("/1"))
    code, out, err = await answer(simulation, "https://example.com/1", capsys)
    assert (code, out.split()[0]) == (Exit.ALL_COMPLETE, task_id)
    assert "the only task whose row has it as a whole value" in err


async def test_a_file_names_its_task_by_its_url_or_a_piece_of_it(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    await simulation.run(simulation.write_ids(30))
    task_id = next(each["task_id"] for each in simulation.records() if each["ref"]["url"].endswith("/17.png"))
    for named in ("https://example.com/17.png", "/17.PNG", "'/17.png',"):
        code, out, err = await answer(simulation, named, capsys)
        assert (code, out.split()[0]) == (Exit.ALL_COMPLETE, task_id)
        assert "only task whose id or row contains it" in err
    code, out, err = await answer(simulation, "https://example.com/2", capsys)
    assert code is Exit.NOT_ALL_COMPLETE
    assert len(out.splitlines()) == 1 + 11
    assert "11 tasks contain" in err
    for named in (task_id.lower(), task_id[:-1]):
        code, out, _ = await answer(simulation, named, capsys)
        assert (code, out.split()[0]) == (Exit.ALL_COMPLETE, task_id)
    code, _, err = await answer(simulation, f"{task_id[:-1]}~x", capsys)
    assert f"similar: {task_id}" in err


# --- text ------------------------------------------------------------------------------------------------------------

POLL = Poll(at=1_767_600_000.0, gate_s=0.0, took_s=0.12, outcome="unreachable", detail="http_503", again_in_s=90.0)
TASK = TaskDetails(
    account="main",
    task_id="AAAA",
    ref=b'{"a":"\x1b[31m"}',
    fed_at=1_767_599_990.0,
    requested_at=None,
    due_at=1_767_600_090.0,
    polls=30,
    errors=2,
    status="PROCESSING",
    poll_log=(POLL, POLL),
)


def test_polls_dropped_from_the_log_are_counted_and_the_others_keep_their_numbers() -> None:
    text = task_text(TASK, AccountState(), now=1_767_600_010.0, timing="HubSpot works the imports off in order")
    assert text.splitlines()[-1].strip() == "HubSpot works the imports off in order"
    assert "the first 28 are no longer in the log" in text
    assert "polls        30, the last 2 failed" in text
    assert " 29  2026-01-05 08:00:00.000 UTC  waited 0 s at the gate, took 0.12 s: unreachable http_503" in text
    assert "next 1 min 30 s later" in text
    assert "last status PROCESSING; next poll due 2026-01-05 08:01:30.000 UTC, in 1 min 20 s" in text
    assert "\x1b" not in text


def test_a_paused_account_is_the_reason_for_waiting() -> None:
    paused = AccountState(pause="daily_quota", pause_detail="used up", resume_at=1_767_650_000.0)
    text = task_text(TASK, paused, now=1_767_600_010.0)
    assert "the account is paused: daily_quota (used up), until about 2026-01-05 21:53:20.000 UTC" in text


def test_each_sink_is_shown_with_the_state_of_the_record() -> None:
    record = restore(b'{"correlation_id":"c-1"}', kind=Kind.CANCELED, reason="canceled", seen_at=1_767_600_001.0)
    sinks = {"jsonl:a": "delivered", "webhook:b": "undelivered", "sql:c": "dead: too long"}
    done = replace(TASK, kind=Kind.CANCELED, record=record, deliveries=sinks)
    lines = task_text(done, AccountState(), now=0.0).splitlines()
    indent = " " * 13
    assert lines[-3:] == [
        "sink         jsonl:a: delivered",
        f"{indent}webhook:b: undelivered",
        f"{indent}sql:c: dead: too long",
    ]
    assert any("correlation id c-1" in line for line in lines)


@pytest.mark.parametrize("form", ["%s", '{"errors":[%s]}'])
def test_the_words_of_hubspot_are_shown_with_their_ids_beside_the_reason(form: str) -> None:
    body = (form % '{"message":"No task of id 5000 was found."}').encode()
    reason = "No task of id <n> was found."
    record = restore(body, kind=Kind.NOT_FOUND, reason=reason, seen_at=1_767_600_001.0)
    text = task_text(replace(TASK, kind=Kind.NOT_FOUND, record=record), AccountState(), now=0.0)
    assert reason in text
    assert "HubSpot's words: No task of id 5000 was found." in text


async def test_a_row_that_has_no_task_yet_is_shown_by_its_url(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, replace(SLOW, faults={"start_lost": 1.0}))
    rows = tmp_path / "rows.csv"
    rows.write_text("url\n" + "".join(f"https://cdn.example.com/{number}.png\n" for number in range(30)))
    flags = {"input": {"feeds": "imports"}, "imports": {"options": {"access": "PRIVATE", "folderPath": "/p"}}}
    await simulation.run_for(30, rows, flags)
    code, text, _ = await answer(simulation, "https://cdn.example.com/3.png", capsys)
    assert code is Exit.ALL_COMPLETE
    assert "unsure       1 of 1 answers lost" in text
    assert text.endswith(f"{NO_RUN}\n")
    await print_status(settings_for(tmp_path), as_json=False, clock=clock)
    printed = capsys.readouterr().out
    assert re.search(r"^unsure rows wait .*The next repeat is at \S+Z, in (19|20) min", printed, re.MULTILINE), printed
    assert printed.endswith(f"{NO_RUN}\n")
    assert '"folderPath":"/p"' in text
    code, text, _ = await answer(simulation, "cdn.example.com/29.png", capsys, as_json=True)
    assert (orjson.loads(text)["state"], orjson.loads(text)["starts"]) == ("unstarted", 0)


async def test_that_no_process_polls_is_shown_only_where_none_does(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """`next poll due 2 days ago` does not explain itself."""
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(20)
    task_id = ids.read_text().splitlines()[1].partition(",")[0]
    async with asyncio.TaskGroup() as group:
        work = group.create_task(simulation.run(ids))
        await asyncio.sleep(2)
        capsys.readouterr()
        _, during, _ = await answer(simulation, task_id, capsys)
        await print_status(settings_for(tmp_path), as_json=False, clock=clock)
        during += capsys.readouterr().out
        simulation.drain()
    assert work.result() is Exit.WORK_LEFT
    capsys.readouterr()
    _, after, _ = await answer(simulation, task_id, capsys)
    await print_status(settings_for(tmp_path), as_json=False, clock=clock)
    after += capsys.readouterr().out
    assert (during.count("waiting      "), during.count(NO_RUN), after.count(NO_RUN)) == (1, 0, 2)
