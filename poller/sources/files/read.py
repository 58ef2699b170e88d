"""Feed one source into the store, chunk by chunk, each with the position after it: a killed feed goes on from there."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace

import structlog

from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore
from poller.sources.counts import Counts
from poller.sources.files.open_file import Input, opened
from poller.sources.parsing.line import Feeding
from poller.sources.parsing.parser import Parser, reading_so_far

log = structlog.get_logger()

OnChunk = Callable[[Chunk, Added], None]


async def feed(
    spec: str, store: FeedStore, feeding: Feeding, *, stdin: int = 0, on_chunk: OnChunk, whole: bool = False
) -> None:
    """Read a source (a path, or "-" for `stdin`) to its end into the store; `on_chunk` hears of every commit.

    A file known to the store is read on where it was left, one that changed is read anew, a stream is always new.
    `whole` says that a file is not written to any more: another that begins like one read to its end is a new one.
    Raises `InputError` for what cannot be read, and for a CSV header without an id column.
    """
    with opened(spec, stdin) as source:
        number, start = await _begin(source, store, whole=whole)
        if start.ended and source.seekable and source.size == start.offset:
            log.info("source.found_unchanged", source=source.name, lines=start.line)
            return
        start = after_last_line(source, start)
        log.info("source.opened", source=source.name, offset=start.offset, line=start.line)
        count = Counts(source.name)
        if source.seekable:
            os.lseek(source.fd, start.offset, os.SEEK_SET)
        reading = reading_so_far(source.blocks_before(start.offset), feeding, source.name) if start.offset else None
        parser = Parser(feeding, source.name, start=start, reading=reading)

        async def commit(chunk: Chunk) -> None:
            chunk = _proven(source, chunk)
            added = await store.add(number, chunk)
            count.add(chunk, added)
            on_chunk(chunk, added)
            await asyncio.sleep(0)

        while block := await source.block():
            for chunk in parser.push(block):
                await commit(chunk)
            if not source.has_more_now and (at_hand := parser.flush()):
                await commit(at_hand)
        for chunk in parser.end():
            await commit(chunk)
        count.end()


async def _begin(source: Input, store: FeedStore, *, whole: bool) -> tuple[int, Position]:
    """Return the store's number of the source, and where to read on."""
    known = await store.open_source(source.name) if source.seekable else None
    if known is not None and not (whole and known[1].ended and not source.is_the_one(known[1])):
        if source.holds(known[1]):
            return known
        log.warning("source.found_changed", source=source.name, line=known[1].line)
    return await store.new_source(source.name), Position()


def after_last_line(source: Input, start: Position) -> Position:
    """Return where to read on in a file that ended without a line break and has grown since.

    If only the line break came, behind it. If the line itself grew, what was read of it was a part: it is read again.
    """
    if start.offset == 0 or source.at(start.offset - 1, 1) == b"\n":
        return start
    following = source.at(start.offset, 2)
    if following.startswith(b"\n") or following == b"\r\n":
        return replace(start, offset=start.offset + following.index(b"\n") + 1)
    log.warning("source.line_grew", source=source.name, line=start.line)
    return replace(start, offset=source.line_start(start.offset), line=start.line - 1)


def _proven(source: Input, chunk: Chunk) -> Chunk:
    if not source.seekable:
        return chunk
    proof = source.fingerprint(chunk.position.offset)
    return replace(chunk, position=replace(chunk.position, fingerprint=proof))
