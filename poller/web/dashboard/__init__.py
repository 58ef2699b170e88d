"""The live page: three static files, and the overview as JSON, once or as a stream of server-sent events."""

import asyncio
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from poller.web.dashboard.overview import Overview

FILES = {
    "/": ("page.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/main.js": ("main.js", "text/javascript"),
    "/page/words.js": ("words.js", "text/javascript"),
    "/page/draw.js": ("draw.js", "text/javascript"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
PUBLIC_PATHS = frozenset(FILES)  # hold nothing of the run; a browser cannot bring a token when it opens a page
DATA_PATHS = frozenset({"/v1/overview", "/v1/overview/stream"})  # need the token where there is one
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
EVERY_S = 2.0  # between two events of a stream
MOST_STREAMS = 64


def add_page(app: web.Application, overview: Overview) -> None:
    """Give `app` the page and its data. Streams end with a last overview when `app` shuts down."""
    streams = _Streams(overview)
    app.router.add_routes(page_routes(overview, streams))
    app.on_shutdown.append(streams.end)


def page_routes(overview: Overview, streams: "_Streams") -> list[web.RouteDef]:
    """Return the routes; the static files are read once, here."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(
            body=await overview.json(), content_type="application/json", headers=HEADERS | {"Cache-Control": "no-store"}
        )

    static = [web.get(path, _static(name, content_type).answer) for path, (name, content_type) in FILES.items()]
    return [*static, web.get("/v1/overview", show), web.get("/v1/overview/stream", streams.serve, allow_head=False)]


def _static(name: str, content_type: str) -> "_Handler":
    return _Handler((Path(__file__).parent / name).read_bytes(), content_type)


class _Handler:
    """Answers with one file."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self._body = body
        self._content_type = content_type

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(body=self._body, content_type=self._content_type, charset="utf-8", headers=HEADERS)


class _Streams:
    """Everybody who watches now."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._ending = asyncio.Event()
        self._open = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send an overview every `EVERY_S` seconds, and a last one at the end of the run."""
        if self._open >= MOST_STREAMS:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n", headers={"Retry-After": "30"})
        headers = HEADERS | {"Cache-Control": "no-store", "Content-Type": "text/event-stream"}
        response = web.StreamResponse(headers=headers)
        self._open += 1
        try:
            await response.prepare(request)
            with suppress(ConnectionResetError):
                await self._send(response)
        finally:
            self._open -= 1
        return response

    async def _send(self, response: web.StreamResponse) -> None:
        while not self._ending.is_set():
            await response.write(b"data: " + await self._overview.json() + b"\n\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._ending.wait()
        await response.write(b"event: end\ndata: " + await self._overview.json(fresh=True) + b"\n\n")

    async def end(self, _: web.Application) -> None:
        """The run is over: let each watcher see how it ended."""
        self._ending.set()
