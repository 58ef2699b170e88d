"""A wall clock that jumps while the service runs: only elapsed time counts."""

import asyncio
from collections import defaultdict
from collections.abc import MutableMapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from poller.app.compose import _agree_on_time
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.steady_clock import SteadyClock
from poller.sandbox import Fate, Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.store import open_store
from tests.support.simulation import Simulation, assert_each_has_its_right_outcome_once, named

Events = list[MutableMapping[str, Any]]
HOUR, DAY = 3600.0, 86_400.0
SHORT = Scenario(seed=3, durations=parse_durations("uniform:60,150"), latency_s=(0.05, 0.3))


class JumpingClock:
    """A wall clock that someone sets."""

    def __init__(self, clock: Clock) -> None:
        self.set_by_s = 0.0
        self._clock = clock

    def __call__(self) -> float:
        return self._clock() + self.set_by_s


@pytest.mark.parametrize("jump_s", [-2 * DAY, -HOUR, HOUR, 2 * DAY])
async def test_a_jump_ends_no_task_early_misses_no_poll_and_is_logged_once(
    tmp_path: Path, clock: Clock, events: Events, jump_s: float
) -> None:
    scenario = replace(SHORT, fates={Fate.UNKNOWN: 0.1, Fate.NEVER: 0.1})
    simulation = Simulation(tmp_path, clock, scenario)
    ids = simulation.write_ids(60)
    simulation.clock = wall = JumpingClock(clock)
    polled: defaultdict[str, list[float]] = defaultdict(list)

    def note(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        polled[ask.path].append(asyncio.get_running_loop().time())
        return reply

    simulation.api.stage = note
    asyncio.get_running_loop().call_later(40, setattr, wall, "set_by_s", jump_s)
    flags = {"deadline_s": 400, "daily_limit": 10_000, "polling": {"policy": "fixed", "longest_gap_s": 20}}
    assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert [event["by_s"] for event in named(events, "clock.jumped")] == [pytest.approx(jump_s, abs=1)]
    never = [times for times in polled.values() if times[-1] > 200]
    assert never
    for times in never:
        assert 400 <= times[-1] <= 430
        assert max(after - before for before, after in pairwise(times)) < 30
    for times in polled.values():
        if len(times) == 2:  # unknown: asked twice
            assert times[1] - times[0] >= 30
    account = (await simulation.sums()).accounts["default"]
    sent = [at for times in polled.values() for at in times]
    day = {-2 * DAY: "2026-01-03", 2 * DAY: "2026-01-07"}.get(jump_s, "2026-01-05")  # the quota's is the machine's
    counted = sum(at >= 40 for at in sent) if jump_s == 2 * DAY else len(sent)  # set back, it is given no second time
    assert (account.day, account.day_requests) == (day, counted)
    assert simulation.api.stats().throttled_total == 0
    assert simulation.api.stats().max_in_window <= 100


async def test_a_state_from_the_future_and_a_jump_of_the_run_that_reads_it_move_no_due_time_and_no_deadline(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    """The first run's clock is two days ahead; the second begins with the right one, which is then set ahead, too."""
    folder = tmp_path / "state"
    folder.mkdir()
    simulation = Simulation(folder, clock, replace(SHORT, fates={Fate.NEVER: 0.5}))
    ids = simulation.write_ids(60)
    simulation.clock = wall = JumpingClock(clock)
    wall.set_by_s = 2 * DAY
    flags = {"deadline_s": 400, "polling": {"policy": "fixed", "longest_gap_s": 20}}
    asked: list[float] = []

    def note(_ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        asked.append(asyncio.get_running_loop().time())
        return reply

    async with simulation.serving():
        await simulation.run_for(50, ids, flags)
        wall.set_by_s = 0.0
        simulation.api.stage = note
        asyncio.get_running_loop().call_later(30, setattr, wall, "set_by_s", 2 * DAY)
        assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    jumps = [event["by_s"] for event in named(events, "clock.jumped")]
    assert jumps == [pytest.approx(-2 * DAY, abs=10), pytest.approx(2 * DAY, abs=1)]
    assert asked[0] <= 50 + 20 + 10.1
    assert 390 <= asked[-1] <= 430
    assert max(after - before for before, after in pairwise(asked)) < 30


@pytest.mark.parametrize("ended", ["killed", "drained"])
async def test_a_clock_that_was_set_right_during_the_run_before_makes_no_task_older_and_no_window_empty(
    tmp_path: Path, clock: Clock, events: Events, ended: str
) -> None:
    """Such as that of a machine that keeps no time while it is off: the first run stores instants of its wrong one."""
    folder = tmp_path / "state"
    folder.mkdir()
    simulation = Simulation(folder, clock, replace(SHORT, fates={Fate.NEVER: 0.5}))
    ids = simulation.write_ids(60)
    simulation.clock = wall = JumpingClock(clock)
    wall.set_by_s = -2 * DAY
    flags = {"deadline_s": 400, "daily_limit": 10_000, "polling": {"policy": "fixed", "longest_gap_s": 20}}
    asked: list[float] = []

    def note(_ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        asked.append(asyncio.get_running_loop().time())
        return reply

    asyncio.get_running_loop().call_later(25, setattr, wall, "set_by_s", 0.0)
    async with simulation.serving():
        if ended == "killed":
            await simulation.run_for(50, ids, flags)
        else:
            asyncio.get_running_loop().call_later(50, simulation.drain)
            assert await simulation.run(ids, flags) is Exit.WORK_LEFT
        simulation.api.stage = note
        assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    jumps = [event["by_s"] for event in named(events, "clock.jumped")]
    assert jumps == [pytest.approx(2 * DAY, abs=1), pytest.approx(2 * DAY, abs=1)]
    assert 390 <= asked[-1] <= 430
    assert max(after - before for before, after in pairwise(asked)) < 30
    assert {record["seen_at"][:10] for record in simulation.records()} == {"2026-01-05"}


async def test_a_clock_that_is_wrong_from_one_run_to_the_next_ends_no_task_early(tmp_path: Path, clock: Clock) -> None:
    """A clock that was set ahead while no run was there looks like a long time without one. HubSpot's tells."""
    simulation = Simulation(tmp_path, clock, replace(SHORT, fates={Fate.NEVER: 0.1}))
    ids = simulation.write_ids(60)
    simulation.clock = wall = JumpingClock(clock)
    flags = {"deadline_s": 400, "polling": {"policy": "fixed", "longest_gap_s": 20}}
    async with simulation.serving():
        await simulation.run_for(30, ids, flags)
        wall.set_by_s = 3 * DAY
        await simulation.run_for(10, ids, flags)
        wall.set_by_s = -2 * DAY
        await simulation.run_for(10, ids, flags)
        wall.set_by_s = 0.0
        assert await simulation.run(ids, flags) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert 400 <= asyncio.get_running_loop().time() <= 430


@pytest.mark.parametrize("jump_s", [-2 * DAY, 2 * DAY])
async def test_a_jump_does_not_make_a_failing_sink_give_up_early_or_late(
    tmp_path: Path, clock: Clock, events: Events, jump_s: float
) -> None:
    simulation = Simulation(tmp_path, clock, SHORT)
    ids = simulation.write_ids(20)
    simulation.clock = wall = JumpingClock(clock)
    asyncio.get_running_loop().call_later(300, setattr, wall, "set_by_s", jump_s)
    often = {"policy": "fixed", "longest_gap_s": 5}
    flags = {"sinks": ["webhook:http://127.0.0.1:9/"], "give_up_s": 600, "polling": often}
    assert await simulation.run(ids, flags) is Exit.UNREACHABLE
    failed_at = 60  # the first outcome
    assert failed_at + 600 <= asyncio.get_running_loop().time() <= failed_at + 630
    assert len(named(events, "clock.jumped")) == 1


async def test_a_jump_that_is_noticed_once_the_state_is_closed_raises_nothing(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    wall = JumpingClock(clock)
    steady = SteadyClock(wall, asyncio.get_running_loop().time)
    store = await open_store(f"sqlite:///{tmp_path}/poller.db", clock=steady)
    await _agree_on_time(steady, store)
    await store.close()
    wall.set_by_s = DAY
    await asyncio.sleep(1)
    steady()
    assert [event["by_s"] for event in named(events, "clock.jumped")] == [pytest.approx(DAY, abs=1)]


def test_a_steady_clock_keeps_by_how_much_the_machine_s_was_set_in_all() -> None:
    at, noted = {"wall": 1000.0, "elapsed": 50.0}, list[float]()
    steady = SteadyClock(lambda: at["wall"], lambda: at["elapsed"])
    steady.on_jump = lambda: noted.append(steady.behind_s)
    for by_s in (3600.0, -600.0):
        at["wall"] += by_s
        at["elapsed"] += 1.0
        at["wall"] += 1.0
        steady()
    assert noted == [3600.0, 3000.0]
    assert (steady.began_at, steady(), steady.day_clock()) == (1000.0, 1002.0, 4002.0)


def test_small_corrections_are_no_jump_and_move_nothing(events: Events) -> None:
    at = {"wall": 1000.0, "elapsed": 50.0}
    steady = SteadyClock(lambda: at["wall"], lambda: at["elapsed"])
    for _ in range(100):
        at["elapsed"] += 10.0
        at["wall"] += 10.01
        steady()
    assert steady() == 2000.0
    assert named(events, "clock.jumped") == []
