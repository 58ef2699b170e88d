"""The fleet campaign judges rightly: each invariant finds its violation, and the relay carries nothing while frozen."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from campaign.bugs import HOUSE
from campaign.fleet import invariants
from campaign.fleet.evidence import Holder, idle_in_both
from campaign.fleet.history import Arrival, Fault, History, LateWrite, Ownership
from campaign.fleet.patience import Patience
from campaign.fleet.relay import Relay
from campaign.fleet.replica import Replica
from campaign.fleet.server import own_server
from campaign.fleet.shape import Shape
from campaign.fleet.trial import carry_out, prepared
from campaign.planted.fleet import FLEET_BUGS, FOUND_BY


def arrival(at: float, replica: str, account: str = "a") -> Arrival:
    return Arrival(at=at, account=account, replica=replica, task_id="1", is_final=False)


def owned(at: float, replica: str | None, epoch: int, *, is_clean: bool = True) -> Ownership:
    return Ownership(at=at, account="a", epoch=epoch, replica=replica, is_clean=is_clean)


def record(task_id: str, kind: str = "complete") -> bytes:
    return orjson.dumps({"account": "a", "task_id": task_id, "kind": kind})


def sound() -> History:
    """Return a history without a violation: two tasks, owned by r1, then by r2."""
    records = [record("1"), record("2")]
    return History(
        window_s=1.0,
        limit=2,
        arrivals=[arrival(10.0, "r1"), arrival(10.5, "r1"), arrival(12.0, "r2")],
        owners=[owned(9.0, "r1", 1), owned(11.0, None, 1), owned(11.1, "r2", 2)],
        acknowledged={("a", "1"): 9.0, ("a", "2"): 9.0},
        expected={("a", "1"): "complete", ("a", "2"): "complete"},
        records=records,
        lines=records,
        posts=[("m1", records[0]), ("m1", records[0]), ("m2", records[1])],
        table=records,
        read={"reader": list(records)},
        imbalances={"r1": ()},
        recorded_requests=3,
        workers=1,
    )


def test_a_trial_waits_while_less_is_left_and_not_while_it_only_changes() -> None:
    at = 0.0
    patience = Patience(60.0, clock=lambda: at)
    for at, left, is_over in [
        (0.0, 9, False),
        (50.0, 8, False),
        (100.0, 9, False),
        (109.0, None, False),
        (111.0, 8, True),
        (112.0, 7, False),
        (172.0, 9, True),
    ]:
        assert patience.is_over(left) is is_over, at
    assert Patience(0.0, clock=lambda: at).is_over(1)


def test_a_sound_history_has_no_violation() -> None:
    assert invariants.violations(sound()) == []


@pytest.mark.parametrize(
    ("invariant", "spoil"),
    [
        ("no_window_exceeds_its_limit", lambda it: it.arrivals.append(arrival(10.9, "r1"))),
        ("no_request_comes_from_a_replaced_owner", lambda it: it.arrivals.append(arrival(13.0, "r1"))),
        ("no_account_is_taken_from_a_member", lambda it: it.owners.append(replace(it.owners[-1], taken_from="r1"))),
        ("no_buried_member_writes", lambda it: it.late_writes.append(LateWrite(at=12.0, replica="r1"))),
        ("no_client_holds_the_order_of_records", lambda it: setattr(it, "idle_holders", 1)),
        ("each_task_has_one_record", lambda it: it.acknowledged.update({("a", "3"): 9.5})),
        ("each_task_has_one_record", lambda it: it.expected.pop(("a", "2"))),
        ("each_outcome_is_hubspots_own", lambda it: it.expected.update({("a", "2"): "canceled"})),
        ("each_line_is_in_the_file_once", lambda it: setattr(it, "lines", it.lines[::-1])),
        ("each_line_is_in_the_file_once", lambda it: setattr(it, "lines", [*it.lines, it.lines[0]])),
        ("each_row_is_in_the_table_once", lambda it: setattr(it, "table", it.table[1:])),
        ("each_record_was_posted_under_one_id", lambda it: it.posts.append(("m3", it.records[0]))),
        ("each_record_was_posted_under_one_id", lambda it: it.posts.pop()),
        ("each_reader_saw_every_record_in_one_order", lambda it: it.read["reader"].reverse()),
        ("the_ledger_balances_anywhere", lambda it: setattr(it, "imbalances", {"r2": ["1 task too many"]})),
        ("no_account_is_idle_for_longer_than_a_fault_explains", lambda it: it.arrivals.append(arrival(30.0, "r2"))),
        ("few_answers_are_lost", lambda it: setattr(it, "recorded_requests", -20)),
    ],
)
def test_each_invariant_finds_its_violation(invariant: str, spoil: Callable[[History], object]) -> None:
    history = sound()
    spoil(history)
    assert [words.split(":")[0] for words in invariants.violations(history)] == [invariant]


def test_a_trial_without_evidence_shows_nothing() -> None:
    found = invariants.violations(History(window_s=1.0, limit=2))
    assert len(found) == 5
    assert all(words.startswith("the_trial_shows_something: no ") for words in found)


def test_an_account_of_a_dead_member_sends_nothing_for_a_window_whichever_member_has_it() -> None:
    """The third one took it in order, but the second had given it away in the middle of its wait."""
    history = sound()
    history.owners = [
        owned(9.0, "r1", 1),
        owned(11.0, None, 1, is_clean=False),
        owned(11.1, "r2", 2, is_clean=False),
        owned(11.5, None, 2),
        owned(11.6, "r3", 3),
    ]
    history.arrivals[-1] = arrival(12.2, "r3")
    assert invariants.violations(history) == []
    history.arrivals[-1] = arrival(12.0, "r3")
    assert "a: r3 sent a request 0.90 s after r2 took it" in invariants.violations(history)[0]


def test_who_holds_the_order_in_two_readings_of_one_transaction_held_it_while_idle() -> None:
    active, idle = Holder(1, "active"), Holder(1, "idle in transaction")
    assert idle_in_both({7: active}, {7: idle}) == {(7, 1)}
    assert idle_in_both({7: active}, {7: active}) == set()
    assert idle_in_both({}, {7: idle}) == set()  # its lock may be that of the transaction before
    assert idle_in_both({7: active}, {7: Holder(2, "idle in transaction")}) == set()


def row_record(starts: int = 1) -> bytes:
    fields = {"account": "a", "task_id": "3", "kind": "complete", "row": "k", "ref": {"url": URL}, "starts": starts}
    return orjson.dumps(fields)


URL = "https://a/1.png"


def of_rows() -> History:
    """Return a history without a violation: one row, started a second time once it had time to land."""
    return History(
        window_s=1.0,
        limit=2,
        offered={("a", URL)},
        rows={("a", URL): 9.0},
        starts=[("a", URL, 10.0), ("a", URL, 31.0)],
        settled_at=30.0,
        expected={("a", "3"): "complete"},
        records=[row_record(2)],
        lines=[row_record(2)],
        posts=[("m1", row_record(2))],
        table=[row_record(2)],
        arrivals=[arrival(10.0, "r1")],
        owners=[owned(9.0, "r1", 1)],
        read={"reader": [row_record(2)]},
        imbalances={"r1": ()},
        recorded_requests=3,
        workers=1,
    )


@pytest.mark.parametrize(
    ("invariant", "spoil"),
    [
        ("no_row_is_started_twice_but_flagged", lambda it: setattr(it, "settled_at", 40.0)),
        ("no_row_is_started_twice_but_flagged", lambda it: setattr(it, "starts", [*it.starts, ("a", URL, 32.0)])),
        ("each_row_has_one_record", lambda it: it.rows.update({("a", "https://a/2.png"): 9.5})),
        ("each_row_has_one_record", lambda it: it.offered.clear()),
    ],
)
def test_each_invariant_of_rows_finds_its_violation(invariant: str, spoil: Callable[[History], object]) -> None:
    history = of_rows()
    assert invariants.violations(history) == []
    spoil(history)
    assert [words.split(":")[0] for words in invariants.violations(history)] == [invariant]


def test_each_bug_that_the_campaign_finds_has_its_trial() -> None:
    known = {bug.name for bug in FLEET_BUGS}
    checks = {check.__name__ for check in invariants.INVARIANTS}
    for bug, (invariant, _) in FOUND_BY.items():
        assert bug in known
        assert invariant in checks


def test_one_request_may_slip_from_a_replica_that_was_frozen() -> None:
    history = sound()
    history.arrivals.append(arrival(13.5, "r1"))
    history.faults.append(Fault(at=10.6, kind="freeze", replica="r1", lasts_s=2.5))
    assert invariants.violations(history) == []
    history.arrivals.append(arrival(13.6, "r1"))
    assert "after 1 freezes" in invariants.violations(history)[0]


def test_what_an_asynchronous_standby_lacks_may_be_lost_and_nothing_else() -> None:
    history = sound()
    history.faults.append(Fault(at=20.0, kind="failover", replica=None, lasts_s=3.0))
    history.lost_from.append(20.0)
    history.acknowledged[("a", "3")] = 21.0
    assert invariants.violations(history) == []
    history.acknowledged[("a", "3")] = 19.0
    assert invariants.violations(history) == ["each_task_has_one_record: 1 tasks without a record: a/3"]


def test_a_gap_is_explained_by_the_fault_before_it() -> None:
    history = sound()
    history.arrivals.append(arrival(22.0, "r2"))
    history.faults.append(Fault(at=12.1, kind="kill", replica="r2", idle_s=9.0))
    assert invariants.violations(history) == []
    history.faults[0] = replace(history.faults[0], idle_s=1.0)
    assert "sent nothing for 10.0 s" in invariants.violations(history)[0]


@pytest.mark.real_time
async def test_a_fleet_that_is_killed_frozen_and_cut_off_keeps_every_invariant(tmp_path: Path) -> None:
    shape = Shape(
        accounts=3,
        stock=17,
        seconds=6.0,
        every_s=2.0,
        lasts_s=(1.0, 7.0),
        kinds=("kill", "freeze", "partition"),
        seed=5,
    )
    with own_server() as server:
        async with prepared(shape, tmp_path, server, "fleet", HOUSE) as trial:
            assert await carry_out(trial) == []
    assert invariants.violations(trial.history) == []
    assert trial.history.faults
    assert any(change.epoch > 1 for change in trial.history.owners)
    assert trial.history.records
    assert trial.history.rows


@pytest.mark.real_time
async def test_a_replica_that_ends_by_itself_is_noted_and_one_that_is_killed_is_not(tmp_path: Path) -> None:
    relay = Relay(port=9)
    wrong = Replica("r1", tmp_path, relay=relay, settings="wrokers = 3\n", accounts=[], tree=HOUSE)
    await wrong.start()
    await wrong.ended(60.0)
    wrong.send(signal.SIGTERM)
    await wrong.start()  # it is noted once
    wrong.send(signal.SIGKILL)
    await wrong.ended(60.0)
    await wrong.start()
    wrong.send(signal.SIGKILL)
    await wrong.ended(60.0)
    assert wrong.wrong_ends == ["r1 ended by itself with 78"]


@pytest.mark.real_time
async def test_a_frozen_relay_carries_nothing_until_it_is_thawed_and_a_cut_ends_the_connection() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Relay(port=server.sockets[0].getsockname()[1]).serving() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"one")
        assert await reader.read(100) == b"one"
        relay.freeze()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(100), 0.05)
        relay.thaw()
        assert await reader.read(100) == b"two"
        relay.cut()
        assert await reader.read(100) == b""
        writer.close()
