"""The start of a run on a state that another run left: the window is on disk first, and a wrong clock is undone."""

import asyncio
import sqlite3
from collections.abc import MutableMapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from tests.support.simulation import Simulation, fill_disk, named

SLOW = Scenario(seed=3, durations=parse_durations("fixed:20"))


async def test_the_account_is_on_disk_as_in_use_before_the_first_request(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    on_disk: list[tuple[float | None, int]] = []

    def read_disk(_: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        if not on_disk:
            with closing(sqlite3.connect(f"file:{tmp_path}/poller.db?mode=ro", uri=True)) as state:
                on_disk.append(state.execute("SELECT active_at, clean FROM account").fetchone())
        return reply

    simulation.api.stage = read_disk
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(simulation.write_ids(3)))
        await asyncio.sleep(5)
        simulation.drain()
    assert running.result() is Exit.WORK_LEFT  # it ended in order: the account is noted as clean
    on_disk.clear()
    await asyncio.sleep(300)
    began_at = clock()
    assert await simulation.run(None) is Exit.ALL_COMPLETE
    ((active_at, clean),) = on_disk
    assert clean == 0
    assert active_at is not None
    assert active_at >= began_at


async def test_after_a_kill_nothing_leaves_for_the_window_that_hubspot_reported(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, replace(SLOW, requests=30, window_s=60.0))
    asked_at: list[float] = []

    def note(_: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        asked_at.append(clock())
        return reply

    simulation.api.stage = note
    await simulation.run_for(8, simulation.write_ids(3))
    with closing(sqlite3.connect(tmp_path / "poller.db")) as state, state:
        state.execute("UPDATE account SET clean = 0")  # as a kill leaves it
    asked_at.clear()
    began_at = clock()
    assert await simulation.run(None) is Exit.ALL_COMPLETE
    assert asked_at[0] - began_at > 60


async def test_a_state_from_the_future_is_polled_now_and_no_task_ends_early(
    tmp_path: Path, clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(20)
    simulation.clock = lambda: clock() + 365 * 86_400.0
    await simulation.run_for(8, ids)
    simulation.clock = clock
    before = clock()
    assert await simulation.run(ids) is Exit.ALL_COMPLETE
    assert clock() - before < 60
    jumps = [event for event in events if event["event"] == "clock.jumped"]
    assert [round(event["by_s"], -2) for event in jumps] == [-365 * 86_400.0]


async def test_after_a_full_disk_and_a_restart_first_polls_come_as_soon_as_ever(
    tmp_path: Path, clock: Clock, events: Sequence[MutableMapping[str, Any]]
) -> None:
    """What was polled late while nothing could be stored or no run was there did not wait behind the limit."""
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("uniform:1,4"), fates={}, window_s=2.0))
    rows = tmp_path / "rows.csv"
    rows.write_text("\n".join(["url", *(f"https://cdn.example.com/{number}.png" for number in range(120))]))
    flags = {"input": {"feeds": "imports"}, "imports": {"options": {"access": "PRIVATE", "folderPath": "/p"}}}
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(rows, flags))
        await asyncio.sleep(8)
        assert simulation.service is not None
        fill_disk(simulation.service)
        await asyncio.sleep(10)
        simulation.drain()
    assert running.result() is Exit.WORK_LEFT
    assert (await simulation.sums()).finished < 40
    assert await simulation.run(rows, flags) is Exit.ALL_COMPLETE
    plans = named(events, "timing.planned")
    assert max(plan["pressure"] for plan in plans) < 1.5
    assert 0 < max(plan["first_poll_s"] for plan in plans) <= 5
