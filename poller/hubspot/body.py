"""Reads the body of an answer, up to a limit of decoded bytes."""

from aiohttp import StreamReader


class BodyTooLarge(Exception):
    """The decoded body is larger than the caller's limit."""


async def read_body(content: StreamReader, limit: int) -> tuple[bytes, Exception | None]:
    """Return a body of up to `limit` decoded bytes, and the error where that is not the whole body."""
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            is_whole = content.is_eof()
            chunk = content.read_nowait() if is_whole else await content.readany()
            size += len(chunk)
            if size > limit:
                return b"".join(chunks), BodyTooLarge()
            chunks.append(chunk)
            if is_whole:
                return (chunk if len(chunks) == 1 else b"".join(chunks)), None
    except Exception as error:  # noqa: BLE001 - the caller classifies it
        return b"".join(chunks), error
