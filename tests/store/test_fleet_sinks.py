"""Sinks of a fleet: their union is attached, each has one owner or a home, and what members show each other."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import psycopg
import pytest

from poller.core.deliveries import Selection, Written
from poller.core.errors import ConfigError
from poller.core.fleet import Beat, Fenced, KindCount
from poller.core.protocols import Clock
from poller.reports.ledger import imbalances
from poller.store import move_sink, open_store, read_store
from poller.store.postgres.fleet.store import FleetStore
from tests.support.fleet_members import Open, bury, give, hold_commits, see, take
from tests.support.store_makers import feed, finished, ids, kill
from tests.support.virtual import EPOCH

HOOK, FILE = "webhook:https://crm.example", "jsonl:finished.jsonl"


async def finish_one(store: FleetStore, task_id: str, account: str = "one") -> None:
    await feed(store, task_id, account=account)
    await store.record([finished(task) for task in await store.claim(account, 1)])


async def deliver(store: FleetStore, sink: str, position: bytes | None = None) -> list[str]:
    batch = await store.undelivered(sink, 9)
    await store.delivered(sink, batch, Written(position=position))
    return ids(batch)


async def attached(store: FleetStore) -> dict[str, bool]:
    return {sink.name: sink.is_wanted for sink in (await see(store)).sinks}


async def test_the_sinks_of_a_fleet_are_those_that_any_member_names(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await a.fleet.want_sinks([FILE, HOOK], shared=[HOOK])
    await b.fleet.want_sinks([HOOK, "jsonl:b.jsonl"], shared=[HOOK])
    assert await attached(a) == {FILE: True, HOOK: True, "jsonl:b.jsonl": True}
    assert [member.sinks for member in (await see(b)).members] == [{FILE, HOOK}, {HOOK, "jsonl:b.jsonl"}]
    await take(a, "one")
    await finish_one(a, "x")
    for sink in (FILE, HOOK, "jsonl:b.jsonl"):
        assert ids(await a.undelivered(sink, 9)) == ["x"]
    await a.fleet.want_sinks([HOOK], shared=[HOOK])
    assert await attached(b) == {FILE: False, HOOK: True, "jsonl:b.jsonl": True}
    assert await b.fleet.detach_sinks([FILE, HOOK]) == [FILE]
    await finish_one(a, "y")
    await a.fleet.want_sinks([FILE], shared=[])  # what finished meanwhile is owed
    assert ids(await a.undelivered(FILE, 9)) == ["x", "y"]
    assert imbalances(await a.sums()) == []


async def test_a_shared_sink_is_delivered_by_one_member_at_a_time(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    for store in (a, b):
        await store.fleet.want_sinks([HOOK], shared=[HOOK])
    taken = await asyncio.gather(*[store.fleet.take_sinks([HOOK]) for store in (a, b)])
    assert sorted(len(each) for each in taken) == [0, 1]
    owner, other = (a, b) if taken[0] else (b, a)
    await take(a, "one")
    await finish_one(a, "x")
    assert await deliver(owner, HOOK, b"1") == ["x"]
    assert await owner.fleet.give_sink(HOOK, 1)
    assert not await owner.fleet.give_sink(HOOK, 1)
    (sink,) = await other.fleet.take_sinks([HOOK])
    assert (sink.epoch, sink.position) == (2, b"1")
    await finish_one(a, "y")
    assert await deliver(other, HOOK, b"2") == ["y"]


async def test_a_replaced_owner_of_a_sink_notes_nothing(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    for store in (a, b):
        await store.fleet.want_sinks([HOOK], shared=[HOOK])
    await take(b, "one")
    await finish_one(b, "x")
    await a.fleet.take_sinks([HOOK])
    batch = await a.undelivered(HOOK, 9)
    await bury(b, a)
    assert len(await b.fleet.take_sinks([HOOK])) == 1
    with pytest.raises(Fenced):
        await a.delivered(HOOK, batch, Written(position=b"late"))
    with pytest.raises(Fenced):
        await a.note_position(HOOK, b"late")
    assert ids(await b.undelivered(HOOK, 9)) == ["x"]
    assert await b.positions([HOOK]) == {HOOK: None}
    assert await deliver(b, HOOK, b"1") == ["x"]


async def test_a_file_is_delivered_by_the_replica_that_has_it_until_it_is_moved(
    open_member: Open, postgres_url: str
) -> None:
    a, b = await open_member("a"), await open_member("b")
    for store in (a, b):
        await store.fleet.want_sinks([FILE, HOOK], shared=[HOOK])
    assert [(sink.name, sink.home) for sink in (await see(b)).sinks] == [(FILE, "a"), (HOOK, None)]
    assert await b.fleet.take_sinks([FILE]) == []
    assert len(await a.fleet.take_sinks([FILE])) == 1
    await take(a, "one")
    await finish_one(a, "x")
    await bury(b, a)
    assert await b.fleet.take_sinks([FILE]) == []  # it waits for its home
    assert await move_sink(postgres_url, FILE, "b") == "a"
    (sink,) = await b.fleet.take_sinks([FILE])
    assert sink.epoch == 2
    assert await deliver(b, FILE) == ["x"]


@pytest.mark.parametrize(
    ("sink", "why"), [("jsonl:other.jsonl", r"knows no sink .*known: .*finished\.jsonl"), (HOOK, "has no home")]
)
async def test_a_sink_that_cannot_be_moved_is_refused(
    open_member: Open, postgres_url: str, sink: str, why: str
) -> None:
    a = await open_member("a")
    await a.fleet.want_sinks([FILE, HOOK], shared=[HOOK])
    with pytest.raises(ConfigError, match=why):
        await move_sink(postgres_url, sink, "b")


async def test_sinks_are_attached_while_others_record(open_member: Open) -> None:
    """Each record is owed to each sink once, whichever came first."""
    a, b, c = await open_member("a"), await open_member("b"), await open_member("c")
    for store, account in ((a, "one"), (b, "two")):
        await take(store, account)
        await feed(store, *[f"{account}{n}" for n in range(40)], account=account)

    async def record_all(store: FleetStore, account: str) -> None:
        while tasks := await store.claim(account, 2):
            await store.record([finished(task) for task in tasks])

    async def attach_all() -> None:
        for n in range(6):
            await c.fleet.want_sinks([f"jsonl:{each}" for each in range(n + 1)])

    await asyncio.gather(record_all(a, "one"), record_all(b, "two"), attach_all())
    sums = await c.sums()
    assert [sink.undelivered for sink in sums.sinks] == [80] * 6
    assert imbalances(sums) == []


async def test_one_member_at_a_time_prunes(open_member: Open, database: psycopg.Connection[Any]) -> None:
    a = await open_member("a")
    await take(a, "one")
    await finish_one(a, "x")
    with database.transaction():
        database.execute(
            "SELECT pg_advisory_xact_lock((1349479541::bigint << 32) | to_regnamespace(current_schema())::oid::bigint)"
        )
        assert await a.prune(EPOCH, 9) == 0
    assert await a.prune(EPOCH, 9) == 1
    assert await a.fleet.counts() == {"": KindCount(0, 0, 0), "complete": KindCount(1, 0, 1)}


async def test_a_member_replays_what_another_delivered(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await a.fleet.want_sinks([HOOK], shared=[HOOK])
    await a.fleet.take_sinks([HOOK])
    await take(b, "one")
    await finish_one(b, "x")
    assert await deliver(a, HOOK) == ["x"]
    assert await b.replay(HOOK, Selection()) == 1
    assert await deliver(a, HOOK) == ["x"]


# --- what members show each other ------------------------------------------------------------------------------------


async def test_any_member_and_any_reader_sees_what_each_published(
    open_member: Open, postgres_url: str, clock: Clock
) -> None:
    a, b = await open_member("a"), await open_member("b")
    for status in (b"before", b"now", b""):  # the empty one replaces none
        assert await a.fleet.beat(status) is Beat.MADE
    assert await b.fleet.beat(b"\x00\xff") is Beat.MADE
    reader = await read_store(postgres_url)
    for published in (await b.fleet.published(), await reader.fleet_published()):
        assert [(each.name, each.body) for each in published] == [("a", b"now"), ("b", b"\x00\xff")]
        assert all(0 <= each.age_s < 60 for each in published)
    view = await reader.fleet_view()
    assert view is not None
    assert [member.name for member in view.members] == ["a", "b"]
    await bury(b, a)
    assert [each.name for each in await b.fleet.published()] == ["b"]
    await b.close()
    assert await reader.fleet_view() is None
    await reader.close()


async def test_the_owner_hears_that_its_account_was_fed(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one", "two")
    await a.fleet.beat()
    await b.fleet.beat()
    assert a.fleet.hints().fed == {"one", "two"}  # what came before the first heartbeat, it cannot know
    await feed(b, "x", account="one")
    await feed(b, "x", account="one")  # a duplicate
    await feed(a, "y", account="two")  # its own
    for store in (b, a):
        assert await store.fleet.beat() is Beat.MADE
    hints = a.fleet.hints()
    assert (set(hints.fed), hints.reload) == ({"one"}, False)
    assert a.fleet.hints().fed == frozenset()
    await b.fleet.hint_reload()
    for store in (b, a, b):
        await store.fleet.beat()
    assert (a.fleet.hints().reload, b.fleet.hints().reload) == (True, True)


async def test_new_tasks_are_due_as_the_owner_of_their_account_wants(open_member: Open, clock: Clock) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    a.delay_first_polls("one", 600.0)
    a.delay_first_polls("two", 600.0)  # not its own
    await a.flush()
    await feed(b, "x", account="one")
    await feed(b, "y", account="two")
    due_at = await a.next_due_at("one")
    assert due_at == pytest.approx(clock() + 600, abs=60)
    assert await a.next_due_at("two") == pytest.approx(clock(), abs=60)
    await give(a, "one")
    await take(b, "one")
    await feed(b, "z", account="one")
    assert await b.claim("one", 9) == []


async def test_a_member_with_the_name_of_one_that_was_killed_delivers_its_file(open_member: Open) -> None:
    a = await open_member("a")
    await a.fleet.want_sinks([FILE])
    await a.fleet.take_sinks([FILE])
    await kill(a)
    again = await open_member("a", joins=False)
    await bury(again, a)
    await again.fleet.join(serves=["one"], settings={})
    await again.fleet.want_sinks([FILE])
    assert [sink.name for sink in await again.fleet.take_sinks([FILE])] == [FILE]


async def test_a_single_owner_delivers_what_a_fleet_left(open_member: Open, postgres_url: str, clock: Clock) -> None:
    a = await open_member("a")
    await a.fleet.want_sinks([FILE])
    await take(a, "one")
    await finish_one(a, "x")
    await a.close()
    single = await open_store(postgres_url, clock=clock)
    assert single.fleet is None
    await single.attach_sinks([FILE])
    batch = await single.undelivered(FILE, 9)
    await single.delivered(FILE, batch, Written(position=b"1"))
    assert ids(batch) == ["x"]
    assert imbalances(await single.sums()) == []
    await single.close()


@pytest.mark.parametrize("what", ["take_sinks", "prune", "want_sinks"])
async def test_a_commit_that_also_concerns_sinks_and_one_of_another_member_do_not_wait_for_each_other(
    open_member: Open,
    database: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    events: list[MutableMapping[str, Any]],
    what: str,
) -> None:
    """Each records finished tasks in its last message, for all sinks, and in one order."""
    a, b = await open_member("a"), await open_member("b")
    await a.fleet.want_sinks([HOOK], shared=[HOOK])
    await take(a, "one")
    await take(b, "two")
    await feed(a, "x", account="one")
    await feed(b, "y", account="two")
    concerning: dict[str, Callable[[], Awaitable[object]]] = {
        "take_sinks": lambda: b.fleet.take_sinks([HOOK]),
        "prune": lambda: b.prune(0.0, 9),
        "want_sinks": lambda: b.fleet.want_sinks([HOOK, FILE], shared=[HOOK]),
    }
    is_due, may_go_on = hold_commits(b, monkeypatch)
    first = asyncio.gather(concerning[what](), b.record([finished(task) for task in await b.claim("two", 1)]))
    await is_due.wait()
    tasks = await a.claim("one", 1)
    a_is_due, a_may_go_on = hold_commits(a, monkeypatch)
    second = asyncio.ensure_future(a.record([finished(task) for task in tasks]))
    await a_is_due.wait()
    a_may_go_on.set()
    for _ in range(9):
        await asyncio.sleep(0)  # its last message leaves
    for _ in range(200):  # until it is there, as far as that can be seen: some milliseconds
        if database.execute("SELECT count(*) FROM pg_locks WHERE classid = 1349479538").fetchone() != (0,):
            break
    may_go_on.set()
    await asyncio.gather(first, second)
    assert [event["reason"] for event in events if event["event"] == "store.unwritable"] == []
    assert sorted(ids(await a.undelivered(HOOK, 9))) == ["x", "y"]
