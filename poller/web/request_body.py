"""Read a request's body into chunks of lines: bounded in bytes, lines and time, whatever the asker sends."""

import asyncio
from dataclasses import dataclass

import orjson
from aiohttp import web

from poller.core.errors import InputError
from poller.core.model import Chunk
from poller.sources import Parser, ReadOptions
from poller.sources.options import Format
from poller.web.jsonarray import ArrayLines

MOST_LINES = 10_000  # a request; blank lines, comments and a CSV's header do not count
MOST_BLANK = 100_000  # of those
MOST_BYTES = 16 * 2**20  # a request, unpacked
MOST_HELD = 64 * 2**20  # all requests that are being read
BODY_S = 60.0  # for a whole body to arrive

JSON = "application/json"
FORMATS: dict[str, Format] = {
    "text/plain": "text",
    "text/csv": "csv",
    JSON: "jsonl",
    "application/x-ndjson": "jsonl",
    "application/ndjson": "jsonl",
    "application/jsonl": "jsonl",
}
UNTOLD = "application/octet-stream"  # what aiohttp takes a missing Content-Type for: the content decides

_BOM = b"\xef\xbb\xbf"


class RequestRefused(Exception):
    """The request cannot be taken: its HTTP status, a word for programs, a sentence for people."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


@dataclass(slots=True)
class Held:
    """How many bytes of bodies are being read, by all requests together."""

    bytes: int = 0


def format_of(request: web.Request) -> Format:
    """Return how the body is to be read. Raises `RequestRefused` for a Content-Type that nobody reads here."""
    told = request.content_type
    if told == UNTOLD:
        return "auto"
    if told not in FORMATS:
        raise RequestRefused(
            415,
            "unknown_content_type",
            f"the Content-Type must be one of {', '.join(FORMATS)}. With curl: -H 'Content-Type: text/plain' "
            "--data-binary @ids.txt",
        )
    return FORMATS[told]


async def chunks_of(request: web.Request, feeding: ReadOptions, held: Held) -> list[Chunk]:
    """Return the whole body's lines. Raises `RequestRefused` where it is too much, too slow or cannot be read."""
    if (request.content_length or 0) > MOST_BYTES:
        raise _too_large()
    body = _Body(feeding, is_json=request.content_type == JSON)
    try:
        async with asyncio.timeout(BODY_S):
            async for block in request.content.iter_any():
                body.length += len(block)
                held.bytes += len(block)
                if body.length > MOST_BYTES:
                    raise _too_large()
                if held.bytes > MOST_HELD:
                    raise RequestRefused(503, "busy", "too many bodies are being read at a time: try again soon")
                body.push(block)
            body.end()
    except TimeoutError:
        raise RequestRefused(408, "too_slow", f"the body did not arrive within {BODY_S:.0f} s") from None
    except (ValueError, InputError) as fault:
        told = str(fault).replace("--id-column", "?id_column=NAME").rstrip(".")
        raise RequestRefused(400, "unreadable", told) from None
    except web.RequestPayloadError:
        raise RequestRefused(400, "unreadable", "the body is cut off, or not packed as its headers say") from None
    finally:
        held.bytes -= body.length
    return body.chunks


def _too_large() -> RequestRefused:
    return RequestRefused(413, "too_large", f"a request may have {MOST_BYTES // 2**20} MiB: send it in parts")


class _Body:
    """Parses blocks as they come, and stops at too many lines."""

    def __init__(self, feeding: ReadOptions, *, is_json: bool) -> None:
        self.chunks: list[Chunk] = []
        self.length = 0
        self._lines = self._blank = 0
        self._parser = Parser(feeding, "the body")
        self._json = _Json() if is_json else None

    def push(self, block: bytes) -> None:
        for chunk in self._parser.push(block if self._json is None else self._json.push(block)):
            self._keep(chunk)

    def end(self) -> None:
        if self._json is not None:
            for chunk in self._parser.push(self._json.end()):
                self._keep(chunk)
        for chunk in self._parser.end():
            self._keep(chunk)

    def _keep(self, chunk: Chunk) -> None:
        self._lines += len(chunk.fed) + len(chunk.rejected)
        self._blank += chunk.blank
        if self._lines > MOST_LINES or self._blank > MOST_BLANK:
            raise RequestRefused(413, "too_many_lines", f"a request may have {MOST_LINES:,} lines: send it in parts")
        self.chunks.append(chunk)


class _Json:
    """One JSON text as lines: each element of an array, or the one value that it is."""

    def __init__(self) -> None:
        self._array: ArrayLines | None = None
        self._beginning = b""  # of what is no array, or not yet

    def push(self, block: bytes) -> bytes:
        if self._array is not None:
            return self._array.push(block)
        self._beginning += block
        if not self._beginning.removeprefix(_BOM).lstrip().startswith(b"["):
            return b""
        self._array = ArrayLines()
        block, self._beginning = self._beginning.removeprefix(_BOM), b""
        return self._array.push(block)

    def end(self) -> bytes:
        if self._array is not None:
            self._array.end()
            return b""
        value = self._beginning.removeprefix(_BOM)
        try:
            orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise ValueError(f"the body is no JSON: {error}") from None
        return value.replace(b"\n", b" ").replace(b"\r", b" ") + b"\n"
