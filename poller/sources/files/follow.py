"""Follow a file like `tail -F`: what is appended, what replaces it, and what was rotated away meanwhile."""

import asyncio
import os
import stat
from collections.abc import Callable
from pathlib import Path

import structlog

from poller.core.errors import InputError
from poller.core.model import Added, Chunk, Position
from poller.core.protocols import FeedStore
from poller.sources.files.followed_file import POLL_S, Generation
from poller.sources.files.open_file import Input, source_name
from poller.sources.files.read import feed
from poller.sources.files.registry import Claims
from poller.sources.files.rotation import has_copy, next_file
from poller.sources.files.tail import Cut
from poller.sources.parsing.line import Feeding

log = structlog.get_logger()

RETRY_POLLS = 60  # an unreadable file is tried again so often at least

_CUT = "the file was truncated before this line had its line break"


async def follow(
    spec: str,
    store: FeedStore,
    feeding: Feeding,
    *,
    on_chunk: Callable[[Chunk, Added], None],
    claims: Claims | None = None,
) -> None:
    """Feed the file at the path `spec` for as long as the run lasts; `on_chunk` hears of every commit.

    A line counts once its line break is there. What cannot be read is said once, and waited for. A named pipe is read
    anew for each writer; a pipe without a name, which a shell's `<(…)` makes, ends with its writer.
    """
    await _Follower(spec, store, feeding, on_chunk, claims or Claims()).run()


class _Follower:
    def __init__(
        self, spec: str, store: FeedStore, feeding: Feeding, on_chunk: Callable[[Chunk, Added], None], claims: Claims
    ) -> None:
        self._path = spec
        self._name = source_name(spec)
        self._store = store
        self._feeding = feeding
        self._told = on_chunk
        self._claims = claims
        self._said: str | None = None

    async def run(self) -> None:
        while True:
            before = _poll(self._path)
            try:
                if before is None or not stat.S_ISFIFO(before.st_mode):
                    await self._read_one_file()
                elif not await self._read_one_writer():
                    return
            except InputError as fault:
                self._say_once(str(fault))
                await self._until_changed(before)

    async def _read_one_writer(self) -> bool:
        """Read a pipe until its writer is gone; tell whether there can be another."""
        await feed(self._path, self._store, self._feeding, on_chunk=self._on_chunk)
        await asyncio.sleep(POLL_S)
        return _has_name(self._path)

    async def _read_one_file(self) -> None:
        known = await self._store.open_source(self._name)
        with next_file(self._path, None if known is None else known[1]) as found:
            if known is not None and found.start is not None:
                number, start = known[0], found.start
            else:
                number, start = await self._begin(found.source)
            await self._read(number, found.source, start)

    async def _begin(self, source: Input) -> tuple[int, Position]:
        """Begin the sums of a file, and note which one it is: it may be renamed before it has a line."""
        start = Position(fingerprint=source.fingerprint(0))
        return await self._store.new_source(self._name, start.fingerprint), start

    async def _read(self, number: int, source: Input, start: Position) -> None:
        generation = Generation(
            self._name,
            number,
            source,
            start,
            path=self._path,
            store=self._store,
            feeding=self._feeding,
            on_chunk=self._on_chunk,
        )
        try:
            with self._claims.reading(source):
                await generation.read_to_end()
        except Cut:
            log.warning("source.truncated", source=self._name, line=generation.position.line)
            if not has_copy(self._path, source, generation.position):
                await generation.end(_CUT)

    def _on_chunk(self, chunk: Chunk, added: Added) -> None:
        self._said = None
        self._told(chunk, added)

    def _say_once(self, fault: str) -> None:
        if fault != self._said:
            log.warning("source.waited_for", source=self._name, reason=fault)
            self._said = fault

    async def _until_changed(self, before: os.stat_result | None) -> None:
        """Wait until the path polls different; not for ever, for some faults do not show."""
        for _ in range(RETRY_POLLS):
            await asyncio.sleep(POLL_S)
            if _signature(_poll(self._path)) != _signature(before):
                return


def _has_name(pipe: str) -> bool:
    return Path(pipe).resolve().exists()


def _poll(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - the path as the person wrote it
    except OSError:
        return None


def _signature(facts: os.stat_result | None) -> tuple[int, ...] | None:
    if facts is None:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
