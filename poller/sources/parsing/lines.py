"""Cut a stream of bytes into lines, whatever blocks it arrives in. A line that is too long is counted, never held."""

import re
from dataclasses import dataclass

from poller.core.text import printable
from poller.sources.parsing.content import Content

EXCERPT_LENGTH = 120  # characters
_USER_OF_URL = re.compile(rb"://[^/?#\s\"@]+@")
_EXCERPT_BYTES = 4 * EXCERPT_LENGTH  # enough for that many characters of UTF-8


@dataclass(frozen=True, slots=True)
class OverlongLine:
    """A line that is too long: its beginning, and its full length in bytes as `len()`."""

    beginning: bytes
    length: int

    def __len__(self) -> int:
        return self.length


Line = bytes | OverlongLine  # in UTF-8, without its LF; a CR before it is still there


class LineSplitter:
    """Cuts blocks at line breaks. Holds at most `max_line_bytes` of an unfinished line."""

    def __init__(self, max_line_bytes: int, content: Content) -> None:
        self.trailing_bytes = 0  # after the last line, and no line themselves
        self.sizes: list[int] = []  # bytes in the source of each line returned, for the caller to consume
        self._max_line_bytes = max_line_bytes
        self._encoding = content.encoding
        self._line_break = content.line_break.encode()
        self._break_size = 0 if content.is_json else len(content.line_break.encode(content.encoding))
        self._held = bytearray()
        self._length = self._size = 0  # of the unfinished line, whether or not all of it is held
        self._partial = b""  # the beginning of a character of UTF-16

    def push(self, block: bytes) -> list[Line]:
        """Return the lines that `block` completes."""
        first, *others = self._split(block if self._encoding == "utf-8" else self._transcoded(block))
        self._hold(first)
        if not others:
            return []
        lines: list[Line] = [self._release()]
        self.sizes.append(self._size + self._break_size)
        self._size = 0
        unfinished = others.pop()
        self.sizes += [self._size_of(line) + self._break_size for line in others]
        lines += [self._bounded(line) for line in others] if len(block) > self._max_line_bytes else others
        self._hold(unfinished)
        return lines

    @property
    def is_within_line(self) -> bool:
        """Whether the input so far ends without a line break."""
        return self._size > 0 or self._partial != b""

    @property
    def is_within_value(self) -> bool:
        """Whether the input so far ends within a character, or within a value over several lines."""
        return self._partial != b""

    def rest(self) -> Line | None:
        """Return the last line of the input where it has no line break."""
        if self._partial:
            self._held += "\N{REPLACEMENT CHARACTER}".encode()
            self._length += 1
            self._size, self._partial = self._size + len(self._partial), b""
        if not self._size:
            return None
        self.sizes.append(self._size)
        self._size = 0
        return self._release()

    def _split(self, text: bytes) -> list[bytes]:
        """Return the pieces between line breaks, of which the last is unfinished."""
        return text.split(self._line_break)

    def _transcoded(self, block: bytes) -> bytes:
        """Return the whole characters of UTF-16 as UTF-8. What is none of Unicode stays none of UTF-8."""
        block = self._partial + block
        end = len(block) // 2 * 2
        high = block[end - 1 if self._encoding == "utf-16-le" else end - 2] if end else 0
        end -= 2 * (0xD8 <= high <= 0xDB)  # the first half of a character
        self._partial = block[end:]
        return block[:end].decode(self._encoding, "surrogatepass").encode("utf-8", "surrogatepass")

    def _size_of(self, text: bytes) -> int:
        if self._encoding == "utf-8":
            return len(text)
        return len(text.decode("utf-8", "surrogatepass").encode(self._encoding, "surrogatepass"))

    def _hold(self, piece: bytes) -> None:
        self._length += len(piece)
        self._size += self._size_of(piece)
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


class JsonSplitter(LineSplitter):
    """Cuts a JSON text into one line for each element of its arrays, and for each object outside of them."""

    _TOKENS, _IN_STRING = re.compile(rb'[\[\]{},"]'), re.compile(rb'["\\]')

    def __init__(self, max_line_bytes: int, content: Content, before: bytes = b"") -> None:
        """`before`: the last bytes before those to come. Behind a comma an element of an array follows."""
        super().__init__(max_line_bytes, content)
        self._in_array = before.endswith(",".encode(content.encoding))
        self._in_string = False
        self._depth, self._skip = int(self._in_array), 0
        self._begins_outside = not self._in_array  # the next line, so that a `[` in front of it is the array's

    def push(self, block: bytes) -> list[Line]:
        return [self._element(line) for line in super().push(block)]

    @property
    def is_within_value(self) -> bool:
        return self._partial != b"" or (self._size > 0 and (self._depth > 0 or self._in_string))

    def rest(self) -> Line | None:
        """As before; white space after the end is none, and an array without an end gives a line that is refused."""
        line = super().rest()
        if self._depth and line is not None:
            return b"[" + line if isinstance(line, bytes) else line
        if isinstance(line, bytes) and not line.strip():
            self.trailing_bytes = self.sizes.pop()
            return None
        return line

    def _split(self, text: bytes) -> list[bytes]:
        pieces, start, at = [], 0, self._skip
        while found := (self._IN_STRING if self._in_string else self._TOKENS).search(text, at):
            at = found.end()
            if found[0] == b"\\":
                at += 1
            elif found[0] == b'"':
                self._in_string = not self._in_string
            elif self._ends_element(found[0]):
                pieces.append(text[start:at])
                start = at
        self._skip = max(0, at - len(text))
        return [*pieces, text[start:]]

    def _ends_element(self, sign: bytes) -> bool:
        if sign in b"[{":
            self._in_array = sign == b"[" if self._depth == 0 else self._in_array
            self._depth += 1
            return False
        if sign == b",":
            return self._depth == 1 and self._in_array
        self._depth = max(0, self._depth - 1)
        return self._depth == 0

    def _element(self, line: Line) -> Line:
        begins_outside, self._begins_outside = self._begins_outside, not (isinstance(line, bytes) and line[-1:] == b",")
        if not isinstance(line, bytes):
            return line
        text = line[:-1] if line[-1:] in (b",", b"]") else line
        text = text.strip().removeprefix(b"[") if begins_outside else text.strip()
        return text.replace(b"\n", b" ").replace(b"\r", b" ")


def excerpt(line: Line) -> str:
    """Return the line's beginning for people: at most 120 characters, unprintable ones and a URL's user and password
    replaced, since it is stored and shown."""
    beginning = line.beginning if isinstance(line, OverlongLine) else line[:_EXCERPT_BYTES]
    beginning = _USER_OF_URL.sub(rb"://***@", beginning)
    return printable(beginning.decode("utf-8", "replace").strip()[:EXCERPT_LENGTH])
