"""The server's socket: its limits and its end. It opens before work begins and closes after the last delivery."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler

from poller.config import Address
from poller.core.errors import ConfigError
from poller.web.auth import PROBES
from poller.web.responses import error_response

FIRST_REQUEST_S = 15.0  # for a connection's first request to arrive; aiohttp itself has no limit
IDLE_S = 60.0  # between two requests of a connection
MAX_CONNECTIONS = 500  # beyond, a new one replaces one without a request
MAX_REQUESTS = 400  # in work at the same time; probes beyond are answered, too
SHUTDOWN_S = 2.0  # for responses in flight when the run has ended


@asynccontextmanager
async def listen(app: web.Application, address: Address) -> AsyncIterator[Address]:
    """Serve `app` while the context lasts; yields the address with its real port.

    Raises `ConfigError` where the address cannot be bound.
    """
    limiter = _ConnectionLimiter()
    app.middlewares.insert(0, limiter.track)
    runner = web.AppRunner(
        app, access_log=None, auto_decompress=False, keepalive_timeout=IDLE_S, shutdown_timeout=SHUTDOWN_S
    )
    await runner.setup()
    limiter.server = runner.server
    listener: asyncio.Server | None = None
    try:
        listener = await _bind(limiter, address)
        yield address.at(listener.sockets[0].getsockname()[1])
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


async def refuse_taken(address: Address | None) -> None:
    """Raise `ConfigError` where nothing can listen on an address now."""
    if address is not None:
        (await _bind(asyncio.Protocol, address)).close()


async def _bind(factory: Callable[[], asyncio.BaseProtocol], address: Address) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(factory, address.host, address.port, backlog=256)
    except (OSError, UnicodeError) as error:  # a host's name such as `a..b` is none
        why = _why_not(error)
        raise ConfigError(
            f"listen: cannot listen on {address}: {why}. Choose another HOST:PORT (port 0 takes a free one), or off."
        ) from None


def _why_not(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "it is no name of a host"
    return "another process listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)


class _ConnectionLimiter:
    """The factory of connections' protocols: drops silent connections, and bounds the number of all.

    A connection over the bound replaces the oldest silent one, else the oldest one between two requests. A part of them
    never has a request in work, so that neither silent connections nor slow requests keep a health check out.
    """

    def __init__(self) -> None:
        self.server: web.Server | None = None  # set once the application is set up
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}  # no request yet
        self._busy: set[web.RequestHandler] = set()  # with a request in work

    def __call__(self) -> asyncio.Protocol:
        if self.server is None or not self._make_room(self.server.connections):
            return _RefusedConnection()
        protocol = self.server()
        self._silent[protocol] = asyncio.get_running_loop().call_later(FIRST_REQUEST_S, self._drop, protocol)
        return protocol

    def _make_room(self, connections: Sequence[web.RequestHandler]) -> bool:
        if len(connections) < MAX_CONNECTIONS:
            return True
        connected = [each for each in connections if each.transport is not None]  # without those dropped just now
        if len(connected) < MAX_CONNECTIONS:
            return True
        idle = [each for each in connected if each not in self._busy]
        if idle:
            self._drop(next((each for each in idle if each in self._silent), idle[0]))
        return bool(idle)

    @web.middleware
    async def track(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Note that the connection has a request in work; refuse the request where too many are."""
        self._stop_timer(request.protocol)
        if len(self._busy) >= MAX_REQUESTS and request.path not in PROBES:
            return error_response(503, "busy", "Too many requests are in work at the same time. Retry soon.")
        self._busy.add(request.protocol)
        try:
            return await handler(request)
        finally:
            self._busy.discard(request.protocol)

    def _stop_timer(self, protocol: web.RequestHandler) -> None:
        if (timer := self._silent.pop(protocol, None)) is not None:
            timer.cancel()

    def _drop(self, protocol: web.RequestHandler) -> None:
        self._stop_timer(protocol)
        protocol.force_close()


class _RefusedConnection(asyncio.Protocol):
    """A connection over the limit: closed at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
