"""One GET over a connection of an aiohttp session, without the session's own request: the same connector and the same
parser at half the processor time. Sends once, follows nothing, keeps no cookie. Raises aiohttp's exceptions.
"""

import asyncio
from typing import NoReturn

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

LONGEST_HEADER = 131_072  # one header; aiohttp's own 8 kB would turn an odd answer into a broken connection
MOST_HEADERS = 1024
READ_AT_ONCE = 65_536

_UNTIMED = aiohttp.ClientTimeout()  # the caller times all of a look


class BodyTooLarge(Exception):
    """The decoded body is larger than the caller wants."""


class Reply:
    """An answer whose headers are read. Its connection is held until `end`."""

    __slots__ = ("_connection", "_content", "headers", "status")

    def __init__(self, connection: Connection, message: RawResponseMessage, content: StreamReader) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self._connection = connection
        self._content = content

    async def body(self, most: int) -> tuple[bytes, Exception | None]:
        """Return the body up to `most` decoded bytes; with less than the whole body comes the reason."""
        return await read_body(self._content, most)

    def end(self, *, keep: bool) -> None:
        """Give the connection back; one that is not to be kept, or cannot, is closed."""
        if keep:
            self._connection.release()
        else:
            self._connection.close()


class Wire:
    """The way to one host through a session's connector, its proxy included."""

    def __init__(self, session: aiohttp.ClientSession, template: aiohttp.ClientRequest) -> None:
        self._session = session
        self._template = template
        proxied = template.proxy is not None and not template.is_ssl()
        self._origin = str(template.url.origin()) if proxied else ""

    @property
    def is_open(self) -> bool:
        return not self._session.closed

    async def get(self, target: str, headers: str) -> Reply:
        """Ask for `target`, a path. `headers` are lines, each with its CRLF, without Host."""
        connector, template = self._session.connector, self._template
        if connector is None:
            raise RuntimeError("the session is closed")
        connection, protocol, transport = await _clean_connection(connector, template)
        try:
            _expect_answer(protocol)
            transport.write(
                f"GET {self._origin}{target} HTTP/1.1\r\nHost: {template.headers['Host']}\r\n"
                f"{self._for_proxy()}{headers}\r\n".encode()
            )
            message, content = await _final_answer(protocol)
        except BaseException:
            connection.close()
            raise
        return Reply(connection, message, content)

    def _for_proxy(self) -> str:
        if not self._origin or "Proxy-Authorization" not in self._template.headers:
            return ""
        return f"Proxy-Authorization: {self._template.headers['Proxy-Authorization']}\r\n"


async def read_body(content: StreamReader, most: int) -> tuple[bytes, Exception | None]:
    """Return a body up to `most` decoded bytes; with less than the whole body comes the reason."""
    chunks: list[bytes] = []
    size = 0
    try:
        while True:
            is_whole = content.is_eof()
            chunk = content.read_nowait() if is_whole else await content.readany()
            size += len(chunk)
            if size > most:
                return b"".join(chunks), BodyTooLarge()
            chunks.append(chunk)
            if is_whole:
                return (chunk if len(chunks) == 1 else b"".join(chunks)), None
    except Exception as error:  # noqa: BLE001 - the caller knows what each class means
        return b"".join(chunks), error


async def _clean_connection(
    connector: aiohttp.BaseConnector, template: aiohttp.ClientRequest
) -> tuple[Connection, ResponseHandler, asyncio.Transport]:
    """Return a connection on which nothing has come that nobody asked for."""
    while True:
        connection = await connector.connect(template, [], _UNTIMED)
        protocol, transport = connection.protocol, connection.transport
        if protocol is not None and transport is not None and not protocol.should_close:
            return connection, protocol, transport
        connection.close()


async def wire_to(session: aiohttp.ClientSession, url: URL) -> Wire:
    """Return the way to the host of `url`. Sends nothing: aiohttp makes the request from which the connector learns
    host, TLS and proxy, and it is taken away just before it would leave."""
    try:
        async with session.get(url, middlewares=(_take_away,)):
            pass
    except _TakenAwayError as taken:
        return Wire(session, taken.request)
    raise RuntimeError("aiohttp sent a request past its middleware")


class _TakenAwayError(Exception):
    def __init__(self, request: aiohttp.ClientRequest) -> None:
        super().__init__()
        self.request = request


async def _take_away(request: aiohttp.ClientRequest, _send: ClientHandlerType) -> NoReturn:
    raise _TakenAwayError(request)


def _expect_answer(protocol: ResponseHandler) -> None:
    protocol.set_response_params(
        read_until_eof=True,
        auto_decompress=True,
        read_bufsize=READ_AT_ONCE,
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
        max_headers=MOST_HEADERS,
    )


async def _final_answer(protocol: ResponseHandler) -> tuple[RawResponseMessage, StreamReader]:
    """Return the first answer that is no 1xx, 101 aside."""
    while True:
        message, content = await protocol.read()
        if not 100 <= message.code <= 199 or message.code == 101:
            return message, content
