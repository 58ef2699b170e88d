"""Who is in the fleet: the statements of joining, seeing, burying and leaving. For the contracts, see core/fleet.py."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

import orjson
import structlog
from psycopg import AsyncConnection

from poller.core.fleet import FleetView, KindCount, Member, SinkPlace
from poller.core.protocols import Clock
from poller.core.steady_clock import JUMP_S
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.postgres.fleet import counts, statuses
from poller.store.postgres.fleet.accounts import know_accounts
from poller.store.postgres.fleet.state_lock import end_sessions

log = structlog.get_logger("poller")

_JOIN = (
    "WITH mine AS (INSERT INTO replica (host, pid, started_at, beat_at, seen_at, name)"
    " VALUES (%s, %s, %s, %s, clock_timestamp(), %s) ON CONFLICT (name) DO NOTHING RETURNING id),"
    " shown AS (INSERT INTO announced (replica, serves, settings) SELECT id, %s, %s FROM mine)"
    " INSERT INTO progress (replica) SELECT id FROM mine RETURNING replica"
)
# One statement is one snapshot, and short: each member asks once a beat. Of each row: what it is, number, name, and
# what its kind has. An epoch grows with each take, and after each give fewer accounts are owned, so that the sums of
# all accounts are the same only where nothing changed hands and no account is new. Only those outboxes are
# read that the asking member delivers, and one row of each: EXISTS would drop ORDER BY, and scan the whole table.
_SEE = (
    "SELECT 'member', r.id, r.name, r.beats, r.is_draining, r.revision, extract(epoch FROM r.seen_at)::float8, r.host,"
    " r.pid FROM replica r WHERE r.name IS NOT NULL"
    " UNION ALL SELECT 'accounts', count(owner), count(*)::text, sum(epoch)::bigint, false, sum(owner * id)::bigint, 0,"
    " '', 0 FROM account"
    " UNION ALL SELECT 'sink', owner, name, epoch, EXISTS (SELECT FROM sink_wanted w WHERE w.sink = sink.id),"
    " CASE WHEN owner = %(me)s::bigint AND (SELECT number FROM undelivered u WHERE u.sink = sink.id ORDER BY number"
    " LIMIT 1) IS NOT NULL THEN 1 ELSE 0 END, 0, home, 0 FROM sink WHERE attached"
    " UNION ALL SELECT 'kind', sum(tasks)::bigint, kind, sum(landed)::bigint, false, sum(polls)::bigint, 0, '', 0"
    " FROM kind_count GROUP BY kind"
)
# A heartbeat and a view cost the server one wake-up together, which on an idle machine is most of their cost.
_BEAT = (
    "WITH beat AS (UPDATE replica SET beats = beats + 1, seen_at = clock_timestamp(), beat_at = %(now)s"  # noqa: S608
    f" WHERE id = %(me)s RETURNING id), published AS ({statuses.PUBLISH})"
    f" SELECT 'beat', id, '', 0, false, 0, 0, '', 0 FROM beat UNION ALL {_SEE}"
)
# Members at work go by the server's clock as it was at the start of the first of them, however it was set since.
_TIME = (
    "SELECT (SELECT percentile_disc(0.5) WITHIN GROUP"
    " (ORDER BY beat_at + extract(epoch FROM clock_timestamp() - seen_at)::float8)"
    " FROM replica WHERE name IS NOT NULL AND seen_at BETWEEN clock_timestamp() - interval '1 minute'"
    " AND clock_timestamp()), extract(epoch FROM clock_timestamp())::float8"
)
_ACCOUNTS = "SELECT name, owner, epoch FROM account ORDER BY name"
_DETAILS = (
    "SELECT r.id, r.revision, a.serves, a.settings::text, ARRAY(SELECT s.name FROM sink_wanted w"
    " JOIN sink s ON s.id = w.sink WHERE w.replica = r.id)"
    " FROM replica r JOIN announced a ON a.replica = r.id WHERE r.id = ANY (%s)"
)
# The row of a member in the middle of a commit is locked against this, and passed over.
_BURY = (
    "WITH dead AS (SELECT r.id FROM replica r JOIN unnest(%s::bigint[], %s::bigint[]) AS x (id, beats)"
    " ON x.id = r.id AND x.beats = r.beats WHERE r.name IS NOT NULL FOR UPDATE OF r SKIP LOCKED)"
    " DELETE FROM replica r USING dead WHERE r.id = dead.id RETURNING r.id"
)

_UNCHANGED = (
    "SELECT r.name FROM replica r JOIN unnest(%s::bigint[], %s::bigint[]) AS x (id, beats)"
    " ON x.id = r.id AND x.beats = r.beats WHERE r.name IS NOT NULL"
)


class Announced(NamedTuple):
    """What a member announced, as of a revision."""

    revision: int
    serves: frozenset[str]
    settings: Mapping[str, object]
    sinks: frozenset[str]


class SeenFleet(NamedTuple):
    """What the last view showed and the next one need not read again."""

    announced: Mapping[int, Announced] = {}  # by member
    sums: tuple[tuple[Any, ...], ...] = ()  # of all accounts, see `_SEE`
    accounts: Mapping[str, tuple[int | None, int]] = {}  # owner, epoch


Rows = dict[str, list[tuple[Any, ...]]]  # by what they are


async def ahead_of(connection: AsyncConnection, clock: Clock) -> float:
    """Return by how much the fleet's clock is ahead of this one: that of the members at work, or the server's."""
    asked_at = clock()
    ((fleet_at, server_at),) = await fetch_all(connection, _TIME)
    now = (asked_at + clock()) / 2
    if fleet_at is None:
        return float(server_at) - now
    if abs(server_at - fleet_at) >= JUMP_S:
        log.warning("clock.differs", by_s=round(server_at - fleet_at, 3))
    return float(fleet_at) - now


async def insert_member(
    connection: AsyncConnection,
    former: Collection[int],
    name: str,
    process: tuple[str, int],
    now: float,
    serves: Collection[str],
    settings: Mapping[str, object],
) -> int | None:
    """Return the id of the new row; None where the name is in use. Rows of `former` memberships are deleted, and what
    members left behind that are gone."""
    if former:
        await connection.execute("DELETE FROM replica WHERE id = ANY (%s)", (list(former),))
    await know_accounts(connection, serves)
    values = (*process, now, now, name, sorted(serves), orjson.dumps(settings).decode())
    if (row := await fetch_first(connection, _JOIN, values)) is None:
        return None
    await counts.fold(connection)
    await statuses.forget(connection)
    return int(row[0])


async def announce(
    connection: AsyncConnection, member: int, serves: Collection[str], settings: Mapping[str, object]
) -> None:
    await know_accounts(connection, serves)
    await connection.execute(
        "UPDATE announced SET serves = %s, settings = %s WHERE replica = %s",
        (sorted(serves), orjson.dumps(settings).decode(), member),
    )
    await connection.execute("UPDATE replica SET revision = revision + 1 WHERE id = %s", (member,))


async def delete_member(connection: AsyncConnection, member: int) -> None:
    await connection.execute("DELETE FROM replica WHERE id = %s", (member,))


async def bury(connection: AsyncConnection, seen: Mapping[int, int]) -> list[int]:
    """Delete those of these members that made no heartbeat since. A row that its own transaction locks is passed over:
    where that waits for its client, it is ended, so that the next call finds the row free."""
    buried = [int(each) for (each,) in await fetch_all(connection, _BURY, (list(seen), list(seen.values())))]
    if len(buried) < len(seen):
        locked = await fetch_all(connection, _UNCHANGED, (list(seen), list(seen.values())))
        await end_sessions(connection, [name for (name,) in locked])
    return buried


async def beat(connection: AsyncConnection, me: int, now: float, status: bytes) -> Rows | None:
    """Make a heartbeat, publish a status unless it is empty, and return what there is to see; None where the member's
    row is gone."""
    rows = _by_kind(await fetch_all(connection, _BEAT, {"me": me, "now": now, "status": status}))
    return rows if rows["beat"] else None


async def drain(connection: AsyncConnection, me: int) -> bool:
    """Show the others that the member drains; return whether its row is there."""
    return (await connection.execute("UPDATE replica SET is_draining = true WHERE id = %s", (me,))).rowcount == 1


async def see(connection: AsyncConnection, me: int | None, known: SeenFleet) -> tuple[FleetView, SeenFleet]:
    """Return who is there and who owns what, and that as `known` for the next call, which then reads what changed."""
    rows = await _see(connection, me)
    if not is_known(rows, known):
        async with connection.transaction():
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            rows = await _see(connection, me)
            known = await _learn(connection, rows, known)
    return view_of(rows, me, known), known


def is_known(rows: Rows, known: SeenFleet) -> bool:
    """Return whether `known` has the owners and the announcements that these rows are about."""
    return tuple(rows["accounts"]) == known.sums and not _changed(rows, known.announced)


def view_of(rows: Rows, me: int | None, known: SeenFleet) -> FleetView:
    """Return what these rows show, whose owners and announcements are known."""
    owners = {name: owner for name, (owner, _) in known.accounts.items()}
    owns = Counter(owners.values())
    return FleetView(
        me=me,
        members=tuple(_member_of(row, known.announced[row[0]], owns[row[0]]) for row in sorted(rows["member"])),
        mine={name: epoch for name, (owner, epoch) in known.accounts.items() if owner is not None and owner == me},
        owners=owners,
        free=frozenset(name for name, owner in owners.items() if owner is None),
        sinks=tuple(
            SinkPlace(name=name, owner=owner, epoch=epoch, home=home, is_wanted=is_wanted, has_waiting=bool(waiting))
            for owner, name, epoch, is_wanted, waiting, _, home, _ in sorted(rows["sink"], key=itemgetter(1))
        ),
        counts={kind: KindCount(tasks, landed, polls) for tasks, kind, landed, _, polls, *_ in rows["kind"]},
    )


async def _see(connection: AsyncConnection, me: int | None) -> Rows:
    return _by_kind(await fetch_all(connection, _SEE, {"me": me}))


def _by_kind(found: Iterable[tuple[Any, ...]]) -> Rows:
    rows: Rows = defaultdict(list)
    for kind, *row in found:
        rows[kind].append(tuple(row))
    return rows


async def _learn(connection: AsyncConnection, rows: Rows, known: SeenFleet) -> SeenFleet:
    """Return what these rows mean, read in the same snapshot."""
    members = {row[0] for row in rows["member"]}
    announced = {member: each for member, each in known.announced.items() if member in members}
    for member, revision, serves, settings, sinks in await fetch_all(
        connection, _DETAILS, (_changed(rows, announced),)
    ):
        announced[member] = Announced(revision, frozenset(serves), orjson.loads(settings), frozenset(sinks))
    accounts = {name: (owner, epoch) for name, owner, epoch in await fetch_all(connection, _ACCOUNTS)}
    return SeenFleet(announced, tuple(rows["accounts"]), accounts)


def _changed(rows: Rows, announced: Mapping[int, Announced]) -> list[int]:
    """Return the members that announced something else since, or are new."""
    known = {member: each.revision for member, each in announced.items()}
    return [row[0] for row in rows["member"] if known.get(row[0]) != row[4]]


def _member_of(row: tuple[Any, ...], announced: Announced, owns: int) -> Member:
    number, name, beats, is_draining, _, seen_at, host, pid = row
    return Member(
        id=number,
        name=name,
        beats=beats,
        seen_at=seen_at,
        host=host,
        pid=pid,
        is_draining=is_draining,
        serves=announced.serves,
        settings=announced.settings,
        owns=owns,
        sinks=announced.sinks,
    )
