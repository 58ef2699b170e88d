"""One GET over a connection of an aiohttp session, without the session's own request: the same connector and the same
parser at half the processor time. Sends once, follows nothing, keeps no cookie. Raises aiohttp's exceptions.
"""

import asyncio
from collections import deque
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
KEEPALIVE_S = 15.0  # shorter than the idle time-outs of usual servers, so that they seldom close first

_UNTIMED = aiohttp.ClientTimeout()  # the caller times all of a poll


class BodyTooLarge(Exception):
    """The decoded body is larger than the caller wants."""


class _Line:
    """A connection of the connector's with its parser, both kept from one answer to the next."""

    __slots__ = ("connection", "idle_since", "protocol", "transport")

    def __init__(self, connection: Connection, protocol: ResponseHandler, transport: asyncio.Transport) -> None:
        self.connection = connection
        self.protocol = protocol
        self.transport = transport
        self.idle_since = 0.0
        protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=True,
            read_bufsize=READ_AT_ONCE,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )

    @property
    def is_clean(self) -> bool:
        """Whether it stands, and nothing has come on it that nobody asked for."""
        return not self.transport.is_closing() and not self.protocol.should_close

    def close(self) -> None:
        self.connection.close()


class Reply:
    """An answer whose headers are read. Its connection is held until `end`."""

    __slots__ = ("_line", "_wire", "content", "headers", "status")

    def __init__(
        self, wire: "HostConnections", line: _Line, message: RawResponseMessage, content: StreamReader
    ) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self._wire = wire
        self._line = line

    def end(self, *, keep: bool) -> None:
        """Give the connection back; one that is not to be kept, or cannot, is closed."""
        self._wire.take_back(self._line, keep=keep)


class HostConnections:
    """The way to one host through a session's connector, its proxy included."""

    def __init__(self, session: aiohttp.ClientSession, template: aiohttp.ClientRequest, *, fresh: bool) -> None:
        """`fresh`: each connection serves one answer only."""
        self._session = session
        self._template = template
        self._fresh = fresh
        self._idle: deque[_Line] = deque()  # the longest idle first
        self._now = asyncio.get_running_loop().time
        proxied = template.proxy is not None and not template.is_ssl()
        self._origin = str(template.url.origin()) if proxied else ""
        self._version_and_host = f" HTTP/1.1\r\nHost: {template.headers['Host']}\r\n"

    async def get(self, target: str, headers: str) -> Reply:
        """Ask for `target`, a path. `headers` are lines, each with its CRLF, without Host."""
        line = self._idle_line() or await self._new_line()
        try:
            line.transport.write(
                f"GET {self._origin}{target}{self._version_and_host}{self._for_proxy()}{headers}\r\n".encode()
            )
            message, content = await line.protocol.read()
            while 100 <= message.code <= 199 and message.code != 101:  # only an announcement of the answer
                message, content = await line.protocol.read()
        except BaseException:
            line.close()
            raise
        return Reply(self, line, message, content)

    def take_back(self, line: _Line, *, keep: bool) -> None:
        """Keep a connection for the next request if it may be kept and can be; close it otherwise."""
        if keep and not self._fresh and line.is_clean:
            line.idle_since = self._now()
            self._idle.append(line)
        else:
            line.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            self._idle.popleft().close()

    def _idle_line(self) -> _Line | None:
        while self._idle:
            line = self._idle.popleft()
            if line.is_clean and self._now() - line.idle_since <= KEEPALIVE_S:
                return line
            line.close()
        return None

    async def _new_line(self) -> _Line:
        connector = self._session.connector
        if connector is None:
            raise RuntimeError("the session is closed")
        while True:
            connection = await connector.connect(self._template, [], _UNTIMED)
            protocol, transport = connection.protocol, connection.transport
            if protocol is not None and transport is not None and not protocol.should_close:
                return _Line(connection, protocol, transport)
            connection.close()

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


async def connections_to(session: aiohttp.ClientSession, url: URL, *, fresh: bool) -> HostConnections:
    """Return the way to the host of `url`. Sends nothing: aiohttp makes the request from which the connector learns
    host, TLS and proxy, and it is taken away just before it would leave."""
    try:
        async with session.get(url, middlewares=(_take_away,)):
            pass
    except _TakenAwayError as taken:
        return HostConnections(session, taken.request, fresh=fresh)
    raise RuntimeError("aiohttp sent a request past its middleware")


class _TakenAwayError(Exception):
    def __init__(self, request: aiohttp.ClientRequest) -> None:
        super().__init__()
        self.request = request


async def _take_away(request: aiohttp.ClientRequest, _send: ClientHandlerType) -> NoReturn:
    raise _TakenAwayError(request)
