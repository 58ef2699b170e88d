"""Who is in the fleet: the statements of joining, seeing, burying and leaving. For the contracts, see core/fleet.py."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import orjson
from psycopg import AsyncConnection

from poller.core.fleet import FleetView, Member, SinkPlace
from poller.store.postgres.connection import fetch_all, fetch_first
from poller.store.postgres.fleet.accounts import know_accounts

_JOIN = (
    "WITH mine AS (INSERT INTO replica (host, pid, started_at, beat_at, seen_at, name, serves, settings)"
    " VALUES (%s, %s, %s, %s, clock_timestamp(), %s, %s, %s) ON CONFLICT (name) DO NOTHING RETURNING id)"
    " INSERT INTO progress (replica) SELECT id FROM mine RETURNING replica"
)
# One statement is one snapshot. Of each: what it is, number, name, and what its kind of row has.
_SEE = (
    "SELECT 'member', r.id, r.name, r.beats, r.is_draining, r.revision, coalesce(a.owned, 0),"
    " extract(epoch FROM r.seen_at)::float8, r.host, r.pid"
    " FROM replica r LEFT JOIN (SELECT owner, count(*) AS owned FROM account GROUP BY owner) a ON a.owner = r.id"
    " WHERE r.name IS NOT NULL"
    " UNION ALL SELECT 'account', owner, name, epoch, false, 0, 0, 0, '', 0 FROM account"
    " UNION ALL SELECT 'sink', owner, name, epoch, EXISTS (SELECT FROM sink_wanted w WHERE w.sink = sink.id), 0, 0, 0,"
    " home, 0 FROM sink WHERE attached ORDER BY 1, 2, 3"
)
_DETAILS = (
    "SELECT id, revision, serves, settings::text, ARRAY(SELECT s.name FROM sink_wanted w JOIN sink s ON s.id = w.sink"
    " WHERE w.replica = replica.id) FROM replica WHERE id = ANY (%s)"
)
# The row of a member in the middle of a commit is locked against this, and passed over.
_BURY = (
    "WITH dead AS (SELECT r.id FROM replica r JOIN unnest(%s::bigint[], %s::bigint[]) AS x (id, beats)"
    " ON x.id = r.id AND x.beats = r.beats WHERE r.name IS NOT NULL FOR UPDATE OF r SKIP LOCKED)"
    " DELETE FROM replica r USING dead WHERE r.id = dead.id RETURNING r.id"
)


class Announced(NamedTuple):
    """What a member announced, as of a revision."""

    revision: int
    serves: frozenset[str]
    settings: Mapping[str, object]
    sinks: frozenset[str]


NOTHING_ANNOUNCED = Announced(-1, frozenset(), {}, frozenset())


async def insert_member(
    connection: AsyncConnection,
    former: Collection[int],
    name: str,
    process: tuple[str, int],
    now: float,
    serves: Collection[str],
    settings: Mapping[str, object],
) -> int | None:
    """Return the id of the new row; None where the name is in use. Rows of `former` memberships are deleted."""
    if former:
        await connection.execute("DELETE FROM replica WHERE id = ANY (%s)", (list(former),))
    await know_accounts(connection, serves)
    values = (*process, now, now, name, sorted(serves), orjson.dumps(settings).decode())
    row = await fetch_first(connection, _JOIN, values)
    return None if row is None else int(row[0])


async def announce(
    connection: AsyncConnection, member: int, serves: Collection[str], settings: Mapping[str, object]
) -> None:
    await know_accounts(connection, serves)
    await connection.execute(
        "UPDATE replica SET serves = %s, settings = %s, revision = revision + 1 WHERE id = %s",
        (sorted(serves), orjson.dumps(settings).decode(), member),
    )


async def delete_member(connection: AsyncConnection, member: int) -> None:
    await connection.execute("DELETE FROM replica WHERE id = %s", (member,))


async def bury(connection: AsyncConnection, seen: Mapping[int, int]) -> list[int]:
    return [int(each) for (each,) in await fetch_all(connection, _BURY, (list(seen), list(seen.values())))]


async def see(
    connection: AsyncConnection, me: int | None, known: Mapping[int, Announced]
) -> tuple[FleetView, dict[int, Announced]]:
    """Return who is there, and what they announced: `known` with what changed."""
    rows: defaultdict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for kind, *row in await fetch_all(connection, _SEE):
        rows[kind].append(tuple(row))
    changed = [row[0] for row in rows["member"] if known.get(row[0], NOTHING_ANNOUNCED).revision != row[4]]
    announced = {row[0]: known[row[0]] for row in rows["member"] if row[0] in known}
    if changed:
        for number, revision, serves, settings, sinks in await fetch_all(connection, _DETAILS, (changed,)):
            announced[number] = Announced(revision, frozenset(serves), orjson.loads(settings), frozenset(sinks))
    view = FleetView(
        me=me,
        members=tuple(_member_of(row, announced.get(row[0], NOTHING_ANNOUNCED)) for row in rows["member"]),
        mine={name: epoch for owner, name, epoch, *_ in rows["account"] if owner is not None and owner == me},
        owners={name: owner for owner, name, *_ in rows["account"]},
        free=frozenset(name for owner, name, *_ in rows["account"] if owner is None),
        sinks=tuple(
            SinkPlace(name=name, owner=owner, epoch=epoch, home=home, is_wanted=is_wanted)
            for owner, name, epoch, is_wanted, _, _, _, home, _ in rows["sink"]
        ),
    )
    return view, announced


def _member_of(row: tuple[Any, ...], announced: Announced) -> Member:
    number, name, beats, is_draining, _, owns, seen_at, host, pid = row
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
