"""The routes: which path is answered by what, behind the guard."""

from pathlib import Path

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from poller.core.protocols import TokenSource
from poller.web.add_tasks import Feeder
from poller.web.auth import Guard, add_headers, as_json, translate_errors
from poller.web.context import RUN, Run
from poller.web.dashboard import add_page
from poller.web.dashboard.overview import Overview
from poller.web.health import healthz, readyz
from poller.web.loop_lag import Lag
from poller.web.metrics import metrics_handler
from poller.web.tasks import finished, one_task


def make_site(run: Run, overview: Overview, tokens: TokenSource | None) -> web.Application:
    """Return the application that serves `run`. With `tokens`, whoever asks must bring what they say."""
    guard = Guard(tokens, clock=run.clock)
    app = web.Application(middlewares=[translate_errors, guard.middleware()])
    app[RUN] = run
    app.on_response_prepare.append(add_headers)
    feeder, lag = Feeder(run), Lag()
    app.cleanup_ctx.append(feeder.work)
    app.cleanup_ctx.append(lag.work)
    app.router.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", metrics_handler(run, lag)),
            web.post("/v1/tasks", feeder.post),
            web.get("/v1/tasks/{task_id}", one_task),
            web.get("/v1/finished", finished),
            web.get("/v1/openapi.json", _description(run)),
        ]
    )
    add_page(app, overview)
    return app


def _description(run: Run) -> Handler:
    """Return the handler of the OpenAPI description: openapi.json beside this module, with this run's accounts."""
    described = orjson.loads((Path(__file__).parent / "openapi.json").read_bytes())
    described["info"]["version"] = run.version

    async def describe(_: web.Request) -> web.Response:
        described["components"]["schemas"]["Account"]["enum"] = sorted(run.service.lanes)
        return as_json(described)

    return describe
