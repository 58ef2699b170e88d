"""The kinds of source there are, and how each is read into the store."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import structlog

from poller.core.errors import InputError
from poller.core.model import Added, Chunk
from poller.core.protocols import Clock
from poller.sources.files.drop_folder import DropFolder
from poller.sources.files.follow import follow
from poller.sources.files.glob_files import MatchFollower, feed_matches
from poller.sources.files.open_file import STDIN, check_readable, source_name
from poller.sources.files.read import feed
from poller.sources.files.registry import Claims
from poller.sources.intake import Valve
from poller.sources.parsing.line import Feeding

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place where lines come from. Two that are equal are the same source."""

    kind: Literal["file", "glob", "folder", "stdin"]
    place: str  # a path, a pattern, or "-"
    feeding: Feeding
    follow: bool = False  # it never ends
    settle_s: float = 2.0  # of a folder: how long a file must have rested

    def __str__(self) -> str:
        """For people."""
        return "standard input" if self.kind == "stdin" else f"{self.kind} {self.place}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads sources; what all of them share."""

    claims: Claims
    clock: Clock
    stdin: int
    on_chunk: Callable[[Chunk, Added], None]

    async def read(self, source: Source, intake: Valve) -> None:
        """Read to the end, or for ever where the source is followed. A file that another source reads is left to it.

        Raises `InputError` for what cannot be read and is not waited for.
        """
        place = source.place
        if source.kind != "glob" and not self.claims.take(place if place != STDIN else "/dev/stdin", source):
            log.warning("source.named_twice", source=source_name(place))
            return
        match source.kind:
            case "file" if source.follow:
                await follow(place, intake, source.feeding, on_chunk=self.on_chunk, claims=self.claims)
            case "file" | "stdin":
                await feed(place, intake, source.feeding, stdin=self.stdin, on_chunk=self.on_chunk)
            case "glob":
                await self._read_matches(source, intake)
            case "folder":
                await self._empty_folder(source, intake)
            case _:
                assert_never(source.kind)

    async def _read_matches(self, source: Source, intake: Valve) -> None:
        if source.follow:
            await MatchFollower(
                source.place, intake, source.feeding, owner=source, claims=self.claims, on_chunk=self.on_chunk
            ).run()
        else:
            await feed_matches(
                source.place, intake, source.feeding, owner=source, claims=self.claims, on_chunk=self.on_chunk
            )

    async def _empty_folder(self, source: Source, intake: Valve) -> None:
        await DropFolder(
            source.place,
            intake,
            source.feeding,
            follow=source.follow,
            settle_s=source.settle_s,
            clock=self.clock,
            on_chunk=self.on_chunk,
        ).run()


def check_sources(sources: Iterable[Source]) -> None:
    """Raise `InputError` naming every file and folder that cannot be read and is not waited for."""
    finite = [source for source in sources if not source.follow]
    check_readable([source.place for source in finite if source.kind == "file"])
    for source in finite:
        if source.kind == "folder" and not Path(source.place).is_dir():
            raise InputError(f"cannot read the input: there is no folder {source.place}")
