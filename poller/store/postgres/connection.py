"""Connections to the server. Every wait for one of its answers has a limit: a server that is frozen, or a lock that
another program holds, keeps the connection open and never answers.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from poller.store.postgres.dsn import Dsn

T = TypeVar("T")

CONNECT_WITHIN_S = 5.0  # also for what is short on every server
SILENT_AFTER_S = 4.0  # without an answer, after which the server counts as out of reach; `/readyz` shows it in 10 s
ANSWER_WITHIN_S = 120.0  # after which the connection is replaced: a long statement is not cut off


async def connect(dsn: Dsn) -> AsyncConnection:
    """Connect in autocommit mode: all transactions are explicit. Raises `psycopg.Error`."""
    try:
        async with asyncio.timeout(CONNECT_WITHIN_S):
            return await AsyncConnection.connect(dsn.conninfo, autocommit=True)
    except TimeoutError:
        raise psycopg.OperationalError(f"no answer within {CONNECT_WITHIN_S:g} s") from None


async def answered(
    work: Awaitable[T],
    connection: AsyncConnection,
    *,
    within_s: float,
    on_silence: Callable[[], None] | None = None,
) -> T:
    """Return what `work`, which uses `connection`, returns. Calls `on_silence` where that takes long.

    After `within_s`, or when the caller is cancelled, the connection is cut and `work` ends at once; psycopg itself
    would wait for the server. Raises `psycopg.OperationalError` when it is late.
    """
    task = asyncio.ensure_future(work)
    try:
        if on_silence is not None and not (await asyncio.wait([task], timeout=SILENT_AFTER_S))[0]:
            on_silence()
        await asyncio.wait([task], timeout=within_s)
    finally:
        if is_late := not task.done():
            cut(connection)
            await asyncio.wait([task])
            task.exception()  # what the cut raised
    if is_late:
        raise psycopg.OperationalError(f"no answer within {within_s:g} s")
    return task.result()


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
