"""Heartbeats on a connection of their own, which never waits behind a commit; it carries the hints of members too."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import psycopg
import structlog
from psycopg import AsyncConnection, Notify

from poller.core.fleet import Beat, Hints
from poller.core.protocols import Clock
from poller.store.postgres.connection import CONNECT_WITHIN_S, answered, connect, fetch_all, fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import may_pass, reason_text, store_error
from poller.store.postgres.fleet import members
from poller.store.postgres.lock import lock_text

log = structlog.get_logger("poller")

RELOAD = "reload"
REPLAYED = "replayed"
MISSED = "missed"  # sent by no one: the connection is new, and hints from before are lost
LOCK_SHARE = 0.67  # of the time that an answer may take, after which the server gives up a wait for a lock
LONGEST_NOTE = 7000  # characters; the server takes fewer than 8000 bytes

_CHANNEL = "SELECT 'poller_' || to_regnamespace(current_schema())::oid, pg_backend_pid()"


class Heart:
    """Beats for the member whose number each call names."""

    def __init__(self, dsn: Dsn, *, clock: Clock, within_s: float) -> None:
        self._dsn = dsn
        self._clock = clock
        self._within_s = within_s
        self._connection: AsyncConnection | None = None
        self._channel, self._backend = "", 0
        self._alone = asyncio.Lock()  # for the connection
        self._to_send: set[str] = set()  # numbers of accounts that got tasks, `RELOAD`, `REPLAYED`
        self._heard: set[str] = set()
        self.failure = ""  # why the latest heartbeat was not made
        self.seen: members.Rows | None = None  # by the latest heartbeat that was made

    async def beat(self, member: int, status: bytes = b"") -> Beat:
        """Make one heartbeat, publish a status unless it is empty, see the others, and exchange hints."""

        async def beat(connection: AsyncConnection) -> bool:
            rows = await members.beat(connection, member, self._clock(), status)
            self.seen = rows or self.seen
            return rows is not None

        return await self._update(beat)

    async def drain(self, member: int) -> Beat:
        """Show the others that the member drains."""
        return await self._update(lambda connection: members.drain(connection, member))

    def hint(self, notes: Iterable[str]) -> None:
        """Send these with the next heartbeat."""
        self._to_send.update(notes)

    def heard(self) -> set[str]:
        """Return what arrived since the last call."""
        heard, self._heard = self._heard, set()
        return heard

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _update(self, update: Callable[[AsyncConnection], Awaitable[bool]]) -> Beat:
        try:
            async with asyncio.timeout(self._within_s), self._alone:
                connection = await self._connected()
                return await answered(self._send(connection, update), connection, within_s=self._within_s)
        except OSError:  # a time-out, or a socket that the operating system has closed
            self.failure = f"no answer within {self._within_s:g} s"
            await self.close()
        except psycopg.Error as error:
            if not isinstance(error, psycopg.errors.LockNotAvailable):
                self.failure = reason_text(error, self._dsn)
            await self.close()
            if not may_pass(error):
                raise store_error(error, self._dsn) from None
        return Beat.UNREACHED

    async def _send(self, connection: AsyncConnection, update: Callable[[AsyncConnection], Awaitable[bool]]) -> Beat:
        """`update` returns whether the member's row is there."""
        try:
            is_member = await update(connection)
        except psycopg.errors.LockNotAvailable as error:
            self.failure = await lock_text(connection) or reason_text(error, self._dsn)
            raise
        notes, self._to_send = self._to_send, set()
        try:
            for note in _packed(notes):
                await connection.execute("SELECT pg_notify(%s, %s)", (self._channel, note))
        except BaseException:
            self._to_send |= notes
            raise
        return Beat.MADE if is_member else Beat.FENCED

    async def _connected(self) -> AsyncConnection:
        if self._connection is None or self._connection.closed:
            # No promise rests on a heartbeat after a crash. Cutting the connection ends our wait, not the server's for
            # another program's lock.
            own = {"synchronous_commit": "off", "lock_timeout": str(round(LOCK_SHARE * self._within_s * 1000))}
            connection = self._connection = await connect(self._dsn, own)
            await answered(self._listen(connection), connection, within_s=CONNECT_WITHIN_S)
        return self._connection

    async def _listen(self, connection: AsyncConnection) -> None:
        connection.add_notify_handler(self._note)
        self._heard.add(MISSED)
        ((self._channel, self._backend),) = await fetch_all(connection, _CHANNEL)
        await connection.execute(f"LISTEN {self._channel}".encode())

    def _note(self, notify: Notify) -> None:
        notes = set(notify.payload.split(","))
        if notify.pid == self._backend:
            notes &= {RELOAD, REPLAYED}
        self._heard |= notes


async def notify(connection: AsyncConnection, note: str) -> None:
    """Send a hint to all members, from a process that is none."""
    row = await fetch_first(connection, _CHANNEL)
    await connection.execute("SELECT pg_notify(%s, %s)", (None if row is None else row[0], note))


def hints_of(heard: Iterable[str], names: dict[int, str]) -> Hints:
    """Return what these notes mean for the owner of these accounts, by number."""
    heard = set(heard)
    numbers = names.keys() if MISSED in heard else {int(note) for note in heard if note.isdigit()} & names.keys()
    return Hints(frozenset(names[number] for number in numbers), RELOAD in heard, REPLAYED in heard)


def _packed(notes: Iterable[str]) -> list[str]:
    """Join notes to as few payloads as the server takes."""
    packed: list[str] = []
    for note in sorted(notes):
        if packed and len(packed[-1]) + len(note) < LONGEST_NOTE:
            packed[-1] += f",{note}"
        else:
            packed.append(note)
    return packed
