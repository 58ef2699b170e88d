"""Serves a `SandboxApi` over HTTP with aiohttp: sends each reply as its `Transmission` requires, resets included."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

from aiohttp import web

from poller.config import Address, is_loopback_host
from poller.core.errors import ConfigError
from poller.sandbox.api import SandboxApi
from poller.sandbox.reply import SandboxReply, SandboxRequest, Transmission

DRIP_BYTES, DRIP_EVERY_S = 5, 1.0
STRAY_AFTER_S = 0.001  # by then the connection is idle again in the client's pool

API: web.AppKey[SandboxApi] = web.AppKey("api", SandboxApi)


def make_app(api: SandboxApi) -> web.Application:
    """Return an application that answers every path with `api`."""
    app = web.Application()
    app[API] = api
    app.router.add_route("*", "/{path:.*}", _handle)
    return app


@contextlib.asynccontextmanager
async def serve(
    api: SandboxApi, *, host: str = "127.0.0.1", port: int = 0, beyond_loopback: bool = False
) -> AsyncIterator[str]:
    """Serve `api` while the context lasts; yields the base URL. Port 0 takes a free one.

    Raises `ConfigError` where the port is not available, or where `host` is reachable from other machines without
    `beyond_loopback`.
    """
    if not beyond_loopback and not is_loopback_host(host):
        raise ConfigError(f"sandbox: host {host!r} is reachable from other machines; use 127.0.0.1, ::1 or localhost")
    runner = web.AppRunner(make_app(api), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as reason:
            raise ConfigError(
                f"sandbox: cannot listen on {host} port {port}: {reason.strerror or reason}; port 0 takes a free one"
            ) from None
        yield f"http://{Address(host=host, port=runner.addresses[0][1])}"
    finally:
        await runner.cleanup()


async def _handle(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    received = SandboxRequest(
        method=request.method,
        path=request.rel_url.raw_path,
        token=token if scheme.lower() == "bearer" else None,
        body=body,
    )
    api = request.app[API]
    reply = api.respond(received)  # counts the arrival, before any latency
    await asyncio.sleep(reply.wait_s)
    return await _send(request, reply, api.scenario.hang_s)


async def _send(request: web.Request, reply: SandboxReply, hang_s: float) -> web.StreamResponse:
    match reply.transmission:
        case Transmission.WHOLE:
            return web.Response(status=reply.code, body=reply.body, headers=reply.http_headers)
        case Transmission.STRAY:
            return _FollowedByStray(reply, request)
        case Transmission.DRIP:
            return await _drip(request, reply)
        case Transmission.HANG:
            await asyncio.sleep(hang_s)
            _reset(request)
        case Transmission.LOST:
            _reset(request)
        case Transmission.RESET:
            _write_half(request, reply, with_length=True)
            await asyncio.sleep(STRAY_AFTER_S)  # the half arrives before the reset discards it
            _reset(request)
        case Transmission.CUT_LENGTH | Transmission.CUT_BARE:
            _write_half(request, reply, with_length=reply.transmission is Transmission.CUT_LENGTH)
            if request.transport:
                request.transport.close()
    return web.Response()  # never sent: the connection is closed


class _FollowedByStray(web.Response):
    """An answer that is followed by a stray one on the same connection."""

    def __init__(self, reply: SandboxReply, request: web.Request) -> None:
        super().__init__(status=reply.code, body=reply.body, headers=reply.http_headers)
        self._stray = _head(reply, len(reply.stray)) + reply.stray
        self._connection = request

    async def write_eof(self, data: bytes = b"") -> None:
        await super().write_eof(data)
        await asyncio.sleep(STRAY_AFTER_S)
        if self._connection.transport:
            self._connection.transport.write(self._stray)


async def _drip(request: web.Request, reply: SandboxReply) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.code, headers=reply.http_headers)
    response.content_length = len(reply.body)
    with contextlib.suppress(ConnectionError):  # the client closed the connection
        await response.prepare(request)
        for at in range(0, len(reply.body), DRIP_BYTES):
            await response.write(reply.body[at : at + DRIP_BYTES])
            await asyncio.sleep(DRIP_EVERY_S)
    return response


def _write_half(request: web.Request, reply: SandboxReply, *, with_length: bool) -> None:
    if request.transport:
        head = _head(reply, len(reply.body) if with_length else None)
        request.transport.write(head + reply.body[: len(reply.body) // 2])


def _head(reply: SandboxReply, length: int | None) -> bytes:
    headers = reply.http_headers | ({"Connection": "close"} if length is None else {"Content-Length": str(length)})
    lines = [f"HTTP/1.1 {reply.code} Sandbox", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join((*lines, "", "")).encode()


def _reset(request: web.Request) -> None:
    """Close with RST. An in-memory connection has no socket; its `abort` has the same effect."""
    if request.transport is None:
        return
    if (sock := request.transport.get_extra_info("socket")) is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
