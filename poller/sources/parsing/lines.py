"""Cut a stream of bytes into lines, whatever blocks it arrives in. A line that is too long is counted, never held."""

from dataclasses import dataclass

from poller.core.text import printable

EXCERPT_LENGTH = 120  # characters
_EXCERPT_BYTES = 4 * EXCERPT_LENGTH  # enough for that many characters of UTF-8


@dataclass(frozen=True, slots=True)
class OverlongLine:
    """A line that is too long: its beginning, and its full length in bytes as `len()`."""

    beginning: bytes
    length: int

    def __len__(self) -> int:
        return self.length


Line = bytes | OverlongLine  # without its LF; a CR before it is still there


class LineSplitter:
    """Cuts blocks at LF. Holds at most `max_line_bytes` of an unfinished line."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._held = bytearray()
        self._length = 0  # of the unfinished line, whether or not all of it is held

    def push(self, block: bytes) -> list[Line]:
        """Return the lines that `block` completes."""
        first, *others = block.split(b"\n")
        self._hold(first)
        if not others:
            return []
        lines: list[Line] = [self._release()]
        unfinished = others.pop()
        if len(block) > self._max_line_bytes:
            lines += [self._bounded(line) for line in others]
        else:
            lines += others
        self._hold(unfinished)
        return lines

    @property
    def is_within_line(self) -> bool:
        """Whether the input so far ends without a line break."""
        return self._length > 0

    def rest(self) -> Line | None:
        """Return the last line of the input where it has no line break."""
        return self._release() if self._length else None

    def _hold(self, piece: bytes) -> None:
        self._length += len(piece)
        self._held += piece[: max(0, self._max_line_bytes - len(self._held))]

    def _release(self) -> Line:
        held, length = bytes(self._held), self._length
        self._held.clear()
        self._length = 0
        return held if length <= self._max_line_bytes else OverlongLine(held[:_EXCERPT_BYTES], length)

    def _bounded(self, line: bytes) -> Line:
        if len(line) <= self._max_line_bytes:
            return line
        return OverlongLine(line[: min(_EXCERPT_BYTES, self._max_line_bytes)], len(line))


def excerpt(line: Line) -> str:
    """Return the line's beginning for people: at most 120 characters, unprintable ones replaced."""
    beginning = line.beginning if isinstance(line, OverlongLine) else line[:_EXCERPT_BYTES]
    return printable(beginning.decode("utf-8", "replace").strip()[:EXCERPT_LENGTH])
