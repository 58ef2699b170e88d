"""The live page: static files, and the overview as JSON, once or as a stream of server-sent events."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from poller.reports.charts import THEME
from poller.web.dashboard.snapshot import Snapshots
from poller.web.responses import MAX_SEND_S, RequestRefused

FILES: Mapping[str, tuple[str | Path, str]] = {
    "/": ("page.html", "text/html"),
    "/page/theme.css": (THEME, "text/css"),
    "/page/style.css": ("style.css", "text/css"),
    **{
        f"/page/{name}.js": (f"{name}.js", "text/javascript")
        for name in (
            *("actions", "api", "cards", "connection", "dead-letters", "dom", "drawer", "headline", "hosts"),
            *("lanes", "main", "notices", "pace-chart", "reasons", "route", "spread-chart", "svg"),
            *("task-cells", "tasks", "text"),
        )
    },
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
EVERY_S = 2.0  # between two events of a stream
MAX_STREAMS = 64


def add_page(app: web.Application, snapshots: Snapshots) -> None:
    """Add the page and its data to `app`. Streams end with a last overview when `app` shuts down."""
    streams = _Streams(snapshots)

    async def get_overview(_: web.Request) -> web.Response:
        return web.Response(body=await snapshots.json(), content_type="application/json")

    app.router.add_routes([web.get(path, _static(*file)) for path, file in FILES.items()])
    app.router.add_get("/v1/overview", get_overview)
    app.router.add_get("/v1/overview/stream", streams.serve, allow_head=False)
    app.on_shutdown.append(streams.end)


def _static(name: str | Path, content_type: str) -> Handler:
    """Return the handler of one file of this folder, or of a path; it is read once, here."""
    body = (Path(__file__).parent / name).read_bytes()

    async def get_file(_: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=HEADERS)

    return get_file


class _Streams:
    """All open streams of events."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots
        self._ending = asyncio.Event()
        self._open = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Send an overview every `EVERY_S` seconds, and a last one at the end of the run."""
        if self._open >= MAX_STREAMS:
            raise RequestRefused(503, "busy", "Too many pages are open: close some")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        self._open += 1
        try:
            await response.prepare(request)
            await self._send(response)
        except (ConnectionResetError, TimeoutError):  # the viewer is gone, or takes nothing more
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._open -= 1
        return response

    async def _send(self, response: web.StreamResponse) -> None:
        while not self._ending.is_set():
            async with asyncio.timeout(MAX_SEND_S):
                await response.write(b"data: " + await self._snapshots.json() + b"\n\n")
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._ending.wait()
        await response.write(b"event: end\ndata: " + await self._snapshots.json(fresh=True) + b"\n\n")

    async def end(self, _: web.Application) -> None:
        """The run is over: send each viewer how it ended."""
        self._ending.set()
