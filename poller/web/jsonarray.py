"""Cut the elements of a JSON array into lines while it arrives. What an element holds is for the parser to judge."""

import re

_OUTSIDE = re.compile(rb'["\[\]{},\r\n]')
_INSIDE = re.compile(rb'["\\\r\n]')  # of a string


class ArrayLines:
    """Yields each element as a line. Line breaks between tokens become spaces; within strings JSON has none."""

    def __init__(self) -> None:
        self._depth = 0
        self._began = False
        self._elements = 0  # that ended with a comma
        self._is_filled = False  # the element has begun
        self._in_string = False
        self._escaped = False

    def push(self, block: bytes) -> bytes:
        """Return the lines, or parts of lines, that `block` brings. Raises `ValueError` where this is no array."""
        out, at = bytearray(), 0
        while at < len(block):
            at = self._string(block, at, out) if self._in_string else self._tokens(block, at, out)
        return bytes(out)

    def end(self) -> None:
        """Nothing more comes. Raises `ValueError` where something is missing."""
        if not self._began or self._depth:
            raise ValueError("the JSON array is cut off" if self._began else "the body holds no JSON")

    def _string(self, block: bytes, at: int, out: bytearray) -> int:
        if self._escaped:
            self._escaped = False
            out += block[at : at + 1]
            return at + 1
        sign = _INSIDE.search(block, at)
        if sign is None:
            out += block[at:]
            return len(block)
        out += block[at : sign.end()]
        match sign.group():
            case b'"':
                self._in_string = False
            case b"\\":
                self._escaped = True
            case _:
                raise ValueError("a line break within a JSON string")
        return sign.end()

    def _tokens(self, block: bytes, at: int, out: bytearray) -> int:
        sign = _OUTSIDE.search(block, at)
        piece = block[at:] if sign is None else block[at : sign.start()]
        if piece.strip():
            self._fill()
        out += piece
        if sign is None:
            return len(block)
        out += self._token(sign.group())
        return sign.end()

    def _fill(self) -> None:
        """Something stands here that must belong to an element."""
        if self._depth == 0:
            raise ValueError("something stands outside of the JSON array")
        self._is_filled = True

    def _token(self, token: bytes) -> bytes:
        match token:
            case b"\r" | b"\n":
                return b" "
            case b"[" if not self._began:
                self._began, self._depth = True, 1
                return b""
            case b"," if self._depth == 1:
                return self._end_element(last=False)
            case b"]" if self._depth == 1:
                return self._end_element(last=True)
        self._fill()
        if token in b"[{":
            self._depth += 1
        elif token in b"]}":
            self._depth -= 1
            if self._depth == 0:
                raise ValueError("the JSON array ends with the wrong bracket")
        elif token == b'"':
            self._in_string = True
        return token

    def _end_element(self, *, last: bool) -> bytes:
        if not self._is_filled and (self._elements or not last):
            raise ValueError("an element of the JSON array is missing")
        was_filled, self._is_filled = self._is_filled, False
        self._elements += 1
        self._depth = 0 if last else 1
        return b"\n" if was_filled else b""
