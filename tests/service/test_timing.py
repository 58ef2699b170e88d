"""Learned timing in the whole service: fewer polls, first polls delayed, kept through restarts, deadlines exact."""

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.scenario import Fate
from poller.sandbox.tasks import SimulatedTask
from poller.store import open_store
from tests.support.simulation import Simulation, StagedApi, assert_each_has_its_right_outcome_once, named
from tests.support.virtual import EPOCH, loop_time

Events = Sequence[MutableMapping[str, Any]]
USUAL = Scenario(durations=parse_durations("lognormal:30,1.2"), requests=600)


def waits_s(simulation: Simulation) -> list[float]:
    """Return for each finished task how long after its end it was seen."""
    late = []
    for record in simulation.records():
        ends_at = simulation.api.expected(record["task_id"]).ends_at
        seen_at = datetime.fromisoformat(record["seen_at"]).timestamp()
        late.append(seen_at - max(ends_at or seen_at, EPOCH))
    return late


async def polled(folder: Path, clock: Clock, polling: Mapping[str, Any]) -> tuple[int, float]:
    """Feed five batches, a minute apart; return polls and mean lateness."""
    folder.mkdir()  # noqa: ASYNC240 - once, at the start
    simulation = Simulation(folder, clock, USUAL)
    ids = folder / "ids.txt"
    ids.touch()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"follow": True, "polling": polling}))
        for _ in range(5):
            with ids.open("a") as file:
                file.writelines(f"{task_id}\n" for task_id in simulation.api.preload(40))
            await asyncio.sleep(60)
        await asyncio.sleep(1500)
        simulation.drain()
        await running
    late_s = waits_s(simulation)
    assert len(late_s) == 200
    return (await simulation.sums()).polls, sum(late_s) / len(late_s)


async def test_learned_timing_is_as_early_as_the_back_off_with_fewer_polls(tmp_path: Path, clock: Clock) -> None:
    backoff_polls, backoff_s = await polled(tmp_path / "backoff", clock, {"policy": "backoff"})
    polls, late_s = await polled(tmp_path / "learned", clock, {"poll_cost_s": 1.0})
    assert polls < 0.7 * backoff_polls
    assert late_s <= 1.1 * backoff_s


async def test_new_tasks_are_first_polled_when_they_may_be_finished(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("uniform:30,40"), fates={}))
    await simulation.run(simulation.write_ids(150))
    before = (await simulation.sums()).polls
    await simulation.run(simulation.write_ids(150))
    assert (await simulation.sums()).polls - before <= 2.2 * 150
    assert max(waits_s(simulation)) <= 60


async def test_a_restart_forgets_nothing(tmp_path: Path, clock: Clock, events: Events) -> None:
    simulation = Simulation(tmp_path, clock, USUAL)
    await simulation.run(simulation.write_ids(120))
    await simulation.run_for(20, simulation.write_ids(20))
    await simulation.run(simulation.write_ids(1))
    learned_from = [event["learned_from"] for event in named(events, "timing.planned")]
    assert learned_from == sorted(learned_from)
    assert learned_from[-1] >= 120
    assert named(events, "timing.forgotten") == []


async def test_damaged_knowledge_is_logged_and_learning_starts_over(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = Simulation(tmp_path, clock, USUAL)
    store = await open_store(f"sqlite:///{tmp_path}/poller.db", clock=clock)
    name = "timing default /files/v3/files/import-from-url/async/tasks/{task_id}/status"
    store.save_knowledge(name, b"damaged")
    await store.flush()
    await store.close()
    ids = simulation.write_ids(20)
    await simulation.run(ids)
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert [event["account"] for event in named(events, "timing.forgotten")] == ["default"]


@pytest.mark.parametrize("policy", ["learned", "backoff", "fixed"])
async def test_the_deadline_holds_exactly_whatever_the_policy(tmp_path: Path, clock: Clock, policy: str) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={Fate.NEVER: 1.0}))
    await simulation.run(simulation.write_ids(10), {"deadline_s": 100, "polling": {"policy": policy}})
    assert {record["kind"] for record in simulation.records()} == {"timed_out"}
    assert 100 <= loop_time() <= 103


async def test_the_fixed_policy_polls_every_longest_gap(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={Fate.NEVER: 1.0}))
    fixed = {"deadline_s": 100, "polling": {"policy": "fixed", "longest_gap_s": 20}}
    await simulation.run(simulation.write_ids(5), fixed)
    assert {record["polls"] for record in simulation.records()} == {6}


class LineApi(StagedApi):
    """A HubSpot that works its imports off in order, one every 3 s."""

    def preload(self, count: int) -> list[str]:
        ids = super().preload(count)
        self.places = {task_id: place for place, task_id in enumerate(self._tasks, 1)}
        return ids

    def _task(self, task_id: str) -> SimulatedTask:
        task = super()._task(task_id)
        ends_at = task.born_at + 3.0 * self.places[task_id]
        return replace(task, starts_at=ends_at - 1.0, ends_at=ends_at)


def in_line(folder: Path, clock: Clock) -> Simulation:
    simulation = Simulation(folder, clock, Scenario(fates={}, requests=600))
    simulation.api = LineApi(simulation.api.scenario, clock)
    return simulation


async def test_a_line_costs_little_more_than_one_poll_a_task(tmp_path: Path, clock: Clock) -> None:
    simulation = in_line(tmp_path, clock)
    ids = simulation.write_ids(150)
    await simulation.run(ids)
    assert_each_has_its_right_outcome_once(simulation, ids)
    late_s = waits_s(simulation)
    assert sum(late_s) / len(late_s) < 2  # by their ages: 20 s; by a plan of the line that is never renewed: 3.3 s
    before_it_shows = 8  # polls a task, in the minute until the first imports are finished
    assert (await simulation.sums()).polls < (before_it_shows + 2) * 150


async def test_a_kill_in_a_line_loses_no_task_that_was_put_off(tmp_path: Path, clock: Clock) -> None:
    simulation = in_line(tmp_path, clock)
    ids = simulation.write_ids(120)
    for seconds in (100, 60.5, 80):
        await simulation.run_for(seconds, ids)
    await simulation.run(ids)
    assert_each_has_its_right_outcome_once(simulation, ids)
    assert max(waits_s(simulation)) < 120


async def test_while_nothing_finishes_a_few_polls_are_enough(tmp_path: Path, clock: Clock, events: Events) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(durations=parse_durations("fixed:3600"), fates={}))
    await simulation.run(simulation.write_ids(400))
    polls = [record["polls"] for record in simulation.records()]
    assert sum(polls) < 2.8 * 400  # the last one of each found it finished; at gaps of a minute it would be 60 each
    assert max(waits_s(simulation)) < 120  # 40 s at the limit
    assert len(named(events, "timing.standstill")) == 1
    (ended,) = named(events, "timing.standstill_ended")
    assert 3500 < ended["after_s"] < 3640  # 400 tasks are worth a poll every 18 s


async def test_deadlines_hold_while_nothing_finishes(tmp_path: Path, clock: Clock, events: Events) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={Fate.NEVER: 1.0}, requests=600))
    await simulation.run(simulation.write_ids(200), {"deadline_s": 1000})
    assert named(events, "timing.standstill")
    assert {record["kind"] for record in simulation.records()} == {"timed_out"}
    assert 1000 <= loop_time() <= 1015
