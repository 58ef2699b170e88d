"""What a member knows of the starts that it made lately. A failover to a standby that was behind loses that a row was
started at all; HubSpot has started it all the same, and a second start would go unflagged.
"""

from collections.abc import Collection
from typing import NamedTuple

import structlog
from psycopg import AsyncConnection

from poller.core.protocols import Clock
from poller.core.starts import Row
from poller.store.postgres import import_rows
from poller.store.postgres.connection import fetch_all
from poller.store.postgres.task_queue import columns

log = structlog.get_logger("poller")

KEPT_S = 300.0  # longer than a standby that may be promoted is behind
MOST_KEPT = 10_000

# As lost ones, of rows that have no task. A key may be another row's by now. A state that knows of the start may still
# lack its task: that is stored while no other owner can be starting the row.
_RESTORE = (
    "UPDATE import_row r SET starts = x.starts, lost = r.lost + x.starts - r.starts, due_at = x.due_at,"
    " first_sent_at = coalesce(r.first_sent_at, x.first_sent_at)"
    " FROM account a, unnest(%s::bigint[], %s::text[], %s::integer[], %s::double precision[],"
    " %s::double precision[], %s::boolean[]) AS x (key, row, starts, due_at, first_sent_at, has_task)"
    " WHERE r.key = x.key AND r.row = x.row AND r.task IS NULL AND a.id = r.account AND (r.starts < x.starts"
    " OR r.starts = x.starts AND x.has_task AND a.owner = ANY (%s::bigint[])) RETURNING r.key"
)


class _Start(NamedTuple):
    row: Row  # as it was stored before the start left
    at: float
    task_id: str | None = None  # as HubSpot answered


class KnownStarts:
    """The latest starts that may have left, by row. In memory: they end with this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._starts: dict[int, _Start] = {}  # by key, oldest first

    def note(self, row: Row, task_id: str | None = None) -> None:
        """This start was stored, and leaves; or it began the import with this task id."""
        now = self._clock()
        self._starts.pop(row.key, None)
        self._starts[row.key] = _Start(row, now, task_id)
        oldest = next(iter(self._starts))
        if len(self._starts) > MOST_KEPT or abs(now - self._starts[oldest].at) > KEPT_S:
            del self._starts[oldest]

    def forget(self, row: Row) -> None:
        """The latest start of the row began no import."""
        self._starts.pop(row.key, None)

    async def restore(self, connection: AsyncConnection, former: Collection[int]) -> None:
        """Store again what the state lacks of these starts: their rows are unsure once more, or have their tasks. To be
        called while the state still shows this process, as one of the `former` members, as the owner of their
        accounts."""
        if not self._starts:
            return
        sent = [
            (row.key, row.row, row.starts, row.due_at, row.first_sent_at, task_id is not None)
            for row, _, task_id in self._starts.values()
        ]
        restored = await fetch_all(connection, _RESTORE, (*columns(sent), list(former)))
        for (key,) in restored:
            row, at, task_id = self._starts[key]
            if task_id is not None:
                await import_rows.begin(connection, row, task_id, None, at, at)
        if restored:
            log.warning("starts.restored", rows=len(restored))
