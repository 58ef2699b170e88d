"""Which source of a run reads which file, so that none is read twice: not by two sources, not under two names; and what
outlives a source that a reload replaces.
"""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from poller.core import open_files
from poller.core.errors import UnreadableInput
from poller.sources.files.moved_files import MovedFiles
from poller.sources.files.open_file import OpenFile

log = structlog.get_logger("poller")


_File = tuple[int, int]  # device and inode


class NoPlace(UnreadableInput):
    """As many files are followed as this process may keep open."""


class FileRegistry:
    """Shared by all sources of a run. A path belongs to the source that claimed it first, until that releases it."""

    def __init__(self) -> None:
        self._moved: dict[str, MovedFiles] = {}  # by the drop folder's real path
        self._claims: dict[str, object] = {}  # the source that reads it, by real path
        self._followed: Counter[_File] = Counter()
        self._latest: dict[str, _File] = {}  # that a source has followed, by its name
        self._places = 0  # taken
        self._has_reported_full = False

    def claim(self, path: str, source: object) -> bool:
        """Claim the file at `path`; False where another source has it."""
        return self._claims.setdefault(os.path.realpath(path), source) == source

    def release(self, source: object) -> None:
        """Release all that `source` claimed."""
        self._claims = {path: claimant for path, claimant in self._claims.items() if claimant != source}

    def moved_from(self, folder: str) -> MovedFiles:
        """Return the files that were moved out of a drop folder, by whichever source: a reload replaces them."""
        return self._moved.setdefault(os.path.realpath(folder), MovedFiles())

    @contextmanager
    def place(self, source: str) -> Iterator[None]:
        """Take one of the places for files that are kept open. Raises `NoPlace`, which is logged once."""
        room = open_files.room_for_inputs()
        if self._places >= room:
            reason = (
                f"{room} files are followed, as many as a limit of {open_files.limit()} open files leaves room for. "
                "This one and others wait until one is gone: raise the limit (ulimit -n, LimitNOFILE)"
            )
            if not self._has_reported_full:
                self._has_reported_full = True
                log.warning("source.waited_for", source=source, reason=reason)
            raise NoPlace(reason)
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    @contextmanager
    def following(self, file: OpenFile, source: str) -> Iterator[None]:
        """Register the open file as followed by a source meanwhile, under whatever name."""
        facts = file.facts()
        key = facts.st_dev, facts.st_ino
        self._latest[source] = key
        self._followed[key] += 1
        try:
            yield
        finally:
            self._followed[key] -= 1

    def is_followed(self, facts: os.stat_result) -> bool:
        """Whether this very file is being followed, under this or another name."""
        return self._followed[facts.st_dev, facts.st_ino] > 0

    def is_behind(self, source: str, current: os.stat_result) -> bool:
        """Whether a source still reads files that were rotated before its current one, be that readable or not."""
        found = current.st_dev, current.st_ino
        return self._latest.get(source, found) != found
