"""The promises of the `Store` protocol; every test runs on every kind of store. Those of outboxes: next file."""

import asyncio
import os
import time
from dataclasses import replace

import msgspec
import pytest

from poller.core.accounts import AccountState
from poller.core.clock_note import CLOCK_NOTE, ClockNote
from poller.core.deliveries import Written
from poller.core.errors import ConfigError, StoreError, StoreLocked, StoreUnusable
from poller.core.model import Added, Chunk, Fed, FedRow, Kind, Position, Rejection
from poller.core.protocols import Clock, Store
from poller.core.sums import ReasonSum, SourceSums
from poller.store import last_beat, open_store, read_store
from tests.support.postgres import session_of
from tests.support.store_makers import Open, chunk_of, feed, finish, finished, ids, kill, running

# --- feeding ---------------------------------------------------------------------------------------------------------


async def test_every_line_of_a_chunk_is_counted_in_exactly_one_place(store: Store) -> None:
    source = await store.new_source("ids.txt")
    rejection = Rejection(line=3, reason="not an id", excerpt="§§")
    added = await store.add(source, chunk_of("a", "b", "a", rejected=[rejection], blank=2))
    second = await store.add(source, chunk_of("b", "c"))
    assert (added.tasks, added.duplicates, second.tasks, second.duplicates) == (2, 1, 1, 1)
    sums = await store.sums()
    assert sums.sources == (
        SourceSums(name="ids.txt", lines=8, tasks=3, duplicates=2, rejected=1, blank=2, ended=False),
    )
    assert sums.waiting == 3
    assert list(await store.rejections()) == [("ids.txt", rejection)]


@pytest.mark.parametrize("ref", [None, b'{"row":1}'])
async def test_tasks_fed_together_keep_the_order_of_their_feeding(store: Store, ref: bytes | None) -> None:
    source = await store.new_source("ids.txt")
    for fed in (["d", "b"], ["e", "a", "e", "d", "c", "a"]):
        lines = tuple(Fed(account="main", task_id=task_id, ref=ref) for task_id in fed)
        await store.add(source, Chunk(fed=lines, rejected=(), blank=0, position=Position()))
    claimed = await store.claim("main", 9)
    assert ids(claimed) == ["d", "b", "e", "a", "c"]
    assert {(task.ref, task.polls, task.errors, task.status, task.missing_at) for task in claimed} == {
        (ref, 0, 0, None, None)
    }
    assert (await store.sums()).sources[0].duplicates == 3


@pytest.mark.parametrize("known", ["id1", "id60", "id99"])
async def test_one_known_line_among_many_new_ones_is_the_only_duplicate(store: Store, known: str) -> None:
    """Wherever it is: the chunk is stored whole, in its order, by account."""
    await feed(store, known, account="one")
    lines = tuple(Fed(account=account, task_id=f"id{number}") for number in range(100) for account in ("one", "two"))
    source = await store.new_source("more.txt")
    added = await store.add(source, Chunk(fed=lines, rejected=(), blank=0, position=Position(offset=7)))
    assert added == Added(tasks=199, duplicates=1)
    new = [f"id{number}" for number in range(100)]
    assert ids(await store.claim("two", 200)) == new
    assert ids(await store.claim("one", 200)) == [known, *(each for each in new if each != known)]
    assert await store.open_source("more.txt") == (source, Position(offset=7))


async def test_the_same_id_in_two_accounts_is_two_tasks(store: Store) -> None:
    await feed(store, "a", account="one")
    await feed(store, "a", account="two")
    assert (await store.sums()).waiting == 2
    assert ids(await store.claim("one", 9)) == ["a"]
    assert ids(await store.claim("two", 9)) == ["a"]


async def test_a_source_is_found_by_name_with_the_position_of_its_last_chunk(store: Store) -> None:
    assert await store.open_source("ids.txt") is None
    first = await feed(store, "a")
    assert await store.open_source("ids.txt") == (first, Position(offset=100, line=10, fingerprint="f"))
    second = await store.new_source("ids.txt")
    assert await store.open_source("ids.txt") == (second, Position())


async def test_sources_whose_names_are_not_unicode_stay_distinct(store: Store) -> None:
    one, other = [await store.new_source(name) for name in ("/in/\udcff.txt", "/in/\udcfe.txt")]
    assert (await store.open_source("/in/\udcff.txt") or (0,))[0] == one != other
    assert [source.name for source in (await store.sums()).sources] == ["/in/\\udcff.txt", "/in/\\udcfe.txt"]


async def test_the_latest_sources_are_read_without_the_others(store: Store) -> None:
    for name in ("a", "b" * 4000, "c", "a"):
        await store.add(await store.new_source(name), chunk_of(name[:9], "same"))
    assert [sums.name for sums in await store.sources(2)] == ["c", "a"]
    latest, long, unknown = [await store.source(name) for name in ("a", "b" * 4000, "d")]
    assert latest is not None
    assert long is not None
    assert unknown is None
    assert ((latest.tasks, latest.duplicates), long.tasks) == ((0, 2), 1)


async def test_a_thousand_accounts_in_one_chunk_are_kept_apart(store: Store) -> None:
    source = await store.new_source("many")
    fed = tuple(Fed(account=f"account{n}", task_id="same") for n in range(1000))
    added = await store.add(source, Chunk(fed=fed, rejected=(), blank=0, position=Position()))
    assert added.tasks == 1000
    assert [task.account for task in await store.claim("account7", 5)] == ["account7"]


# --- polling ---------------------------------------------------------------------------------------------------------


async def test_a_claimed_task_contains_what_was_fed_and_learned(store: Store, clock: Clock) -> None:
    fed_at = clock()
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    assert (task.account, task.task_id, task.ref, task.polls) == ("main", "a", b'{"row":"a"}', 0)
    assert task.fed_at == task.due_at == pytest.approx(fed_at, abs=0.1)
    due_at = clock() + 30
    await store.record([running(task, due_at, errors=2, missing_at=7.0, status="PROCESSING")])
    assert await store.claim("main", 1) == []
    await asyncio.sleep(31)
    (second,) = await store.claim("main", 1)
    assert (second.polls, second.errors, second.missing_at, second.status) == (1, 2, 7.0, "PROCESSING")
    assert (second.due_at, second.fed_at, second.key) == (due_at, task.fed_at, task.key)


async def test_the_task_that_waits_longest_is_the_first_fed_without_an_outcome(store: Store, clock: Clock) -> None:
    assert await store.oldest_waiting() is None
    first, second = clock(), clock() + 10
    await feed(store, "a")
    await asyncio.sleep(10)
    await feed(store, "b")
    (a,) = await store.claim("main", 1)
    assert await store.oldest_waiting() == pytest.approx(first, abs=1)
    await store.record([finished(a)])
    assert await store.oldest_waiting() == pytest.approx(second, abs=1)
    await finish(store, "b")
    assert await store.oldest_waiting() is None
    third = clock()
    await feed(store, "c")
    assert await store.oldest_waiting() == pytest.approx(third, abs=1)


async def test_the_task_that_waits_longest_is_found_after_all_others_were_pruned(store: Store, clock: Clock) -> None:
    await finish(store, "a", "b", "c")
    assert await store.oldest_waiting() is None
    assert await store.prune(1000.0, 10) == 3
    first = clock()
    await feed(store, "d")
    await asyncio.sleep(10)
    await feed(store, "e", "f", "g")
    assert await store.oldest_waiting() == pytest.approx(first, abs=1), "SQLite gives it the key of the first"


async def test_tasks_are_claimed_longest_due_first_and_never_twice(store: Store, clock: Clock) -> None:
    await feed(store, "a", "b", "c", "d")
    a, b = await store.claim("main", 2)
    assert ids([a, b]) == ["a", "b"]
    await store.record([running(a, clock() + 20), running(b, clock() + 10)])
    assert ids(await store.claim("main", 1)) == ["c"]
    await asyncio.sleep(30)
    assert ids(await store.claim("main", 9)) == ["d", "b", "a"]
    assert await store.claim("main", 9) == []


async def test_a_claim_can_be_limited_to_tasks_that_were_fed_long_ago(store: Store, clock: Clock) -> None:
    await feed(store, "a", "b")
    fed_until = clock()
    await asyncio.sleep(10)
    await feed(store, "c")
    assert ids(await store.claim("main", 9, fed_until=fed_until)) == ["a", "b"]
    assert await store.claim("main", 9, fed_until=fed_until) == []
    assert ids(await store.claim("main", 9)) == ["c"]


@pytest.mark.parametrize("is_spread", [False, True], ids=["due at one instant", "due at different instants"])
async def test_any_due_task_can_be_claimed_each_as_likely(store: Store, clock: Clock, is_spread: bool) -> None:
    for task_id in map(str, range(20)):
        await feed(store, task_id)
        if is_spread:
            await asyncio.sleep(10)
    claimed = [(await store.claim_any("main", (number + 0.5) / 40))[0] for number in range(10)]
    assert len({task.key for task in claimed}) == 10
    store.release(claimed)
    found = [ids(await store.claim_any("main", (number * 7 % 20 + 0.5) / 20))[0] for number in range(20)]
    assert sorted(found) == sorted(map(str, range(20)))  # a leased one is skipped, and none is claimed twice
    assert found != sorted(found, key=int)
    assert await store.claim_any("main", 0.5) == []


async def test_any_due_task_is_none_where_no_task_is_due(store: Store, clock: Clock) -> None:
    assert await store.claim_any("main", 0.5) == []
    await feed(store, "a")
    (task,) = await store.claim_any("main", 0.5)
    assert await store.claim_any("main", 0.5) == []
    await store.record([running(task, clock() + 100)])
    assert await store.claim_any("main", 0.5) == []


async def test_a_task_that_is_put_off_costs_no_poll_and_is_claimed_when_it_is_due_then(
    store: Store, clock: Clock
) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    later = clock() + 40
    store.put_off([(a, later)])
    assert await store.claim("main", 2) == []
    await store.flush()
    assert await store.next_due_at("main") == later
    assert await store.claim("main", 2) == []
    await asyncio.sleep(41)
    (again,) = await store.claim("main", 2)
    assert (again.task_id, again.due_at, again.polls) == ("a", later, 0)
    assert again.lease != a.lease
    assert list(await store.record([running(a, later)])) == []  # the lease of the first claim has ended
    assert list(await store.record([running(again, later), running(b, later)])) != []


async def test_a_lost_put_off_is_a_claim_too_early(open_kept: Open, clock: Clock) -> None:
    store = await open_kept()
    await feed(store, "a")
    store.put_off([(task, clock() + 40) for task in await store.claim("main", 1)])
    await kill(store)
    (task,) = await (await open_kept()).claim("main", 1)
    assert task.due_at <= clock()


async def test_only_a_held_lease_can_be_put_off(store: Store, clock: Clock) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    store.release([a])
    await store.record([finished(b)])
    store.put_off([(a, clock() + 40), (b, clock() + 40)])
    await store.flush()
    assert ids(await store.claim("main", 2)) == ["a"]
    assert (await store.sums()).finished == 1


async def test_what_a_poll_saw_of_a_task_is_kept(store: Store, clock: Clock) -> None:
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    await store.record([running(task, clock(), seen_at=50.0, started_at=40.0, requested_at=30.0)])
    (task,) = await store.claim("main", 1)
    await store.record([running(task, clock(), errors=1)])
    (task,) = await store.claim("main", 1)
    assert (task.seen_at, task.started_at, task.requested_at) == (50.0, 40.0, 30.0)


async def test_claiming_for_an_unknown_account_or_nothing_yields_nothing(store: Store) -> None:
    await feed(store, "a")
    assert await store.claim("other", 5) == []
    assert await store.claim("main", 0) == []
    assert await store.next_due_at("other") is None


async def test_the_next_due_instant_skips_leased_tasks(store: Store, clock: Clock) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    assert await store.next_due_at("main") is None
    await store.record([running(a, 2e9)])
    assert await store.next_due_at("main") == 2e9
    store.release([b])
    assert await store.next_due_at("main") == b.due_at


async def test_a_released_task_can_be_claimed_and_costs_no_poll(store: Store) -> None:
    await feed(store, "a")
    store.release(await store.claim("main", 1))
    (task,) = await store.claim("main", 1)
    assert task.polls == 0


async def test_a_poll_under_a_released_lease_is_skipped(store: Store) -> None:
    await feed(store, "a")
    (old,) = await store.claim("main", 1)
    store.release([old])
    (new,) = await store.claim("main", 1)
    assert await store.record([finished(old)]) == []
    assert await store.record([running(old, 0.0)]) == []
    store.release([old])
    assert await store.claim("main", 1) == []
    assert (await store.sums()).polls == 0
    assert [each.task for each in await store.record([finished(new)])] == [new]
    assert (await store.sums()).kinds == {"complete": 1}


async def test_a_task_recorded_twice_has_one_outcome(store: Store) -> None:
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    await asyncio.gather(store.record([finished(task)]), store.record([finished(task), finished(task)]))
    await store.record([finished(task)])
    sums = await store.sums()
    assert (sums.finished, sums.waiting, sums.polls) == (1, 0, 1)


async def test_a_recorded_task_stays_leased_until_its_commit(store: Store) -> None:
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.record([running(task, 0.0)]))
        await asyncio.sleep(0)
        store.release([task])
        assert await store.claim("main", 1) == []
    (second,) = await store.claim("main", 1)
    assert second.polls == 1


async def test_the_sums_contain_kinds_and_the_most_frequent_reasons(store: Store) -> None:
    await feed(store, *(f"t{n}" for n in range(40)))
    tasks = await store.claim("main", 40)
    kinds = [Kind.COMPLETE] * 10 + [Kind.NOT_FOUND] * 5 + [Kind.CANCELED] * 15
    reasons = [None] * 10 + ["unknown"] * 5 + [f"r{n}" for n in range(15)]
    settled = [
        finished(*each, landed=number < 12) for number, each in enumerate(zip(tasks, kinds, reasons, strict=False))
    ]
    await store.record(settled)
    sums = await store.sums()
    assert {kind: count for kind, count in sums.landed.items() if count} == {"complete": 10, "not_found": 2}
    assert sums.kinds == {"complete": 10, "not_found": 5, "canceled": 15}
    assert (sums.waiting, sums.finished, sums.polls) == (10, 30, 30)
    assert sums.reasons[0] == ReasonSum("unknown", 5, 2)
    assert len(sums.reasons) == 10


async def test_text_that_no_encoding_can_hold_does_not_stop_the_store(store: Store) -> None:
    source = await store.new_source("ids.txt")
    await store.add(source, chunk_of("a", "b", rejected=[Rejection(line=1, reason="bad \udc80", excerpt="\ud800\0")]))
    a, b = await store.claim("main", 2)
    await store.record([finished(a, Kind.CANCELED, "\udfff" * 5000), running(b, 0.0, status="\ud800")])
    assert len((await store.sums()).reasons[0][0]) == 300
    assert (await store.rejections())[0][1].reason == "bad ?"


async def test_a_claim_has_polled_tasks_beside_the_first_polls_that_are_longer_due(store: Store, clock: Clock) -> None:
    """Many tasks that were fed at once are due before any that was polled since, all through their first polls."""
    await feed(store, *(f"id{number}" for number in range(9)))
    polled = await store.claim("main", 4)
    due_at = clock()
    await asyncio.sleep(2)
    await store.record([running(task, due_at + 0.1 * at) for task, at in zip(polled, (4, 3, 2, 99), strict=True)])
    assert ids(await store.claim("main", 2, again=2)) == ["id4", "id5", "id2", "id1"]
    assert ids(await store.claim("main", 2, again=9)) == ["id6", "id7", "id0"]
    assert ids(await store.claim("main", 9, again=9)) == ["id8"]


async def test_polled_tasks_that_are_longest_due_are_claimed_once(store: Store, clock: Clock) -> None:
    """And alone: only in place of a first poll may another task have its turn."""
    await feed(store, "a", "b")
    due_at = clock()
    await store.record([running(task, due_at) for task in await store.claim("main", 2)])
    await feed(store, "new")
    assert ids(await store.claim("main", 1, again=1)) == ["a"]
    assert ids(await store.claim("main", 1, again=1)) == ["b"]
    assert ids(await store.claim("main", 1, again=1)) == ["new"]


async def test_a_claim_has_no_more_polled_tasks_than_first_polls_that_they_may_precede(
    store: Store, clock: Clock
) -> None:
    await feed(store, "a", "b", "c", "d")
    due_at = clock()
    tasks = await store.claim("main", 4)
    await store.record([running(tasks[0], due_at - 1), *(running(task, due_at + 1) for task in tasks[2:])])
    store.release([tasks[1]])
    await asyncio.sleep(2)
    assert ids(await store.claim("main", 2, again=2)) == ["a", "b", "c"]


# --- accounts --------------------------------------------------------------------------------------------------------


async def test_an_account_that_was_never_saved_has_an_empty_state(store: Store) -> None:
    assert await store.account("main") == AccountState()


async def test_a_saved_account_is_read_back_before_and_after_its_commit(store: Store) -> None:
    state = AccountState(
        active_at=3.0, clean=True, paused_s=4.5, day="2026-01-05", day_requests=7, pause="outage", resume_at=9.0
    )
    store.save_account("main", AccountState(active_at=1.0))
    store.save_account("main", state)
    assert await store.account("main") == state
    assert (await store.sums()).accounts == {"main": state}
    await asyncio.sleep(1.5)
    assert await store.account("main") == state
    assert (await store.sums()).accounts == {"main": state}


async def test_the_requests_of_a_day_never_decrease(store: Store) -> None:
    for day, requests in [("2026-01-05", 7), ("2026-01-06", 1), ("2026-01-05", 2), ("2026-01-06", 3)]:
        store.save_account("main", AccountState(day=day, day_requests=requests))
        await asyncio.sleep(1.5)
        assert (await store.account("main")).day_requests == max(requests, 7 if day == "2026-01-05" else 0)


async def test_new_tasks_start_from_the_paused_time_noted_last(store: Store) -> None:
    store.save_account("main", AccountState(paused_s=40.0))
    await feed(store, "a")
    store.save_account("main", AccountState(paused_s=50.0))
    await asyncio.sleep(2)
    await feed(store, "b")
    assert [task.paused_base_s for task in await store.claim("main", 2)] == [40.0, 50.0]


# --- committing ------------------------------------------------------------------------------------------------------


async def test_writes_made_together_share_one_commit(store: Store, clock: Clock) -> None:
    began_at = clock()
    await asyncio.gather(*(feed(store, f"t{n}") for n in range(50)))
    assert clock() - began_at < 0.15  # two commits, not a hundred
    assert (await store.sums()).waiting == 50


async def test_a_cancelled_caller_neither_loses_its_write_nor_hurts_others(store: Store) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    async with asyncio.TaskGroup() as group:
        hasty = group.create_task(store.record([finished(a)]))
        group.create_task(store.record([finished(b)]))
        await asyncio.sleep(0)
        hasty.cancel()
    assert hasty.cancelled()
    assert (await store.sums()).finished == 2


async def test_a_closed_store_refuses_work(url: str, clock: Clock) -> None:
    store = await open_store(url, clock=clock)
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.claim("main", 1)
    with pytest.raises(StoreError, match="closed"):
        await store.new_source("x")


# --- restarts --------------------------------------------------------------------------------------------------------


async def test_flushing_returns_when_a_saved_account_is_on_disk(open_kept: Open, kept_url: str) -> None:
    store = await open_kept()
    store.save_account("main", AccountState(active_at=8.0))
    await store.flush()
    reader = await read_store(kept_url)
    assert (await reader.account("main")).active_at == 8.0
    await reader.close()


async def test_everything_is_there_after_reopening(open_kept: Open) -> None:
    store = await open_kept()
    await store.attach_sinks(["one"])
    await finish(store, "a")
    source = await feed(store, "b", "c")
    (leased,) = await store.claim("main", 1)
    store.save_account("main", AccountState(active_at=8.0, clean=True))
    before = await store.sums()
    await store.close()
    reopened = await open_kept()
    assert await reopened.sums() == before
    assert await reopened.open_source("ids.txt") == (source, Position(offset=100, line=10, fingerprint="f"))
    assert ids(await reopened.claim("main", 9)) == [leased.task_id, "c"]
    assert ids(await reopened.undelivered("one", 9)) == ["a"]


YEAR_S = 365 * 86_400.0


async def test_a_state_of_a_clock_that_was_ahead_is_moved_back_with_its_ages_and_waits(
    kept_url: str, clock: Clock
) -> None:
    def ahead() -> float:
        return clock() + YEAR_S

    store = await open_store(kept_url, clock=clock)
    await store.attach_sinks(["one"])
    await feed(store, "before")
    (before,) = await store.claim("main", 1)
    await store.record([running(before, clock() + 600)])
    await store.close()

    store = await open_store(kept_url, clock=ahead)
    assert ids(await store.claim("main", 1)) == ["before"]
    await finish(store, "finished", at=ahead())
    await feed(store, "missing", "soon")
    missing, soon = await store.claim("main", 2)
    await asyncio.sleep(100)
    await store.record([running(soon, ahead() + 30), running(missing, ahead() + 20, missing_at=ahead() - 5)])
    store.save_account("main", AccountState(active_at=ahead(), resume_at=ahead() + 60, pause="daily"))
    await store.close()

    store, now = await open_store(kept_url, clock=clock), clock()
    assert await store.rebase_instants() == pytest.approx(YEAR_S, abs=1)
    assert await store.rebase_instants() == 0.0
    account = await store.account("main")
    assert account.active_at == pytest.approx(now, abs=1)
    assert account.resume_at == pytest.approx(now + 60, abs=1)
    await asyncio.sleep(31)
    tasks = {task.task_id: task for task in await store.claim("main", 9)}
    assert tasks["missing"].missing_at == pytest.approx(now - 5, abs=1)
    assert tasks["soon"].fed_at == pytest.approx(now - 100, abs=1)
    assert tasks["before"].fed_at < tasks["soon"].fed_at
    assert (tasks["soon"].due_at - tasks["missing"].due_at) == pytest.approx(10, abs=1)
    await store.delivered("one", await store.undelivered("one", 9), Written())
    assert await store.prune(now + 1, 9) == 1
    await store.close()


@pytest.mark.parametrize("behind_s", [YEAR_S, -YEAR_S])
async def test_instants_of_a_run_whose_clock_was_set_are_moved_by_so_much_and_only_once(
    kept_url: str, clock: Clock, behind_s: float
) -> None:
    """The run's own clock is not set with the machine's: it noted how far apart they are."""
    store = await open_store(kept_url, clock=clock)
    await store.attach_sinks(["one"])
    await finish(store, "earlier", at=clock() - 2 * YEAR_S)
    await store.close()

    def set_later() -> float:
        return clock() - behind_s

    store, began_at = await open_store(kept_url, clock=set_later), set_later()
    await finish(store, "finished", at=began_at + 1)
    await feed(store, "missing", "soon")
    missing, soon = await store.claim("main", 2)
    await store.record([running(soon, began_at + 30), running(missing, began_at + 20, missing_at=began_at - 5)])
    store.save_account("main", AccountState(active_at=began_at, resume_at=began_at + 60, pause="daily"))
    store.save_knowledge(CLOCK_NOTE, msgspec.json.encode(ClockNote(behind_s=behind_s, since=began_at)))
    await store.close()

    store, now = await open_store(kept_url, clock=clock), clock()
    assert await store.rebase_instants() == pytest.approx(-behind_s, abs=1)
    assert await store.rebase_instants() == 0.0
    assert await store.knowledge(CLOCK_NOTE) is None
    account = await store.account("main")
    assert account.active_at == pytest.approx(now, abs=1)
    assert account.resume_at == pytest.approx(now + 60, abs=1)
    await asyncio.sleep(31)
    tasks = {task.task_id: task for task in await store.claim("main", 9)}
    assert tasks["missing"].missing_at == pytest.approx(now - 5, abs=1)
    assert tasks["soon"].fed_at == pytest.approx(now, abs=1)
    assert (tasks["soon"].due_at - tasks["missing"].due_at) == pytest.approx(10, abs=1)
    await store.delivered("one", await store.undelivered("one", 9), Written())
    assert await store.prune(now - 2 * YEAR_S - 10, 9) == 0  # what finished before the clock was set stays where it is
    assert await store.prune(now - 10, 9) == 1  # the earlier run's
    assert await store.prune(now + 10, 9) == 1
    await store.close()


@pytest.mark.parametrize("ahead_s", [-YEAR_S, -10.0, 0.0, 9.0])
async def test_a_state_of_a_clock_that_was_right_or_behind_is_left_alone(
    kept_url: str, clock: Clock, ahead_s: float
) -> None:
    store = await open_store(kept_url, clock=lambda: clock() + ahead_s)
    await finish(store, "a", at=clock() + ahead_s)
    await feed(store, "b")
    store.save_account("main", AccountState(active_at=clock() + ahead_s, resume_at=clock() + 3600))
    await store.close()
    store = await open_store(kept_url, clock=clock)
    before = await store.sums(), await store.task_details("b")
    assert await store.rebase_instants() == 0.0
    assert (await store.sums(), await store.task_details("b")) == before
    await store.close()


async def test_a_state_without_a_run_has_no_instants_to_move(store: Store) -> None:
    assert await store.rebase_instants() == 0.0


async def test_closing_commits_what_is_pending(open_kept: Open) -> None:
    store = await open_kept()
    source = await store.new_source("ids.txt")
    async with asyncio.TaskGroup() as group:
        group.create_task(store.add(source, chunk_of("a")))
        await asyncio.sleep(0)
        await store.close()
    assert (await (await open_kept()).sums()).waiting == 1


async def test_a_killed_process_leaves_what_was_acknowledged_and_no_lease(open_kept: Open) -> None:
    store = await open_kept()
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    await feed(store, "c", "d")
    c, _ = await store.claim("main", 2)
    recording = asyncio.gather(store.record([finished(c)]), return_exceptions=True)
    await asyncio.sleep(0)
    await kill(store)
    survivor = await open_kept()
    assert ids(await survivor.undelivered("one", 9)) == ["a", "b"]
    assert ids(await survivor.claim("main", 9)) == ["c", "d"]
    recording.cancel()


# --- opening ---------------------------------------------------------------------------------------------------------


async def test_a_second_owner_is_refused_with_the_name_of_the_first(open_kept: Open) -> None:
    first = await open_kept()
    with pytest.raises(StoreLocked, match=rf"in use by another poller: process {os.getpid()}.*started 2026.*--state"):
        await open_kept()
    await first.close()
    await open_kept()


async def test_the_tasks_of_accounts_that_only_a_person_can_release_are_counted(store: Store) -> None:
    source = await store.new_source("ids.txt")
    fed = tuple(Fed(account=name, task_id=f"{name}{n}", ref=None) for name, n in zip("aabbbc", range(6), strict=True))
    rows = tuple(FedRow(account=name, row=f"{name}{n}", body=b"{}", ref=b"{}") for n, name in enumerate("abb"))
    await store.add(source, replace(chunk_of(), fed=fed, rows=rows))
    store.save_account("b", AccountState(pause="token_refused"))
    store.save_account("c", AccountState(pause="daily_quota", resume_at=9.0))
    sums = await store.sums()
    assert (sums.blocked, sums.blocked_rows, sums.unstarted) == (5, 2, 1)
    assert await store.waiting_of(["a", "b", "unknown"]) == 8
    store.save_account("b", AccountState())
    sums = await store.sums()
    assert (sums.blocked, sums.blocked_rows, sums.unstarted) == (0, 0, 3)


async def test_a_heartbeat_is_seen_from_outside_with_commits_and_on_request(open_kept: Open, kept_url: str) -> None:
    assert last_beat(kept_url) is None
    store = await open_kept()
    is_file, lock = kept_url.startswith("sqlite"), kept_url.removeprefix("sqlite:///") + ".lock"
    for beat_somehow in (lambda: feed(store, "a"), store.flush, lambda: beat(store)):
        await asyncio.sleep(100)
        if is_file:
            os.utime(lock, (1.0, 1.0))
        else:
            with session_of(kept_url) as connection:
                connection.execute("UPDATE replica SET seen_at = to_timestamp(1)")
        await beat_somehow()
        pid, at = last_beat(kept_url) or (0, 0.0)
        assert pid == os.getpid()
        assert at == pytest.approx(time.time(), abs=60)  # the file's or the server's age, whatever the run's clock
    await store.close()
    assert last_beat(kept_url) is None


async def beat(store: Store) -> None:
    store.beat()
    await asyncio.sleep(0.5)


@pytest.mark.parametrize("bad", ["poller.db", "sqlite://poller.db", "sqlite:///", "mysql://u:secret@h/d", ""])
async def test_an_unknown_kind_of_store_is_a_configuration_error_that_names_what_there_is(
    bad: str, clock: Clock
) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///poller\.db.*postgresql://") as raised:
        await open_store(bad, clock=clock)
    assert "secret" not in str(raised.value)


# --- reading beside the owner ----------------------------------------------------------------------------------------


async def test_a_reader_sees_what_the_owner_committed_while_it_runs(open_kept: Open, kept_url: str) -> None:
    store = await open_kept()
    source = await store.new_source("ids.txt")
    rejection = Rejection(line=1, reason="no id", excerpt="?")
    reader = await read_store(kept_url)
    await store.add(source, chunk_of("a", "b", rejected=[rejection]))
    store.save_account("main", AccountState(active_at=4.0, day="2026-01-05", day_requests=3))
    await store.attach_sinks(["one"])
    await finish(store, "c")
    batch = await store.undelivered("one", 9)
    await store.delivered("one", batch, Written(refused={batch[0].number: "no"}))
    await asyncio.sleep(2)
    assert await reader.sums() == await store.sums()
    assert await reader.account("main") == await store.account("main")
    assert await reader.rejections() == [("ids.txt", rejection)]
    assert await reader.records(0, 9) == await store.records(0, 9) == batch
    assert await reader.dead_letters() == await store.dead_letters() != []
    assert await reader.dead_letters("two") == []
    await reader.close()


async def test_reading_without_a_state_is_refused(kept_url: str) -> None:
    with pytest.raises(StoreUnusable, match=r"there is no state at|holds nothing yet"):
        await read_store(kept_url)


async def test_a_file_is_known_by_how_far_it_was_read_under_any_name(store: Store) -> None:
    number = await store.new_source("one")
    position = Position(offset=10, line=2, fingerprint="abc 1 2")
    await store.add(number, Chunk(fed=(), rejected=(), blank=2, position=position))
    assert await store.was_read(Position(offset=10, fingerprint="abc 1 2"))
    assert not await store.was_read(Position(offset=11, fingerprint="abc 1 2"))
    assert not await store.was_read(Position(offset=10, fingerprint="abc 1 3"))


async def test_what_was_pruned_still_counts_as_landed(store: Store) -> None:
    await feed(store, "a", "b")
    a, b = await store.claim("main", 2)
    await store.record([finished(a, landed=True), finished(b, Kind.CANCELED, "r")])
    assert await store.prune(1000.0, 10) == 2
    sums = await store.sums()
    assert {kind: count for kind, count in sums.landed.items() if count} == {"complete": 1}
    assert sums.pruned == 2
