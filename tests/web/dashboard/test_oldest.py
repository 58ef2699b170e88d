"""The oldest waiting task, on every kind of store."""

from poller.core.protocols import Store
from poller.web.dashboard.oldest import OldestWaiting
from tests.support.store_makers import feed, finish, finished


async def oldest_of(watched: OldestWaiting) -> str | None:
    found = await watched.read()
    return None if found is None else found.task_id


async def test_it_is_the_first_fed_of_those_that_wait(store: Store) -> None:
    watched = OldestWaiting(store)
    assert await oldest_of(watched) is None
    await finish(store, "a", "b")
    await feed(store, "c", "d", "e")
    assert await oldest_of(watched) == "c"
    tasks = {task.task_id: task for task in await store.claim("main", 3)}
    await store.record([finished(tasks["d"])])
    assert await oldest_of(watched) == "c"
    await store.record([finished(tasks["c"])])
    assert await oldest_of(watched) == "e"
    await store.record([finished(tasks["e"])])
    assert await oldest_of(watched) is None


async def test_it_is_found_after_all_before_it_was_pruned(store: Store) -> None:
    watched = OldestWaiting(store)
    await feed(store, "a", "b")
    assert await oldest_of(watched) == "a"
    await store.record([finished(task, at=5.0) for task in await store.claim("main", 2)])
    assert await store.prune(10.0, 100) == 2
    assert await oldest_of(watched) is None
    await feed(store, "c")
    assert await oldest_of(watched) == "c"
