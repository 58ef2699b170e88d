"""The server's socket: its limits, and its end. Open before work begins, closed after the last delivery."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from poller.config import Address
from poller.core.errors import ConfigError

HEAD_S = 15.0  # for a connection's first request to arrive; aiohttp itself would wait for ever
IDLE_S = 60.0  # between two requests of a connection
MOST_CONNECTIONS = 500
END_S = 2.0  # for answers under way when the run has ended


@asynccontextmanager
async def listen(app: web.Application, address: Address) -> AsyncIterator[Address]:
    """Serve `app` while the context lasts; yields the address with the port that was taken.

    Raises `ConfigError` where the address cannot be had.
    """
    doorman = _Doorman()
    app.middlewares.insert(0, doorman.middleware())
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_S, shutdown_timeout=END_S)
    await runner.setup()
    doorman.server = runner.server
    listener: asyncio.Server | None = None
    try:
        listener = await _open(doorman, address)
        yield address.at(listener.sockets[0].getsockname()[1])
    finally:
        if listener is not None:
            listener.close()
        await runner.cleanup()


async def _open(factory: "_Doorman", address: Address) -> asyncio.Server:
    try:
        return await asyncio.get_running_loop().create_server(factory, address.host, address.port, backlog=256)
    except OSError as error:
        why = "another process listens there" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise ConfigError(
            f"listen: cannot listen on {address}: {why}. Choose another HOST:PORT (port 0 takes a free one), or off."
        ) from None


class _Doorman:
    """Makes the protocol of each connection: turns away those that are too many, and drops those that stay silent."""

    def __init__(self) -> None:
        self.server: web.Server | None = None  # there once the application is set up
        self._silent: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.Protocol:
        if self.server is None or len(self.server.connections) >= MOST_CONNECTIONS:
            return _TurnedAway()
        protocol = self.server()
        self._silent[protocol] = asyncio.get_running_loop().call_later(HEAD_S, self._drop, protocol)
        return protocol

    def middleware(self) -> Middleware:
        @web.middleware
        async def hear(request: web.Request, handler: Handler) -> web.StreamResponse:
            if (timer := self._silent.pop(request.protocol, None)) is not None:
                timer.cancel()
            return await handler(request)

        return hear

    def _drop(self, protocol: web.RequestHandler) -> None:
        del self._silent[protocol]
        protocol.force_close()


class _TurnedAway(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
