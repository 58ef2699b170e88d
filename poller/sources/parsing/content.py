"""Recognizes an input by its first bytes: its encoding, what ends its lines, and content that is no text. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from poller.core.errors import InputError
from poller.sources.options import Format

BEGINNING_BYTES = 4096  # what is known of an input when it is recognized

Encoding = Literal["utf-8", "utf-16-le", "utf-16-be"]
LineBreak = Literal["\n", "\r"]

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS: Mapping[bytes, Encoding] = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
_UNPACK, _TO_CSV = "Unpack it, and feed the file inside.", "Save it as CSV (UTF-8), and feed that file."
_NOT_TEXT: tuple[tuple[bytes, str, str], ...] = (  # first bytes, what has them, the remedy
    (b"\x1f\x8b", "compressed by gzip", _UNPACK),
    (b"\x1f\x9d", "compressed by compress", _UNPACK),
    (b"BZh", "compressed by bzip2", _UNPACK),
    (b"\xfd7zXZ\0", "compressed by xz", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed by lz4", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook (.xls)", _TO_CSV),
    (b"%PDF-", "a PDF document", _TO_CSV),
    (b"PAR1", "a Parquet file", _TO_CSV),
    (b"SQLite format 3\0", "a SQLite database", "Export its ids as CSV, and feed that file."),
    (b"\xff\xfe\0\0", "encoded in UTF-32", "Save it as UTF-8."),
)
_MAGIC = tuple(magic for magic, _, _ in _NOT_TEXT)

_MARKED = re.compile(rb"(?i)(?:\xef\xbb\xbf)?\s*(<!doctype html|<html|<\?xml|\{\\rtf)")
_PAGE = "a web page (HTML)", "It may be a login page: download the file again, or save the table as CSV."
_MARKUP: Mapping[bytes, tuple[str, str]] = {
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
    b"<?xml": ("an XML document", _TO_CSV),
    b"{\\rtf": ("a document in RTF", "Save it as plain text, and feed that file."),
}

_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")  # never in a line of text


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """How the bytes of an input become lines."""

    encoding: Encoding = "utf-8"
    line_break: LineBreak = "\n"
    is_json: bool = False  # one JSON text: arrays, or objects over several lines or on one; a line is an element
    mark_bytes: int = 0  # a byte order mark before the first line

    @property
    def break_bytes(self) -> bytes:
        """What ends a line in the source."""
        return self.line_break.encode(self.encoding)


def recognize(beginning: bytes, format: Format, source: str) -> Content:  # noqa: A002 - the option's name
    """Return how an input with these first bytes is read. Raises `InputError` for content that is no text."""
    text, encoding, mark_bytes = _decoded(beginning)
    if encoding == "utf-8":
        refuse_other_content(beginning, source)
    is_json = _is_json(text, format)
    has_only_cr = b"\n" not in text and b"\r" in text.rstrip() and text.lstrip()[:1] not in (b"{", b"[")
    line_break: LineBreak = "\r" if has_only_cr and not is_json else "\n"
    return Content(encoding=encoding, line_break=line_break, is_json=is_json, mark_bytes=mark_bytes)


def shows_content(beginning: bytes, format: Format) -> bool:  # noqa: A002 - the option's name
    """Whether these first bytes of an input that may go on are enough for `recognize`: its first line is whole, or no
    text."""
    text, encoding, _ = _decoded(beginning)
    text = text.lstrip()
    is_text = encoding != "utf-8" or not (beginning.startswith(_MAGIC) or _MARKED.match(beginning))
    return b"\n" in text or b"\r" in text.rstrip() or _is_json(text, format) or not is_text


def _decoded(beginning: bytes) -> tuple[bytes, Encoding, int]:
    """Return the whole characters behind a byte order mark in UTF-8, their encoding, and the bytes of the mark."""
    for mark, encoding in _UTF16_MARKS.items():
        if beginning.startswith(mark) and not beginning.startswith(b"\xff\xfe\0\0"):
            return beginning[2 : len(beginning) // 2 * 2].decode(encoding, "replace").encode(), encoding, 2
    mark_bytes = len(_UTF8_MARK) if beginning.startswith(_UTF8_MARK) else 0
    return beginning[mark_bytes:], "utf-8", mark_bytes


def _is_json(text: bytes, format: Format) -> bool:  # noqa: A002 - the option's name
    text = text.lstrip()
    return format in ("auto", "jsonl") and (
        text[:1] == b"[" or re.match(rb"\{[ \t]*\r?\n", text) is not None or _has_two_objects(text)
    )


def _has_two_objects(text: bytes) -> bool:
    """Return whether the first line is a JSON object with another one right after it."""
    line = re.split(rb"[\r\n]", text, maxsplit=1)[0].decode("utf-8", "replace")
    if not line.startswith("{") or "{" not in line[1:]:
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        return False
    return line[end:].lstrip().startswith("{")


def refuse_other_content(beginning: bytes, source: str) -> None:
    """Raise `InputError` where these first bytes are no text, with what they are and the remedy."""
    found = next(((what, remedy) for magic, what, remedy in _NOT_TEXT if beginning.startswith(magic)), None)
    if found is None and (marked := _MARKED.match(beginning)) is not None:
        found = _MARKUP[marked[1].lower()]
    if beginning.startswith(b"PK\x03\x04"):
        is_workbook = b"[Content_Types].xml" in beginning or b"xl/" in beginning
        is_open_document = b"opendocument.spreadsheet" in beginning
        what = "an Excel workbook" if is_workbook else "an OpenDocument spreadsheet" if is_open_document else ""
        found = (what, _TO_CSV) if what else ("a zip archive", _UNPACK)
    if found is None and b"\0" in beginning and not beginning.startswith(tuple(_UTF16_MARKS)):
        found = _found_in_nuls(beginning.lstrip(b"\0"))
    if found is not None:
        named = "standard input" if source == "-" else source
        what = "not a list of ids" if found in _MARKUP.values() else "not text"
        raise InputError(f"cannot read the input: {named} is {found[0]}, {what}. {found[1]}")


def _found_in_nuls(beginning: bytes) -> tuple[str, str] | None:
    """Return what an input with NULs is; None where most of its lines are text, so that each is judged by itself."""
    lines = [line for line in beginning.split(b"\n") if line.strip()]
    if sum(_CONTROL.search(line) is not None for line in lines) * 2 <= len(lines):
        return None
    if beginning[:64].count(b"\0") * 3 > len(beginning[:64]):
        return "encoded in UTF-16 without a byte order mark", "Save it as UTF-8."
    return "binary", "Feed a text, JSON Lines or CSV file."
