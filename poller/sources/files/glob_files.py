"""The files that match a pattern. Followed, new ones are picked up; one that was rotated within the pattern, from
`ids.txt` to `ids.txt.1`, is known again by its content and not read a second time."""

import asyncio
import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from poller.core.errors import InputError
from poller.core.model import Added, Chunk, Position
from poller.sources.files.follow import follow
from poller.sources.files.followed_file import POLL_S, QUIET_POLLS
from poller.sources.files.open_file import opened, source_name
from poller.sources.files.read import feed
from poller.sources.files.registry import Claims
from poller.sources.files.rotation import COMPRESSED
from poller.sources.intake import Valve
from poller.sources.parsing.line import Feeding

log = structlog.get_logger()

GONE_POLLS = 60  # a file that is missing for so long is not waited for any more
_MARK = re.compile(r"[._-]\d[\dT:._-]*")  # a counter or a date in the name of a rotated file

OnChunk = Callable[[Chunk, Added], None]


def matching(pattern: str) -> list[str]:
    """Return the files that match, by name. `**` stands for folders, also several."""
    return sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))  # noqa: PTH113, PTH207 - paths as written


async def feed_matches(
    pattern: str, intake: Valve, feeding: Feeding, *, owner: object, claims: Claims, on_chunk: OnChunk
) -> None:
    """Read each match to its end, one after the other. Raises `InputError`."""
    for path in matching(pattern):
        if claims.take(path, owner) and not await _was_read_elsewhere(path, intake):
            await feed(path, intake, feeding, on_chunk=on_chunk)


@dataclass(slots=True)
class _Match:
    """A file that matches now."""

    facts: os.stat_result
    polls: int = 0  # since it last changed
    settled: bool = False  # nothing is to be done until it changes


class MatchFollower:
    """Follows every match for as long as it is there."""

    def __init__(
        self, pattern: str, intake: Valve, feeding: Feeding, *, owner: object, claims: Claims, on_chunk: OnChunk
    ) -> None:
        self._pattern = pattern
        self._intake = intake
        self._feeding = feeding
        self._owner = owner
        self._claims = claims
        self._on_chunk = on_chunk
        self._followed: dict[str, asyncio.Task[None]] = {}
        self._missing: dict[str, int] = {}  # polls since a followed file was last there
        self._rotated: dict[str, _Match] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as following:
            while True:
                paths = matching(self._pattern)
                for path in paths:
                    await self._meet(path, set(paths), following)
                await self._let_go(set(paths))
                await asyncio.sleep(POLL_S)

    async def _meet(self, path: str, matches: set[str], following: asyncio.TaskGroup) -> None:
        if path in self._followed:
            return
        facts = _poll(path)
        if facts is None or not self._claims.take(path, self._owner):
            return
        if is_rotated(path, matches):
            await self._read_rotated(path, facts)
        elif not self._claims.is_read(facts) and not await _was_read_elsewhere(path, self._intake):
            self._followed[path] = following.create_task(
                follow(path, self._intake, self._feeding, on_chunk=self._on_chunk, claims=self._claims)
            )

    async def _read_rotated(self, path: str, facts: os.stat_result) -> None:
        """Read a file that has the name of a rotated one once nobody follows it and it rests; unless it was read."""
        match = self._rotated.get(path)
        if match is None or _changed(match.facts, facts):
            match = self._rotated[path] = _Match(facts)
        match.polls += 1
        if match.settled or match.polls <= 2 * QUIET_POLLS or self._claims.is_read(facts):
            return
        match.settled = True
        if path.endswith(COMPRESSED):
            return
        try:
            if not await _was_read_elsewhere(path, self._intake):
                await feed(path, self._intake, self._feeding, on_chunk=self._on_chunk)
        except InputError as fault:
            log.warning("source.waited_for", source=source_name(path), reason=str(fault))

    async def _let_go(self, matches: set[str]) -> None:
        self._rotated = {path: match for path, match in self._rotated.items() if path in matches}
        for path in list(self._followed):
            missing = 0 if path in matches else self._missing.get(path, 0) + 1
            self._missing[path] = missing
            if missing > GONE_POLLS:
                async with self._intake.shut:
                    self._followed.pop(path).cancel()
                del self._missing[path]


def is_rotated(path: str, matches: set[str]) -> bool:
    """Tell whether the name is that of another match with a counter or a date added."""
    folder, name = os.path.split(path)
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    if name != os.path.basename(path) and os.path.join(folder, name) in matches:  # noqa: PTH118, PTH119 - paths as written
        return True
    marks = ((mark.start(), mark.start() + len(mark[0].rstrip("._-:T"))) for mark in _MARK.finditer(name))
    bases = (name[:begin] + name[end:] for begin, end in marks)
    return any(os.path.join(folder, base) in matches for base in bases)  # noqa: PTH118 - paths as written


async def _was_read_elsewhere(path: str, intake: Valve) -> bool:
    """Tell whether the file was read to its present end under another name only."""
    if await intake.open_source(source_name(path)) is not None:
        return False
    try:
        with opened(path, 0) as source:
            size = source.size
            return size > 0 and await intake.was_read(Position(offset=size, fingerprint=source.fingerprint(size)))
    except InputError:
        return False


def _poll(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)  # noqa: PTH116 - the path as the person wrote it
    except OSError:
        return None


def _changed(before: os.stat_result, now: os.stat_result) -> bool:
    return (before.st_ino, before.st_size, before.st_mtime_ns) != (now.st_ino, now.st_size, now.st_mtime_ns)
