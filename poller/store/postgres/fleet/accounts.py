"""Accounts and their owners: taking, giving back, and the writes that only an owner may make. Run inside a transaction
that has the fence. For the contracts, see core/fleet.py.
"""

from collections.abc import Collection, Mapping, Sequence

from psycopg import AsyncConnection

from poller.core.accounts import AccountState
from poller.core.fleet import Taken
from poller.core.model import Settled, Task
from poller.core.poll_log import LONGEST
from poller.store import rows
from poller.store.intervals import CLOCK_TOLERANCE_S
from poller.store.postgres import task_queue
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.postgres.fleet.counts import WAITING
from poller.store.postgres.fleet.holdings import Holdings, OwnedAccount
from poller.store.postgres.fleet.writer import LastStatements
from poller.store.postgres.task_queue import columns, save_days

# `owner IS NULL`, and no look at the members: after a wait for a lock only the locked row is read again, so that a
# sub-query would show the members of before, and take from those that joined since.
_TAKE = (
    "WITH free AS (SELECT id, freed_at, slots FROM account WHERE owner IS NULL AND name = ANY (%s)"
    " LIMIT %s FOR UPDATE SKIP LOCKED)"
    " UPDATE account a SET owner = %s, epoch = a.epoch + 1, freed_at = NULL, slots = NULL FROM free"
    " WHERE a.id = free.id RETURNING a.id, a.name, a.epoch, free.freed_at IS NOT NULL, free.slots,"
    " extract(epoch FROM clock_timestamp() - free.freed_at)::float8, a.active_at"
)
# Accounts that the state does not know yet have never sent a request: they are free in order.
_KNOW = (
    "INSERT INTO account (name, freed_at) SELECT x.name, clock_timestamp() FROM unnest(%s::text[]) AS x (name)"
    " WHERE NOT EXISTS (SELECT FROM account a WHERE a.name = x.name) ORDER BY x.name ON CONFLICT DO NOTHING"
)
_GIVE = (
    "UPDATE account SET owner = NULL, freed_at = CASE WHEN %s THEN clock_timestamp() END, slots = %s"
    " WHERE name = %s AND owner = %s AND epoch = %s"
)
# A task is reached by its key alone: with a condition that has an index, on its account or on what waits, a plan for
# unknown arrays would go through all that wait.
RECORD_POLLED = (
    "UPDATE task t SET polls = t.polls + 1, due_at = x.due_at, errors = x.errors, missing_at = x.missing_at,"
    " status = x.status, requested_at = coalesce(x.requested_at, t.requested_at),"
    " seen_at = coalesce(x.seen_at, t.seen_at), started_at = coalesce(x.started_at, t.started_at),"
    " poll_log = right(t.poll_log || x.poll_log, %s)"
    " FROM account a, unnest(%s::bigint[], %s::text[], %s::double precision[], %s::integer[],"
    " %s::double precision[], %s::text[], %s::double precision[], %s::double precision[], %s::double precision[],"
    " %s::integer[], %s::bigint[])"
    " AS x (key, poll_log, due_at, errors, missing_at, status, requested_at, seen_at, started_at, account, epoch)"
    " WHERE t.key = x.key AND coalesce(t.kind, '') = ''"
    " AND a.id = x.account AND a.epoch = x.epoch AND a.owner = %s"
    " RETURNING t.key"
)
RECORD_FINISHED = (
    "UPDATE task t SET polls = t.polls + 1, poll_log = right(t.poll_log || x.poll_log, %s), kind = x.kind,"
    " landed = x.landed FROM account a, unnest(%s::bigint[], %s::text[], %s::text[], %s::boolean[],"
    " %s::integer[], %s::bigint[]) AS x (key, poll_log, kind, landed, account, epoch) WHERE t.key = x.key"
    " AND coalesce(t.kind, '') = ''"
    " AND a.id = x.account AND a.epoch = x.epoch AND a.owner = %s RETURNING t.key, t.polls"
)
PUT_OFF = (
    "UPDATE task t SET due_at = x.due_at FROM account a, unnest(%s::bigint[], %s::double precision[],"
    " %s::integer[], %s::bigint[]) AS x (key, due_at, account, epoch) WHERE t.key = x.key"
    " AND coalesce(t.kind, '') = ''"
    " AND a.id = x.account AND a.epoch = x.epoch AND a.owner = %s"
)
_SAVE = (
    "UPDATE account a SET active_at = x.active_at, clean = x.clean, paused_s = x.paused_s, day = x.day,"
    " pause = x.pause, pause_detail = x.pause_detail, resume_at = x.resume_at"
    " FROM unnest(%s::bigint[], %s::text[], %s::double precision[], %s::boolean[], %s::double precision[], %s::text[],"
    " %s::text[], %s::text[], %s::double precision[])"
    " AS x (epoch, name, active_at, clean, paused_s, day, pause, pause_detail, resume_at)"
    " WHERE a.name = x.name AND a.owner = %s AND a.epoch = x.epoch RETURNING a.name"
)


async def know_accounts(connection: AsyncConnection, names: Collection[str]) -> None:
    """Make the rows of accounts that are new."""
    await connection.execute(_KNOW.encode(), (sorted(names),))


async def take(
    connection: AsyncConnection, names: Sequence[str], limit: int, member: int, now: float
) -> list[tuple[Taken, OwnedAccount]]:
    """Own free accounts; instants that their owner's clock was ahead with are moved back."""
    taken = []
    for number, name, epoch, is_clean, slots, freed_ago_s, active_at in await fetch_all(
        connection, _TAKE, (list(names), limit, member)
    ):
        ahead_s = 0.0 if active_at is None else active_at - now
        if ahead_s <= CLOCK_TOLERANCE_S:
            ahead_s = 0.0
        else:
            await _move_back(connection, number, now, ahead_s)
        each = Taken(
            account=name,
            epoch=epoch,
            is_clean=is_clean,
            slot_ages_s=tuple(slots or ()),
            freed_ago_s=freed_ago_s,
            moved_s=ahead_s,
        )
        taken.append((each, OwnedAccount(number, epoch)))
    return taken


async def _move_back(connection: AsyncConnection, account: int, now: float, ahead_s: float) -> None:
    """Make the account's instants what they would be by our clock, as `rebase_instants` does for a whole state."""
    values = {"now": now, "ahead_s": ahead_s, "account": account}
    for statement in (
        f"{task_queue.MOVE_BACK} AND account = %(account)s",
        "UPDATE account SET active_at = least(active_at - %(ahead_s)s, %(now)s), resume_at = resume_at - %(ahead_s)s"
        " WHERE id = %(account)s",
        f"{task_queue.MOVE_ROWS_BACK} AND account = %(account)s",
    ):
        await connection.execute(statement.encode(), values)


async def give(
    connection: AsyncConnection, name: str, epoch: int, member: int, slot_ages_s: Sequence[float], is_clean: bool
) -> bool:
    values = (is_clean, list(slot_ages_s), name, member, epoch)
    return (await connection.execute(_GIVE.encode(), values)).rowcount == 1


async def record(
    connection: AsyncConnection,
    settled: Sequence[Settled],
    owned: Sequence[OwnedAccount],
    member: int,
    last: LastStatements,
) -> set[int]:
    """Store the decisions on tasks of these accounts, as they were taken; return their keys."""
    stored: set[int] = set()
    polled = [(each, account) for each, account in zip(settled, owned, strict=True) if each.again is not None]
    if polled:
        table = columns(rows.polled_rows([each for each, _ in polled]))
        values = (LONGEST, *table, *columns([account for _, account in polled]), member)
        keys = [key for (key,) in await fetch_all(connection, RECORD_POLLED, values)]
        stored.update(keys)
        last.counts.append((WAITING, 0, 0, len(keys)))
    finished = [(each, account) for each, account in zip(settled, owned, strict=True) if each.record is not None]
    if finished:
        stored |= await _record_finished(connection, finished, member, last)
    return stored


async def _record_finished(
    connection: AsyncConnection, finished: Sequence[tuple[Settled, OwnedAccount]], member: int, last: LastStatements
) -> set[int]:
    """Store the states of tasks; their records follow in the last message of the transaction."""
    table = rows.finished_rows([each for each, _ in finished])
    keys, lines, kinds, landed, *_ = columns(table)
    values = (LONGEST, keys, lines, kinds, landed, *columns([account for _, account in finished]), member)
    polls = dict(await fetch_all(connection, RECORD_FINISHED, values))
    for key, _, kind, has_landed, reason, seen_at, body in table:
        if key in polls:
            last.records.append((key, reason, seen_at, body))
            last.counts.append((WAITING, -1, 0, 1 - polls[key]))
            last.counts.append((kind, 1, int(has_landed), polls[key]))
    return set(polls)


async def put_off(
    connection: AsyncConnection, tasks: Sequence[tuple[Task, float]], holdings: Holdings, member: int
) -> None:
    """Make leased tasks of owned accounts due at these instants."""
    owned = holdings.accounts
    if table := [(task.key, due_at, *owned[task.account]) for task, due_at in tasks if task.account in owned]:
        await connection.execute(PUT_OFF.encode(), (*columns(table), member))


async def save(connection: AsyncConnection, noted: Mapping[str, AccountState], holdings: Holdings, member: int) -> None:
    """Store what was noted of accounts that are owned."""
    names = sorted(noted.keys() & holdings.accounts.keys())
    if not names:
        return
    epochs = [holdings.accounts[name].epoch for name in names]
    table = [epochs, names, *columns([rows.account_row(noted[name]) for name in names]), member]
    owned = {name for (name,) in await fetch_all(connection, _SAVE, table)}
    await save_days(connection, {name: noted[name] for name in names if name in owned})


async def number_of(connection: AsyncConnection, name: str, epoch: int, member: int) -> int | None:
    """Return the number of an account that this member owns since this epoch; None where it does not."""
    sql = "SELECT id FROM account WHERE name = %s AND owner = %s AND epoch = %s"
    row = await fetch_first(connection, sql, (name, member, epoch))
    return None if row is None else int(row[0])


async def delay_first_polls(connection: AsyncConnection, name: str, delay_s: float, member: int) -> None:
    sql = b"UPDATE account SET first_poll_s = %s WHERE name = %s AND owner = %s"
    await connection.execute(sql, (delay_s, name, member))


async def fed_accounts(connection: AsyncConnection, names: Collection[str]) -> list[tuple[str, int, float]]:
    """Return name, number and first polls' delay of these accounts, made as needed."""
    sql = "SELECT name, id, first_poll_s FROM account WHERE name = ANY (%s)"
    found = await fetch_all(connection, sql, (list(names),))
    if len(found) < len(names):
        await know_accounts(connection, names)
        found = await fetch_all(connection, sql, (list(names),))
    return [(name, number, delay_s) for name, number, delay_s in found]
