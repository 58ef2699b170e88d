"""Builds what the stores' tests feed and record, and kills their stores."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from poller.core.deliveries import Delivery
from poller.core.errors import StoreError
from poller.core.model import Chunk, Fed, Kind, PollAgain, Position, Rejection, Settled, Task
from poller.core.protocols import Store
from poller.core.record import restore
from poller.store import SqliteStore
from poller.store.postgres import PostgresStore

Open = Callable[[], Awaitable[Store]]


def chunk_of(*task_ids: str, account: str = "main", rejected: Sequence[Rejection] = (), blank: int = 0) -> Chunk:
    fed = tuple(
        Fed(account=account, task_id=task_id, ref=b'{"row":"' + task_id.encode() + b'"}') for task_id in task_ids
    )
    return Chunk(
        fed=fed, rejected=tuple(rejected), blank=blank, position=Position(offset=100, line=10, fingerprint="f")
    )


async def feed(store: Store, *task_ids: str, account: str = "main") -> int:
    source = await store.new_source("ids.txt")
    await store.add(source, chunk_of(*task_ids, account=account))
    return source


def finished(
    task: Task, kind: Kind = Kind.COMPLETE, reason: str | None = None, at: float = 5.0, *, landed: bool = False
) -> Settled:
    body = b'{"task_id":"' + task.task_id.encode() + b'"' + (b',"landed":true}' if landed else b"}")
    return Settled(task=task, record=restore(body, kind=kind, reason=reason, seen_at=at))


def running(task: Task, at: float, **learned: Any) -> Settled:
    return Settled(task=task, again=PollAgain(at=at, errors=learned.pop("errors", 0), **learned))


async def finish(
    store: Store, *task_ids: str, account: str = "main", kind: Kind = Kind.COMPLETE, at: float = 5.0
) -> None:
    await feed(store, *task_ids, account=account)
    await store.record([finished(task, kind, at=at) for task in await store.claim(account, len(task_ids))])


def ids(found: Sequence[Task] | Sequence[Delivery]) -> list[str]:
    return [each.task_id for each in found]


async def kill(store: Store) -> None:
    """Stop the store as the kernel does at the end of a process: nothing more is written."""
    if isinstance(store, SqliteStore):
        store._commits._refuse(StoreError("killed"))
        store._closed = True
        store._connection.close()
        if store._lock is not None:
            store._lock.release()
    if isinstance(store, PostgresStore):
        store._closed = True
        writer = store._writer
        writer._working.cancel()
        with suppress(asyncio.CancelledError):
            await writer._working
        writer._refuse("killed")
        if writer._connection is not None:
            await writer._connection.close()
        await store._pool.close()
