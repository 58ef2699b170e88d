"""Rows to import in the state: durable intent, attempts, and sums that balance at every instant."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from functools import partial
from itertools import count
from random import Random
from typing import Any

import msgspec
import orjson
import pytest

from poller.core.accounts import AccountState
from poller.core.clock_note import CLOCK_NOTE, ClockNote
from poller.core.model import Chunk, Failed, Fed, FedRow, Finished, Kind, KnownLines, Position, Settled
from poller.core.protocols import Store
from poller.core.record import render, render_row
from poller.core.search import TaskFilter
from poller.core.starts import Begin, EndRow, Row, StartAgain, Unsure
from poller.reports.ledger import imbalances, landed_line
from poller.store import SqliteStore, find_rows, open_store
from poller.store.postgres.start_store import PostgresStarts
from tests.support.postgres import session_of

Clock = Callable[[], float]


@asynccontextmanager
async def opened(url: str, clock: Clock) -> AsyncIterator[Store]:
    store = await open_store(url, clock=clock, linger_s=0.0)
    try:
        yield store
    finally:
        await store.close()


def fed(name: str, body: str = "{}") -> FedRow:
    return FedRow(account="default", row=name, body=body.encode(), ref=orjson.dumps({"url": name}))


async def feed(store: Store, *rows: FedRow) -> tuple[int, int, int]:
    source = await store.new_source("rows")
    chunk = Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position(offset=1, line=len(rows)))
    added = await store.add(source, chunk)
    return added.tasks, added.duplicates, added.failed


async def claimed(store: Store) -> Row:
    (row,) = await store.starts.claim("default", 1)
    return row


async def begun(store: Store, row: Row, task_id: str, now: float) -> bool:
    sent = await store.starts.intend(row, sent_at=now, due_at=now + 600)
    return await store.starts.settle(sent, Begin(task_id=task_id))


async def finish(store: Store, now: float, outcome: Finished, kind: Kind) -> None:
    (task,) = await store.claim("default", 1)
    record = render(task, outcome, kind, seen_at=now)
    await store.record([Settled(task=task, record=record)])


LANDED = Finished(status="COMPLETE", num_errors=0, result=b'{"id":"1","createdAt":"2026-01-05T00:00:00Z"}')
FAILED = Finished(status="COMPLETE", num_errors=1, errors=b'[{"message":"gone"}]', has_errors=True)
EMPTY = Finished(status="COMPLETE", num_errors=0)


async def test_a_crash_between_intent_and_answer_leaves_the_row_unsure_until_it_has_settled(
    kept_url: str, clock: Clock
) -> None:
    async with opened(kept_url, clock) as store:
        assert await feed(store, fed("a")) == (1, 0, 0)
        row = await claimed(store)
        assert (row.starts, row.lost) == (0, 0)
        await store.starts.intend(row, sent_at=clock(), due_at=clock() + 600)
    async with opened(kept_url, clock) as store:
        starts = (await store.sums()).starts
        assert starts is not None
        assert (starts.unstarted, starts.unsure, starts.starts, starts.lost) == (0, 1, 1, 1)
        assert await store.starts.claim("default", 5) == []
        assert await store.starts.next_due_at("default") == pytest.approx(clock() + 600, abs=1)
        assert imbalances(await store.sums()) == []


async def test_unsure_rows_are_listed_by_when_they_are_due_without_those_in_hand_and_those_never_sent(
    kept_url: str, clock: Clock
) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"), fed("b"), fed("c"), fed("never sent"))
        rows = await store.starts.claim("default", 3)
        due = [clock() + 600 - number for number in range(3)]
        for row, due_at in zip(rows, due, strict=True):
            await store.starts.intend(row, sent_at=clock(), due_at=due_at)
        assert await store.starts.unsure_due("default", 9) == []
        store.starts.release(rows[:2])
        assert await store.starts.unsure_due("default", 9) == pytest.approx([due[1], due[0]])
        assert await store.starts.unsure_due("default", 1) == pytest.approx([due[1]])
        assert await store.starts.unsure_due("another", 9) == []


async def test_a_started_row_is_a_task_that_knows_its_row_and_no_row_any_more(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"))
        assert await begun(store, await claimed(store), "T1", clock())
        assert await store.starts.claim("default", 5) == []
        assert (await store.starts.backlog("default", 9), await store.starts.underway("default")) == (0, 1)
        (task,) = await store.claim("default", 5)
        assert (task.task_id, task.ref) == ("T1", b'{"url":"a"}')
        record = render(task, LANDED, Kind.COMPLETE, seen_at=clock())
        assert orjson.loads(record.body)["row"] == "a"
        assert orjson.loads(record.body)["starts"] == 1
        await store.record([Settled(task=task, record=record)])
        assert (await store.starts.underway("default"), await store.starts.landed("default", 9)) == (0, 1)
        assert imbalances(await store.sums()) == []


async def test_an_id_that_another_task_has_is_not_this_rows(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        source = await store.new_source("ids")
        ids = Chunk(
            fed=(Fed(account="default", task_id="T1"),), rejected=(), blank=0, position=Position(offset=1, line=1)
        )
        await store.add(source, ids)
        await feed(store, fed("a"))
        assert not await begun(store, await claimed(store), "T1", clock())
        starts = (await store.sums()).starts
        assert starts is not None
        assert (starts.unsure, starts.accepted) == (1, 0)
        assert imbalances(await store.sums()) == []


async def test_a_start_that_began_nothing_leaves_the_row_as_it_was(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"))
        for left, starts in ((True, 1), (False, 1), (True, 2)):
            row = await claimed(store)
            sent = await store.starts.intend(row, sent_at=clock(), due_at=clock() + 600)
            await store.starts.settle(sent, StartAgain(at=clock(), refusals=0, left=left))
            sums = (await store.sums()).starts
            assert sums is not None
            assert (sums.unstarted, sums.unsure, sums.starts, sums.refused) == (1, 0, starts, starts)
        assert (await claimed(store)).first_sent_at is None


async def test_a_repeat_that_is_refused_stays_unsure(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"))
        row = await claimed(store)
        await store.starts.intend(row, sent_at=clock(), due_at=clock())
        store.starts.release([row])
        row = await claimed(store)
        assert (row.starts, row.lost) == (1, 1)
        unsent = await store.starts.intend(row, sent_at=clock(), due_at=clock() + 600)
        await store.starts.settle(unsent, StartAgain(at=clock(), refusals=0, left=False))
        row = await claimed(store)
        assert (row.starts, row.lost) == (1, 1)
        sent = await store.starts.intend(row, sent_at=clock(), due_at=clock() + 600)
        await store.starts.settle(sent, StartAgain(at=clock(), refusals=0, left=True))
        again = await claimed(store)
        assert (again.starts, again.lost) == (2, 1)
        starts = (await store.sums()).starts
        assert starts is not None
        assert (starts.unsure, starts.repeated, starts.lost, starts.refused) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("outcome", "kind", "is_new", "is_checked"),
    [
        (LANDED, Kind.COMPLETE, False, False),
        (FAILED, Kind.COMPLETE_WITH_ERRORS, True, False),
        (EMPTY, Kind.COMPLETE_WITHOUT_RESULT, True, True),
        (Finished(status="COMPLETE", num_errors=1, result=b'{"id":"1"}'), Kind.COMPLETE_WITH_ERRORS, False, False),
    ],
)
async def test_a_row_that_is_fed_again_is_a_new_attempt_only_where_no_file_landed(
    kept_url: str, clock: Clock, outcome: Finished, kind: Kind, is_new: bool, is_checked: bool
) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"))
        assert await feed(store, fed("a")) == (0, 1, 0), "not started"
        await begun(store, await claimed(store), "T1", clock())
        assert await feed(store, fed("a")) == (0, 1, 0), "under way"
        await finish(store, clock(), outcome, kind)
        failed = int(not is_new and kind is not Kind.COMPLETE)
        assert await feed(store, fed("a", '{"new":1}')) == (int(is_new), int(not is_new), failed)
        assert await feed(store, fed("a")) == (0, 1, failed)
        if is_new:
            row = await claimed(store)
            assert (row.row, row.earlier, row.body, row.may_have_landed) == ("a~2", ("T1",), b'{"new":1}', is_checked)
            await begun(store, row, "T2", clock())
            await finish(store, clock(), FAILED, Kind.COMPLETE_WITH_ERRORS)
            assert await feed(store, fed("a")) == (1, 0, 0)
            assert (await claimed(store)).earlier == ("T1", "T2")
        assert imbalances(await store.sums()) == []


async def found_by(store: Store, limit: int = 50, **conditions: Any) -> list[str]:
    """Return what all pages hold together, as ids."""
    found: list[str] = []
    after: int | None = 0
    while after is not None:
        page = await store.find_tasks(TaskFilter(**conditions), after=after, limit=limit)
        assert page.after is None or page.after > after
        found, after = [*found, *(task.task_id for task in page.tasks)], page.after
    return found


async def test_a_row_without_a_task_is_found_beside_the_tasks(kept_url: str, clock: Clock) -> None:
    names = ("https://cdn.example.com/\u00e4 1.png", "https://cdn.example.com/2.png", "c", 'd"\\d', "e")
    rows = [f"start:{name}" for name in names]
    async with opened(kept_url, clock) as store:
        await feed(store, *map(fed, names))
        assert await found_by(store) == await found_by(store, limit=2, state="waiting") == rows
        await begun(store, await claimed(store), "T1", clock())
        await store.starts.intend(await claimed(store), sent_at=clock(), due_at=clock() + 600)
        for conditions, expected in (
            ({}, ["T1", *rows[1:]]),
            ({"state": "waiting"}, ["T1", *rows[1:]]),
            ({"state": "underway"}, ["T1"]),
            ({"state": "unsure"}, [rows[1]]),
            ({"state": "unstarted"}, rows[2:]),
            ({"state": "finished"}, []),
            ({"landed": False}, []),
            ({"host": "CDN.example.com"}, ["T1", rows[1]]),
            ({"text": "/\u00c4 1"}, ["T1"]),
            ({"text": "/2.PNG", "account": "default"}, [rows[1]]),
            ({"text": '"\\D'}, [rows[3]]),
            ({"text": "START:e"}, [rows[4]]),
            ({"text": "nothing"}, []),
            ({"account": "other"}, []),
        ):
            for limit in (1, 3, 50):
                assert await found_by(store, limit=limit, **conditions) == expected, conditions
        (task,) = (await store.find_tasks(TaskFilter(state="unsure"), limit=9)).tasks
        assert (task.account, task.start) == ("default", "unsure")
        assert task.due_at == pytest.approx(clock() + 600, abs=1)
        (row,) = await store.rows_without_task(names[1])
        assert (row.row, row.account, row.starts, row.lost) == (names[1], "default", 1, 1)
        assert await store.rows_without_task(names[0]) == []


async def test_rows_without_a_task_are_found_behind_many_that_have_one(
    kept_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find_rows, "STRETCH", 4)
    names = [f"https://cdn.example.com/{number:02}.png" for number in range(60)]
    async with opened(kept_url, clock) as store:
        await feed(store, *map(fed, names))
        await store.starts.intend(await claimed(store), sent_at=clock(), due_at=clock() + 600)
        for number in range(1, 50):
            await begun(store, await claimed(store), f"T{number:02}", clock())
        left = [f"start:{name}" for name in (names[0], *names[50:])]
        for limit in (1, 4, 100):
            assert await found_by(store, limit=limit, state="waiting", text=".png") == [
                *(f"T{number:02}" for number in range(1, 50)),
                *left,
            ]
        assert await found_by(store, text="/57.png") == [f"start:{names[57]}"]


async def test_one_chunk_with_a_row_twice_has_one_duplicate(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        assert await feed(store, fed("a"), fed("b"), fed("a")) == (2, 1, 0)


async def test_pruned_rows_stay_in_the_sums_and_a_row_under_way_is_not_forgotten(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"), fed("b"))
        for task_id in ("T1", "T2"):
            await begun(store, await claimed(store), task_id, clock())
            await finish(store, clock(), FAILED, Kind.COMPLETE_WITH_ERRORS)
        await feed(store, fed("b"))
        await begun(store, await claimed(store), "T3", clock())
        assert await store.prune(clock() + 10, 10) == 2
        sums = await store.sums()
        assert sums.starts is not None
        assert (sums.starts.starts, sums.starts.accepted, sums.starts.underway) == (3, 3, 1)
        assert imbalances(sums) == []
        assert await feed(store, fed("b")) == (0, 1, 0), "its second attempt is under way"
        assert await feed(store, fed("a")) == (1, 0, 0), "a pruned row is a new one"


async def attempted(
    store: Store, name: str, *task_ids: str, now: float, last: Kind = Kind.COMPLETE_WITH_ERRORS
) -> None:
    """Feed a row and end attempts at it: only the last may land."""
    for task_id in task_ids:
        assert await feed(store, fed(name)) == (1, 0, 0)
        await begun(store, await claimed(store), task_id, now)
        lands = task_id == task_ids[-1] and last is Kind.COMPLETE
        await finish(store, now, LANDED if lands else FAILED, Kind.COMPLETE if lands else Kind.COMPLETE_WITH_ERRORS)


@pytest.mark.parametrize("last", [Kind.COMPLETE, Kind.COMPLETE_WITH_ERRORS])
async def test_a_row_whose_attempts_are_all_pruned_is_a_new_one(kept_url: str, clock: Clock, last: Kind) -> None:
    async with opened(kept_url, clock) as store:
        await attempted(store, "a", "T1", "T2", "T3", now=clock(), last=last)
        before = (await store.sums()).starts
        assert await store.prune(clock() + 10, 10) == 3
        assert (await store.sums()).starts == before, "what is gone stays counted"
        assert imbalances(await store.sums()) == []
        await attempted(store, "a", "N1", now=clock())
        assert await feed(store, fed("a")) == (1, 0, 0)
        assert (await claimed(store)).earlier == ("N1",)


async def test_a_row_whose_attempts_are_not_all_pruned_stays(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        await attempted(store, "a", "T1", "T2", now=clock())
        assert await store.prune(clock() + 10, 1) == 1
        assert await feed(store, fed("a")) == (1, 0, 0)
        assert (await claimed(store)).earlier == ("T1", "T2"), "its third attempt"


async def test_a_pruned_attempt_is_not_taken_for_a_later_task(kept_url: str, clock: Clock) -> None:
    """SQLite gives the key of a deleted task to the next one."""
    async with opened(kept_url, clock) as store:
        await attempted(store, "a", "T1", now=clock())
        assert await feed(store, fed("a")) == (1, 0, 0)
        second = await claimed(store)
        assert await store.prune(clock() + 10, 10) == 1
        await attempted(store, "b", "X1", now=clock())
        assert (second.row, second.earlier) == ("a~2", ("T1",))
        await begun(store, second, "T2", clock())
        await finish(store, clock(), LANDED, Kind.COMPLETE)
        assert await store.prune(clock() + 10, 10) == 2
        assert await feed(store, fed("a"), fed("b")) == (2, 0, 0), "neither is taken for a failed attempt"
        assert [row.earlier for row in await store.starts.claim("default", 5)] == [(), ()]


async def test_claims_that_read_beside_commits_hand_out_no_row_twice(kept_url: str, clock: Clock) -> None:
    """What a claim reads of a row may be older than the commit that gave the row its task."""
    started: list[str] = []

    async def work(store: Store) -> None:
        while rows := await store.starts.claim("default", 1):
            started.append(rows[0].row)
            assert await begun(store, rows[0], f"T{len(started)}", clock())

    async with opened(kept_url, clock) as store:
        await feed(store, *(fed(f"{number}") for number in range(60)))
        async with asyncio.TaskGroup() as workers:
            for _ in range(8):
                workers.create_task(work(store))
        assert sorted(started) == sorted(f"{number}" for number in range(60))
        starts = (await store.sums()).starts
        assert starts is not None
        assert (starts.starts, starts.accepted, starts.underway) == (60, 60, 60)


async def test_a_claim_whose_read_is_older_than_the_rows_end_does_not_hand_it_out(
    postgres_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(postgres_url, clock) as store:
        await feed(store, fed("a"))
        starts, has_read, may_return = store.starts, asyncio.Event(), asyncio.Event()
        assert isinstance(starts, PostgresStarts)
        read = starts._read

        async def slow_read(*values: Any) -> Any:
            found = await read(*values)
            has_read.set()
            await may_return.wait()
            return found

        monkeypatch.setattr(starts, "_read", slow_read)
        async with asyncio.TaskGroup() as group:
            late = group.create_task(starts.claim("default", 1))
            await has_read.wait()
            monkeypatch.setattr(starts, "_read", read)
            await begun(store, await claimed(store), "T1", clock())
            may_return.set()
        assert late.result() == []


async def test_an_earlier_run_whose_clock_was_ahead_holds_no_row_up(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, lambda: clock() + 9_000) as store:
        await feed(store, fed("a"))
        row = await claimed(store)
        await store.starts.intend(row, sent_at=clock() + 9_000, due_at=clock() + 9_600)
        store.save_account("default", AccountState(active_at=clock() + 9_000))
        await store.flush()
    async with opened(kept_url, clock) as store:
        assert await store.rebase_instants() == pytest.approx(9_000, abs=5)
        assert await store.starts.next_due_at("default") == pytest.approx(clock() + 600, abs=5)


async def test_rows_of_a_run_whose_clock_was_set_are_moved_by_so_much(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, lambda: clock() - 9_000) as store:
        await feed(store, fed("a"))
        row = await claimed(store)
        await store.starts.intend(row, sent_at=clock() - 9_000, due_at=clock() - 8_400)
        note = msgspec.json.encode(ClockNote(behind_s=9_000, since=clock() - 9_000))
        store.save_knowledge(CLOCK_NOTE, note)
        await store.flush()
    async with opened(kept_url, clock) as store:
        assert await store.rebase_instants() == pytest.approx(-9_000, abs=5)
        assert await store.starts.next_due_at("default") == pytest.approx(clock() + 600, abs=5)


async def test_the_sums_balance_after_any_sequence_and_any_crash(kept_url: str, clock: Clock) -> None:
    rng = Random(7)
    for run in range(12):
        async with opened(kept_url, clock) as store:
            await feed(store, *(fed(f"{run}-{number}") for number in range(4)))
            for step in range(10):
                rows = await store.starts.claim("default", 1)
                if not rows:
                    break
                sent = await store.starts.intend(rows[0], sent_at=clock(), due_at=clock() + rng.choice([0, 600]))
                match rng.randrange(5):
                    case 0:
                        await store.starts.settle(sent, Begin(task_id=f"T{run}-{step}"))
                    case 1:
                        again = StartAgain(at=clock(), refusals=0, left=rng.random() < 0.5)
                        await store.starts.settle(sent, again)
                    case 2:
                        record = render_row(sent, None, Kind.NOT_STARTED, seen_at=clock())
                        await store.starts.settle(sent, EndRow(kind=Kind.NOT_STARTED), record)
                    case 3:
                        record = render_row(sent, Unsure(reason="x"), Kind.START_UNKNOWN, seen_at=clock())
                        await store.starts.end_unsent(sent, record)
                    case _:
                        store.starts.release(rows)  # or the process dies here
            assert imbalances(await store.sums()) == []
        async with opened(kept_url, clock) as store:
            sums = await store.sums()
            assert imbalances(sums) == []
            assert sums.waiting + sums.finished == 4 * (run + 1)


async def test_what_did_not_land_is_counted_and_found_by_the_latest_attempt_at_each_row(
    kept_url: str, clock: Clock
) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, *map(fed, "abc"))
        for name in ("A1", "B1", "C1"):
            assert await begun(store, await claimed(store), name, clock())
            await finish(store, clock(), FAILED, Kind.COMPLETE_WITH_ERRORS)
        again = [await feed_again(store, "a", "b"), await feed_again(store, "c")]
        assert again == [2, 1]
        assert (await store.sums()).tried_again == 3
        assert await found_by(store, landed=False) == [], "each row waits again"
        for name in ("A2", "B2", "C2"):
            assert await begun(store, await claimed(store), name, clock())
            is_there = name == "A2"
            outcome = LANDED if is_there else FAILED
            await finish(store, clock(), outcome, Kind.COMPLETE if is_there else Kind.COMPLETE_WITH_ERRORS)
        assert await feed_again(store, *"abc") == 2
        assert await begun(store, await claimed(store), "B3", clock())
        await finish(store, clock(), FAILED, Kind.COMPLETE_WITH_ERRORS)
        sums = await store.sums()
        assert (sums.tried_again, sums.finished, sums.waiting) == (5, 7, 1)
        line = landed_line(sums.landed, sums.finished, sums.waiting, sums.tried_again)
        assert line == "1 landed · 1 did not · 1 waiting · 5 earlier attempts, tried again"
        assert await found_by(store, landed=False) == ["B3"]
        assert await found_by(store, landed=True) == ["A2"]
        assert await found_by(store, landed=False, text="b", limit=1) == ["B3"]
        assert imbalances(sums) == []


async def feed_again(store: Store, *names: str) -> int:
    """Return how many of the rows are attempts at rows that failed before."""
    rows = tuple(map(fed, names))
    chunk = Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position(offset=1, line=len(rows)))
    return (await store.add(await store.new_source("rows"), chunk)).again


async def test_rows_that_were_fed_before_are_counted_by_their_latest_attempt(kept_url: str, clock: Clock) -> None:
    async with opened(kept_url, clock) as store:
        await feed(store, fed("a"), fed("b"), fed("c"))
        for name, outcome, kind in (("A", FAILED, Kind.COMPLETE_WITH_ERRORS), ("B", LANDED, Kind.COMPLETE)):
            assert await begun(store, await claimed(store), name, clock())
            await finish(store, clock(), outcome, kind)
        rows = tuple(fed(name) for name in ("a", "b", "c", "d"))
        chunk = Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position())
        assert await store.count_failed(chunk) == Failed(failed=1)
        assert await store.known_lines(chunk) == {"default": KnownLines(ended=1, underway=0)}, (
            "b; a would be sent again"
        )
        assert await begun(store, await claimed(store), "C", clock())
        ids = tuple(Fed(account="default", task_id=name, ref=None) for name in "ABCD")
        of_ids = Chunk(fed=ids, rows=(), rejected=(), blank=0, position=Position())
        assert await store.known_lines(of_ids) == {"default": KnownLines(ended=2, underway=1)}
        assert await store.known_lines(chunk) == {"default": KnownLines(ended=1, underway=1)}
        await feed(store, fed("a"))
        assert await store.count_failed(chunk) == Failed()


def _count(counted: Iterator[int]) -> int:
    next(counted)
    return 0  # any other number would end the statement


async def test_pruning_a_row_costs_the_same_among_many(clock: Clock) -> None:
    """Counted in steps of SQLite, whose planner knows no size of a table: no state is ever analyzed."""
    steps = dict[int, int]()
    for size in (50, 2_000):
        async with opened("sqlite:///:memory:", clock) as store:
            assert isinstance(store, SqliteStore)
            await feed(store, *(fed(f"{number}") for number in range(size)))
            for number in range(20):
                await begun(store, await claimed(store), f"T{number}", clock())
                await finish(store, clock(), FAILED, Kind.COMPLETE_WITH_ERRORS)
            counted = count()
            store._connection.set_progress_handler(partial(_count, counted), 100)
            assert await store.prune(clock() + 10, 100) == 20
            steps[size] = next(counted)
    assert steps[2_000] <= 2 * steps[50]


async def test_rows_whose_attempts_an_older_version_pruned_are_new_ones(kept_url: str, clock: Clock) -> None:
    """It left them, and in SQLite another row's task may have the key of theirs by now."""
    async with opened(kept_url, clock) as store:
        await attempted(store, "b", "B1", now=clock())
        await attempted(store, "c", "C1", now=clock())
        assert await feed(store, fed("c")) == (1, 0, 0)
    script = (
        "UPDATE import_row SET attempts = 2, row = 'a' WHERE row = 'b';"
        " INSERT INTO import_row (account, row, body, fed_at, due_at, starts, lost, task)"
        " SELECT account, 'a~2', body, 0, 0, 1, 0, {task} FROM import_row WHERE row = 'a';"
        " INSERT INTO import_row (account, row, body, fed_at, due_at, starts, lost, task)"
        " SELECT account, 'b', body, 0, 0, 1, 0, {shared} FROM import_row WHERE row = 'a';"
        " UPDATE import_row SET task = {gone} WHERE row = 'a'; UPDATE import_sum SET accepted = accepted + 2;"
        " ALTER TABLE import_sum DROP COLUMN tried_again; DROP INDEX source_name; DROP INDEX source_fingerprint;"
    )
    key = "(SELECT task FROM import_row WHERE row = 'a')"
    if kept_url.startswith("sqlite"):
        script = script.format(task=999, shared=key, gone=key) + "PRAGMA user_version = 11"
        with closing(sqlite3.connect(kept_url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)
    else:
        with session_of(kept_url) as session:
            session.execute(script.format(task=999, shared=key, gone=998).encode())
            session.execute("UPDATE state_version SET version = 13")
    async with opened(kept_url, clock) as store:
        sums = await store.sums()
        assert imbalances(sums) == []
        assert sums.starts is not None
        assert (sums.starts.starts, sums.starts.accepted, sums.starts.unstarted, sums.starts.tried_again) == (
            4,
            4,
            1,
            2,
        )
        assert await feed(store, fed("a"), fed("b"), fed("c")) == (2, 1, 0), "b failed, c has its second attempt"
        found = {row.row: row.earlier for row in await store.starts.claim("default", 5)}
        assert found == {"a": (), "b~2": ("B1",), "c~2": ("C1",)}
