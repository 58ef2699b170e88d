"""The invariants of a fleet. Pure: a history in, violations out; each function is one promise of the docs."""

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import orjson

from campaign.fleet.history import Arrival, History, Ownership

WRITTEN_BEFORE_S = 0.05  # an arrival may be noted so much later than it was sent
SHOWN = 3  # examples a violation names


def violations(history: History) -> list[str]:
    """Return what does not hold, each with the number of its invariant."""
    return [f"{check.__name__}: {words}" for check in INVARIANTS for words in check(history)]


def the_trial_shows_something(history: History) -> Iterator[str]:
    """There is evidence: on an empty history each of the others would hold."""
    for name in ("arrivals", "owners", "records", "imbalances"):
        if not getattr(history, name):
            yield f"no {name}"
    if not any(history.read.values()):
        yield "no reader saw a record"


def no_window_exceeds_its_limit(history: History) -> Iterator[str]:
    """No rolling window of any account, by arrival, has more requests than its limit, all senders together."""
    for account, arrivals in history.by_account().items():
        window: deque[float] = deque()
        for arrival in arrivals:
            window.append(arrival.at)
            while window[0] <= arrival.at - history.window_s:
                window.popleft()
            if len(window) > history.limit:
                yield f"{account}: {len(window)} requests in a window of {history.limit}, at {arrival.at:.3f}"
                break


def no_request_comes_from_a_replaced_owner(history: History) -> Iterator[str]:
    """Each request arrives while its sender owns the account; a freeze may let one slip each time. Of a failover the
    state itself lost who owned what."""
    freezes = Counter(fault.replica for fault in history.faults if fault.kind == "freeze")
    owners = {account: _of(account, history.owners) for account in {change.account for change in history.owners}}
    late: Counter[str] = Counter()
    for arrival in history.arrivals:
        if not _owned(arrival, owners.get(arrival.account, ())) and not history.may_be_lost(arrival.at):
            late[arrival.replica] += 1
    for replica, count in late.items():
        if count > freezes[replica]:
            yield f"{replica} sent {count} requests for accounts it did not own, after {freezes[replica]} freezes"


def _of(account: str, owners: Iterable[Ownership]) -> Sequence[Ownership]:
    return sorted((change for change in owners if change.account == account), key=lambda change: change.at)


def _owned(arrival: Arrival, changes: Sequence[Ownership]) -> bool:
    at = bisect_right(changes, arrival.at, key=lambda change: change.at)
    if at and changes[at - 1].replica == arrival.replica:
        return True
    earlier = [change for change in changes[:at] if change.replica == arrival.replica]
    if not earlier:
        return False
    following = changes.index(earlier[-1]) + 1
    return arrival.at <= changes[following].at + WRITTEN_BEFORE_S


def no_request_comes_before_the_wait_of_an_unclean_change(history: History) -> Iterator[str]:
    """An account that was taken from a dead member sends nothing for one window, whichever member owns it by then. A
    failover may lose who owned it."""
    if history.lost_from:
        return
    for account, arrivals in history.by_account().items():
        changes = _of(account, history.owners)
        for taken in (each for each in changes if each.replica is not None and not each.is_clean):
            ends_at = taken.at + history.window_s
            early = [each for each in arrivals if taken.at < each.at < ends_at and _owned(each, changes)]
            if early:
                yield (
                    f"{account}: {early[0].replica} sent a request {early[0].at - taken.at:.2f} s after {taken.replica}"
                    f" took it, at {taken.at:.3f}"
                )
                break


def no_account_is_taken_from_a_member(history: History) -> Iterator[str]:
    """An account changes hands only through being free: given, or its owner buried."""
    for change in history.owners:
        if change.taken_from is not None:
            yield f"{change.replica} took {change.account} from {change.taken_from}, at {change.at:.3f}"


def no_buried_member_writes(history: History) -> Iterator[str]:
    """Nothing is committed by a process whose row is gone."""
    for each in history.late_writes[:SHOWN]:
        yield f"{each.replica} wrote when it was no member, at {each.at:.3f}"


def no_client_holds_the_order_of_records(history: History) -> Iterator[str]:
    """The lock that orders records is taken and released within one message to the server, so that no frozen client
    can hold it."""
    if history.idle_holders:
        yield f"{history.idle_holders} transactions held it while they waited for their client"


def each_task_has_one_record(history: History) -> Iterator[str]:
    """Each acknowledged id has one record, and no record is of anything else that was not fed."""
    found = Counter(_identity(record) for record in history.records)
    due = {task for task, at in history.acknowledged.items() if not history.may_be_lost(at)}
    yield from _named("without a record", due - found.keys())
    yield from _named("with several records", {each for each, count in found.items() if count > 1})
    yield from _named("with a record, but never fed", found.keys() - history.expected.keys())


def each_outcome_is_hubspots_own(history: History) -> Iterator[str]:
    """Each record's kind is what HubSpot's first final answer makes it."""
    wrong = {
        (_identity(record), orjson.loads(record)["kind"], history.expected.get(_identity(record)))
        for record in history.records
    }
    yield from _named("with another outcome", {each for each, kind, due in wrong if due is not None and kind != due})


def each_line_is_in_the_file_once(history: History) -> Iterator[str]:
    """The JSONL file holds each record once, byte for byte, in the order of their numbers."""
    if list(history.lines) == list(history.records):
        return
    if Counter(history.lines) == Counter(history.records):
        yield "the file's lines are in another order than the records' numbers"
        return
    lines, records = Counter(history.lines), Counter(history.records)
    yield f"{(records - lines).total()} records are not in the file, {(lines - records).total()} lines are too many"


def each_row_is_in_the_table_once(history: History) -> Iterator[str]:
    """The SQL table holds each record once, byte for byte."""
    rows, records = Counter(history.table), Counter(history.records)
    if rows != records:
        yield f"{(records - rows).total()} records are not in the table, {(rows - records).total()} rows are too many"


def each_record_was_posted_under_one_id(history: History) -> Iterator[str]:
    """The webhook received each record at least once; again only with the same id and, but for what a failover took
    back, with the same body."""
    posted = {body for _, body in history.posts}
    if missing := set(history.records) - posted:
        yield f"{len(missing)} records were never posted"
    if history.lost_from:
        return
    if strange := posted - set(history.records):
        yield f"{len(strange)} posts are no records"
    pairs = set(history.posts)
    if len({message for message, _ in pairs}) != len(pairs) or len({body for _, body in pairs}) != len(pairs):
        yield "one webhook id came with two bodies, or one body under two ids"


def each_reader_saw_every_record_in_one_order(history: History) -> Iterator[str]:
    """Every reader of /v1/finished, from any replica, gets every record once, in the order of their numbers."""
    if history.lost_from:
        return  # a reader may be beyond the numbers that are left: docs/reliability.md
    for name, seen in history.read.items():
        if seen != list(history.records):
            never = len(set(history.records) - set(seen))
            yield f"{name} saw {len(seen)} records of {len(history.records)}, {never} never, or in another order"


def the_ledger_balances_anywhere(history: History) -> Iterator[str]:
    """The sums balance as every replica shows them."""
    for replica, found in history.imbalances.items():
        for words in found:
            yield f"{replica}: {words}"


def no_account_is_idle_for_longer_than_a_fault_explains(history: History) -> Iterator[str]:
    """A gap between an account's requests is at most what the latest fault before its end allows."""
    usual_s = 2 * history.window_s + 3.0
    for account, arrivals in history.by_account().items():
        for before, after in pairwise(arrivals):
            gap_s = after.at - before.at
            near = [fault for fault in history.faults if before.at - fault.lasts_s - 10 <= fault.at <= after.at]
            allowed_s = usual_s + sum(fault.lasts_s + fault.idle_s for fault in near)
            if gap_s > allowed_s:
                yield f"{account} sent nothing for {gap_s:.1f} s, allowed are {allowed_s:.1f} s, at {before.at:.3f}"
                break


def each_row_has_one_record(history: History) -> Iterator[str]:
    """Each acknowledged row has one record, and no record is of a row that was not fed."""
    found = Counter(row for row, _ in _rows(history))
    due = {row for row, at in history.rows.items() if not history.may_be_lost(at)}
    yield from _named("of rows without a record", due - found.keys())
    yield from _named("of rows with several records", {each for each, count in found.items() if count > 1})
    yield from _named("of rows with a record, but never fed", found.keys() - history.offered)


def no_row_is_started_twice_but_flagged(history: History) -> Iterator[str]:
    """No row is started a second time before its start could land, and its record counts each start. A failover may
    lose that it was started at all, where the replica that knew it was killed."""
    if history.lost_from and any(fault.kind == "kill" for fault in history.faults):
        return
    posts = Counter((account, url) for account, url, _ in history.starts)
    early = Counter((account, url) for account, url, at in history.starts if at < history.settled_at)
    yield from _named("of rows started twice at once", {row for row, count in early.items() if count > 1})
    flagged = dict(_rows(history))
    yield from _named(
        "of rows whose record lacks a start",
        {row for row, count in posts.items() if row in flagged and count > flagged[row]},
    )


def _rows(history: History) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield account and URL of each record of a row, and its starts."""
    for record in history.records:
        fields = orjson.loads(record)
        if "row" in fields:
            yield (fields["account"], fields["ref"]["url"]), fields["starts"]


def few_answers_are_lost(history: History) -> Iterator[str]:
    """Requests that were answered but not recorded are at most what was in flight at each fault."""
    lost = len(history.arrivals) - history.recorded_requests
    most = 11 * history.workers * (1 + len(history.faults))
    if lost > most:
        yield f"{lost} answers were not recorded, after {len(history.faults)} faults at most {most} may be"


def _identity(record: bytes) -> tuple[str, str]:
    fields = orjson.loads(record)
    return fields["account"], fields["task_id"]


def _named(what: str, tasks: Iterable[tuple[str, str]]) -> Iterator[str]:
    if found := sorted(tasks):
        yield f"{len(found)} tasks {what}: {', '.join('/'.join(each) for each in found[:SHOWN])}"


INVARIANTS: tuple[Callable[[History], Iterator[str]], ...] = (
    the_trial_shows_something,
    no_window_exceeds_its_limit,
    no_request_comes_from_a_replaced_owner,
    no_request_comes_before_the_wait_of_an_unclean_change,
    no_account_is_taken_from_a_member,
    no_buried_member_writes,
    no_client_holds_the_order_of_records,
    each_task_has_one_record,
    each_outcome_is_hubspots_own,
    each_line_is_in_the_file_once,
    each_row_is_in_the_table_once,
    each_record_was_posted_under_one_id,
    each_reader_saw_every_record_in_one_order,
    the_ledger_balances_anywhere,
    no_account_is_idle_for_longer_than_a_fault_explains,
    each_row_has_one_record,
    no_row_is_started_twice_but_flagged,
    few_answers_are_lost,
)
