"""Rows of a program become chunks for the store: each row is a task, or a rejection with its reason."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson

from poller.core.model import Added, Chunk, Fed, FedRow, Position, Rejection
from poller.sources import ReadOptions, excerpt, read_json
from poller.sources.imports.lines import ImportLines
from poller.sources.imports.row import RowReaders

Row = str | int | tuple[str | int, Mapping[str, Any] | None] | Mapping[str, Any]
Rows = Iterable[Row] | AsyncIterable[Row]

CHUNK_ROWS = 5_000  # a transaction; what the rows after it wait for


@dataclass(slots=True)
class FedRows:
    """Where the rows of one call went: rows = tasks + duplicates + rejected. Whatever is counted is on disk."""

    tasks: int = 0  # new ones, or rows to import
    duplicates: int = 0  # ids or rows that the account has already; the task keeps its first `ref`
    rejected: list[Rejection] = field(default_factory=list)  # `line` is the row's number, from 1

    @property
    def rows(self) -> int:
        return self.tasks + self.duplicates + len(self.rejected)

    def add(self, chunk: Chunk, added: Added) -> None:
        """Count a chunk that is on disk."""
        before = self.rows
        self.tasks += added.tasks
        self.duplicates += added.duplicates
        self.rejected += [
            Rejection(line=before + each.line, reason=each.reason, excerpt=each.excerpt) for each in chunk.rejected
        ]


ReadRow = Callable[[object], Fed | FedRow]  # raises `ValueError` for a row that cannot be used


def reader_of(options: ReadOptions) -> ReadRow:
    """Return what reads each row: as an id, or as a row to import."""
    if options.rows is None:
        return lambda row: _fed(row, options)
    lines = ImportLines(options=options, readers=RowReaders(options.rows))
    return lambda row: _import_row(row, lines)


def chunk_of(rows: Sequence[Row], read: ReadRow) -> Chunk:
    """Return the rows as a chunk whose lines are numbered from 1. Raises `ConfigError` where no row can be imported."""
    fed: list[Fed] = []
    to_import: list[FedRow] = []
    rejected = []
    for number, row in enumerate(rows, 1):
        try:
            found = read(row)
        except ValueError as reason:
            rejected.append(Rejection(line=number, reason=str(reason), excerpt=excerpt(repr(row).encode())))
        else:
            if isinstance(found, Fed):
                fed.append(found)
            else:
                to_import.append(found)
    position = Position(line=len(rows))
    return Chunk(fed=tuple(fed), rows=tuple(to_import), rejected=tuple(rejected), blank=0, position=position)


def _import_row(row: object, lines: ImportLines) -> FedRow:
    match row:
        case str():
            return lines.read_json(_json({"url": row}))
        case Mapping():
            return lines.read_json(_json(dict(row), lines.options))
        case _:
            raise ValueError("a row to import is a URL, or a mapping with the URL")


def _fed(row: object, options: ReadOptions) -> Fed:
    """Return a row's task. Raises `ValueError` for one that cannot be used."""
    match row:
        case (str() | int() as task_id, (Mapping() | None) as ref):
            fed = read_json(_json(task_id), options)
            return Fed(account=fed.account, task_id=fed.task_id, ref=_json(dict(ref), options) if ref else None)
        case bool() | None:
            raise ValueError("a row is an id, a pair of id and mapping, or a mapping with the id")
        case str() | int():
            return read_json(_json(row), options)
        case Mapping():
            return read_json(_json(dict(row), options), options)
        case _:
            raise ValueError("a row is an id, a pair of id and mapping, or a mapping with the id")


def _json(value: object, options: ReadOptions | None = None) -> bytes:
    try:
        json = orjson.dumps(value, option=orjson.OPT_PASSTHROUGH_SUBCLASS)
    except TypeError as error:  # orjson's own error is one
        raise ValueError(f"the row is not JSON: {error}") from None
    if options is not None and len(json) > options.max_line_bytes:
        raise ValueError(f"the row is {len(json):,} bytes of JSON, more than the {options.max_line_bytes:,} of a line")
    return json


# --- in batches -----------------------------------------------------------------------------------------------------

Store = Callable[[Sequence[Row]], Awaitable[Exception | None]]  # returns why the rows could not be stored

_END = object()


async def store_all(rows: Rows, store: Store) -> None:
    """Store all rows in order, batch by batch; read no further than one batch ahead. Raises what `store` returns,
    and what the iteration raises: the rows before it are stored."""
    if isinstance(rows, AsyncIterable):
        error = await _store_as_they_come(rows, store)
    else:
        iterator, error, has_more = iter(rows), None, True
        while error is None and has_more:
            batch, failed = _next_batch(iterator)
            has_more = len(batch) == CHUNK_ROWS
            error = (await store(batch) if batch else None) or failed
    if error is not None:
        raise error


def _next_batch(rows: Iterator[Row]) -> tuple[list[Row], Exception | None]:
    """Return the next rows, and what the iteration raised behind them."""
    batch: list[Row] = []
    try:
        batch.extend(islice(rows, CHUNK_ROWS))  # keeps those before an error
    except Exception as raised:  # noqa: BLE001 - the caller of `feed` gets it once the rows are stored
        return batch, raised
    return batch, None


async def _store_as_they_come(rows: AsyncIterable[Row], store: Store) -> Exception | None:
    """Each batch has all rows that came while the one before was stored, so that none waits for a later one."""
    queue: asyncio.Queue[Any] = asyncio.Queue(CHUNK_ROWS)
    error, has_more = None, True
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(_read(rows, queue))
        while has_more and error is None:
            batch = [await queue.get()]
            while not queue.empty():
                batch.append(queue.get_nowait())
            if batch[-1] is _END:
                batch.pop()
                has_more = False
            try:
                error = await store(batch) if batch else None
            except Exception as raised:  # noqa: BLE001 - the caller gets it, not in a group
                error = raised
        if has_more:
            reading.cancel()
    return error if has_more else error or reading.result()


async def _read(rows: AsyncIterable[Row], queue: asyncio.Queue[Any]) -> Exception | None:
    """Put each row and then `_END`; return what the iteration raised."""
    error = None
    try:
        async for row in rows:
            await queue.put(row)
    except Exception as raised:  # noqa: BLE001 - the caller of `feed` gets it, not in a group
        error = raised
    await queue.put(_END)
    return error
