"""Reads the body of an answer, up to a limit of decoded bytes."""

from aiohttp import StreamReader


class BodyTooLarge(Exception):
    """The decoded body is larger than the caller's limit."""


def body_at_hand(content: StreamReader, limit: int) -> bytes | None:
    """Return a body that has arrived whole, as most do; None where `read_body` must wait for it or refuse it."""
    if not content.is_eof() or content.exception() is not None or content.total_bytes > limit:
        return None
    return content.read_nowait()


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
