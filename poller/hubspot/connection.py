"""A pool of connections to one host: sends through aiohttp's connector and parser, at a third of the processor time of
its session. Sends each request once, follows no redirect, keeps no cookie. Raises aiohttp's exceptions.

The only module that uses non-public parts of aiohttp; tests/hubspot/test_connection.py names each of them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import aiohttp
from aiohttp.client_middlewares import ClientHandlerType
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_parser import HttpResponseParser, RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy
from yarl import URL

from poller.core.http_errors import NoHttpError

LONGEST_HEADER = 131_072  # one header; aiohttp's own 8 kB would turn an odd answer into a broken connection
MOST_HEADERS = 1024
READ_AT_ONCE = 65_536
CONNECTS = 2  # tries of a request, where a new connection is closed, or has received something, before it is used
KEEPALIVE_S = 15.0  # shorter than the idle time-outs of usual servers, so that they seldom close first

_NO_TIMEOUT = aiohttp.ClientTimeout()  # the caller limits the time of the whole poll


Message = tuple[RawResponseMessage, StreamReader]


class AnswerProtocol(asyncio.Protocol):
    """Receives answers through aiohttp's parser, in place of aiohttp's own protocol: where an answer arrives in one
    piece, as most do, with a third of the calls."""

    def __init__(self, handler: ResponseHandler, transport: asyncio.Transport) -> None:
        """`handler` is aiohttp's protocol of the connection: it still learns of the connection's end."""
        self.connected = True
        self._handler = handler
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parser = HttpResponseParser(
            self,  # type: ignore[arg-type]  # it pauses, resumes and asks whether it is connected, no more
            self._loop,
            READ_AT_ONCE,
            payload_exception=aiohttp.ClientPayloadError,
            read_until_eof=True,
            max_line_size=LONGEST_HEADER,
            max_field_size=LONGEST_HEADER,
            max_headers=MOST_HEADERS,
        )
        self._asked: asyncio.Future[Message] | None = None  # the request whose answer has not begun
        self._content: StreamReader | None = None  # of the latest answer, until it has arrived
        self._missing: int | None = None  # bytes of its body that have not arrived; None: its chunks show the end …
        self._ends_chunks = False  # … and the latest piece of them may be it
        self._is_spent = False  # it cannot serve another request
        self._is_paused = False
        transport.set_protocol(self)

    @property
    def is_clean(self) -> bool:
        """Whether it is open and has received nothing beyond the answers to its requests."""
        is_done = self._asked is None and (self._content is None or self._content.is_eof())
        return is_done and not self._is_spent and not self._transport.is_closing()

    def ask(self, request: bytes) -> "asyncio.Future[Message]":
        """Send a request; return what its answer will be, whose content may still be on its way then."""
        asked = self._asked = self._loop.create_future()
        if self.connected:
            self._transport.write(request)
        else:
            self._fail(aiohttp.ServerDisconnectedError())
        return asked

    def data_received(self, data: bytes) -> None:
        arriving = self._arriving(data) if self._asked is None else None
        try:
            messages, is_upgraded, _ = self._parser.feed_data(data)
        except Exception:  # noqa: BLE001 - whatever the parser met, this is no HTTP
            self._transport.close()
            self._fail(NoHttpError(data))
            return
        for message, content in messages:
            asked, self._asked = self._asked, None
            if asked is None:  # one more answer in the same piece
                self._is_spent = True
            elif 100 <= message.code <= 199 and message.code != 101:  # informational: the answer follows
                self._asked = asked
            else:
                if content.is_eof():  # as mostly
                    self._content = None
                    self._is_spent |= message.should_close or is_upgraded or _is_followed(data, message, content)
                else:
                    self._content = content
                    self._is_spent |= message.should_close or is_upgraded
                    self._missing = _missing(data, len(messages), message, content)
                if not asked.done():
                    asked.set_result((message, content))
        if arriving is not None:
            self._receive_rest(data, arriving)

    def _arriving(self, data: bytes) -> StreamReader | None:
        """Return the content that a piece belongs to whose answer's headers came before; None where it has none."""
        if self._content is not None and not self._content.is_eof():
            return self._content
        if data:
            self._is_spent = True  # nothing was asked for
        return None

    def _receive_rest(self, data: bytes, content: StreamReader) -> None:
        """Note a later piece of an answer: a stray answer that begins in the last one must not be completed later."""
        if self._missing is not None:
            self._missing -= len(data)
        elif data:
            self._ends_chunks = data.endswith((b"\r\n\r\n", b"0\r\n\r\n"[-len(data) :]))
        if content.is_eof():
            self._is_spent |= self._missing != 0 if self._missing is not None else not self._ends_chunks

    def connection_lost(self, exc: Exception | None) -> None:
        self.connected = False
        error: Exception = aiohttp.ServerDisconnectedError()
        if exc is not None:
            error = aiohttp.ClientOSError(*exc.args) if isinstance(exc, OSError) else exc
        try:
            self._parser.feed_eof()
        except Exception as unfinished:  # noqa: BLE001 - the content ends before its end
            error = aiohttp.ClientPayloadError(str(unfinished))
        self._fail(error)
        self._handler.connection_lost(exc)

    def pause_reading(self) -> None:
        """Called by the parser: the content is not read as fast as it arrives."""
        self._is_paused = True
        self._parser.pause_reading()
        with suppress(RuntimeError):  # a transport that is closed
            self._transport.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Called by the parser whenever content was read."""
        if not self._is_paused:
            return
        self._is_paused = False
        if resume_parser:
            self.data_received(b"")  # continues with what the parser kept
        if not self._is_paused:
            with suppress(RuntimeError):
                self._transport.resume_reading()

    def _fail(self, error: Exception) -> None:
        """No more of an answer comes."""
        self._is_spent = True
        asked, self._asked = self._asked, None
        if asked is not None and not asked.done():
            asked.set_exception(error)
        if self._content is not None and not self._content.is_eof():
            self._content.set_exception(error)


def _is_followed(data: bytes, message: RawResponseMessage, content: StreamReader) -> bool:
    """Return whether a piece that holds an answer to its end holds more: the parser keeps the beginning of a stray
    answer to itself, and would take its rest for the next answer."""
    if message.chunked:
        return not data.endswith(b"\r\n\r\n")
    size = content.total_bytes if message.compression is None else int(message.headers.get("Content-Length", 0))
    return data[-size - 4 : len(data) - size] != b"\r\n\r\n"


def _missing(data: bytes, heads: int, message: RawResponseMessage, content: StreamReader) -> int | None:
    """Return how many bytes of an answer's body come after the piece that ends its headers; None where only its chunks
    show that. `heads`: of the piece, those of informational answers included."""
    size = message.headers.get("Content-Length")
    if message.chunked or size is None:
        return None
    if message.compression is None:
        return int(size) - content.total_bytes
    body_at = 0  # decoded bytes were not counted by what arrived
    for _ in range(heads):
        body_at = data.find(b"\r\n\r\n", body_at) + 4
    return int(size) - (len(data) - body_at)


class _PooledConnection:
    """A connection of the connector, reused from one answer to the next."""

    __slots__ = ("connection", "idle_since", "protocol")

    def __init__(self, connection: Connection, protocol: AnswerProtocol) -> None:
        self.connection = connection
        self.protocol = protocol
        self.idle_since = 0.0

    def close(self) -> None:
        self.connection.close()


class Reply:
    """An answer whose headers are read. It holds its connection until `release`."""

    __slots__ = ("_connection", "_pool", "content", "headers", "status")

    def __init__(
        self, pool: "HostPool", connection: _PooledConnection, message: RawResponseMessage, content: StreamReader
    ) -> None:
        self.status: int = message.code
        self.headers: CIMultiDictProxy[str] = message.headers
        self.content = content
        self._pool = pool
        self._connection = connection

    def body_at_hand(self, limit: int) -> bytes | None:
        """Return a body that has arrived whole, as most do; None where it must be waited for or refused. From the
        content's buffer: its methods take eight calls for it. To be called once."""
        content = self.content
        if not content.is_eof() or content.exception() is not None or content.total_bytes > limit:
            return None
        if not content.total_bytes:
            return b""  # aiohttp's content of an answer without a body has no buffer
        pieces = content._buffer  # noqa: SLF001 - as test_connection.py has it
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self, *, keep: bool) -> None:
        """Return the connection to the pool, or close it: where `keep` is false or it cannot be reused."""
        self._pool.take_back(self._connection, keep=keep)


class HostPool:
    """The connections to one host, made by a session's connector, through its proxy if it has one."""

    def __init__(self, session: aiohttp.ClientSession, template: aiohttp.ClientRequest, *, fresh: bool) -> None:
        """`fresh`: each connection serves one answer only."""
        self._session = session
        self._template = template
        self._fresh = fresh
        self._idle: deque[_PooledConnection] = deque()  # longest idle first
        self._now = asyncio.get_running_loop().time
        proxied = template.proxy is not None and not template.is_ssl()
        self._origin = str(template.url.origin()) if proxied else ""
        self._get = f"GET {self._origin}".encode()
        self._headers, self._after_get = "", b""  # the latest headers, and all that follows a target with them
        self._after_target = f" HTTP/1.1\r\nHost: {template.headers['Host']}\r\n{self._for_proxy()}"

    async def get(self, target: str, headers: str, on_send: Callable[[], None] | None = None) -> Reply:
        """Request `target`, a path. `headers` are lines, each with its CRLF, without Host. `on_send` is called right
        before the first byte may leave; where it raises, none does."""
        connection = self._idle_connection() or await self._new_connection()
        if on_send is not None:
            try:
                on_send()
            except BaseException:
                self.take_back(connection, keep=True)
                raise
        if headers is not self._headers:  # seldom: each account keeps its own
            self._headers, self._after_get = headers, f"{self._after_target}{headers}\r\n".encode()
        request = self._get + target.encode() + self._after_get
        try:  # spelled out: `_exchange` would be one more coroutine a poll
            message, content = await connection.protocol.ask(request)
        except BaseException:
            connection.close()
            raise
        return Reply(self, connection, message, content)

    async def post(self, target: str, headers: str, body: bytes, on_send: Callable[[], None]) -> Reply:
        """POST a body as `get` does, always over a new connection. `on_send` is called right before the first byte
        may leave; an exception before that is one of a request that was never sent."""
        connection = await self._new_connection()
        head = f"POST {self._origin}{target}{self._after_target}{headers}"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        try:
            on_send()
        except BaseException:
            connection.close()
            raise
        try:
            message, content = await connection.protocol.ask(request)
        except BaseException:
            connection.close()
            raise
        return Reply(self, connection, message, content)

    def take_back(self, connection: _PooledConnection, *, keep: bool) -> None:
        """Keep a connection for the next request where `keep` and its state allow it; close it otherwise."""
        if keep and not self._fresh and connection.protocol.is_clean:
            connection.idle_since = self._now()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.popleft().close()

    def _idle_connection(self) -> _PooledConnection | None:
        while self._idle:
            connection = self._idle.popleft()
            if connection.protocol.is_clean and self._now() - connection.idle_since <= KEEPALIVE_S:
                return connection
            connection.close()
        return None

    async def _new_connection(self) -> _PooledConnection:
        connector = self._session.connector
        if connector is None:
            raise RuntimeError("the session is closed")
        early = b""
        for _ in range(CONNECTS):
            connection = await connector.connect(self._template, [], _NO_TIMEOUT)
            protocol, transport = connection.protocol, connection.transport
            if protocol is not None and transport is not None and not protocol.should_close:
                return _PooledConnection(connection, AnswerProtocol(protocol, transport))
            if protocol is not None:
                early = protocol._tail  # noqa: SLF001 - as test_connection.py has it
            connection.close()
        raise NoHttpError(early)

    def _for_proxy(self) -> str:
        if not self._origin or "Proxy-Authorization" not in self._template.headers:
            return ""
        return f"Proxy-Authorization: {self._template.headers['Proxy-Authorization']}\r\n"


async def open_pool(session: aiohttp.ClientSession, url: URL, *, fresh: bool) -> HostPool:
    """Return a pool for the host of `url`. Sends nothing: aiohttp builds the request that gives the connector host, TLS
    and proxy, and a middleware captures it before it is sent."""
    try:
        async with session.get(url, middlewares=(_capture,)):
            pass
    except _CapturedError as captured:
        return HostPool(session, captured.request, fresh=fresh)
    raise RuntimeError("aiohttp sent a request past its middleware")


class _CapturedError(Exception):
    def __init__(self, request: aiohttp.ClientRequest) -> None:
        super().__init__()
        self.request = request


async def _capture(request: aiohttp.ClientRequest, _send: ClientHandlerType) -> NoReturn:
    raise _CapturedError(request)
