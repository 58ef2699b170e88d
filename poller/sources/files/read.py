"""Feed one source into the store, chunk by chunk, each with the position after it: a killed feed resumes there."""

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import structlog

from poller.core.errors import InputError
from poller.core.model import Chunk, Failed, Position
from poller.core.protocols import FeedStore
from poller.sources.counts import SourceCounts, UnchangedLines
from poller.sources.files.open_file import OpenFile, open_file, stat_of
from poller.sources.files.read_as import (
    OF_ROWS,
    ReadDigest,
    has_other_options,
    has_rest,
    headers_before,
    is_half,
    is_rest_its_own,
    lacks_headers,
    manner_of,
    parser_before,
)
from poller.sources.files.stored_lines import StoredLines, earlier_reading, note_at_start, parsed_again, proven
from poller.sources.options import ReadOptions
from poller.sources.parsing.content import Content, recognize
from poller.sources.parsing.parser import Parser

log = structlog.get_logger("poller")

COUNTED_AT_ONCE = 5_000  # lines of an unchanged file: some 20 ms

LatestOptions = Callable[[], ReadOptions | None]


def no_others() -> None:
    """Return no options but those that a source began with."""


async def feed(
    spec: str,
    store: FeedStore,
    options: ReadOptions,
    *,
    stdin: int = 0,
    whole: bool = False,
    links: bool = True,
    latest: LatestOptions = no_others,
) -> SourceCounts:
    """Read a source (a path, or "-" for `stdin`) to its end into the store; return where its lines went in this run.

    A file known to the store is resumed where it was left, one that changed is read from the start, a stream is
    always new. Of one that is unchanged nothing is read, and `unchanged` counts what became of its lines. `whole`:
    nothing writes to the file any more; one that begins like a file read to its end is a new one. `latest` returns
    options that came since: the next lines are for their accounts. Raises `InputError` for what cannot be read, and
    for a CSV header without an id column; without `links`, also for all but regular files.
    """
    with open_file(spec, stdin, links=links) as file:
        counts = SourceCounts(file.name)
        number, known, digest = await _find_start(file, store, options, whole=whole)
        if known.ended and file.seekable and file.size == known.offset:
            log.info("source.found_unchanged", source=file.name, lines=known.line)
            counts.unchanged = await _count_unchanged(file, known, store, options)
            return counts
        parser, start = resumed_parser(file, known, options, file.name)
        stored = await stored_before(file, start, known, store, options, file.name)
        digest = await _seek(file, start, digest)

        async def commit(chunk: Chunk) -> None:
            offset = chunk.position.offset
            noted = f"{digest.up_to(offset)} {manner_of(parser, options)}"
            if stored is not None:
                chunk, noted = await stored.counted_in(chunk), noted + stored.note(offset)
            if file.seekable:
                position = replace(chunk.position, fingerprint=file.fingerprint(offset), digest=noted)
                chunk = replace(chunk, position=position)
            counts.add(chunk, await store.add(number, chunk))
            await asyncio.sleep(0)

        await _read_to_end(file, parser, digest, latest, commit)
        counts.log_end()
        return counts


async def _read_to_end(
    file: OpenFile,
    parser: Parser,
    digest: ReadDigest,
    latest: LatestOptions,
    commit: Callable[[Chunk], Awaitable[None]],
) -> None:
    while block := await file.block():
        parser.use_accounts_of(latest())
        digest.push(block)
        for chunk in parser.push(block):
            await commit(chunk)
        digest.fold(parser)
        if not file.has_more_now and (unstored := parser.flush()):
            await commit(unstored)
        await asyncio.sleep(0)  # a file without line breaks gives no chunk
    for chunk in parser.end():
        await commit(chunk)


async def _seek(file: OpenFile, start: Position, digest: ReadDigest) -> ReadDigest:
    """Let a file be read from `start` on; return the digest of what is before it. A stream is at its start."""
    log.info("source.opened", source=file.name, offset=start.offset, line=start.line)
    if not file.seekable:
        return digest
    os.lseek(file.fd, start.offset, os.SEEK_SET)
    return digest if digest.offset == start.offset else await ReadDigest.of(file, start.offset)


def check_beginning(path: str, options: ReadOptions) -> None:
    """Raise `InputError` where the first lines of a file refuse it, as `feed` would. Regular files only: a pipe could
    not be read twice."""
    facts = stat_of(path)
    if facts is None or not stat.S_ISREG(facts.st_mode):
        return
    with open_file(path, 0) as file:
        block = file.at(0)
        parser = Parser(options, file.name)
        for chunks in (parser.push(block), parser.end() if len(block) == file.size else ()):
            for _ in chunks:
                pass


async def _find_start(
    file: OpenFile, store: FeedStore, options: ReadOptions, *, whole: bool
) -> tuple[int, Position, ReadDigest]:
    """Return the store's number of the source, the position to resume from, and the digest of what is before it, as far
    as it was taken."""
    known = await store.open_source(file.name) if file.seekable else None
    if known is not None and not (whole and known[1].ended and not file.is_unchanged_since(known[1])):
        number, position = known
        digest = await _digest_of_all(file, position) if file.holds(position) else None
        if digest is None:
            log.warning("source.found_changed", source=file.name, line=position.line)
        elif await is_read_so(file, position, store, options, file.name):
            if position.offset and has_other_options(position.digest, options):
                log.warning("source.options_changed", source=file.name, line=position.line)
            return number, position, digest
        else:
            log.warning("source.found_misread", source=file.name, line=position.line)
            note = await note_of_half_written(file, position, store, options, file.name)
            return await store.new_source(file.name, digest=note), Position(digest=note), ReadDigest()
    return await store.new_source(file.name), Position(), ReadDigest()


async def _digest_of_all(file: OpenFile, position: Position) -> ReadDigest | None:
    """Return the digest of what a file that holds the ends of what was read holds up to `position`; None where it is
    another: a person may have corrected an id. It is not taken of a file that was not written since. Where the state
    has none, a file that was written since and has not grown is another."""
    is_unchanged, noted = file.is_unchanged_since(position), position.digest.partition(" ")[0]
    if position.ended and file.size == position.offset and (is_unchanged or not noted):
        return ReadDigest() if is_unchanged else None
    digest = await ReadDigest.of(file, position.offset)
    return digest if noted in ("", digest.up_to(position.offset)) else None


async def is_read_so(file: OpenFile, position: Position, store: FeedStore, options: ReadOptions, name: str) -> bool:
    """Whether the lines before `position` would now be read as they were: from the same column, for the same account;
    and what follows them is the rest. Where the state does not know how they were, whether each has a task. `name` is
    the source's in the store."""
    if position.offset == 0:
        return True
    if has_rest(file, position) and not is_rest_its_own(file, position, options):
        return False
    try:
        begun = parser_before(file, position.offset, options)
    except InputError:
        if has_rest(file, position):
            return False  # what was read may be half a header
        raise
    if has_rest(file, position) and lacks_headers(position, begun) and await _has_later_header(file, position, options):
        return False
    if not position.digest.split(" ")[1:]:
        return not position.ended or (await _count(file, position, store, options)).unknown == 0
    return await _is_as_noted(position, begun, options, store, name)


async def note_of_half_written(
    file: OpenFile, position: Position, store: FeedStore, options: ReadOptions, name: str
) -> str:
    """Return the digest to begin a file with that was read up to `position` and is read again from its start: where
    only since it was half written, it notes which lines are stored. Otherwise they are read in another way now."""
    if is_rest_its_own(file, position, options):
        return ""
    with suppress(InputError):
        parser, lines, rejected = await parsed_again(file, position, options)
        is_as_noted = await _is_as_noted(position, parser, options, store, name)
        if is_as_noted and await _were_as_many(lines, rejected, position, options, store, name):
            earlier = await earlier_reading(file, position, options)
            return note_at_start(earlier or await proven(file, position, options))
    return ""


async def _were_as_many(
    lines: int, rejected: int, position: Position, options: ReadOptions, store: FeedStore, name: str
) -> bool:
    """Whether as many lines before `position` were rejected as are now, of so many; else one that would not be now may
    have been. Where the last line of a file had grown, it was counted twice."""
    sums = await store.source(name)
    if sums is None or (sums.rejected and has_other_options(position.digest, options)):
        return False
    return 0 <= sums.rejected - rejected <= max(0, sums.lines - lines)


async def _is_as_noted(position: Position, begun: Parser, options: ReadOptions, store: FeedStore, name: str) -> bool:
    """Whether `begun`, which has read how the file begins, reads its lines as it is noted that they were."""
    noted = position.digest.split(" ")[1:OF_ROWS]
    now = manner_of(begun, options).split(" ")[: OF_ROWS - 1]
    return noted == now or (noted[0] == now[0] and await _rejected(name, store) == 0)


async def _has_later_header(file: OpenFile, position: Position, options: ReadOptions) -> bool:
    """Whether a header of other columns is before `position`, below the first one. Otherwise a table is read on: tasks
    that were pruned would be fed again from its start."""
    parser = Parser(options, file.name)
    for block in file.blocks_before(position.offset):
        for _chunk in parser.push(block):
            await asyncio.sleep(0)
        parser.flush()
        if parser.headers:
            return True
    return False


async def _rejected(name: str, store: FeedStore) -> int:
    """Return how many lines of a known file were rejected."""
    sums = await store.source(name)
    return 0 if sums is None else sums.rejected


async def _count_unchanged(
    file: OpenFile, position: Position, store: FeedStore, options: ReadOptions
) -> UnchangedLines:
    """Return what became of the lines of a file that was read up to `position`, its end."""
    rejected = await _rejected(file.name, store)
    found = await _count(file, position, store, options) if await store.has_failed() else Failed()
    otherwise = position.line if has_other_options(position.digest, options) else 0
    return UnchangedLines(
        lines=position.line, rejected=rejected, failed=found.failed, dead=found.dead, otherwise=otherwise
    )


async def _count(file: OpenFile, position: Position, store: FeedStore, options: ReadOptions) -> Failed:
    """Return what became of the lines before `position`."""
    parser, found = Parser(replace(options, chunk_lines=COUNTED_AT_ONCE), file.name), Failed()

    async def count(chunks: Iterable[Chunk]) -> None:
        nonlocal found
        for chunk in chunks:
            found += await store.count_failed(chunk)
            await asyncio.sleep(0)

    for block in file.blocks_before(position.offset):
        await count(parser.push(block))
    await count(parser.end())
    return found


def resumed_parser(file: OpenFile, start: Position, options: ReadOptions, name: str) -> tuple[Parser, Position]:
    """Return a parser for what follows `start`, in the format that the part before it shows, and where it resumes.

    `name` is for errors.
    """
    content = recognize(file.beginning(), options.format, name) if start.offset else Content()
    start = _resume_position(file, start, content)
    width = len(content.break_bytes)
    last = file.at(start.offset - width, width) if start.offset else b""
    before, headers = file.blocks_before(start.offset), headers_before(file, start)
    parser = Parser.resumed(options, name, start, content, before, last, headers)
    parser.ends_within_record = is_half(start)  # a kill was between that and the end
    return parser, start


async def stored_before(
    file: OpenFile, start: Position, known: Position, store: FeedStore, options: ReadOptions, name: str
) -> StoredLines | None:
    """Return the lines from `start` on that an earlier reading stored; None where there are none. `known`: what the
    state has of the reading that resumes there; `name` is the source's in the store."""
    if (earlier := await earlier_reading(file, known, options)) is not None:
        parser, blocks = Parser(options, file.name), earlier.blocks(file)
        return StoredLines(store, parser, blocks, earlier.known, aligned=start.offset == 0, note=earlier.note)
    is_another = has_other_options(known.digest, options) and await _rejected(name, store) > 0
    if start.offset >= known.offset or is_another:
        return None
    parser, _ = resumed_parser(file, start, options, file.name)
    return StoredLines(store, parser, file.blocks_before(known.offset, start.offset), known, aligned=True)


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
