"""The kinds of source, and how each is read into the store."""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

import structlog

from poller.core.errors import InputError
from poller.core.protocols import Clock
from poller.sources.files.drop_folder import DropFolder
from poller.sources.files.follow import follow
from poller.sources.files.glob_files import GlobReader
from poller.sources.files.open_file import STDIN, check_readable, source_name, stat_of
from poller.sources.files.read import check_beginning, feed
from poller.sources.files.registry import FileRegistry
from poller.sources.intake import ChunkWriter
from poller.sources.options import ReadOptions

log = structlog.get_logger("poller")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One place where lines come from. Two that are equal are the same source."""

    kind: Literal["file", "glob", "folder", "stdin"]
    location: str  # a path, a pattern, or "-"
    options: ReadOptions
    follow: bool = False  # it never ends
    settle_s: float = 2.0  # of a folder: how long a file must have rested

    @property
    def is_rereadable(self) -> bool:
        """Whether it can be read again from an earlier position: no stream, which has each line once."""
        facts = stat_of(self.location) if self.kind == "file" else None
        return self.kind != "stdin" and (facts is None or not stat.S_ISFIFO(facts.st_mode))

    def is_same_stream(self, other: "Source") -> bool:
        """Whether both read the one stream, which cannot be read again with other options."""
        is_same = (self.kind, self.location, self.follow) == (other.kind, other.location, other.follow)
        return is_same and not self.is_rereadable

    def __str__(self) -> str:
        """For people."""
        return "standard input" if self.kind == "stdin" else f"{self.kind} {self.location}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Reads sources; holds what all of them share."""

    registry: FileRegistry
    clock: Clock
    stdin: int

    async def read(self, source: Source, writer: ChunkWriter) -> None:
        """Read to the end; a followed source has none. Skips a file that another source reads.

        Raises `InputError` for what cannot be read and is not waited for.
        """
        location, options = source.location, source.options
        path = "/dev/stdin" if location == STDIN else location
        if source.kind != "glob" and not self.registry.claim(path, source):
            log.warning("source.named_twice", source=source_name(location))
            return

        def latest() -> ReadOptions | None:
            return writer.latest_options

        match source.kind:
            case "file" if source.follow:
                await follow(location, writer, options, registry=self.registry, latest=latest)
            case "file" | "stdin":
                counts = await feed(location, writer, options, stdin=self.stdin, latest=latest)
                writer.on_unchanged(counts.unchanged)
            case "glob":
                glob = GlobReader(location, writer, options, source, self.registry)
                await (glob.follow() if source.follow else glob.read())
            case "folder":
                folder = DropFolder(
                    location,
                    writer,
                    options,
                    settle_s=source.settle_s,
                    clock=self.clock,
                    moved=self.registry.moved_from(location),
                )
                await folder.run(follow=source.follow)
            case _:
                assert_never(source.kind)


def check_beginnings(sources: Iterable[Source]) -> None:
    """Raise `InputError` where the first lines of a file refuse it: before a new state is created for nothing."""
    for source in sources:
        if source.kind == "file" and not source.follow and source.location != STDIN:
            check_beginning(source.location, source.options)


def check_sources(sources: Iterable[Source]) -> None:
    """Raise `InputError` naming every file and folder that cannot be read and is not waited for."""
    finite = [source for source in sources if not source.follow]
    check_readable([source.location for source in finite if source.kind == "file"])
    for source in finite:
        facts = stat_of(source.location) if source.kind == "folder" else None
        if source.kind == "folder" and (facts is None or not stat.S_ISDIR(facts.st_mode)):
            raise InputError(f"cannot read the input: there is no folder {source.location}, or it cannot be looked up")
