"""Follow a file like `tail -F`: what is appended, what replaces it, and what was rotated away meanwhile."""

import asyncio
import os
import stat

import structlog

from poller.core.errors import InputError
from poller.core.model import Position
from poller.core.protocols import FeedStore
from poller.sources.counts import FaultLog
from poller.sources.files.followed_file import POLL_S, FollowedFile
from poller.sources.files.open_file import OpenFile, source_name, stat_of
from poller.sources.files.read import LatestOptions, feed, is_read_so, no_others, note_of_half_written
from poller.sources.files.registry import FileRegistry, NoPlace
from poller.sources.files.rotated_files import has_copy, next_file
from poller.sources.files.tail import Truncated
from poller.sources.options import ReadOptions

log = structlog.get_logger("poller")

RETRY_POLLS = 60  # an unreadable file is opened again after this many at most

_TRUNCATED = "the file was truncated before this line had its line break"


async def follow(
    spec: str,
    store: FeedStore,
    options: ReadOptions,
    *,
    registry: FileRegistry | None = None,
    links: bool = True,
    latest: LatestOptions = no_others,
) -> None:
    """Feed the file at the path `spec` for as long as the run lasts. `latest`: as of `feed`, for a named pipe.

    A line counts once its line break is there. What cannot be read is logged once, and waited for. A named pipe is
    reopened for each writer; a pipe without a name, which a shell's `<(…)` makes, ends with its writer.
    """
    await _Follower(spec, store, options, registry or FileRegistry(), links, latest).run()


class _Follower:
    def __init__(
        self,
        spec: str,
        store: FeedStore,
        options: ReadOptions,
        registry: FileRegistry,
        links: bool,
        latest: LatestOptions,
    ) -> None:
        self._path = spec
        self._name = source_name(spec)
        self._store = store
        self._options = options
        self._registry = registry
        self._links = links
        self._latest = latest
        self._faults = FaultLog(self._name)

    async def run(self) -> None:
        while True:
            before = stat_of(self._path, follow_symlinks=self._links)
            try:
                if before is None or not stat.S_ISFIFO(before.st_mode):
                    await self._read_one_file()
                elif not await self._read_one_writer():
                    return
            except NoPlace:
                await asyncio.sleep(RETRY_POLLS * POLL_S)
            except InputError as fault:
                self._faults.warn(str(fault))
                await self._wait_for_change(before)

    async def _read_one_writer(self) -> bool:
        """Read a pipe until its writer is gone; return whether there can be another."""
        await feed(self._path, self._store, self._options, latest=self._latest)
        self._faults.clear()
        await asyncio.sleep(POLL_S)
        return _has_name(self._path)

    async def _read_one_file(self) -> None:
        known = await self._store.open_source(self._name)
        position = None if known is None else known[1]
        with self._registry.place(self._name), next_file(self._path, position, links=self._links) as (file, start):
            note = ""
            if known is not None and start is not None:
                if await is_read_so(file, start, self._store, self._options, self._name):
                    await self._read(file, known[0], start)
                    return
                log.warning("source.found_misread", source=self._name, line=start.line)
                note = await note_of_half_written(file, start, self._store, self._options, self._name)
            identity = file.fingerprint(0)  # it may be renamed before it has a line
            number = await self._store.new_source(self._name, identity, note)
            await self._read(file, number, Position(fingerprint=identity, digest=note))

    async def _read(self, file: OpenFile, number: int, start: Position) -> None:
        followed = FollowedFile(
            self._name, number, file, start, path=self._path, store=self._store, options=self._options
        )
        try:
            with self._registry.following(file, self._name):
                await followed.read_to_end()
        except Truncated:
            log.warning("source.truncated", source=self._name, line=followed.position.line)
            if not has_copy(self._path, file, followed.position):
                await followed.end(_TRUNCATED)
        finally:
            if followed.position is not start:  # something was stored
                self._faults.clear()

    async def _wait_for_change(self, before: os.stat_result | None) -> None:
        """Wait until the path shows another file or another state of it; not forever, for some faults do not show."""
        for _ in range(RETRY_POLLS):
            await asyncio.sleep(POLL_S)
            if _signature(stat_of(self._path, follow_symlinks=self._links)) != _signature(before):
                return


def _has_name(pipe: str) -> bool:
    return os.path.exists(os.path.realpath(pipe))  # noqa: PTH110 - never raises


def _signature(facts: os.stat_result | None) -> tuple[int, ...] | None:
    if facts is None:
        return None
    return facts.st_dev, facts.st_ino, facts.st_mode, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns
