"""Read what is appended to an open file, and notice when it does not hold any more what was read of it.

What was read is proven by the bytes themselves, kept from the reading: a file that is cut off and written anew at any
instant, by another process, can neither be taken for the old one nor lend it a wrong fingerprint.
"""

import os

from poller.sources.files.open_file import BLOCK, PROVEN_BYTES, Input, fingerprint_of


class Cut(Exception):
    """The file was truncated or written anew: what was read of it is gone."""


class Tail:
    """An open file, read up to somewhere. Holds the first bytes and the latest ones."""

    def __init__(self, source: Input, offset: int, longest_unstored: int) -> None:
        """`longest_unstored` is how many bytes before the end of reading `fingerprint` may be asked for."""
        length = min(PROVEN_BYTES, offset)
        self._source = source
        self._read_to = offset
        self._head = source.at(0, length)
        self._recent = source.at(offset - length, length)
        self._kept = longest_unstored + BLOCK + PROVEN_BYTES
        self._at_end: tuple[int, int] | None = None  # size and time of change when there was nothing more

    def block(self) -> bytes:
        """Return the next bytes, empty where there are none yet. Raises `Cut`."""
        facts = self._source.facts()
        if (facts.st_size, facts.st_mtime_ns) == self._at_end:
            return b""
        block = self._source.at(self._read_to)
        if not self._holds_what_was_read():
            raise Cut
        self._at_end = None if block else (facts.st_size, facts.st_mtime_ns)
        self._take(block)
        return block

    def fingerprint(self, offset: int) -> str:
        """Return what proves later that the file still holds its first `offset` bytes as they were read."""
        length = min(PROVEN_BYTES, offset)
        begin = offset - length - (self._read_to - len(self._recent))
        if begin < 0:
            return self._source.fingerprint(offset)
        return fingerprint_of(self._head[:length] + self._recent[begin : begin + length], self._source.facts())

    def _take(self, block: bytes) -> None:
        self._read_to += len(block)
        self._head += block[: PROVEN_BYTES - len(self._head)]
        self._recent = (self._recent + block)[-self._kept :]

    def _holds_what_was_read(self) -> bool:
        length = min(PROVEN_BYTES, self._read_to)
        latest = self._recent[len(self._recent) - length :]
        return (
            self._source.at(0, length) == self._head[:length]
            and self._source.at(self._read_to - length, length) == latest
        )


def is_at(path: str, source: Input) -> bool | None:
    """Tell whether the open file is the one at `path`; None if there is nothing."""
    try:
        there = os.stat(path)  # noqa: PTH116 - the path as the person wrote it
    except OSError:
        return None
    return os.path.samestat(there, source.facts())
