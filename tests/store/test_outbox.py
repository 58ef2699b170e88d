"""The promises of the `Store` protocol about outboxes: delivering, dead letters, replays, pruning. On every store."""

import asyncio
from dataclasses import replace

import pytest

from poller.core.deliveries import LARGEST_PAGE, DeadLetter, Selection, Written
from poller.core.errors import ConfigError
from poller.core.model import Added, Chunk, Failed, Fed, Kind, Position, Settled
from poller.core.protocols import Clock, Store
from poller.core.record import restore
from poller.core.sums import SinkSums, Sums
from poller.reports.ledger import imbalances
from tests.support.store_makers import chunk_of, feed, finish, finished, ids, running

# --- delivering ------------------------------------------------------------------------------------------------------


async def test_each_attached_sink_gets_each_record_in_the_order_of_finishing(store: Store) -> None:
    assert await store.attach_sinks(["one", "two"]) == {"one": None, "two": None}
    await feed(store, "a", "b", "c")
    a, b, c = await store.claim("main", 3)
    await store.record([finished(c), running(a, 0.0), finished(b)])
    for sink in ("one", "two"):
        batch = await store.undelivered(sink, 10)
        assert ids(batch) == ["c", "b"]
        assert batch[0].body == b'{"task_id":"c"}'
    assert ids(await store.undelivered("one", 1)) == ["c"]
    assert await store.undelivered("three", 10) == []


async def test_nothing_is_undelivered_before_it_is_committed(store: Store) -> None:
    await store.attach_sinks(["one"])
    await feed(store, "a")
    (task,) = await store.claim("main", 1)
    async with asyncio.TaskGroup() as group:
        group.create_task(store.record([finished(task)]))
        await asyncio.sleep(0)
        assert await store.undelivered("one", 9) == []
    assert ids(await store.undelivered("one", 9)) == ["a"]


async def test_a_sink_gets_what_finished_before_it_was_named_and_while_it_was_away(store: Store) -> None:
    await finish(store, "a")
    await store.attach_sinks(["one"])
    await finish(store, "b")
    await store.attach_sinks(["two"])
    await finish(store, "c")
    assert [(s.name, s.undelivered, s.attached) for s in (await store.sums()).sinks] == [
        ("one", 3, False),
        ("two", 3, True),
    ]
    await store.attach_sinks(["one", "two", "one"])
    await finish(store, "d")
    assert ids(await store.undelivered("one", 9)) == ["a", "b", "c", "d"]
    assert ids(await store.undelivered("two", 9)) == ["a", "b", "c", "d"]


async def test_delivered_records_leave_the_outbox_with_position_and_dead_letters(store: Store) -> None:
    await store.attach_sinks(["one", "two"])
    await finish(store, "a", "b", "c", "d")
    batch = await store.undelivered("one", 3)
    await store.delivered("one", batch, Written(position=b"42", refused={batch[1].number: "too big"}))
    assert ids(await store.undelivered("one", 9)) == ["d"]
    assert len(await store.undelivered("two", 9)) == 4
    assert (await store.sums()).sinks == (
        SinkSums(name="one", delivered=2, undelivered=1, dead=1, attached=True),
        SinkSums(name="two", delivered=0, undelivered=4, dead=0, attached=True),
    )
    assert await store.attach_sinks(["one"]) == {"one": b"42"}


async def test_a_batch_delivered_twice_counts_once(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    batch = await store.undelivered("one", 9)
    for _ in range(2):
        await store.delivered("one", batch, Written(refused={batch[0].number: "no"}))
    assert (await store.sums()).sinks == (SinkSums(name="one", delivered=1, undelivered=0, dead=1, attached=True),)


async def test_a_noted_position_outlives_a_delivery_without_one(store: Store) -> None:
    await store.attach_sinks(["one"])
    await store.note_position("one", b"start")
    await finish(store, "a")
    await store.delivered("one", await store.undelivered("one", 9), Written())
    assert await store.attach_sinks(["one"]) == {"one": b"start"}
    await store.note_position("one", None)
    assert await store.attach_sinks(["one"]) == {"one": None}


async def test_a_marked_position_is_there_at_once_and_again_after_a_commit(store: Store) -> None:
    await store.attach_sinks(["one", "two"])
    for position in (b"1-1", b"1-2"):
        await store.mark_position("one", position)
        assert await store.positions(["one", "two"]) == {"one": position, "two": None}
    await store.flush()
    assert await store.positions(["one"]) == {"one": b"1-2"}


async def test_the_position_noted_is_that_of_the_latest_delivery(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    await store.note_position("one", b"0")
    for delivery, position in zip(await store.undelivered("one", 9), (b"3", b"6"), strict=True):
        await store.delivered("one", [delivery], Written(position=position))
        assert await store.attach_sinks(["one"]) == {"one": position}


# --- records and dead letters ----------------------------------------------------------------------------------------


async def test_kept_records_are_paged_in_the_order_of_finishing(store: Store) -> None:
    await finish(store, "a", "b", "c")
    first = await store.records(0, 2)
    assert ids(first) == ["a", "b"]
    assert ids(await store.records(first[-1].number, 2)) == ["c"]
    assert first[0].body == b'{"task_id":"a"}'
    assert await store.records(0, 0) == []


async def test_dead_letters_name_sink_reason_and_record_oldest_first(store: Store, clock: Clock) -> None:
    await store.attach_sinks(["one", "two"])
    await finish(store, "a", "b")
    a, b = await store.undelivered("one", 9)
    refused_at = clock()
    await store.delivered("one", [b], Written(refused={b.number: "bad \udc80\0" + "x" * 500}))
    await asyncio.sleep(10)
    await store.delivered("two", [a, b], Written(refused={a.number: "no"}))
    first, second = await store.dead_letters(with_bodies=True)
    assert (first.sink, first.delivery) == ("one", b)
    assert first.reason.startswith("bad ??xx")
    assert first.refused_at == pytest.approx(refused_at, abs=1)
    assert second == DeadLetter(sink="two", reason="no", refused_at=second.refused_at, delivery=a)
    assert await store.dead_letters("two", with_bodies=True) == [second]
    assert await store.dead_letters("three") == []
    (without_body,) = await store.dead_letters(limit=1, newest_first=True)
    assert (without_body.delivery.task_id, without_body.reason, without_body.delivery.body) == ("a", "no", b"")
    assert [await store.count_dead(sink) for sink in (None, "one", "three")] == [2, 1, 0]


async def test_a_page_of_large_records_ends_before_the_memory_does(store: Store) -> None:
    await store.attach_sinks(["one"])
    await feed(store, "a", "b", "c", "d")
    body = b'{"task_id":"' + b"x" * (LARGEST_PAGE * 2 // 5) + b'"}'
    tasks = await store.claim("main", 4)
    record = restore(body, kind=Kind.COMPLETE, reason=None, seen_at=5.0)
    await store.record([Settled(task=task, record=record) for task in tasks])
    page = await store.undelivered("one", 500)
    assert ids(page) == ids(await store.records(0, 500)) == ["a", "b", "c"], "the one that fills it is the last"
    await store.delivered("one", page, Written())
    assert ids(await store.undelivered("one", 500)) == ids(await store.records(page[-1].number, 500)) == ["d"]


# --- replaying -------------------------------------------------------------------------------------------------------


async def deliver(store: Store, sink: str, *refused: str) -> None:
    batch = await store.undelivered(sink, 99)
    dead = {each.number: "no" for each in batch if each.task_id in refused}
    await store.delivered(sink, batch, Written(refused=dead))


def sink_sums(sums: Sums, name: str) -> tuple[int, int, int]:
    (sink,) = (each for each in sums.sinks if each.name == name)
    return sink.delivered, sink.undelivered, sink.dead


async def test_a_replayed_record_moves_back_to_undelivered_from_delivered_or_dead(store: Store) -> None:
    await store.attach_sinks(["one", "two"])
    await finish(store, "a", "b", "c")
    await deliver(store, "one", "b")
    await deliver(store, "two")
    assert sink_sums(await store.sums(), "one") == (2, 0, 1)
    assert await store.replay("one", Selection()) == 3
    sums = await store.sums()
    assert sink_sums(sums, "one") == (0, 3, 0)
    assert sink_sums(sums, "two") == (3, 0, 0)
    assert imbalances(sums) == []
    assert ids(await store.undelivered("one", 9)) == ["a", "b", "c"]
    assert await store.dead_letters() == []


async def test_what_is_undelivered_already_is_not_replayed(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    (a, _) = await store.undelivered("one", 9)
    await store.delivered("one", [a], Written())
    assert await store.replay("one", Selection()) == 1
    assert await store.replay("one", Selection()) == 0
    assert sink_sums(await store.sums(), "one") == (0, 2, 0)


@pytest.mark.parametrize(
    ("selection", "replayed"),
    [
        (Selection(dead=True), ["dead", "old"]),
        (Selection(kinds=frozenset({"canceled"})), ["canceled"]),
        (Selection(kinds=frozenset({"canceled", "not_found"}), since=10.0), []),
        (Selection(since=10.0), ["new"]),
        (Selection(since=5.0, dead=True), ["dead"]),
        (Selection(kinds=frozenset({"no_such_kind"})), []),
    ],
)
async def test_a_replay_takes_what_meets_all_conditions(
    store: Store, selection: Selection, replayed: list[str]
) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "dead", "plain")
    await finish(store, "canceled", kind=Kind.CANCELED)
    await finish(store, "old", at=1.0)
    await finish(store, "new", at=10.0)
    await deliver(store, "one", "dead", "old")
    assert await store.replay("one", selection) == len(replayed)
    assert ids(await store.undelivered("one", 9)) == replayed
    assert imbalances(await store.sums()) == []


async def test_a_sink_that_is_away_gets_its_replay_when_it_is_back(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    await deliver(store, "one")
    await store.attach_sinks(["two"])
    await finish(store, "c")
    assert await store.replay("one", Selection()) == 2
    assert sink_sums(await store.sums(), "one") == (0, 3, 0)
    await store.attach_sinks(["one"])
    assert ids(await store.undelivered("one", 9)) == ["a", "b", "c"]


async def test_a_replay_from_the_start_forgets_the_position_in_the_same_transaction(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b")
    await store.delivered("one", await store.undelivered("one", 2), Written(position=b"42"))
    assert await store.positions(["one", "unknown"]) == {"one": b"42", "unknown": None}
    assert await store.replay("one", Selection(), from_start=True) == 2
    assert await store.positions(["one"]) == {"one": None}


async def test_lines_whose_task_ended_without_being_complete_are_counted(store: Store) -> None:
    await finish(store, "good")
    await finish(store, "bad", kind=Kind.NOT_FOUND)
    await feed(store, "waiting")
    added = await store.add(await store.new_source("b"), chunk_of("good", "bad", "bad", "waiting", "new"))
    assert added == Added(tasks=1, duplicates=4, failed=2)
    assert [sums.failed for sums in await store.sources(100)][-1] == 2


async def test_what_became_of_lines_that_were_fed_before_is_counted(store: Store) -> None:
    assert not await store.has_failed()
    await store.attach_sinks(["one"])
    await finish(store, "good", "refused")
    assert not await store.has_failed()
    await deliver(store, "one", "refused")
    assert await store.has_failed()
    await finish(store, "bad", kind=Kind.NOT_FOUND)
    await feed(store, "waiting")
    known = chunk_of("good", "refused", "bad", "waiting", "new")
    assert await store.count_failed(known) == Failed(failed=1, dead=1, unknown=1)
    assert await store.count_failed(chunk_of("bad", account="other")) == Failed(unknown=1)
    assert (await store.sums()).waiting == 1


async def test_lines_with_another_ref_under_a_known_id_are_counted_and_the_task_keeps_its_first(store: Store) -> None:
    refs = (b'{"u":1}', b'{"u":2}', None, b'{"u":1}')
    fed = tuple(Fed(account="default", task_id="a", ref=ref) for ref in refs)
    chunk = Chunk(fed=fed, rejected=(), blank=0, position=Position())
    assert await store.add(await store.new_source("a"), chunk) == Added(tasks=1, duplicates=3, other_refs=1)
    without = Chunk(fed=(Fed(account="default", task_id="b"),), rejected=(), blank=0, position=Position())
    await store.add(await store.new_source("b"), without)
    with_ref = Chunk(fed=(Fed(account="default", task_id="b", ref=b"1"),), rejected=(), blank=0, position=Position())
    assert (await store.add(await store.new_source("c"), with_ref)).other_refs == 1
    assert [task.ref for task in await store.claim("default", 9)] == [b'{"u":1}', None]


async def test_a_replay_into_an_unknown_sink_is_refused_by_name_and_stops_nothing(store: Store) -> None:
    await store.attach_sinks(["one"])
    with pytest.raises(ConfigError, match=r"no sink 'other'.*known: one"):
        await store.replay("other", Selection())
    await finish(store, "a")
    assert (await store.sums()).finished == 1


# --- pruning ---------------------------------------------------------------------------------------------------------


async def test_pruned_tasks_leave_their_counts_behind(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a", "b", at=5.0)
    await finish(store, "c", kind=Kind.CANCELED, at=6.0)
    await finish(store, "d", at=7.0)
    await feed(store, "waiting")
    await deliver(store, "one")
    before = await store.sums()
    assert await store.prune(7.0, 2) == 2
    assert await store.prune(7.0, 2) == 1
    assert await store.prune(7.0, 2) == 0
    after = await store.sums()
    assert after == replace(before, pruned=3)
    assert (after.kinds, after.finished, after.waiting, after.polls) == ({"complete": 3, "canceled": 1}, 4, 1, 4)
    assert ids(await store.records(0, 9)) == ["d"]
    assert imbalances(after) == []


async def test_a_pruned_id_that_is_fed_once_more_is_a_new_task(store: Store) -> None:
    await store.attach_sinks(["one"])
    await finish(store, "a")
    await deliver(store, "one")
    last = (await store.records(0, 9))[-1].number
    await store.prune(99.0, 9)
    await finish(store, "a")
    (second,) = await store.undelivered("one", 9)
    assert second.number > last
    sums = await store.sums()
    assert (sums.finished, sums.pruned, sums.kinds) == (2, 1, {"complete": 2})
    assert [source.tasks for source in sums.sources] == [1, 1]
    assert imbalances(sums) == []


async def test_what_an_attached_sink_lacks_or_has_refused_is_not_pruned(store: Store) -> None:
    await store.attach_sinks(["one", "two"])
    await finish(store, "plain", "dead", "undelivered")
    await deliver(store, "one", "dead")
    await store.delivered("two", (await store.undelivered("two", 2)), Written())
    assert await store.prune(99.0, 9) == 1
    assert ids(await store.records(0, 9)) == ["dead", "undelivered"]
    assert ids([each.delivery for each in await store.dead_letters()]) == ["dead"]


async def test_the_ledger_balances_for_a_sink_that_was_away_or_unknown_when_records_were_pruned(store: Store) -> None:
    await store.attach_sinks(["away"])
    await finish(store, "a", "b", "c")
    batch = await store.undelivered("away", 2)
    await store.delivered("away", batch, Written(refused={batch[0].number: "no"}))
    await store.attach_sinks([])
    await finish(store, "d")
    assert await store.prune(99.0, 9) == 4
    await finish(store, "e")
    await store.attach_sinks(["away", "new"])
    sums = await store.sums()
    assert imbalances(sums) == []
    assert sink_sums(sums, "away") == (1, 1, 0)
    assert sink_sums(sums, "new") == (0, 1, 0)
    assert [sink.missed for sink in sums.sinks] == [3, 4]
    assert ids(await store.undelivered("new", 9)) == ["e"]
    assert await store.dead_letters() == []
