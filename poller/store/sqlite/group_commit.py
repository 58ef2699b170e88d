"""Group commit: many callers' writes in one transaction, each acknowledged once on disk.

A disk that is full or read-only makes callers wait; a failed fsync or damage ends the store.
"""

import asyncio
import math
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from poller.core.errors import StoreError
from poller.core.protocols import Clock
from poller.store.intervals import HEAVY_ROWS, RETRY_S
from poller.store.sqlite.errors import may_pass, store_error

log = structlog.get_logger("poller")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Operation:
    """One caller's write. It may be applied again after a rollback: `on_commit` makes the changes in memory."""

    apply: Callable[[], Any]
    on_commit: Callable[[], None] | None  # runs right after the commit
    future: asyncio.Future[Any] | None  # None: no caller waits
    rows: int


class GroupCommit:
    """Collects operations for `linger_s` and commits them together, in order, on the loop."""

    def __init__(
        self, connection: sqlite3.Connection, *, path: str, linger_s: float, clock: Clock, beat: Callable[[], None]
    ) -> None:
        self._connection = connection
        self._path = path
        self._linger_s = linger_s
        self._clock = clock
        self._beat = beat  # called after each commit
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Operation] = []
        self._rows = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf  # when it is due; uvloop has no such attribute for timers that are due at once
        self._unwritable_since: float | None = None
        self._unwritable_reason = ""  # the first of those since then
        self._ended: StoreError | None = None  # why nothing can be stored any more

    @property
    def writable(self) -> bool:
        """False while commits fail for a reason that may pass, such as a full disk."""
        return self._unwritable_since is None

    @property
    def unwritable_reason(self) -> str:
        """Why commits fail now; empty while `writable`."""
        return "" if self.writable else self._unwritable_reason

    def check(self) -> None:
        """Raise `StoreError` when the store has failed or is closed."""
        if self._ended is not None:
            raise _copy(self._ended)

    async def run(self, apply: Callable[[], T], *, rows: int = 1, on_commit: Callable[[], None] | None = None) -> T:
        """Return what `apply` returned, once it is committed. It will be, also when the caller is cancelled."""
        self.check()
        future: asyncio.Future[T] = self._loop.create_future()
        self._append(_Operation(apply=apply, on_commit=on_commit, future=future, rows=rows))
        self._commit_within(0.0 if self._rows >= HEAVY_ROWS else self._linger_s)
        return await future

    def run_within(
        self, delay_s: float, apply: Callable[[], None], *, on_commit: Callable[[], None], rows: int = 1
    ) -> None:
        """Have `apply` committed within `delay_s`; no caller waits for it."""
        self.check()
        self._append(_Operation(apply=apply, on_commit=on_commit, future=None, rows=rows))
        self._commit_within(0.0 if self._rows >= HEAVY_ROWS else delay_s)

    def run_unsynced(self, apply: Callable[[], None]) -> bool:
        """Commit `apply` at once, without waiting for the disk: the next commit brings it there. Return False where it
        cannot be written now."""
        self.check()
        try:
            self._connection.execute("PRAGMA synchronous=NORMAL")
            try:
                apply()
            finally:
                self._connection.execute("PRAGMA synchronous=FULL")
        except sqlite3.Error as error:
            if not may_pass(error):
                raise self.fail(error) from error
            return False
        return True

    def fail(self, error: sqlite3.Error) -> StoreError:
        """Refuse everything from now on; return what to raise."""
        failure = store_error(error, self._path)
        self.end(failure, getattr(error, "sqlite_errorname", type(error).__name__))
        return failure

    def close(self) -> None:
        """Commit what is pending, once; where that fails, its callers get `StoreError`."""
        if self._pending and self._ended is None:
            self._commit()
        if self._pending:
            log.warning("store.closed_unwritten", path=self._path, operations=len(self._pending))
        if self._ended is None:
            self._refuse(StoreError(f"{self._path} is closed."))

    def _append(self, operation: _Operation) -> None:
        self._pending.append(operation)
        self._rows += operation.rows

    def _commit_within(self, delay_s: float) -> None:
        at = self._loop.time() + delay_s
        if self._timer is not None:
            if self._timer_at <= at or not self.writable:
                return
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(at, self._commit), at

    def _commit(self) -> None:
        self._cancel_timer()
        try:
            results = self._transact()
        except sqlite3.Error as error:
            self._roll_back()
            if may_pass(error):
                self._wait_for_room(error)
            else:
                self.fail(error)
        except Exception as error:  # noqa: BLE001 - a defect must reach the callers, not end in a timer's callback
            self._roll_back()
            name = type(error).__name__
            self.end(StoreError(f"{self._path} was handed something it cannot store: {name}."), name)
        else:
            self._resolve(results)

    def _transact(self) -> list[Any]:
        if not self.writable:
            self._fold_log()
        self._connection.execute("BEGIN IMMEDIATE")
        results = [operation.apply() for operation in self._pending]
        self._connection.execute("COMMIT")
        return results

    def _fold_log(self) -> None:
        """Move the write-ahead log into the database and truncate it: it may be what fills the disk."""
        try:
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            if not may_pass(error):
                raise

    def _resolve(self, results: list[Any]) -> None:
        operations, self._pending, self._rows = self._pending, [], 0
        for operation, result in zip(operations, results, strict=True):
            if operation.on_commit is not None:
                operation.on_commit()
            if operation.future is not None and not operation.future.done():
                operation.future.set_result(result)
        if self._unwritable_since is not None:
            log.info("store.writable", path=self._path, after_s=round(self._clock() - self._unwritable_since, 3))
            self._unwritable_since = None
        self._beat()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                self.fail(error)

    def _wait_for_room(self, error: sqlite3.Error) -> None:
        if self._ended is not None:
            return
        if self._unwritable_since is None:
            self._unwritable_since, self._unwritable_reason = self._clock(), str(error)
            log.error("store.unwritable", path=self._path, reason=str(error), retry_s=RETRY_S)
        self._timer, self._timer_at = self._loop.call_later(RETRY_S, self._commit), self._loop.time() + RETRY_S

    def end(self, failure: StoreError, error: str) -> None:
        """Refuse everything from now on with `failure`, which the log has as `error`."""
        if self._ended is None:
            log.error("store.failed", path=self._path, reason=str(failure), error=error)
            self._refuse(failure)

    def _refuse(self, why: StoreError) -> None:
        self._cancel_timer()
        self._ended = why
        operations, self._pending, self._rows = self._pending, [], 0
        for operation in operations:
            if operation.future is not None and not operation.future.done():
                operation.future.set_exception(_copy(why))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _copy(error: StoreError) -> StoreError:
    """Return the same error for one more caller: an instance that is raised again keeps its earlier traceback."""
    return type(error)(str(error))
