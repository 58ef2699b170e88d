"""Reads a request's body into chunks of lines, with limits on its bytes, lines and time."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import msgspec
from aiohttp import hdrs, web

from poller.core.errors import ConfigError, InputError
from poller.core.model import Chunk
from poller.sources import Content, Parser, ReadOptions
from poller.sources.options import Format
from poller.web.responses import RequestRefused

MAX_LINES = 10_000  # a request; blank lines, comments and a CSV's header do not count
MAX_BLANK = 100_000  # of those
MAX_BYTES = 16 * 2**20  # a request, unpacked
MAX_COMMAS = MAX_BYTES // 16  # of a JSON array: bounds the work before its elements are counted, about 0.15 s
MAX_HELD = 64 * 2**20  # all requests that are being read
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
UNPACKED_AT_ONCE = 256 * 1024  # bytes of a compressed body
NO_CONTENT_TYPE = "application/octet-stream"  # what aiohttp reports where none was sent: the content decides

_BOM = b"\xef\xbb\xbf"
_array = msgspec.json.Decoder(list[msgspec.Raw])
_value = msgspec.json.Decoder(msgspec.Raw)


@dataclass(slots=True)
class HeldBytes:
    """How many bytes of bodies are being read, by all requests together."""

    count: int = 0


def format_of(request: web.Request) -> Format:
    """Return the format that the Content-Type names. Raises `RequestRefused` for one that is not known."""
    if request.content_type == NO_CONTENT_TYPE:
        return "auto"
    if request.content_type not in FORMATS:
        raise RequestRefused(
            415,
            "unknown_content_type",
            f"The Content-Type must be one of {', '.join(FORMATS)}. With curl: -H 'Content-Type: text/plain' "
            "--data-binary @ids.txt",
        )
    return FORMATS[request.content_type]


async def chunks_of(request: web.Request, feeding: ReadOptions, held: HeldBytes) -> list[Chunk]:
    """Return the lines of the whole body. Raises `RequestRefused` where it is too large, too slow or unreadable."""
    if (request.content_length or 0) > MAX_BYTES:
        raise _too_large()
    body = _JsonBody(feeding) if request.content_type == JSON else _LineBody(feeding)
    try:
        async with asyncio.timeout(BODY_S):
            async for block in _blocks_of(request):
                body.length += len(block)
                held.count += len(block)
                if body.length > MAX_BYTES:
                    raise _too_large()
                if held.count > MAX_HELD:
                    raise RequestRefused(503, "busy", "Too many bodies are being read at the same time. Retry soon")
                body.push(block)
            body.end()
    except TimeoutError:
        raise RequestRefused(408, "too_slow", f"The body did not arrive within {BODY_S:.0f} s") from None
    except (ValueError, InputError, ConfigError) as error:
        message = str(error).replace("--id-column", "?id_column=NAME").rstrip(".")
        raise RequestRefused(400, "unreadable", message) from None
    except (web.RequestPayloadError, zlib.error):
        message = "The body is cut off, or not encoded as its headers declare"
        raise RequestRefused(400, "unreadable", message) from None
    finally:
        held.count -= body.length
    return body.chunks


async def _blocks_of(request: web.Request) -> AsyncIterator[bytes]:
    """Yield the body, unpacked. Raises `RequestRefused` for an encoding that is not known, `zlib.error` for a body that
    is not encoded as declared. The server does not unpack: it answers an encoding that it does not know in plain text.
    """
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise RequestRefused(415, "unknown_content_encoding", "The Content-Encoding must be gzip, deflate or absent")
    unpacker = None
    async for block in request.content.iter_any():
        packed = block
        if encoding == "identity":
            yield block
            continue
        while packed:
            if unpacker is None or unpacker.eof:  # gzip files may be concatenated
                is_raw = encoding == "deflate" and packed[0] & 0x0F != zlib.DEFLATED  # some clients omit zlib's header
                unpacker = zlib.decompressobj(-zlib.MAX_WBITS if is_raw else zlib.MAX_WBITS | 32)
            yield unpacker.decompress(packed, UNPACKED_AT_ONCE)
            packed = unpacker.unused_data or unpacker.unconsumed_tail
    if encoding != "identity" and (unpacker is None or not unpacker.eof):
        raise zlib.error("the body is cut off")


def _too_large() -> RequestRefused:
    return RequestRefused(413, "too_large", f"A request may have {MAX_BYTES // 2**20} MiB. Send it in parts")


def _too_many_lines() -> RequestRefused:
    return RequestRefused(413, "too_many_lines", f"A request may have {MAX_LINES:,} lines. Send it in parts")


class _LineBody:
    """Parses blocks as they arrive, and stops at too many lines."""

    def __init__(self, feeding: ReadOptions, content: Content | None = None) -> None:
        self.chunks: list[Chunk] = []
        self.length = 0
        self._lines = self._blank = 0
        self._parser = Parser(feeding, "the body", content)

    def push(self, block: bytes) -> None:
        self._keep(self._parser.push(block))

    def end(self) -> None:
        self._keep(self._parser.end())

    def _keep(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self._lines += len(chunk.fed) + len(chunk.rows) + len(chunk.rejected)
            self._blank += chunk.blank
            if self._lines > MAX_LINES or self._blank > MAX_BLANK:
                raise _too_many_lines()
            self.chunks.append(chunk)


class _JsonBody(_LineBody):
    """One JSON text as lines: each element of an array, or the one value that it is."""

    def __init__(self, feeding: ReadOptions) -> None:
        super().__init__(feeding, Content())  # an element that is an array is no id
        self._text = bytearray()

    def push(self, block: bytes) -> None:
        self._text += block

    def end(self) -> None:
        super().push(b"".join(line + b"\n" for line in elements_of(bytes(self._text).removeprefix(_BOM))))
        super().end()


def elements_of(text: bytes) -> list[bytes]:
    """Return each element of a JSON array, or the one value that `text` is, without line breaks. Raises `ValueError`
    where it is not JSON, `RequestRefused` where it has too many elements."""
    is_array = text.lstrip()[:1] == b"["
    if is_array and text.count(b",") > MAX_COMMAS:
        raise _too_many_lines()
    try:
        elements = _array.decode(text) if is_array else [_value.decode(text)]
    except msgspec.MsgspecError as error:
        reason = str(error).removeprefix("JSON is malformed: ")
        raise ValueError(f"The body is not valid JSON: {reason}") from None
    except RecursionError:
        raise ValueError("The body is not usable JSON: it is nested too deeply") from None
    if len(elements) > MAX_LINES:
        raise _too_many_lines()
    return [bytes(element).replace(b"\n", b" ").replace(b"\r", b" ") for element in elements]
