"""Connections to the server. Every wait for one of its answers has a limit: a server that is frozen, or a lock that
another program holds, keeps the connection open and never answers.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from poller.core.errors import ConfigError
from poller.store.postgres.dsn import Dsn, begin_session

T = TypeVar("T")

CONNECT_WITHIN_S = 5.0  # also for what is short on every server
SILENT_AFTER_S = 4.0  # without an answer, after which the server counts as out of reach; `/readyz` shows it in 10 s
ANSWER_WITHIN_S = 120.0  # after which the connection is replaced: a long statement is not cut off
LONGEST_ANSWER_S = 32 * ANSWER_WITHIN_S  # an hour: to what that grows where a statement needs longer
SESSION_TRIES = 3  # on a busy pool, two sessions may meet the same backends as before


class NoAnswer(psycopg.OperationalError):
    """The server gave no answer in time; the connection is cut."""


async def connect(dsn: Dsn, changed: Mapping[str, str] = MappingProxyType({})) -> AsyncConnection:
    """Connect in autocommit mode: all transactions are explicit. `changed`: settings of this session. Raises
    `psycopg.Error`."""
    connection = await _connect(dsn)
    return await _or_close(connection, make_settings(connection, dsn, changed))


async def connect_first(dsn: Dsn) -> AsyncConnection:
    """Connect as `connect` does, once it is sure that the session is ours alone. Raises `psycopg.Error`, and
    `ConfigError` for a pooler in transaction mode."""
    connection = await _connect(dsn)
    await _or_close(connection, _refuse_shared_session(connection, dsn))
    return await _or_close(connection, make_settings(connection, dsn))


async def _connect(dsn: Dsn) -> AsyncConnection:
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            return await AsyncConnection.connect(dsn.conninfo, autocommit=True)
    except TimeoutError:
        raise psycopg.OperationalError(f"no answer within {CONNECT_WITHIN_S:g} s") from None


async def _or_close(connection: AsyncConnection, work: Awaitable[object]) -> AsyncConnection:
    """Return the connection after this work on it, or close it."""
    try:
        await answered(work, connection, within_s=CONNECT_WITHIN_S)
    except BaseException:
        await connection.close()
        raise
    return connection


async def make_settings(
    connection: AsyncConnection, dsn: Dsn, changed: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Make the settings of a session. A pooler would ignore or refuse them in the connection's own message."""
    await connection.execute(begin_session(dsn, changed).encode())


async def backend_of(connection: AsyncConnection) -> int:
    """Return the process id of the server's end; where a pooler is between, `connection.info` has another number."""
    ((pid,),) = await fetch_all(connection, "SELECT pg_backend_pid()")
    return int(pid)


async def _refuse_shared_session(connection: AsyncConnection, dsn: Dsn) -> None:
    """Raise `ConfigError` where a pooler hands the session to others between two transactions: no lock and no setting
    would last. Settles it before any setting is made, which others would find."""
    mine = await backend_of(connection)
    if mine == connection.info.backend_pid:
        return  # no pooler is between
    other = await _connect(dsn)
    try:
        for _ in range(SESSION_TRIES):
            async with other.transaction():
                theirs = await backend_of(other)
                if theirs == mine or await backend_of(connection) != mine:
                    raise ConfigError(
                        f"{dsn.shown} is a pool in transaction mode, where no lock lasts. Name the server itself, or a "
                        "pool in session mode (PgBouncer: pool_mode = session for this database)."
                    )
    finally:
        await other.close()


async def answered(
    work: Awaitable[T],
    connection: AsyncConnection,
    *,
    within_s: float | None,
    on_silence: Callable[[], Awaitable[None]] | None = None,
) -> T:
    """Return what `work`, which uses `connection`, returns. Calls `on_silence` where that takes long.

    After `within_s`, or when the caller is cancelled, the connection is cut and `work` ends at once; psycopg itself
    would wait for the server. Raises `NoAnswer` when it is late; None is no limit.
    """
    task = asyncio.ensure_future(work)
    try:
        if on_silence is not None and not (await asyncio.wait([task], timeout=SILENT_AFTER_S))[0]:
            await on_silence()
        await asyncio.wait([task], timeout=within_s)
    finally:
        if is_late := not task.done():
            cut(connection)
            await asyncio.wait([task])
            task.exception()  # what the cut raised
    if is_late:
        raise NoAnswer(f"no answer within {within_s:g} s")
    return task.result()


def longer(within_s: float) -> float:
    """Return the limit for an answer after one that was late: the statement may need that long."""
    return min(2 * within_s, LONGEST_ANSWER_S)


def cut(connection: AsyncConnection) -> None:
    """End the connection for those who wait for an answer: they get `psycopg.OperationalError`."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.shutdown(socket.SHUT_RDWR)


async def fetch_all(
    connection: AsyncConnection, query: str, values: Sequence[Any] | Mapping[str, Any] = ()
) -> list[tuple[Any, ...]]:
    """Return all rows of a query."""
    return await (await connection.execute(query.encode(), values)).fetchall()


async def fetch_first(
    connection: AsyncConnection, query: str, values: Sequence[Any] | Mapping[str, Any] = ()
) -> tuple[Any, ...] | None:
    """Return the first row of a query; None if there is none."""
    return await (await connection.execute(query.encode(), values)).fetchone()
