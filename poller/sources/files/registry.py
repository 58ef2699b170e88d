"""Which files a run reads, so that none is read twice under two names: sources, symbolic links, rotation."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from poller.sources.files.open_file import Input


class Claims:
    """Shared by all sources of a run. A claim on a path lasts until its owner gives it up."""

    def __init__(self) -> None:
        self._owners: dict[str, object] = {}  # by real path
        self._open: Counter[tuple[int, int]] = Counter()  # device and inode of files that are being followed

    def take(self, path: str, owner: object) -> bool:
        """Claim the file at `path`; False where another owner has it."""
        return self._owners.setdefault(os.path.realpath(path), owner) == owner

    def give_up(self, owner: object) -> None:
        """Let others have what `owner` claimed."""
        self._owners = {path: whose for path, whose in self._owners.items() if whose != owner}

    @contextmanager
    def reading(self, source: Input) -> Iterator[None]:
        """The open file is being followed meanwhile, whatever its name becomes."""
        facts = source.facts()
        key = facts.st_dev, facts.st_ino
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1

    def is_read(self, facts: os.stat_result) -> bool:
        """Tell whether this very file is being followed, under this or another name."""
        return self._open[facts.st_dev, facts.st_ino] > 0
