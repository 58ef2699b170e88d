"""Writes a file whole or not at all, with mode 0600: reports contain other people's URLs."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from poller.core.errors import SinkError


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Yield a file that replaces `path` when the block ends without an error; otherwise nothing changes.

    Raises `SinkError` where it cannot be written.
    """
    try:
        if path.is_dir():
            raise SinkError(f"cannot write {path}: it is a folder. Name a file in it.")
        if path.exists() and not path.is_file():  # /dev/stdout and pipes cannot be replaced, only written to
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                yield file
            return
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}") from None
    finally:
        Path(name).unlink(missing_ok=True)
