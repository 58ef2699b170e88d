"""Group commit over one connection: many callers' writes in one transaction, each acknowledged once on disk.

While the server is out of reach, or full, callers wait. A commit whose answer was lost is looked up, never repeated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NoReturn

import psycopg
import structlog
from psycopg import AsyncConnection

from poller.core.errors import StoreError
from poller.core.protocols import Clock
from poller.store.intervals import HEAVY_ROWS, RETRY_S
from poller.store.postgres.connection import (
    ANSWER_WITHIN_S,
    CONNECT_WITHIN_S,
    SILENT_AFTER_S,
    NoAnswer,
    answered,
    backend_of,
    connect,
    longer,
)
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import may_pass, reason_text, remedy, store_error
from poller.store.postgres.lock import NotOwner, ask_for_lock, commits_of, retake_lock, taken_over

log = structlog.get_logger("poller")

READ_ONLY = "25006"  # read_only_sql_transaction
CLOSE_WITHIN_S = 10  # less where the server is out of reach

Apply = Callable[[AsyncConnection, Sequence[Any]], Awaitable[Sequence[Any]]]  # payloads to results, in order


@dataclass(frozen=True, slots=True, kw_only=True)
class _Write:
    """One caller's write. It may be applied again after a rollback: `on_commit` makes the changes in memory."""

    apply: Apply  # neighbours with the same one are applied in one call
    payload: Any
    on_commit: Callable[[Any], None] | None  # runs right after the commit, with the result
    future: asyncio.Future[Any] | None  # None: no caller waits


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Applies `function` to one payload after the other."""

    function: Callable[..., Awaitable[object]]

    async def __call__(self, connection: AsyncConnection, payloads: Sequence[tuple[object, ...]]) -> list[object]:
        return [await self.function(connection, *payload) for payload in payloads]


class Writer:
    """Collects operations for `linger_s` and commits them together, in order."""

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        dsn: Dsn,
        replica: int | None,
        linger_s: float,
        clock: Clock,
        backend: int | None = None,
    ) -> None:
        """`backend`: the server's process that holds the lock for this connection; needed by a single owner."""
        self._connection: AsyncConnection | None = connection
        self._backend = backend
        self._dsn = dsn
        self._replica = replica
        self._linger_s = linger_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Write] = []
        self._rows = 0  # of what is pending
        self._due_at: float | None = None
        self._woken = asyncio.Event()
        self._within_s = ANSWER_WITHIN_S  # for the batch under way, which doubles it each time that it is late
        self._commits = 0  # transactions of ours that count
        self._in_doubt: tuple[int, list[Any]] | None = None  # a commit that was sent: its number; results if it counts
        self._unwritable_since: float | None = None
        self._unwritable_reason = ""  # the first of those since then, or the latest that names its remedy
        self._closing = False
        self._ended: str | None = None  # why nothing can be stored any more
        # The one task outside a group: it outlives any caller. `close` awaits it; its error is raised to all callers.
        self._working = self._loop.create_task(self._work())

    @property
    def writable(self) -> bool:
        """False while commits fail for a reason that may pass, such as a server that is down."""
        return self._unwritable_since is None

    @property
    def unwritable_reason(self) -> str:
        """Why commits fail now; empty while `writable`."""
        return "" if self.writable else self._unwritable_reason

    def check(self) -> None:
        """Raise `StoreError` when the store has failed or is closed."""
        if self._ended is not None:
            raise StoreError(self._ended)

    async def run(
        self, apply: Apply, payload: Any, *, rows: int = 1, on_commit: Callable[[Any], None] | None = None
    ) -> Any:
        """Return what `apply` returned for `payload`, once committed. It will be, also when the caller is cancelled."""
        future: asyncio.Future[Any] = self._loop.create_future()
        write = _Write(apply=apply, payload=payload, on_commit=on_commit, future=future)
        self._rows += rows
        self._append(write, within_s=0.0 if self._rows >= HEAVY_ROWS else self._linger_s)
        return await future

    def run_within(self, delay_s: float, apply: Apply, payload: Any, *, on_commit: Callable[[Any], None]) -> None:
        """Have `payload` committed within `delay_s`; no caller waits for it."""
        write = _Write(apply=apply, payload=payload, on_commit=on_commit, future=None)
        self._append(write, within_s=delay_s)

    def _append(self, write: _Write, *, within_s: float) -> None:
        self.check()
        self._pending.append(write)
        at = self._loop.time() + within_s
        if self._due_at is None or at < self._due_at:
            self._due_at = at
            self._woken.set()

    def fail(self, error: psycopg.Error) -> StoreError:
        """Refuse everything from now on; return what to raise."""
        failure = store_error(error, self._dsn)
        self._end(str(failure), error.sqlstate or type(error).__name__)
        return failure

    def note_outage(self, reason: str) -> None:
        """Log once that the server cannot be used now; the next commit logs that it can."""
        if self._unwritable_since is None:
            self._unwritable_since, self._unwritable_reason = self._clock(), reason
            log.error("store.unwritable", path=self._dsn.shown, reason=reason, retry_s=RETRY_S)

    def _note_failure(self, error: BaseException) -> None:
        """As `note_outage`; log again where a later error of the same outage names what a person must do, such as a
        new password, which is refused only once the connections of before have ended."""
        reason = reason_text(error, self._dsn)
        self.note_outage(reason)
        if reason != self._unwritable_reason and remedy(error) is not None:
            self._unwritable_reason = reason
            log.error("store.unwritable", path=self._dsn.shown, reason=reason, retry_s=RETRY_S)

    async def close(self) -> None:
        """Commit what is pending, once; where that fails, its callers get `StoreError`."""
        self._closing = True
        self._woken.set()
        for _ in range(CLOSE_WITHIN_S):
            done, _ = await asyncio.wait([self._working], timeout=1.0 if self.writable else 0.5)
            if done or not self.writable:
                break
        self._working.cancel()
        await asyncio.wait([self._working])
        if self._connection is not None:
            await self._connection.close()
        self._refuse(f"{self._dsn.shown} is closed.")

    # --- the work --------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            while await self._wait_for_work():
                batch, self._pending, self._rows, self._due_at = self._pending, [], 0, None
                await self._store(batch)
            await self._unregister()
        except StoreError as error:
            self._end(str(error), type(error).__name__)
        except psycopg.Error as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - a defect must reach the callers, not end in a lost task
            self._end(
                f"{self._dsn.shown} was handed something it cannot store: {type(error).__name__}.", type(error).__name__
            )

    async def _wait_for_work(self) -> bool:
        """Wait until the pending operations are due; return False where there are none and the store closes."""
        while not self._closing:
            self._woken.clear()
            if self._due_at is not None and self._due_at <= self._loop.time():
                break
            with suppress(TimeoutError):
                async with asyncio.timeout_at(self._due_at):
                    await self._woken.wait()
        return bool(self._pending)

    async def _store(self, batch: Sequence[_Write]) -> None:
        """Commit the batch, however long it takes, and let its callers return."""
        try:
            self._within_s = ANSWER_WITHIN_S
            while (results := await self._try_to_commit(batch)) is None:
                if self._closing:
                    self._refuse_unwritten(batch)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await self._until_closing()
        except BaseException:
            self._pending = [*batch, *self._pending]  # `_end` raises the reason to them
            raise
        for write, result in zip(batch, results, strict=True):
            _resolve(write, result)

    def _refuse_unwritten(self, batch: Sequence[_Write]) -> NoReturn:
        log.warning("store.closed_unwritten", path=self._dsn.shown, operations=len(batch))
        raise StoreError(f"{self._dsn.shown} is closed.")

    async def _until_closing(self) -> None:
        while not self._closing:
            self._woken.clear()
            await self._woken.wait()

    async def _try_to_commit(self, batch: Sequence[_Write]) -> list[Any] | None:
        """Return the results of the committed batch; None where it must be retried."""
        try:
            if self._connection is None:
                self._connection = await self._reconnect()
            work = self._transact(self._connection, batch)
            results = await answered(work, self._connection, within_s=self._within_s, on_silence=self._note_silence)
        except (NotOwner, OSError) as error:
            self._note_failure(error)
            await self._disconnect()  # it may be amid a transaction
            return None
        except psycopg.Error as error:
            if not may_pass(error):
                raise
            self._note_failure(error)
            if isinstance(error, NoAnswer) and self._connection is not None:
                self._within_s = longer(self._within_s)
            await self._roll_back()
            if error.sqlstate == READ_ONLY:  # a primary that became a standby: its connections may outlive that
                await self._disconnect()
            return None
        if self._unwritable_since is not None:
            after_s = round(self._clock() - self._unwritable_since, 3)
            self._unwritable_since = None
            log.info("store.writable", path=self._dsn.shown, after_s=after_s)
        return results

    async def _note_silence(self) -> None:
        self.note_outage(f"no answer for {SILENT_AFTER_S:g} s")
        reason = await ask_for_lock(self._dsn)
        if reason is not None and reason != self._unwritable_reason:
            self._unwritable_reason = reason
            log.warning("store.locked", path=self._dsn.shown, reason=reason)

    async def _transact(self, connection: AsyncConnection, batch: Sequence[_Write]) -> list[Any]:
        if (doubtful := self._in_doubt) is not None:
            self._in_doubt = None
            if doubtful[0] == self._commits:
                return doubtful[1]
        number = self._commits + 1
        await self._begin(connection, number)
        results: list[Any] = []
        for apply, group in groupby(batch, key=lambda write: write.apply):
            results += await apply(connection, [write.payload for write in group])
        self._in_doubt = number, results
        await self._commit(connection)
        self._in_doubt, self._commits = None, number
        return results

    async def _begin(self, connection: AsyncConnection, number: int) -> None:
        """Begin a transaction and number it, which is a heartbeat too. Raises `StoreError` for a late writer."""
        await connection.execute("BEGIN")
        updated = await connection.execute(
            "UPDATE replica SET commits = %s, beat_at = %s, seen_at = clock_timestamp() WHERE id = %s",
            (number, self._clock(), self._replica),
        )
        if updated.rowcount != 1:
            raise taken_over(self._dsn)

    async def _commit(self, connection: AsyncConnection) -> None:
        await connection.execute("COMMIT")

    async def _reconnect(self) -> AsyncConnection:
        """Return a new connection that owns the state. Once it holds the lock, the connection before has ended for
        the server too: what that committed is final."""
        connection = await connect(self._dsn)
        try:
            await answered(self._own_again(connection), connection, within_s=CONNECT_WITHIN_S)
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _own_again(self, connection: AsyncConnection) -> None:
        await retake_lock(connection, before=self._backend)
        self._backend = await backend_of(connection)
        self._commits = await commits_of(connection, self._replica, self._dsn)

    async def _roll_back(self) -> None:
        connection = self._connection
        if connection is None:
            return
        try:
            await answered(connection.execute("ROLLBACK"), connection, within_s=CONNECT_WITHIN_S)
            self._in_doubt = None  # the server answered: not committed
        except psycopg.Error:
            await self._disconnect()

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _unregister(self) -> None:
        """Delete the owner's row and release the lock, which the server would hold until it has noticed the end of the
        connection. The next owner does not need this to succeed."""
        if (connection := self._connection) is None:
            return
        for statement, values in (
            ("DELETE FROM replica WHERE id = %s", (self._replica,)),
            ("SELECT pg_advisory_unlock_all()", ()),
        ):
            with suppress(psycopg.Error):
                await answered(connection.execute(statement, values), connection, within_s=CONNECT_WITHIN_S)

    def _end(self, why: str, name: str) -> None:
        if self._ended is None:
            if not self._closing:
                log.error("store.failed", path=self._dsn.shown, reason=why, error=name)
            self._refuse(why)

    def _refuse(self, why: str) -> None:
        if self._ended is None:
            self._ended = why
        operations, self._pending = self._pending, []
        for write in operations:
            if write.future is not None and not write.future.done():
                write.future.set_exception(StoreError(why))


def _resolve(write: _Write, result: Any) -> None:
    if write.on_commit is not None:
        write.on_commit(result)
    if write.future is not None and not write.future.done():
        write.future.set_result(result)
