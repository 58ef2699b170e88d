"""The whole service, real aiohttp client against the real aiohttp sandbox, on a virtual clock."""

import asyncio
import os
from collections import Counter
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from poller.app.messages import awaited
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Fate, Outage, Scenario, parse_durations
from tests.support.simulation import Simulation, assert_each_has_its_right_outcome_once, fill_disk

Events = list[MutableMapping[str, Any]]

SEVERAL = Scenario(
    seed=7,
    durations=parse_durations("lognormal:30,0.8"),
    fates={
        Fate.COMPLETE_WITH_ERRORS: 0.1,
        Fate.COMPLETE_WITHOUT_RESULT: 0.05,
        Fate.CANCELED: 0.05,
        Fate.UNKNOWN: 0.05,
        Fate.NEVER: 0.01,
    },
    latency_s=(0.05, 0.3),
)


async def test_an_hour_of_polling_gives_every_task_its_outcome_and_never_a_429(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    ids = simulation.write_ids(300)
    code = await simulation.run(ids, {"deadline_s": 3600})
    assert code is Exit.NOT_ALL_COMPLETE
    assert asyncio.get_running_loop().time() > 3600
    assert_each_has_its_right_outcome_once(simulation, ids)
    stats = simulation.api.stats()
    assert stats.throttled_total == 0
    assert stats.max_in_window <= 100


def trace_of(folder: Path) -> bytes:
    """Run once on a loop of its own; return all output bytes."""
    from tests.support.virtual import EPOCH, VirtualLoop

    folder.mkdir()
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        simulation = Simulation(folder, lambda: EPOCH + loop.time(), SEVERAL, seed=3)
        ids = simulation.write_ids(100)
        runner.run(simulation.run(ids, {"deadline_s": 600}))
        return (folder / "finished.jsonl").read_bytes()


def test_the_same_seed_gives_the_same_trace_byte_for_byte(tmp_path: Path) -> None:
    assert trace_of(tmp_path / "one") == trace_of(tmp_path / "two")


async def test_all_complete_is_exit_code_0(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    assert await simulation.run(simulation.write_ids(20)) is Exit.ALL_COMPLETE


async def test_a_second_run_on_finished_work_polls_nothing_and_writes_nothing(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    ids = simulation.write_ids(20)
    await simulation.run(ids)
    asked, written = simulation.api.stats().requests_total, (tmp_path / "finished.jsonl").read_bytes()
    assert await simulation.run(ids) is Exit.ALL_COMPLETE
    assert simulation.api.stats().requests_total == asked
    assert (tmp_path / "finished.jsonl").read_bytes() == written


async def test_a_sink_that_is_new_gets_everything_that_finished_before(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    ids = simulation.write_ids(20)
    await simulation.run(ids)
    await simulation.run(ids, {"sinks": [f"jsonl:{tmp_path}/second.jsonl"]})
    assert (tmp_path / "second.jsonl").read_bytes() == (tmp_path / "finished.jsonl").read_bytes()


async def test_a_drained_run_reports_the_work_left_and_the_next_one_finishes_it(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    ids = simulation.write_ids(150)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"deadline_s": 900}))
        await asyncio.sleep(20)
        assert simulation.service is not None
        simulation.service.drain()
    assert running.result() is Exit.WORK_LEFT
    assert 0 < len(simulation.records()) < 150
    assert await simulation.run(ids, {"deadline_s": 900}) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)


async def test_a_cancelled_run_loses_nothing_and_repeats_nothing(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, SEVERAL)
    ids = simulation.write_ids(150)
    for seconds in (3, 7.7, 15, 21.3, 30):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await simulation.run(ids, {"deadline_s": 900})
    await simulation.run(ids, {"deadline_s": 900})
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert simulation.api.stats().throttled_total == 0


async def test_a_wrong_token_ends_a_finite_run_with_77(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(tokens=frozenset({"another"})))
    assert await simulation.run(simulation.write_ids(5)) is Exit.TOKEN_REFUSED
    assert simulation.records() == []


async def test_an_outage_longer_than_give_up_s_ends_with_69(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(outages=(Outage(from_s=0, to_s=9999, fault="503"),)))
    assert await simulation.run(simulation.write_ids(5), {"give_up_s": 120}) is Exit.UNREACHABLE
    assert 120 <= asyncio.get_running_loop().time() <= 240


async def test_rate_limits_alone_for_longer_than_give_up_s_end_with_69(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario())
    body = b'{"status":"error","message":"limit","errorType":"RATE_LIMIT","correlationId":"c"}'
    simulation.api.stage = lambda _ask, reply: replace(reply, code=429, body=body)
    assert await simulation.run(simulation.write_ids(5), {"give_up_s": 600}) is Exit.UNREACHABLE
    assert 600 <= asyncio.get_running_loop().time() <= 900


async def test_input_without_a_usable_id_is_exit_code_65(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario())
    ids = tmp_path / "ids.txt"
    ids.write_text("# nothing\n../../oauth/v1/access-tokens\n")
    assert await simulation.run(ids) is Exit.NO_INPUT
    assert simulation.api.stats().requests_total == 0


async def test_each_task_gets_its_outcome_despite_a_thousand_hostile_lines_among_two_thousand(
    tmp_path: Path, clock: Clock
) -> None:
    fast = Scenario(fates={}, durations=parse_durations("fixed:1"), requests=10_000, latency_s=(0.001, 0.002))
    simulation = Simulation(tmp_path, clock, fast)
    rng = Random(5)
    hostile = [
        bytes(rng.choice(b"/%{}[]\"'\\ ,;:\x00\x01\xff\xc3?#!") for _ in range(rng.randrange(1, 300))).replace(
            b"#", b"!"
        )
        for _ in range(995)
    ] + [b"x" * 70_000, b'{"id": ', b"[" * 30_000, b"..", b"\xef\xbb\xbf/"]
    good = [task_id.encode() for task_id in simulation.api.preload(1000)]
    beginning, lines = good[:50], good[50:] + [line if line.strip() else b"!" for line in hostile]
    rng.shuffle(lines)
    ids = tmp_path / "ids.txt"
    ids.write_bytes(b"\n".join(beginning + lines))
    assert await simulation.run(ids, {"requests": 10_000, "workers": 200}) is Exit.NOT_ALL_COMPLETE
    assert Counter(record["task_id"].encode() for record in simulation.records()) == Counter(good)


# --- the exit code is of what the run was given -----------------------------------------------------------------------

CALM = Scenario(fates={}, durations=parse_durations("fixed:5"), requests=1000)


def write_lines(simulation: Simulation, name: str, *lines: str) -> Path:
    file = simulation.folder / name
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


async def test_rejected_lines_are_exit_code_1_also_when_the_command_is_repeated(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, CALM)
    ids = write_lines(simulation, "ids.txt", *simulation.api.preload(5), "no id at all")
    for words in ("1  input line rejected", "1  of these lines rejected"):  # the second time the file is unchanged
        assert await simulation.run(ids) is Exit.NOT_ALL_COMPLETE
        printed = capsys.readouterr().err
        assert f"{words}: poller status --rejected --state sqlite:///{tmp_path}/poller.db" in printed


async def test_what_failed_on_monday_is_not_tuesdays_exit_code(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, CALM)
    monday = write_lines(simulation, "monday.txt", "AAAAunknown1", "no id at all", *simulation.api.preload(3))
    assert await simulation.run(monday) is Exit.NOT_ALL_COMPLETE
    tuesday = write_lines(simulation, "tuesday.txt", *simulation.api.preload(3))
    assert await simulation.run(tuesday) is Exit.ALL_COMPLETE
    assert await simulation.run(tuesday) is Exit.ALL_COMPLETE
    with monday.open("a") as file:
        file.writelines(f"{task_id}\n" for task_id in simulation.api.preload(3))
    assert await simulation.run(monday) is Exit.ALL_COMPLETE


async def test_an_id_that_failed_before_and_is_fed_once_more_is_exit_code_1(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, CALM)
    assert await simulation.run(write_lines(simulation, "monday.txt", "AAAAunknown1")) is Exit.NOT_ALL_COMPLETE
    tuesday = write_lines(simulation, "tuesday.txt", "AAAAunknown1", *simulation.api.preload(3))
    assert await simulation.run(tuesday) is Exit.NOT_ALL_COMPLETE


async def test_a_run_that_continues_after_a_kill_speaks_of_all_that_was_given(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:200"), requests=1000))
    ids = write_lines(simulation, "ids.txt", "AAAAunknown1", *simulation.api.preload(5))
    await simulation.run_for(150, ids)
    assert [record["kind"] for record in simulation.records()] == ["not_found"]
    assert await simulation.run(ids) is Exit.NOT_ALL_COMPLETE


# --- what no code expects ---------------------------------------------------------------------------------------------


async def test_an_exception_that_no_code_expects_is_exit_code_70_with_a_message(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], events: Events
) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise KeyError("a bug")

    simulation = Simulation(tmp_path, clock, CALM)
    ids = simulation.write_ids(5)
    for part in ("poller.engine.lane.decide", "poller.engine.ingest.Reader.read"):
        with monkeypatch.context() as patch:
            patch.setattr(part, broken)
            assert await simulation.run(ids) is Exit.INTERNAL
        assert "poller: unexpected KeyError: 'a bug' (test_service.py, line" in capsys.readouterr().err
    assert [event["event"] for event in events].count("run.failed") == 2
    assert await simulation.run(ids) is Exit.ALL_COMPLETE


# --- a run that ends before its input was read ----------------------------------------------------------------------


async def test_a_disk_too_full_to_read_the_input_is_exit_code_75_with_the_reason(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario())
    ids = simulation.write_ids(2000)
    simulation.on_start = fill_disk
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids))
        await asyncio.sleep(6)
        simulation.drain()
        assert simulation.service is not None
        assert awaited(simulation.service).startswith("the state, which cannot be written (database or disk is full)")
    assert running.result() is Exit.WORK_LEFT
    assert (await simulation.sums()).waiting == 0
    last = capsys.readouterr().err.splitlines()[-1]
    assert "input not read to its end; the state cannot be written (database or disk is full)" in last


async def test_a_pipe_that_is_still_open_when_the_run_drains_is_exit_code_75(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writing = os.open(pipe, os.O_RDWR)
    try:
        os.write(writing, simulation.write_ids(5).read_bytes())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(simulation.run(pipe))
            await asyncio.sleep(60)
            simulation.drain()
    finally:
        os.close(writing)
    assert len(simulation.records()) == 5
    assert running.result() is Exit.WORK_LEFT
    assert "input not read to its end" in capsys.readouterr().err
