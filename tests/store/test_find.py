"""Finding tasks: whatever the filter, the index and the page size, a search finds what reading every task would."""

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import orjson
import pytest

from poller.core.columns import source_file
from poller.core.model import Chunk, Fed, Kind, Position, Settled
from poller.core.protocols import StateReader, Store
from poller.core.record import restore
from poller.core.search import FoundTask, RowMatcher, TaskFilter, spellings
from poller.store import find as finding
from poller.store import read_store
from poller.store.grams import ANYTHING, LONGEST_RUN, RUN, grams_of, may_contain
from poller.store.postgres.search import SETTLED_S
from tests.support.store_makers import Open, feed, finish, kill

HOSTS = ("a.example", "b.example", "rare.example")
NOTES: Sequence[dict[str, object]] = ({}, {"note": "Äöü"}, {"note": 'a "q" \\'}, {"n": 1, "list": [1, "x"]})
REASONS = ("HTTP 404: gone", "TOO_LARGE: the file", "canceled", None)
FILTERS: Sequence[dict[str, Any]] = (
    {},
    {"state": "waiting"},
    {"state": "finished"},
    {"kinds": frozenset({"canceled"})},
    {"kinds": frozenset({"complete", "timed_out"}), "landed": False},
    {"landed": True},
    {"reason": "GONE"},
    {"reason": "e", "host": "b.example"},
    {"reason": "none of these"},
    {"account": "two"},
    {"account": "two", "state": "waiting", "text": "FILE-1"},
    {"account": "unknown"},
    {"host": "RARE.example"},
    {"host": "rare"},
    {"text": "file-17"},
    {"text": "T0042"},
    {"text": "t004"},
    {"text": "17"},
    {"text": "my file"},
    {"text": "my%20file"},
    {"text": "ÄÖ"},
    {"text": 'A "Q'},
    {"text": '[1,"x'},
    {"text": "nowhere at all"},
    {"since": 150.0},
    {"since": 150.0, "landed": True, "host": "a.example"},
    {"state": "waiting", "landed": True},
    {"text": "\0'\"%_", "account": "one"},
)


def row_of(number: int) -> dict[str, object] | None:
    host = "rare.example" if number % 97 == 0 else HOSTS[number % 2]
    if number % 41 == 0:
        return None
    return {"url": f"https://{host}/in/{'my%20file' if number % 13 == 0 else 'x'}/FILE-{number}.png"} | NOTES[
        number % 4
    ]


async def fill(store: Store, tasks: int) -> None:
    """Feed tasks of two accounts, of which two in three finish, each otherwise."""
    source, rng = await store.new_source("ids.txt"), Random(7)
    fed = tuple(
        Fed(
            account="two" if number % 3 == 0 else "one",
            task_id=f"T{number:05}",
            ref=None if (row := row_of(number)) is None else orjson.dumps(row).replace(b"[1,", b"[ 1, "),
        )
        for number in range(tasks)
    )
    await store.add(source, Chunk(fed=fed, rejected=(), blank=0, position=Position()))
    for account in ("one", "two"):
        claimed = await store.claim(account, tasks)
        settled = []
        for task in claimed:
            if rng.random() < 0.66:
                kind, reason = rng.choice([*Kind]), rng.choice(REASONS)
                body = orjson.dumps({"task_id": task.task_id, "landed": rng.random() < 0.5})
                at = 100.0 + rng.randrange(100)
                record = restore(body, kind=kind, reason=None if kind is Kind.COMPLETE else reason, seen_at=at)
                settled.append(Settled(task=task, record=record))
        await store.record(settled)
        store.release(claimed)
    await store.flush()
    await asyncio.sleep(SETTLED_S + 1)  # PostgreSQL indexes what is no longer fresh


async def all_of(store: StateReader, wanted: TaskFilter, limit: int) -> list[FoundTask]:
    """Return what all pages hold together."""
    found: list[FoundTask] = []
    after: int | None = 0
    while after is not None:
        page = await store.find_tasks(wanted, after=after, limit=limit)
        assert len(page.tasks) <= limit
        assert page.after is None or page.after > after
        found, after = found + page.tasks, page.after
    return found


def matches(task: FoundTask, wanted: TaskFilter) -> bool:
    """Return what a filter means, written once more."""
    row = orjson.loads(task.ref) if task.ref else {}
    values = (each if isinstance(each, str) else orjson.dumps(each).decode() for each in row.values())
    text = "\n".join((task.task_id, *values)).casefold()
    return (
        (wanted.state is None or (task.kind is None) == (wanted.state == "waiting"))
        and (not wanted.kinds or task.kind in wanted.kinds)
        and (wanted.landed is None or task.landed is wanted.landed)
        and (wanted.reason is None or wanted.reason.lower() in (task.reason or "").lower())
        and wanted.account in (None, task.account)
        and (wanted.host is None or source_file(row).host == wanted.host.lower())
        and (wanted.text is None or any(piece in text for piece in spellings(wanted.text)))
        and (wanted.since is None or (task.seen_at is not None and task.seen_at >= wanted.since))
    )


@pytest.mark.parametrize(("indexed", "few"), [(0, 2000), (3, 5), (9, 2000)])
async def test_a_search_finds_what_reading_every_task_would(
    store: Store, monkeypatch: pytest.MonkeyPatch, indexed: int, few: int
) -> None:
    """However few rows an index must have to be followed, and however much of the rows is indexed."""
    monkeypatch.setattr(finding, "FEW", few)
    monkeypatch.setattr(finding, "FEW_IN_INDEX", few)
    monkeypatch.setattr(finding, "FIRST_STRETCH", 60)
    monkeypatch.setattr(finding, "KEYS_AT_ONCE", 7)
    await fill(store, 5 * RUN)
    for _ in range(indexed):
        await store.index_rows(RUN)
    everything = await all_of(store, TaskFilter(), 1000)
    assert [task.task_id for task in everything] == sorted(task.task_id for task in everything)
    assert len(everything) == 5 * RUN
    for conditions in FILTERS:
        wanted = TaskFilter(**conditions)
        expected = [task for task in everything if matches(task, wanted)]
        assert await all_of(store, wanted, 3 if len(expected) < 60 else 50) == expected, conditions


async def test_a_search_that_is_late_ends_with_the_place_where_it_goes_on(store: Store) -> None:
    await fill(store, 3 * RUN)
    wanted, after, found = TaskFilter(text="e-38"), 0, []
    page = await store.find_tasks(wanted, after=after, limit=10, is_late=lambda: True)
    while page.after is not None:
        found += page.tasks
        page = await store.find_tasks(wanted, after=page.after, limit=10, is_late=lambda: True)
    found += page.tasks
    assert [task.task_id for task in found] == ["T00038", *(f"T{number:05}" for number in range(380, 384))]


async def test_a_search_has_the_records_where_they_are_asked_for(store: Store) -> None:
    await finish(store, "a")
    (task,) = (await store.find_tasks(TaskFilter(), limit=5, with_bodies=True)).tasks
    assert task.body == b'{"task_id":"a"}'
    assert (await store.find_tasks(TaskFilter(), limit=5)).tasks[0].body is None


async def test_text_that_no_database_holds_finds_nothing_and_leaves_the_store_at_work(store: Store) -> None:
    """`?account=%00` ended a poller whose state is in PostgreSQL."""
    await finish(store, "a")
    await feed(store, "b")
    for odd in ("\0", "main\0", "\ud800"):
        for wanted in (TaskFilter(account=odd), TaskFilter(host=odd), TaskFilter(reason=odd), TaskFilter(text=odd)):
            assert (await store.find_tasks(wanted, limit=5)).tasks == []
        assert await store.dead_letters(odd) == []
        assert await store.count_dead(odd) == 0
    assert len(await store.claim("main", 1)) == 1


async def test_another_process_finds_the_same(open_kept: Open, kept_url: str) -> None:
    store = await open_kept()
    await fill(store, RUN)
    expected = await store.find_tasks(TaskFilter(host="a.example"), limit=1000)
    reader = await read_store(kept_url)
    assert await reader.find_tasks(TaskFilter(host="a.example"), limit=1000) == expected
    await reader.close()
    assert len(expected.tasks) > 50


async def test_what_is_pruned_leaves_no_index_that_hides_a_new_task(store: Store) -> None:
    """SQLite gives a new task the key of a deleted one, if that was the last."""
    names = [f"old-{number:04}" for number in range(2 * RUN)]
    await finish(store, *names, at=5.0)
    await asyncio.sleep(SETTLED_S + 1)
    while await store.index_rows(RUN):
        pass
    assert await store.prune(10.0, 2 * RUN) == 2 * RUN
    await feed(store, *(f"new-{number:04}" for number in range(2 * RUN)))
    found = await store.find_tasks(TaskFilter(text="new-0007"), limit=5)
    assert [task.task_id for task in found.tasks] == ["new-0007"]


async def test_a_task_that_finishes_between_two_pages_is_on_one_of_them_only(store: Store) -> None:
    await feed(store, "a", "b", "c", "d")
    first = await store.find_tasks(TaskFilter(), limit=2)
    await finish(store, "a", "b", "c", "d")
    assert first.after is not None
    second = await store.find_tasks(TaskFilter(), after=first.after, limit=9)
    assert [task.task_id for task in first.tasks + second.tasks] == ["a", "b", "c", "d"]
    assert second.tasks[0].kind is Kind.COMPLETE


async def test_searches_side_by_side_and_a_kill_in_between_harm_nothing(store: Store) -> None:
    await fill(store, RUN)
    pages = await asyncio.gather(*(store.find_tasks(TaskFilter(text=f"file-{n}"), limit=1) for n in range(20)))
    assert sum(len(page.tasks) for page in pages) > 10
    await kill(store)


# --- grams -----------------------------------------------------------------------------------------------------------


def test_a_run_never_denies_a_piece_that_it_has() -> None:
    rng = Random(3)
    texts = ["".join(rng.choices("abcdefghij-/.é0123", k=rng.randrange(1, 80))) for _ in range(RUN)]
    bits = grams_of(texts)
    for text in texts:
        begin = rng.randrange(len(text))
        test = may_contain([(text[begin : begin + rng.randrange(1, 20)],)])
        assert test is None or test(bits)


def test_a_run_denies_nearly_every_piece_that_it_lacks() -> None:
    bits = grams_of(f"https://cdn.example.com/images/2026/{number:06}-photo.jpg" for number in range(RUN))
    absent = [may_contain([(f"video-{number}-of-another-host",)]) for number in range(500)]
    assert sum(test is not None and test(bits) for test in absent) < 5


def test_a_piece_of_fewer_than_four_bytes_excludes_no_run() -> None:
    assert may_contain([("abc",)]) is None
    assert may_contain([("abc", "abcdefgh")]) is None
    test = may_contain([("abc",), ("wxyz",)])
    assert test is not None
    assert not test(grams_of(["abc"]))


def test_a_run_with_very_long_rows_may_contain_anything() -> None:
    assert grams_of(["x" * LONGEST_RUN, "y"]) == ANYTHING


def test_a_row_that_no_reader_understands_is_searched_as_text() -> None:
    matcher = RowMatcher(TaskFilter(text="1E400"))
    assert matcher.matches("id", b'{"n":1e400}')
    assert not matcher.matches("id", None)


@pytest.mark.parametrize(
    ("conditions", "most"),
    [
        ({"text": "file-333."}, 3 * RUN),
        ({"text": "nowhere at all"}, RUN),
        ({"reason": "HTTP 404", "landed": False, "text": "file-12."}, 4 * RUN),
    ],
)
async def test_a_rare_text_costs_few_rows(store: Store, conditions: dict[str, Any], most: int) -> None:
    """With the rows indexed, only runs that may contain it are read, and what is not indexed yet."""
    await fill(store, 12 * RUN + 5)
    while await store.index_rows(RUN):
        pass
    read: list[str] = []

    class Counting(RowMatcher):
        def matches(self, task_id: str, ref: bytes | None) -> bool:
            read.append(task_id)
            return super().matches(task_id, ref)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "RowMatcher", Counting)
        patch.setattr(finding, "FEW", 60)
        await store.find_tasks(TaskFilter(**conditions), limit=50)
    assert len(read) <= most
