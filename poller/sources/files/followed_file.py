"""Read one file of a followed source into the store until another replaces it, each line once it is whole."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace

import structlog

from poller.core.model import Chunk, Position
from poller.core.protocols import FeedStore
from poller.sources.counts import SourceCounts
from poller.sources.files.open_file import OpenFile
from poller.sources.files.read import is_line_open, resumed_parser, stored_before
from poller.sources.files.read_as import has_rest, is_rest_its_own, manner_of
from poller.sources.files.stored_lines import StoredLines
from poller.sources.files.tail import Tail, Truncated, is_at
from poller.sources.options import ReadOptions
from poller.sources.parsing.content import recognize
from poller.sources.parsing.parser import Parser

log = structlog.get_logger("poller")

POLL_S = 1.0
QUIET_POLLS = 5  # a file that was moved away may still be written to, until its writer opens the new one
REPORT_POLLS = 60  # how often folded rejections are logged

_MOVED_AWAY = "the file was replaced before this line had its line break: feed it again if it is a whole one"


class FollowedFile:
    """One file under the source's name, from its first line to the last; the ledger has a row for each."""

    def __init__(
        self,
        name: str,
        number: int,
        file: OpenFile,
        start: Position,
        *,
        path: str,
        store: FeedStore,
        options: ReadOptions,
    ) -> None:
        """`name` is the source's in the store and in the log, `number` its row, `path` where the next file will be."""
        self.position = start  # as stored
        self._name = name
        self._number = number
        self._file = file
        self._path = path
        self._store = store
        self._options = options
        self._counts = SourceCounts(name)
        self._parser: Parser | None = None
        self._tail: Tail | None = None
        self._stored: StoredLines | None = None
        self._polls = 0
        self._polls_unchanged = 0  # since the file last grew

    async def read_to_end(self) -> None:
        """Read on until another file is at the path and this one does not grow any more, or what an earlier run read to
        its end is to be read again, since it was half written. Raises `Truncated`."""
        log.info("source.opened", source=self._name, offset=self.position.offset, line=self.position.line)
        quiet, moved = 0, False
        while quiet <= QUIET_POLLS:
            if self._was_half_written():
                return
            grew = await self._store_lines()
            is_current = is_at(self._path, self._file)
            if not is_current and not moved:
                log.info("source.moved", source=self._name, line=self.position.line)
            moved = not is_current
            quiet = quiet + 1 if is_current is False and not grew else 0
            if quiet <= QUIET_POLLS:
                await self._pause(grew)
        await self.end(_MOVED_AWAY)

    async def end(self, torn: str) -> None:
        """Store that there will be no more. A last line without a line break is rejected, with the reason `torn`."""
        ended = replace(self.position, ended=True)
        nothing = Chunk(fed=(), rejected=(), blank=0, position=ended)
        await self._commit([nothing] if self._parser is None else self._parser.end_within_line(torn))
        self._counts.log_end()

    async def _store_lines(self) -> bool:
        """Store every line that is whole; return whether the file had grown."""
        parser, tail = await self._resume()
        if parser is None or tail is None:
            return False
        grew = False
        while block := tail.block():
            grew = True
            await self._commit(parser.push(block))
            await asyncio.sleep(0)  # a file without line breaks gives no chunk
        if chunk := parser.flush():
            await self._commit([chunk])
        return grew

    async def _resume(self) -> tuple[Parser | None, Tail | None]:
        """Return what reads on; nothing while it is unknown how what an earlier run read to its end continues."""
        if self._parser is None:
            if not self._file.holds(self.position):
                raise Truncated
            if self._is_rest_unknown():
                return None, None
            parser, start = resumed_parser(self._file, self.position, self._options, self._name)
            self._tail = Tail(self._file, start.offset, 2 * self._options.max_line_bytes)
            self._stored = await stored_before(self._file, start, self.position, self._store, self._options, self._name)
            self._parser = parser
        return self._parser, self._tail

    def _was_half_written(self) -> bool:
        """Whether the file, read to its end by an earlier run, has grown since and shows that it was half written."""
        has_grown = self._parser is None and has_rest(self._file, self.position)
        return has_grown and not is_rest_its_own(self._file, self.position, self._options)

    def _is_rest_unknown(self) -> bool:
        """Whether nothing came since an earlier run read the file to its end, or no more than a CR behind a last line
        that it took without its line break."""
        if not has_rest(self._file, self.position):
            return self.position.offset > 0
        content = recognize(self._file.beginning(), self._options.format, self._name)
        following = self._file.at(self.position.offset, 2)
        is_open = not content.is_json and is_line_open(self._file, self.position, content)
        return is_open and following in (b"", "\r".encode(content.encoding))

    async def _commit(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            position = chunk.position
            if self._tail is not None and self._parser is not None:
                manner = manner_of(self._parser, self._options)
                fingerprint = self._tail.fingerprint(position.offset)
                note = "" if self._stored is None else self._stored.note(position.offset)
                position = replace(position, fingerprint=fingerprint, digest=f" {manner}{note}")
            if self._stored is not None:
                chunk = await self._stored.counted_in(chunk)
            added = await self._store.add(self._number, replace(chunk, position=position))
            self.position = position
            self._counts.add(chunk, added)
            await asyncio.sleep(0)

    async def _pause(self, grew: bool) -> None:
        """Wait until the next poll of the file; now and then log what was held back."""
        self._polls += 1
        self._polls_unchanged = 0 if grew else self._polls_unchanged + 1
        if self._polls % REPORT_POLLS == 0:
            self._counts.log_folded()
        if self._polls_unchanged == REPORT_POLLS and self._parser is not None and self._parser.is_within_line:
            log.warning("source.line_unfinished", source=self._name, line=self.position.line + 1)
        await asyncio.sleep(POLL_S)
