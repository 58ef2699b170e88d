"""The files that match a pattern. When followed, new matches are read as they appear; a file that was rotated within
the pattern, from `ids.txt` to `ids.txt.1`, is recognized by its content and not read a second time."""

import asyncio
import glob
import os
import re
from dataclasses import dataclass

import structlog

from poller.core.errors import InputError, UnreadableInput
from poller.core.model import Position
from poller.sources.files.follow import follow
from poller.sources.files.followed_file import POLL_S, QUIET_POLLS
from poller.sources.files.open_file import open_file, source_name, stat_of
from poller.sources.files.read import feed
from poller.sources.files.registry import FileRegistry
from poller.sources.files.rotated_files import COMPRESSED
from poller.sources.intake import ChunkWriter
from poller.sources.options import ReadOptions

log = structlog.get_logger("poller")

GONE_POLLS = 60  # a file that is missing for this long is not followed any more
_MARK = re.compile(r"[._-]\d[\dT:._-]*")  # a counter or a date in the name of a rotated file


@dataclass(slots=True)
class _RotatedFile:
    """A match that has the name of a rotated file."""

    facts: os.stat_result
    polls: int = 0  # since it last changed
    settled: bool = False  # nothing is to be done until it changes
    reported: str = ""  # why it could not be read


class GlobReader:
    """Reads the files that match one pattern."""

    def __init__(
        self, pattern: str, writer: ChunkWriter, options: ReadOptions, source: object, registry: FileRegistry
    ) -> None:
        """`source` is who claims the files in `registry`."""
        self._pattern = pattern
        self._writer = writer
        self._options = options
        self._source = source
        self._registry = registry
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._missing: dict[str, int] = {}  # polls since a followed file was last there
        self._rotated: dict[str, _RotatedFile] = {}

    async def read(self) -> None:
        """Read each match to its end, one after the other. Raises `InputError`; an `UnreadableInput` after the last."""
        unreadable: UnreadableInput | None = None
        for path in self._matches():
            if self._registry.claim(path, self._source) and not await self._was_read_elsewhere(path):
                try:
                    counts = await feed(path, self._writer, self._options, links=False)
                except UnreadableInput as fault:
                    unreadable = unreadable or fault
                else:
                    self._writer.on_unchanged(counts.unchanged)
        if unreadable is not None:
            raise unreadable

    async def follow(self) -> None:
        """Follow every match for as long as it exists."""
        async with asyncio.TaskGroup() as group:
            while True:
                paths = self._matches()
                matches = set(paths)
                for path in paths:
                    await self._visit(path, matches, group)
                await self._forget_missing(matches)
                await asyncio.sleep(POLL_S)

    def _matches(self) -> list[str]:
        """Return the regular files that match, by name. `**` matches folders, also several; no link is followed."""
        found = glob.glob(self._pattern, recursive=True)  # noqa: PTH207 - paths as written
        return sorted(path for path in found if os.path.isfile(path) and not self._leads_by_link(path))  # noqa: PTH113

    def _leads_by_link(self, path: str) -> bool:
        """Whether a part of the path that the pattern does not name itself is a link."""
        fixed = os.path.dirname(self._pattern[: re.search(r"[*?[]|$", self._pattern).start()])  # type: ignore[union-attr]  # noqa: PTH120
        while len(path) > len(fixed):
            if os.path.islink(path):  # noqa: PTH114 - paths as written
                return True
            path = os.path.dirname(path)  # noqa: PTH120 - paths as written
        return False

    async def _visit(self, path: str, matches: set[str], group: asyncio.TaskGroup) -> None:
        if path in self._followed:
            return
        facts = stat_of(path)
        if facts is None or not self._registry.claim(path, self._source):
            return
        if (current := current_of(path, matches)) is not None:
            await self._read_rotated(path, facts, current)
        elif not self._registry.is_followed(facts) and not await self._was_read_elsewhere(path):
            following = follow(path, self._writer, self._options, registry=self._registry, links=False)
            self._followed[path] = group.create_task(following)

    async def _read_rotated(self, path: str, facts: os.stat_result, current: str) -> None:
        """Read a file that has the name of a rotated one, once it is at rest and not followed; unless it was read, or
        who follows the `current` one is still among those that were rotated, and reads them in their order."""
        rotated = self._rotated.get(path)
        if rotated is None or _changed(rotated.facts, facts):
            rotated = self._rotated[path] = _RotatedFile(facts)
        rotated.polls += 1
        if rotated.settled or rotated.polls <= 2 * QUIET_POLLS or self._registry.is_followed(facts):
            return
        if current in self._followed and self._is_behind(current):
            return
        rotated.settled = True
        if path.endswith(COMPRESSED):
            return
        try:
            if not await self._was_read_elsewhere(path):
                await feed(path, self._writer, self._options, links=False)
        except InputError as fault:
            if rotated.reported != str(fault):
                rotated.reported = str(fault)
                log.warning("source.waited_for", source=source_name(path), reason=str(fault))
            if isinstance(fault, UnreadableInput):  # it may pass
                rotated.settled, rotated.polls = False, 0

    def _is_behind(self, path: str) -> bool:
        facts = stat_of(path)
        return facts is not None and self._registry.is_behind(source_name(path), facts)

    async def _forget_missing(self, matches: set[str]) -> None:
        self._rotated = {path: rotated for path, rotated in self._rotated.items() if path in matches}
        self._missing = {path: self._missing.get(path, 0) + 1 for path in self._followed if path not in matches}
        gone = [path for path, polls in self._missing.items() if polls > GONE_POLLS]
        if gone:
            async with self._writer.lock:
                for path in gone:
                    self._followed.pop(path).cancel()

    async def _was_read_elsewhere(self, path: str) -> bool:
        """Whether the file was read to its present end under another name only. What was read under this one may have
        been another file, which was rotated on since."""
        known = await self._writer.open_source(source_name(path))
        try:
            with open_file(path, links=False) as file:
                if known is not None and known[1].offset > 0 and file.holds(known[1]):
                    return False
                size = file.size
                position = Position(offset=size, fingerprint=file.fingerprint(size))
                return size > 0 and await self._writer.was_read(position)
        except InputError:
            return False


def current_of(path: str, matches: set[str]) -> str | None:
    """Return the match that a file was rotated from, whose name with a counter or a date added it has; else None."""
    folder, name = os.path.split(path)
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    marks = ((mark.start(), mark.start() + len(mark[0].rstrip("._-:T"))) for mark in _MARK.finditer(name))
    bases = [name] * (name != os.path.basename(path)) + [name[:begin] + name[end:] for begin, end in marks]  # noqa: PTH119 - paths as written
    paths = (os.path.join(folder, base) for base in bases)  # noqa: PTH118 - paths as written
    return next((each for each in paths if each in matches), None)


def _changed(before: os.stat_result, now: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (now.st_ino, now.st_size, now.st_mtime_ns)
