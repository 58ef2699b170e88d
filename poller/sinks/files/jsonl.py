"""Records as JSON Lines: each line is the record's own bytes."""

from typing import ClassVar

from poller.core.model import Delivery
from poller.sinks.files.rotation import LineFormat
from poller.sinks.files.sink import FileTable


def _line(delivery: Delivery) -> bytes:
    return delivery.body + b"\n"


JSONL = LineFormat(kind="jsonl", line=_line)


class JsonlTable(FileTable):
    """Settings of a `jsonl` sink."""

    KIND: ClassVar[str] = JSONL.kind
    EXAMPLE: ClassVar[str] = "jsonl:finished.jsonl"
    FORMAT: ClassVar[LineFormat] = JSONL
