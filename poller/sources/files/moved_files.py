"""Moves the files of a drop folder without overwriting any, and watches those that may still be written to."""

import asyncio
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from poller.sources.files.open_file import stat_of

WATCHED_S = 600.0  # after the move
MOST_WATCHED = 10_000  # some 20 ms to look at all of them
_NOT_ALLOWED = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK)  # links; a rename may be


def move_into(path: Path, folder: Path, *, mark: str = "") -> Path:
    """Move a file into a folder beside it, under a name with `mark` that is free there; return where it is now.

    Links, then unlinks: nothing is ever overwritten, and after a crash in between the next call finishes the move.
    """
    folder.mkdir(exist_ok=True)
    number = 0
    while True:
        target = folder / f"{path.stem}{mark}{f'.{number}' if number else ''}{path.suffix}"
        try:
            os.link(path, target, follow_symlinks=False)
        except FileExistsError:
            if not os.path.samestat(path.lstat(), target.lstat()):
                number += 1
                continue
        except OSError as error:
            if error.errno not in _NOT_ALLOWED:
                raise
            return path.rename(target)  # links are not allowed here; the name was free a moment ago
        if os.path.samestat(path.lstat(), target.lstat()):  # else another file has taken its place just now
            path.unlink()
        return target


def move_back(path: Path, target: Path) -> bool:
    """Move a file to a path where there is none; return whether it is there now. Raises `OSError`."""
    try:
        os.link(path, target, follow_symlinks=False)
    except FileExistsError:
        if not os.path.samestat(path.lstat(), target.lstat()):
            return False
    except OSError as error:
        if error.errno not in _NOT_ALLOWED:
            raise
        if stat_of(str(target), follow_symlinks=False) is not None:
            return False
        path.rename(target)
        return True
    path.unlink()
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedFile:
    """A file of which it could not be known whether it was still open for writing."""

    name: str  # in the drop folder
    path: Path  # where it is now
    inode: int
    size: int  # bytes that were read
    until: float  # loop time


class MovedFiles:
    """Those that were moved within the last `WATCHED_S`, the latest `MOST_WATCHED` of them."""

    def __init__(self) -> None:
        self._files: dict[Path, MovedFile] = {}

    def watch(self, name: str, path: Path, inode: int, size: int) -> None:
        """Watch a file that was moved just now."""
        until = asyncio.get_running_loop().time() + WATCHED_S
        self._files[path] = MovedFile(name=name, path=path, inode=inode, size=size, until=until)
        if len(self._files) > MOST_WATCHED:
            del self._files[next(iter(self._files))]

    def forget(self, file: MovedFile) -> None:
        """Do not watch a file any more."""
        del self._files[file.path]

    def grown(self) -> Iterator[MovedFile]:
        """Yield the files that have grown since they were moved."""
        now = asyncio.get_running_loop().time()
        for file in list(self._files.values()):
            facts = stat_of(str(file.path), follow_symlinks=False)
            if facts is None or facts.st_ino != file.inode or now > file.until:
                self.forget(file)
            elif facts.st_size > file.size:
                yield file
