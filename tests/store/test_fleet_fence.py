"""What a member of a fleet may write: under the fence, of accounts that it owns, with numbers in their order."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import psycopg
import pytest

from poller.core.accounts import AccountState
from poller.core.fleet import Beat, Fenced
from poller.core.model import Chunk, Fed, FedRow, Kind, Position, Record
from poller.core.protocols import Clock
from poller.core.starts import Begin, EndRow
from poller.reports.ledger import imbalances
from poller.store import open_store
from poller.store.postgres.fleet.accounts import PUT_OFF, RECORD_FINISHED, RECORD_POLLED
from tests.support.fleet_members import ACCOUNTS, Open, blocked, bury, give, held, hold, hold_commits, see, take
from tests.support.store_makers import chunk_of, feed, finished, ids, running
from tests.support.virtual import EPOCH

Events = list[MutableMapping[str, Any]]


def value(connection: psycopg.Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


# --- the fence -------------------------------------------------------------------------------------------------------


async def test_a_member_that_was_buried_records_nothing_and_joins_again(open_member: Open, events: Events) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    await feed(a, "x", "y", account="one")
    x, y = await a.claim("one", 2)
    a.put_off([(y, EPOCH + 99)])
    await bury(b, a)
    with pytest.raises(Fenced):
        await a.record([finished(x)])
    assert a.fleet.id is None
    assert await a.claim("one", 1) == []
    assert await a.record([finished(x)]) == []
    assert not await a.fleet.give("one", 1, slot_ages_s=(), is_clean=True)
    a.save_account("one", AccountState())
    a.release([x])
    await take(b, "one")
    assert sorted(ids(await b.claim("one", 9))) == ["x", "y"]
    assert (await b.sums()).finished == 0
    assert await a.fleet.join(serves=ACCOUNTS, settings={}) is not None
    await feed(a, "z", account="one")
    assert [event["event"] for event in events if event["event"] == "replica.fenced"] == ["replica.fenced"]


async def test_a_heartbeat_that_finds_no_row_fences_the_writer(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await bury(b, a)
    assert await a.fleet.beat() is Beat.FENCED
    await asyncio.sleep(1)
    assert a.fleet.id is None


async def test_all_that_wait_for_a_commit_are_refused_when_it_is_fenced(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a)
    source = await a.new_source("ids.txt")
    await bury(b, a)
    waiting = [a.add(source, chunk_of(f"x{n}", account="one")) for n in range(3)]
    calls = [*waiting, a.fleet.take(ACCOUNTS, 1), a.flush(), a.prune(EPOCH, 1)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [Fenced] * 6
    assert (await b.sums()).waiting == 0


async def test_a_burial_passes_over_a_member_in_the_middle_of_a_commit(
    open_member: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    await feed(a, "x", account="one")
    (x,) = await a.claim("one", 1)
    began, may_end = hold_commits(a, monkeypatch)
    recording = asyncio.ensure_future(a.record([finished(x)]))
    await began.wait()
    (seen, _) = (await see(b)).members
    assert await b.fleet.bury({seen.id: seen.beats}) == []
    may_end.set()
    assert ids([each.task for each in await recording]) == ["x"]
    assert await b.fleet.bury({seen.id: seen.beats}) == [seen.id]


async def test_a_heartbeat_does_not_wait_for_a_commit(open_member: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    a = await open_member("a")
    began, may_end = hold_commits(a, monkeypatch)
    flushing = asyncio.ensure_future(a.flush())
    await began.wait()
    assert await a.fleet.beat() is Beat.MADE
    may_end.set()
    await flushing


async def test_a_poll_of_an_earlier_ownership_is_not_recorded(open_member: Open, database: psycopg.Connection) -> None:
    """Not even where the store would try: the statement asks for owner and epoch."""
    a = await open_member("a")
    await take(a, "one")
    await feed(a, "x", "y", "z", account="one")
    x, y, z = await a.claim("one", 3)
    database.execute("UPDATE account SET epoch = epoch + 1 WHERE name = 'one'")
    assert await a.record([finished(x), running(y, EPOCH + 60)]) == []
    a.put_off([(z, EPOCH + 60)])
    await a.flush()
    assert value(database, "SELECT count(*) FROM task WHERE kind IS NULL AND polls = 0 AND due_at < fed_at + 1") == 3
    assert await a.fleet.counts() == {"": (3, 0, 0)}


async def test_a_task_has_one_outcome_though_several_members_had_it(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    await feed(a, "x", "y", account="one")
    x, _ = await a.claim("one", 2)
    await a.record([finished(x)])
    await give(a, "one")
    await take(b, "one")
    assert ids(await b.claim("one", 9)) == ["y"]
    sums = await b.sums()
    assert (sums.finished, sums.waiting, imbalances(sums)) == (1, 1, [])


async def test_a_claim_that_was_under_way_when_its_account_changed_owner_is_dropped(
    open_member: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    await feed(a, "x", account="one")
    has_read, may_go_on = asyncio.Event(), asyncio.Event()
    read = a._read

    async def read_slowly(*values: Any) -> Any:
        found = await read(*values)
        has_read.set()
        await may_go_on.wait()
        return found

    monkeypatch.setattr(a, "_read", read_slowly)
    claiming = asyncio.ensure_future(a.claim("one", 1))
    await has_read.wait()
    await give(a, "one")
    await take(b, "one")
    await give(b, "one")
    await take(a, "one")
    may_go_on.set()
    assert await claiming == []
    monkeypatch.setattr(a, "_read", read)
    assert ids(await a.claim("one", 1)) == ["x"]


# --- order -----------------------------------------------------------------------------------------------------------


async def test_a_record_appears_after_all_with_lower_numbers(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    """A reader that continues after the highest number it saw would otherwise never see the lower one."""
    a, b = await open_member("a"), await open_member("b")
    await a.fleet.want_sinks(["file"])
    for store, name in ((a, "one"), (b, "two")):
        await take(store, name)
        await feed(store, "x", account=name)
    (x,), (y,) = await a.claim("one", 1), await b.claim("two", 1)
    hold(database, "INSERT", "undelivered", "NEW.number = 1")
    with held(database):
        slow = asyncio.ensure_future(a.record([finished(x)]))  # it has its number
        await blocked(database, 1)
        fast = asyncio.ensure_future(b.record([finished(y)]))
        await blocked(database, 2, unless=fast)
        assert await b.records(0, 9) == []
    await asyncio.gather(slow, fast)
    assert [record.account for record in await b.records(0, 9)] == ["one", "two"]


async def test_a_member_in_the_middle_of_a_commit_does_not_hold_the_order_of_records(
    open_member: Open, database: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is locked within the last message, which the server runs as a whole: no frozen member holds others up."""
    a = await open_member("a")
    await take(a, "one")
    await feed(a, "x", account="one")
    (x,) = await a.claim("one", 1)
    locked, commit = [], a._writer._commit

    async def note_locks(connection: Any) -> None:
        classes = "SELECT classid::bigint FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock'"
        locked.extend([each for (each,) in database.execute(classes).fetchall()])
        await commit(connection)

    monkeypatch.setattr(a._writer, "_commit", note_locks)
    await a.record([finished(x)])
    assert (await a.sums()).finished == 1
    assert int.from_bytes(b"Polr", "big") not in locked


async def test_records_of_any_bytes_pass_the_last_message(open_member: Open) -> None:
    """It is one text for the server, with the bodies as literals."""
    a = await open_member("a")
    await take(a, "one")
    await feed(a, "x", "y", account="one")
    for task, body in zip(await a.claim("one", 2), (bytes(range(1, 256)), b"'\\'';%s\n\"{}$1\\x00"), strict=True):
        settled = finished(task, reason="it's 100 % \\ {broken}")
        assert settled.record is not None
        await a.record(
            [
                type(settled)(
                    task=task,
                    record=type(settled.record)(
                        **{
                            **{name: getattr(settled.record, name) for name in settled.record.__struct_fields__},
                            "body": body,
                        }
                    ),
                )
            ]
        )
    assert [record.body for record in await a.records(0, 9)] == [bytes(range(1, 256)), b"'\\'';%s\n\"{}$1\\x00"]
    assert (await a.sums()).reasons[0].reason == "it's 100 % \\ {broken}"


# --- sums ------------------------------------------------------------------------------------------------------------


async def test_counts_are_those_of_the_rows_of_all_members(open_member: Open, postgres_url: str, clock: Clock) -> None:
    single = await open_store(postgres_url, clock=clock)
    await feed(single, "p", "q", "r", account="one")
    p, q = await single.claim("one", 2)
    await single.record([finished(p, at=1.0), running(q, EPOCH)])
    await single.prune(2.0, 9)
    await single.close()
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    await take(b, "two")
    await feed(a, "x", "y", account="two")
    (x, y), (q, r) = await b.claim("two", 9), await a.claim("one", 9)
    await b.record([finished(x, landed=True), running(y, EPOCH)])
    await a.record([finished(q), running(r, EPOCH)])
    sums = await a.sums()
    counts = await b.fleet.counts()
    assert (sums.waiting, sums.finished, imbalances(sums)) == (2, 3, [])
    assert counts[""] == (2, 0, 2)
    assert counts["complete"] == (3, 1, 4)
    assert sums.polls == sum(count.polls for count in counts.values())


async def test_what_members_left_behind_does_not_grow_with_their_number(
    open_member: Open, database: psycopg.Connection
) -> None:
    a = await open_member("a")
    await take(a, "one")
    await feed(a, "x", "y", account="one")
    before = await a.fleet.counts()
    for name in ("pod-1", "pod-2", "pod-3"):
        pod = await open_member(name)
        source = await pod.new_source("ids.txt")
        await pod.add(source, chunk_of(name, account="one"))
        await pod.fleet.beat(b"{}")
        await pod.fleet.leave()
    await open_member("pod-4")
    assert before[""].tasks + 3 == (await a.fleet.counts())[""].tasks
    assert value(database, "SELECT string_agg(replica, ' ' ORDER BY replica) FROM kind_count") == " a"
    assert value(database, "SELECT count(*) FROM replica_status") == 0


async def test_a_member_reads_the_oldest_waiting_task_though_keys_commit_out_of_order(
    open_member: Open, database: psycopg.Connection
) -> None:
    a = await open_member("a")
    await take(a, "one")
    database.execute("SELECT setval('task_key_seq', 100)")
    await feed(a, "x", account="one")
    await a.record([finished(task) for task in await a.claim("one", 1)])
    assert await a.oldest_waiting() is None
    database.execute(
        "INSERT INTO task (key, account, task_id, due_at, fed_at, paused_base_s) OVERRIDING SYSTEM VALUE"
        " SELECT 50, id, 'late', 0, 77, 0 FROM account WHERE name = 'one'"
    )
    assert await a.oldest_waiting() == 77


# --- rows to import --------------------------------------------------------------------------------------------------


async def test_only_the_owner_of_an_account_starts_its_rows(open_member: Open) -> None:
    a, b = await open_member("a"), await open_member("b")
    await take(a, "one")
    rows = tuple(FedRow(account="one", row=name, body=b"{}", ref=b"{}") for name in "xyz")
    await b.add(await b.new_source("rows.csv"), Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position()))
    assert await b.starts.claim("one", 9) == []
    x, y, z = await a.starts.claim("one", 9)
    x = await a.starts.intend(x, sent_at=EPOCH, due_at=EPOCH + 60)
    assert await a.starts.settle(x, Begin(task_id="1"))
    y = await a.starts.intend(y, sent_at=EPOCH, due_at=EPOCH + 60)
    refused = Record(
        body=b"{}", kind=Kind.NOT_STARTED, landed=False, reason="no", seen_at=EPOCH, account="one", task_id=""
    )
    assert await a.starts.settle(y, EndRow(kind=Kind.NOT_STARTED), refused)
    assert await a.fleet.counts() == {"": (2, 0, 0), "not_started": (1, 0, 0)}
    sums = await a.sums()
    assert (sums.waiting, sums.finished, imbalances(sums)) == (2, 1, [])
    await bury(b, a)
    with pytest.raises(Fenced):
        await a.starts.intend(z, sent_at=EPOCH, due_at=EPOCH + 60)
    await take(b, "one")
    assert [row.row for row in await b.starts.claim("one", 9)] == ["z"]
    assert ids(await b.claim("one", 9)) == ["1"]


async def test_a_start_of_an_account_that_is_no_longer_owned_is_fenced_before_it_leaves(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    a = await open_member("a")
    await take(a, "one")
    row = FedRow(account="one", row="x", body=b"{}", ref=b"{}")
    await a.add(await a.new_source("rows.csv"), Chunk(fed=(), rows=(row,), rejected=(), blank=0, position=Position()))
    (x,) = await a.starts.claim("one", 9)
    database.execute("UPDATE account SET owner = NULL WHERE name = 'one'")  # a failover lost the taking
    with pytest.raises(Fenced):
        await a.starts.intend(x, sent_at=EPOCH, due_at=EPOCH + 60)
    assert database.execute("SELECT starts, lost FROM import_row").fetchall() == [(0, 0)]


async def test_what_a_dropped_lane_had_in_hand_is_claimed_again_once_its_account_is_taken_again(
    open_member: Open, database: psycopg.Connection[Any]
) -> None:
    a = await open_member("a")
    await take(a, "one")
    row = FedRow(account="one", row="x", body=b"{}", ref=b"{}")
    fed = Fed(account="one", task_id="1", ref=None)
    chunk = Chunk(fed=(fed,), rows=(row,), rejected=(), blank=0, position=Position())
    await a.add(await a.new_source("rows.csv"), chunk)
    tasks, rows = await a.claim("one", 9), await a.starts.claim("one", 9)
    assert (len(tasks), len(rows)) == (1, 1)
    database.execute("UPDATE account SET owner = NULL WHERE name = 'one'")  # a failover lost the taking
    await take(a, "one")
    assert ids(await a.claim("one", 9)) == ["1"]
    assert [each.row for each in await a.starts.claim("one", 9)] == ["x"]
    assert await a.record([finished(task) for task in tasks]) == []  # of a lease that has ended


@pytest.mark.parametrize("statement", [RECORD_POLLED, RECORD_FINISHED, PUT_OFF])
async def test_recording_reads_no_other_tasks_of_the_account(
    open_member: Open, database: psycopg.Connection[Any], statement: str
) -> None:
    """By the plan for any values, which the server uses from the sixth commit on."""
    a = await open_member("a")
    await take(a, "one")
    await feed(a, *[f"x{n}" for n in range(10_000)], account="one")
    database.execute("SET plan_cache_mode = force_generic_plan")
    first, *others = statement.split("%s")
    numbered = first + "".join(f"${n}{text}" for n, text in enumerate(others, start=1))
    database.execute(f"PREPARE recording AS {numbered}".encode())
    arguments = ", ".join(["NULL"] * len(others))
    plan = database.execute(f"EXPLAIN EXECUTE recording ({arguments})".encode()).fetchall()
    scans = [line for (line,) in plan if "Scan" in line and " on task " in line]
    assert [line.split("using ")[-1].split()[0] for line in scans] == ["task_pkey"]
