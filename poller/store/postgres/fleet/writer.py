"""Group commit of a member of a fleet. Each transaction begins with the fence: it locks the member's row against its
deletion, and where that is gone nothing is written. It ends with one message that the server runs as a whole: finished
tasks get their numbers and all is committed. So numbers appear in their order, and no frozen client holds others up.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from psycopg import AsyncClientCursor, AsyncConnection

from poller.core.fleet import Fenced
from poller.core.protocols import Clock
from poller.store import rows
from poller.store.postgres.connection import fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.fleet.counts import Change, add_up
from poller.store.postgres.fleet.holdings import Holdings
from poller.store.postgres.fleet.state_lock import name_session, share_lock_again
from poller.store.postgres.group_commit import Apply, Writer
from poller.store.postgres.outbox import RECORD_ORDER

log = structlog.get_logger("poller")

_BEGIN = (
    "BEGIN; UPDATE progress SET commits = %s"
    " FROM (SELECT id FROM replica WHERE id = %s FOR KEY SHARE) member WHERE replica = member.id"
)
_COUNT = (
    "INSERT INTO kind_count AS c (replica, kind, tasks, landed, polls)"
    " SELECT %s, * FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[])"
    " ON CONFLICT (replica, kind) DO UPDATE SET tasks = c.tasks + excluded.tasks,"
    " landed = c.landed + excluded.landed, polls = c.polls + excluded.polls; "
)
_INSERT_RECORDS = (
    f"SELECT pg_advisory_xact_lock({RECORD_ORDER});"  # noqa: S608 - a constant
    " WITH new AS (INSERT INTO record (task, reason, seen_at, body)"
    " SELECT task, reason, seen_at, body FROM unnest(%s::bigint[], %s::text[], %s::double precision[], %s::bytea[])"
    " WITH ORDINALITY AS x (task, reason, seen_at, body, nr) ORDER BY nr RETURNING number),"
    " attached AS (SELECT id FROM sink WHERE attached FOR KEY SHARE)"
    " INSERT INTO undelivered (sink, number) SELECT id, number FROM attached CROSS JOIN new; "
)


@dataclass(slots=True)
class LastStatements:
    """What a transaction adds to its last message."""

    records: list[rows.Row] = field(default_factory=list)  # task, reason, seen_at, body
    counts: list[Change] = field(default_factory=list)


class FleetWriter(Writer):
    """A writer that can lose its membership: then it refuses what is pending, and goes on after the next join."""

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        dsn: Dsn,
        holdings: Holdings,
        linger_s: float,
        clock: Clock,
        on_fenced: Callable[[Fenced], None],
    ) -> None:
        super().__init__(connection, dsn=dsn, replica=None, linger_s=linger_s, clock=clock)
        self._holdings = holdings
        self._on_fenced = on_fenced
        self.last = LastStatements()  # of the transaction under way
        self.applied_last: Apply | None = None  # writes that are applied together, after all others of a commit

    def begin_membership(self, member: int) -> None:
        """Write as this member from now on. The one before has ended."""
        self._holdings.member = member
        self._replica, self._commits, self._in_doubt = member, 0, None

    def end_membership(self, fenced: Fenced) -> None:
        """Refuse what is pending, and all writes until the next join."""
        self._replica, self._in_doubt = None, None
        self._holdings.end()
        pending, self._pending, self._rows, self._due_at = self._pending, [], 0, None
        self._on_fenced(fenced)
        for write in pending:
            if write.future is not None and not write.future.done():
                write.future.set_exception(Fenced(str(fenced), lost_commits=fenced.lost_commits))

    def no_member(self) -> Fenced:
        """Return why this process cannot write."""
        return Fenced(f"replica {self._holdings.name} is no member of the fleet now: it has not joined, or is fenced.")

    def _append(self, write: Any, *, within_s: float) -> None:
        self.check()
        if self._holdings.member is None:
            raise self.no_member()
        super()._append(write, within_s=within_s)

    async def _store(self, batch: Sequence[Any]) -> None:
        try:
            await super()._store(sorted(batch, key=lambda write: write.apply == self.applied_last))
        except Fenced as fenced:
            await self._roll_back()
            if self._holdings.member is not None:
                member, lost = self._holdings.member, fenced.lost_commits
                log.warning("replica.fenced", replica=self._holdings.name, member=member, lost_commits=lost)
            self.end_membership(fenced)

    async def _begin(self, connection: AsyncConnection, number: int) -> None:
        self.last = LastStatements()
        if self._replica is None:
            raise self._fenced()
        cursor = AsyncClientCursor(connection)
        await cursor.execute(_BEGIN, (number, self._replica))
        cursor.nextset()
        if cursor.rowcount != 1:
            raise self._fenced()

    async def _commit(self, connection: AsyncConnection) -> None:
        query, values = "", []
        if changes := add_up(self.last.counts):
            query += _COUNT
            values += [self._holdings.name, *changes]
        if self.last.records:
            query += _INSERT_RECORDS
            values += [list(column) for column in zip(*self.last.records, strict=True)]
        await AsyncClientCursor(connection).execute((query + "COMMIT").encode(), values)

    def _fenced(self, lost_commits: int = 0) -> Fenced:
        why = f"the server lost {lost_commits} commits" if lost_commits else "it was taken for dead"
        return Fenced(f"replica {self._holdings.name} is fenced: {why}. It joins again.", lost_commits=lost_commits)

    async def _own_again(self, connection: AsyncConnection) -> None:
        """Read the number of the latest transaction. The row's lock waits for one that the server still works on."""
        await share_lock_again(connection)
        await name_session(connection, self._holdings.name)
        if self._replica is None:
            raise self._fenced()
        row = await fetch_first(
            connection, "SELECT commits FROM progress WHERE replica = %s FOR UPDATE", (self._replica,)
        )
        if row is None:
            raise self._fenced()
        if row[0] < self._commits:
            log.error("store.commits_lost", path=self._dsn.shown, commits=self._commits - row[0])
            raise self._fenced(lost_commits=self._commits - row[0])
        self._commits = int(row[0])
