"""Read what is appended to an open file, and detect that it does not hold any more what was read of it.

The proof is the bytes themselves, kept since they were read: a file that another process truncates and rewrites at any
instant is never taken for the old one, and never gets the old one's fingerprint.
"""

import os

from poller.sources.files.open_file import BLOCK, PROVEN_BYTES, OpenFile, fingerprint_of, stat_of


class Truncated(Exception):
    """The file was truncated or rewritten: what was read of it is gone."""


class Tail:
    """The reading end of an open file. Keeps the first bytes read and the latest ones."""

    def __init__(self, file: OpenFile, offset: int, longest_unstored: int) -> None:
        """`longest_unstored`: how far before the last byte read an offset for `fingerprint` may be."""
        length = min(PROVEN_BYTES, offset)
        self._file = file
        self._read_to = offset
        self._head = file.at(0, length)
        self._recent = file.at(offset - length, length)
        self._kept_bytes = longest_unstored + BLOCK + PROVEN_BYTES
        self._at_end: tuple[int, int] | None = None  # size and time of change when there was nothing more

    def block(self) -> bytes:
        """Return the next bytes, empty where there are none yet. Raises `Truncated`."""
        facts = self._file.facts()
        if (facts.st_size, facts.st_mtime_ns) == self._at_end:
            return b""
        block = self._file.at(self._read_to)
        if not self._holds_what_was_read():
            raise Truncated
        self._at_end = None if block else (facts.st_size, facts.st_mtime_ns)
        self._keep(block)
        return block

    def fingerprint(self, offset: int) -> str:
        """Return the proof that the file's first `offset` bytes are as they were read."""
        length = min(PROVEN_BYTES, offset)
        begin = offset - length - (self._read_to - len(self._recent))
        if begin < 0:
            return self._file.fingerprint(offset)
        return fingerprint_of(self._head[:length] + self._recent[begin : begin + length], self._file.facts())

    def _keep(self, block: bytes) -> None:
        self._read_to += len(block)
        self._head += block[: PROVEN_BYTES - len(self._head)]
        self._recent = (self._recent + block)[-self._kept_bytes :]

    def _holds_what_was_read(self) -> bool:
        length = min(PROVEN_BYTES, self._read_to)
        latest = self._recent[len(self._recent) - length :]
        return (
            self._file.at(0, length) == self._head[:length] and self._file.at(self._read_to - length, length) == latest
        )


def is_at(path: str, file: OpenFile) -> bool | None:
    """Whether the open file is the one at `path`; None if there is nothing."""
    current = stat_of(path)
    return None if current is None else os.path.samestat(current, file.facts())
