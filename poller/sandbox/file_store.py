"""The simulated account's files: where each import lands, what counts as a duplicate, what a collision does.

HubSpot compares a download with the files that are there when it ends, never with other downloads under way: so two
starts of one URL, close together, become two files whatever their duplicate check.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from poller.sandbox.start_call import StartOptions

DuplicatesBy = Literal["content", "name", "never"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One file of the simulated account."""

    number: int
    task_id: str  # of the import that made it
    options: StartOptions
    name: str  # after a collision another one than the requested
    created_at: float

    @property
    def id(self) -> str:
        return str(10_000_000_000 + self.number)

    @property
    def path(self) -> str:
        return f"{self.options.folder.rstrip('/')}/{self.name}"


@dataclass(slots=True, kw_only=True)
class FileStore:
    """The files of one account, by folder and name."""

    duplicates_by: DuplicatesBy = "content"
    _files: dict[tuple[str, str], StoredFile] = field(default_factory=dict)
    _by_key: dict[str, list[StoredFile]] = field(default_factory=dict)  # content or name, as duplicates are found
    _renamed: Counter[tuple[str, str]] = field(default_factory=Counter)
    _copies: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by content, folder, requested name
    _made: int = 0

    def __len__(self) -> int:
        return len(self._files)

    @property
    def copies(self) -> int:
        """Return how many files are there beside the first of the same content, folder and requested name."""
        return sum(count - 1 for count in self._copies.values() if count > 1)

    def copies_of(self, url: str) -> int:
        """Return how many files have the content of `url`."""
        content = url.partition("?")[0]
        return sum(count for (of, _, _), count in self._copies.items() if of == content)

    def land(self, task_id: str, options: StartOptions, now: float) -> StoredFile | None:
        """End a download: return the file that the import's result names; None where a duplicate rejects it."""
        twin = self._twin(options) if options.strategy != "NONE" else None
        if twin is not None:
            return twin if options.strategy == "RETURN_EXISTING" else None
        name = options.name
        old = self._files.get((options.folder, name))
        if old is not None and options.overwrite:
            self._remove(old)
        elif old is not None:
            name = self._free_name(options.folder, name)
        self._made += 1
        file = StoredFile(number=self._made, task_id=task_id, options=options, name=name, created_at=now)
        self._files[options.folder, name] = file
        self._by_key.setdefault(self._key(options), []).append(file)
        self._copies[options.content, options.folder, options.name] += 1
        return file

    def _twin(self, options: StartOptions) -> StoredFile | None:
        if self.duplicates_by == "never":
            return None
        same = self._by_key.get(self._key(options), ())
        return next(
            (file for file in same if options.scope == "ENTIRE_PORTAL" or file.options.folder == options.folder), None
        )

    def _key(self, options: StartOptions) -> str:
        return options.name if self.duplicates_by == "name" else options.content

    def _remove(self, file: StoredFile) -> None:
        options = file.options
        del self._files[options.folder, file.name]
        self._by_key[self._key(options)].remove(file)
        self._copies[options.content, options.folder, options.name] -= 1

    def _free_name(self, folder: str, name: str) -> str:
        stem, dot, extension = name.rpartition(".") if "." in name else (name, "", "")
        while True:
            self._renamed[folder, name] += 1
            free = f"{stem}-{self._renamed[folder, name]}{dot}{extension}"
            if (folder, free) not in self._files:
                return free
