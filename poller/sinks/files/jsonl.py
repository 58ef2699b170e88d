"""Records as JSON Lines: each line is the record's own bytes."""

from typing import ClassVar

from poller.sinks.files.rotation import LineFormat
from poller.sinks.files.sink import FileTable

JSONL = LineFormat(kind="jsonl", line=lambda delivery: delivery.body + b"\n")


class JsonlTable(FileTable):
    """Settings of a `jsonl` sink."""

    KIND: ClassVar[str] = JSONL.kind
    EXAMPLE: ClassVar[str] = "jsonl:finished.jsonl"
    FORMAT: ClassVar[LineFormat] = JSONL
