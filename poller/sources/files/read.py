"""Feed one source into the store, chunk by chunk, each with the position after it: a killed feed resumes there."""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from poller.core.model import Chunk, Position
from poller.core.protocols import FeedStore
from poller.sources.counts import SourceCounts, UnchangedLines
from poller.sources.files.open_file import OpenFile, open_file
from poller.sources.options import ReadOptions
from poller.sources.parsing.content import Content, recognize
from poller.sources.parsing.parser import Parser

log = structlog.get_logger("poller")

COUNTED_AT_ONCE = 5_000  # lines of an unchanged file: some 20 ms


async def feed(
    spec: str,
    store: FeedStore,
    options: ReadOptions,
    *,
    stdin: int = 0,
    whole: bool = False,
    links: bool = True,
) -> SourceCounts:
    """Read a source (a path, or "-" for `stdin`) to its end into the store; return where its lines went in this run.

    A file known to the store is resumed where it was left, one that changed is read from the start, a stream is
    always new. Of one that is unchanged nothing is read, and `unchanged` counts what became of its lines. `whole`:
    nothing writes to the file any more; one that begins like a file read to its end is a new one. Raises `InputError`
    for what cannot be read, and for a CSV header without an id column; without `links`, also for all but regular files.
    """
    with open_file(spec, stdin, links=links) as file:
        counts = SourceCounts(file.name)
        number, start = await _find_start(file, store, whole=whole)
        if start.ended and file.seekable and file.size == start.offset:
            log.info("source.found_unchanged", source=file.name, lines=start.line)
            counts.unchanged = await _count_unchanged(file, start, store, options)
            return counts
        parser, start = resumed_parser(file, start, options, file.name)
        log.info("source.opened", source=file.name, offset=start.offset, line=start.line)
        if file.seekable:
            os.lseek(file.fd, start.offset, os.SEEK_SET)

        async def commit(chunk: Chunk) -> None:
            if file.seekable:
                position = replace(chunk.position, fingerprint=file.fingerprint(chunk.position.offset))
                if position.ended:
                    position = replace(position, digest=await file.digest(position.offset))
                chunk = replace(chunk, position=position)
            added = await store.add(number, chunk)
            counts.add(chunk, added)
            await asyncio.sleep(0)

        while block := await file.block():
            for chunk in parser.push(block):
                await commit(chunk)
            if not file.has_more_now and (unstored := parser.flush()):
                await commit(unstored)
        for chunk in parser.end():
            await commit(chunk)
        counts.log_end()
        return counts


def check_beginning(path: str, options: ReadOptions) -> None:
    """Raise `InputError` where the first lines of a file refuse it, as `feed` would. Regular files only: a pipe could
    not be read twice."""
    if not Path(path).is_file():
        return
    with open_file(path, 0) as file:
        block = file.at(0)
        parser = Parser(options, file.name)
        for chunks in (parser.push(block), parser.end() if len(block) == file.size else ()):
            for _ in chunks:
                pass


async def _find_start(file: OpenFile, store: FeedStore, *, whole: bool) -> tuple[int, Position]:
    """Return the store's number of the source, and the position to resume from."""
    known = await store.open_source(file.name) if file.seekable else None
    if known is not None and not (whole and known[1].ended and not file.is_unchanged_since(known[1])):
        if file.holds(known[1]) and await _holds_all(file, known[1]):
            return known
        log.warning("source.found_changed", source=file.name, line=known[1].line)
    return await store.new_source(file.name), Position()


async def _holds_all(file: OpenFile, position: Position) -> bool:
    """Whether a file that holds the ends of what was read to its end holds what is between them: a person may have
    corrected an id there. Where the state has no digest, one that was written since and has not grown does not."""
    if not position.ended or file.is_unchanged_since(position):
        return True
    if not position.digest:
        return file.size > position.offset
    return await file.digest(position.offset) == position.digest


async def _count_unchanged(
    file: OpenFile, position: Position, store: FeedStore, options: ReadOptions
) -> UnchangedLines:
    """Return what became of the lines of a file that was read up to `position`, its end."""
    sums = next((sums for sums in reversed(await store.sources()) if sums.name == file.name), None)
    unchanged = UnchangedLines(lines=position.line, rejected=sums.rejected if sums is not None else 0)
    if not await store.has_failed():
        return unchanged
    parser = Parser(replace(options, chunk_lines=COUNTED_AT_ONCE), file.name)

    async def count(chunks: Iterable[Chunk]) -> None:
        nonlocal unchanged
        for chunk in chunks:
            found = await store.count_failed(chunk)
            unchanged += UnchangedLines(failed=found.failed, dead=found.dead)
            await asyncio.sleep(0)

    for block in file.blocks_before(position.offset):
        await count(parser.push(block))
    await count(parser.end())
    return unchanged


def resumed_parser(file: OpenFile, start: Position, options: ReadOptions, name: str) -> tuple[Parser, Position]:
    """Return a parser for what follows `start`, in the format that the part before it shows, and where it resumes.

    `name` is for errors.
    """
    content = recognize(file.beginning(), options.format, name) if start.offset else Content()
    start = _resume_position(file, start, content)
    return Parser.resumed(options, name, start, content, file.blocks_before(start.offset)), start


def _resume_position(file: OpenFile, start: Position, content: Content) -> Position:
    """Return where to resume a file that ended without a line break and has grown since.

    If only the line break came: behind it. If the line itself grew: at its start, for only a part of it was read.
    """
    if start.offset == 0 or content.is_json or not is_line_open(file, start, content):
        return start
    ending, carriage = content.break_bytes, "\r".encode(content.encoding)
    following = file.at(start.offset, 2 * len(ending))
    if following.startswith(ending) or following == carriage + ending:
        return replace(start, offset=start.offset + following.index(ending) + len(ending))
    log.warning("source.line_grew", source=file.name, line=start.line)
    return replace(start, offset=file.line_start(start.offset, ending), line=start.line - 1)


def is_line_open(file: OpenFile, position: Position, content: Content) -> bool:
    """Whether the file had no line break yet where it was read to."""
    width = len(content.break_bytes)
    return position.offset > 0 and file.at(position.offset - width, width) != content.break_bytes
