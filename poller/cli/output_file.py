"""Writes a file whole or not at all, with mode 0600: reports contain other people's URLs."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from poller.core.errors import SinkError

_STATE = b"SQLite format 3\0"
_RECORD = re.compile(rb'\{"task_id":"[^"]*","account":"[^"]*","kind":"[a-z_]+","(?:landed|status)":')
_READ = 1024  # bytes by which a file is known


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """Yield a file that replaces `path` when the block ends without an error; otherwise nothing changes.

    Raises `SinkError` where it cannot be written, or is what a run wrote.
    """
    try:
        if path.is_dir():
            raise SinkError(f"cannot write {path}: it is a folder. Name a file in it.")
        if path.exists() and not path.is_file():  # /dev/stdout and pipes cannot be replaced, only written to
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
                yield file
            return
        if (found := _written_by_a_run(path)) is not None:
            raise SinkError(f"cannot write {path}: it is {found}, which would be lost. Name another file.")
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


def _written_by_a_run(path: Path) -> str | None:
    """Return what a file is that a run wrote; None for any other, such as an earlier report."""
    from poller.sinks.files.csv_lines import CSV

    if not path.exists():
        return None
    with path.open("rb") as file:
        beginning = file.read(_READ)
    if beginning.startswith(_STATE):
        return "a state"
    is_table = beginning.startswith(tuple(each.header for each in (CSV, *CSV.older)))
    return "a sink's file of finished tasks" if is_table or _RECORD.match(beginning) else None
