"""`Poller.replay`: the rules of `poller replay`, and the loop as one more sink."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog

from poller import Kind, SinkError
from poller.app.embed.finished_import import FinishedImport
from poller.core.protocols import Clock
from poller.core.record import decode
from poller.sandbox import Fate, Scenario, parse_durations
from poller.store import open_store
from tests.app.embed.pollers import SimulatedPoller, rest_of
from tests.support.simulation import Simulation

SEVERAL = Scenario(
    fates={Fate.COMPLETE: 0.7, Fate.CANCELED: 0.3}, durations=parse_durations("lognormal:60,1"), requests=1000
)


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> AsyncIterator[Simulation]:
    simulated = Simulation(tmp_path, clock, SEVERAL)
    async with simulated.serving():
        yield simulated


async def all_of(poller: SimulatedPoller) -> list[FinishedImport]:
    async with poller:
        return [task async for task in poller.finished()]


async def taken(simulation: Simulation, state: str) -> list[FinishedImport]:
    async with SimulatedPoller(simulation, state=state) as poller:
        await poller.feed(simulation.api.preload(30))
        return [task async for task in poller.finished()]


async def test_replayed_tasks_are_yielded_once_more_by_the_next_loop(simulation: Simulation, kept_url: str) -> None:
    before = await taken(simulation, kept_url)
    poller = SimulatedPoller(simulation, state=kept_url)
    assert await poller.replay() == 30
    assert await all_of(poller) == before
    assert await all_of(SimulatedPoller(simulation, state=kept_url)) == []


async def test_only_the_selected_tasks_are_yielded_again(simulation: Simulation, kept_url: str) -> None:
    before = await taken(simulation, kept_url)
    poller = SimulatedPoller(simulation, state=kept_url)
    late = datetime.fromtimestamp(sorted(task.seen_at for task in before)[15].timestamp(), UTC)
    wanted = [task for task in before if task.kind is Kind.CANCELED and task.seen_at >= late]
    assert 0 < len(wanted) < 15
    assert await poller.replay(kinds=["canceled"], since=late) == len(wanted)
    assert await all_of(poller) == wanted


async def test_after_a_body_failed_a_replay_yields_each_task_once(simulation: Simulation, kept_url: str) -> None:
    ids, seen = simulation.api.preload(12), 0
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what raises
        async with SimulatedPoller(simulation, state=kept_url) as poller:
            await poller.feed(ids)
            async for _ in poller.finished():
                seen += 1
                if seen == 5:
                    raise ZeroDivisionError
    poller = SimulatedPoller(simulation, state=kept_url)
    assert await poller.replay() == 4
    async with poller:
        assert Counter(await rest_of(poller)) == Counter(ids)


async def test_what_a_killed_loop_had_taken_of_its_batch_is_yielded_again_only_if_selected(
    simulation: Simulation, kept_url: str, clock: Clock
) -> None:
    ids = simulation.api.preload(12)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what raises
        async with SimulatedPoller(simulation, state=kept_url) as poller:
            await poller.feed(ids)
            await asyncio.sleep(1800)
            assert not poller.waiting
            raise ZeroDivisionError
    store = await open_store(kept_url, clock=clock)
    batch = await store.undelivered("python", 12)
    await store.mark_position("python", b"%d-%d" % (batch[0].number, batch[7].number))  # as its kill leaves it
    await store.close()
    canceled = [each.task_id for each in batch[:8] if decode(each.body).kind == "canceled"]
    assert 0 < len(canceled) < 8
    poller = SimulatedPoller(simulation, state=kept_url)
    assert await poller.replay(kinds=[Kind.CANCELED]) == len(canceled)
    async with poller:
        assert sorted(await rest_of(poller)) == sorted([*canceled, *(each.task_id for each in batch[8:])])


async def test_a_loop_that_has_begun_nothing_has_nothing_to_take_again(simulation: Simulation, kept_url: str) -> None:
    assert await SimulatedPoller(simulation, state=kept_url).replay() == 0


async def test_a_new_file_gets_everything_once_and_never_twice(
    simulation: Simulation, kept_url: str, tmp_path: Path
) -> None:
    before = await taken(simulation, kept_url)
    poller = SimulatedPoller(simulation, state=kept_url)
    assert await poller.replay(f"jsonl:{tmp_path}/all.jsonl") == 30
    assert [each["task_id"] for each in simulation.records("all.jsonl")] == [task.task_id for task in before]
    with pytest.raises(SinkError, match="would write them twice"):
        await poller.replay(f"jsonl:{tmp_path}/all.jsonl")
    failed = await poller.replay(f"jsonl:{tmp_path}/failed.jsonl", kinds=[Kind.CANCELED])
    assert failed == len(simulation.records("failed.jsonl")) == sum(task.kind is Kind.CANCELED for task in before)
    assert await all_of(poller) == []


async def test_what_cannot_be_replayed_is_refused_with_the_remedy(simulation: Simulation, kept_url: str) -> None:
    with pytest.raises(RuntimeError, match="no state to replay from"):
        await SimulatedPoller(simulation).replay()
    poller = SimulatedPoller(simulation, state=kept_url)
    with pytest.raises(ValueError, match="aware datetime"):
        await poller.replay(since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the error
    with pytest.raises(ValueError, match="not a valid Kind"):
        await poller.replay(kinds=["cancelled"])
    async with poller:
        with pytest.raises(RuntimeError, match="replay before entering"):
            await poller.replay(kinds=[Kind.CANCELED])
        assert await poller.replay(dead=True) == 0


async def test_a_replay_before_the_block_logs_as_the_run_does_and_prints_nothing(
    simulation: Simulation, kept_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await taken(simulation, kept_url)
    capsys.readouterr()
    structlog.reset_defaults()
    await SimulatedPoller(simulation, state=kept_url).replay(f"jsonl:{tmp_path}/again.jsonl")
    structlog.reset_defaults()
    await SimulatedPoller(simulation, state=kept_url).replay()
    assert capsys.readouterr().out == ""
