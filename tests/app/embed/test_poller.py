"""The Python API on the whole service, in virtual time: what is fed, what is yielded, and once for each state."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from poller import Kind, Poller
from poller.app.embed.rows import CHUNK_ROWS, Row, store_all
from tests.app.embed.pollers import SimulatedPoller, rest_of
from tests.support.simulation import Simulation

# --- each finished task once -----------------------------------------------------------------------------------------


async def test_each_fed_task_is_yielded_once_with_its_outcome_and_the_loop_ends(simulation: Simulation) -> None:
    ids = simulation.api.preload(120)
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed(ids)
        found = [task async for task in poller.finished()]
        assert poller.waiting == 0
    assert (fed.rows, fed.tasks, fed.duplicates, fed.rejected) == (120, 120, 0, [])
    assert Counter(task.task_id for task in found) == Counter(ids)
    assert all(task.landed and task.kind is Kind.COMPLETE and task.result["id"] for task in found)


async def test_a_state_yields_each_task_once_over_many_runs(simulation: Simulation, kept_url: str) -> None:
    ids, found = simulation.api.preload(40), list[str]()
    for _ in range(8):
        async with SimulatedPoller(simulation, state=kept_url) as poller:
            await poller.feed(ids)
            async for task in poller.finished():
                found.append(task.task_id)
                if len(found) % 7 == 0:
                    break
    assert Counter(found) == Counter(ids)


async def test_what_finished_in_a_run_of_the_command_is_yielded_too(simulation: Simulation, state: str) -> None:
    ids = simulation.write_ids(20)
    await simulation.run(ids)
    async with SimulatedPoller(simulation, state=state) as poller:
        assert len(await rest_of(poller)) == 20
        assert await rest_of(poller) == []


async def test_a_task_whose_body_fails_is_yielded_again_and_no_other(simulation: Simulation, state: str) -> None:
    ids, found = simulation.api.preload(10), list[str]()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what raises
        async with SimulatedPoller(simulation, state=state) as poller:
            await poller.feed(ids)
            async for task in poller.finished():
                if len(found) == 4:
                    raise ZeroDivisionError
                found.append(task.task_id)
    async with SimulatedPoller(simulation, state=state) as poller:
        found += await rest_of(poller)
    assert Counter(found) == Counter(ids)


async def test_a_task_whose_body_is_cancelled_is_yielded_again_and_no_other(simulation: Simulation, state: str) -> None:
    ids, found = simulation.api.preload(10), list[str]()

    async def work() -> None:
        async with SimulatedPoller(simulation, state=state) as poller:
            await poller.feed(ids)
            async for task in poller.finished():
                if len(found) == 4:
                    await asyncio.sleep(3600)
                found.append(task.task_id)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await work()
    async with SimulatedPoller(simulation, state=state) as poller:
        found += await rest_of(poller)
    assert Counter(found) == Counter(ids)


async def test_two_loops_at_the_same_time_are_refused(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation) as poller:
        await poller.feed(simulation.api.preload(3))
        async with asyncio.TaskGroup() as group:
            group.create_task(rest_of(poller))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one at a time"):
                await rest_of(poller)


# --- feeding ---------------------------------------------------------------------------------------------------------


async def test_a_row_is_an_id_a_status_url_a_pair_or_a_mapping_and_its_ref_comes_back(simulation: Simulation) -> None:
    one, two, three, four = simulation.api.preload(4)
    url = f"https://api-na1.hubspot.com/files/v3/files/import-from-url/async/tasks/{two}/status"
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed([one, url, (three, {"row": 3}), {"taskId": four, "url": "https://example.com/4.png"}])
        found = {task.task_id: task.ref async for task in poller.finished()}
    assert fed.tasks == 4
    assert found == {one: {}, two: {}, three: {"row": 3}, four: {"url": "https://example.com/4.png"}}


async def test_every_row_that_cannot_be_used_is_returned_with_its_number_and_reason(simulation: Simulation) -> None:
    odd: list[Any] = [
        "../etc",
        None,
        4.5,
        {"name": "no id"},
        ("AAAAEZ6whGI", "text"),
        ("AAAAEZ6whGI", {"x": {1, 2}}),
        (),
    ]
    (good,) = simulation.api.preload(1)
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed([good, *odd, good])
        assert await rest_of(poller) == [good]
    assert (fed.rows, fed.tasks, fed.duplicates) == (9, 1, 1)
    assert [each.line for each in fed.rejected] == [2, 3, 4, 5, 6, 7, 8]
    assert all(each.reason for each in fed.rejected)


async def test_many_rows_at_once_are_one_argument_and_a_single_id_is_refused(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation) as poller:
        with pytest.raises(TypeError, match="put it into a list"):
            await poller.feed("AAAAEZ6whGI")


async def test_rows_are_numbered_on_over_batches(simulation: Simulation) -> None:
    rows = ["a b"] + ["AAAAEZ6whGI"] * 5_000 + ["c d"]
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed(rows)
    assert [each.line for each in fed.rejected] == [1, 5_002]


async def test_rows_of_an_async_source_are_stored_as_they_come_and_the_loop_waits_for_its_end(
    simulation: Simulation,
) -> None:
    ids, fed_at = simulation.api.preload(6), dict[str, float]()
    now = asyncio.get_running_loop().time

    async def slowly() -> AsyncIterator[str]:
        for task_id in ids:
            fed_at[task_id] = now()
            yield task_id
            await asyncio.sleep(600)

    async with SimulatedPoller(simulation) as poller, asyncio.TaskGroup() as group:
        group.create_task(poller.feed(slowly()))  # has not begun when the loop does
        waited = {task.task_id: now() - fed_at[task.task_id] async for task in poller.finished()}
    assert waited.keys() == set(ids)
    assert max(waited.values()) < 600


async def test_a_source_is_read_no_further_ahead_than_the_rows_that_wait() -> None:
    read, stored, room = 0, list[int](), asyncio.Semaphore(2)

    async def endless() -> AsyncIterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"AAAA{read}"

    async def store(rows: Sequence[Row]) -> None:
        await room.acquire()
        stored.append(len(rows))

    storing = asyncio.create_task(store_all(endless(), store))
    await asyncio.sleep(60)
    storing.cancel()
    await asyncio.wait([storing])
    assert len(stored) == 2
    assert max(stored) <= CHUNK_ROWS
    assert read - sum(stored) <= 2 * CHUNK_ROWS + 1


@pytest.mark.parametrize("is_async", [True, False])
async def test_an_error_of_the_source_reaches_the_caller_and_the_rows_before_it_are_stored(
    simulation: Simulation, is_async: bool
) -> None:
    ids = simulation.api.preload(5)

    def broken() -> Iterator[str]:
        yield from ids
        raise LookupError

    async def broken_later() -> AsyncIterator[str]:
        for task_id in broken():
            yield task_id

    async with SimulatedPoller(simulation) as poller:
        with pytest.raises(LookupError):
            await poller.feed(broken_later() if is_async else broken())
        assert sorted(await rest_of(poller)) == sorted(ids)


async def test_a_cancelled_feed_leaves_every_counted_task_and_the_loop_ends(simulation: Simulation) -> None:
    ids = simulation.api.preload(50)
    async with SimulatedPoller(simulation) as poller:
        feeding = asyncio.create_task(poller.feed(ids))
        await asyncio.sleep(0)
        feeding.cancel()
        await asyncio.wait([feeding])
        assert sorted(await rest_of(poller)) in ([], sorted(ids))
        await poller.feed(ids)
        await rest_of(poller)
        assert poller.waiting == 0


@pytest.mark.filterwarnings("ignore:coroutine 'EmbeddedRun.feed' was never awaited")
async def test_a_feed_that_is_never_awaited_does_not_hold_the_loop(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation) as poller:
        poller.feed(["AAAA"])  # type: ignore[unused-coroutine]
        assert await rest_of(poller) == []


async def test_follow_waits_for_more_until_the_block_is_left(simulation: Simulation) -> None:
    ids, found = simulation.api.preload(4), list[str]()

    async def take(poller: Poller) -> None:
        async for task in poller.finished(follow=True):
            found.append(task.task_id)

    async with SimulatedPoller(simulation) as poller:
        taking = asyncio.create_task(take(poller))
        for task_id in ids:
            await poller.feed([task_id])
            await asyncio.sleep(600)
    await taking
    assert found == ids
