"""The routes: which handler answers which path, on the server of a run and on that of a state."""

from aiohttp import web

from poller import __version__
from poller.core.request_protocols import TokenSource
from poller.web.act import get_dead_letters, pause_account, resume_account, retry_dead_letters
from poller.web.add_tasks import Feeder
from poller.web.auth import Guard, refuse_changes
from poller.web.context import RUN, STATE, RunContext, StateContext
from poller.web.dashboard import add_page
from poller.web.dashboard.overview import Overview
from poller.web.dashboard.snapshot import Snapshots
from poller.web.dashboard.state_overview import RunFinder, StateOverview
from poller.web.find import find_tasks, get_resubmit
from poller.web.health import get_health, get_readiness
from poller.web.loop_lag import LoopLag
from poller.web.metrics import metrics_handler
from poller.web.openapi import describe
from poller.web.responses import add_headers, json_response, translate_errors
from poller.web.tasks import get_finished, get_task


def make_site(run: RunContext, tokens: TokenSource | None) -> web.Application:
    """Return the application that serves `run`. With `tokens`, clients must send the token that they yield."""
    app = _application(run, tokens)
    app[RUN] = run
    feeder, lag = Feeder(run), LoopLag()
    app.cleanup_ctx.append(feeder.serve)
    app.cleanup_ctx.append(lag.measure)
    app.router.add_routes(
        [
            web.get("/healthz", get_health),
            web.get("/readyz", get_readiness),
            web.get("/metrics", metrics_handler(run, lag)),
            web.post("/v1/tasks", feeder.post),
            web.post("/v1/imports", feeder.post_imports),
            web.get("/v1/finished", get_finished),
            web.post("/v1/dead-letters/retry", retry_dead_letters),
            web.post("/v1/accounts/{name}/pause", pause_account),
            web.post("/v1/accounts/{name}/resume", resume_account),
        ]
    )
    add_page(app, Snapshots(Overview(run).snapshot, clock=run.clock))
    return app


def make_state_site(state: StateContext, tokens: TokenSource | None, run: RunFinder) -> web.Application:
    """Return the application that shows `state` and changes nothing. `run` returns the process that works on it."""
    app = _application(state, tokens)
    app.middlewares.append(refuse_changes)
    add_page(app, Snapshots(StateOverview(state, run).snapshot, clock=state.clock))
    return app


def _application(state: StateContext, tokens: TokenSource | None) -> web.Application:
    """Return an application with the routes that need no run."""
    app = web.Application(middlewares=[translate_errors, Guard(tokens, clock=state.clock).check])
    app[STATE] = state
    app.on_response_prepare.append(add_headers)
    app.router.add_routes(
        [
            web.get("/v1/tasks", find_tasks),
            web.get("/v1/tasks/{task_id}", get_task),
            web.get("/v1/resubmit", get_resubmit),
            web.get("/v1/dead-letters", get_dead_letters),
            web.get("/v1/openapi.json", get_description),
        ]
    )
    return app


async def get_description(request: web.Request) -> web.Response:
    """Answer GET /v1/openapi.json, with this run's accounts."""
    run = request.app.get(RUN)
    return json_response(describe(version=__version__, accounts=[] if run is None else sorted(run.accounts)))
