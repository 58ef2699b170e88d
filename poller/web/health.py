"""Whether the run is alive and ready, for probes, load balancers and people; needs no token."""

import os
from typing import Annotated, Literal

from aiohttp import web
from msgspec import UNSET, Meta, Struct

from poller import __version__
from poller.core.accounts import Pause
from poller.reports.task import Instant, instant
from poller.web.auth import SEES_DETAILS
from poller.web.context import RUN, RunContext
from poller.web.readiness import Detail, SinkReadiness, StoreReadiness, sink_readiness, store_readiness
from poller.web.responses import json_response


class Alive(Struct, frozen=True, kw_only=True):
    """The event loop runs."""

    status: Literal["alive"] = "alive"
    pid: int
    run: Annotated[str, Meta(description="a random word, another one in each run")]
    version: str
    up_s: float


class AccountReadiness(Struct, frozen=True, kw_only=True):
    """Whether an account can be polled, or will be without help."""

    ready: bool
    pause: Pause | None
    resume_at: Instant | None
    detail: Detail = UNSET


class Readiness(Struct, frozen=True, kw_only=True):
    """The state of each component."""

    ready: bool
    draining: bool
    store: StoreReadiness
    accounts: dict[str, AccountReadiness]
    sinks: dict[str, SinkReadiness]
    member: Annotated[
        bool | None, Meta(description="whether this replica may write for its fleet; null where it is alone")
    ] = None


async def get_health(request: web.Request) -> web.Response:
    """Answer GET /healthz. `poller healthcheck` compares process id and word with those in the state."""
    run = request.app[RUN]
    up_s = round(run.clock() - run.service.history.began_at, 3)
    return json_response(Alive(pid=os.getpid(), run=run.word, version=__version__, up_s=up_s))


async def get_readiness(request: web.Request) -> web.Response:
    """Answer GET /readyz: 200 while the run accepts and polls tasks, else 503 with the component that cannot."""
    found = readiness(request.app[RUN], detailed=request[SEES_DETAILS])
    return json_response(found, status=200 if found.ready else 503)


def readiness(run: RunContext, *, detailed: bool) -> Readiness:
    """Return the state of each component. Details for people, which may name hosts, only if `detailed`. A member of a
    fleet is ready whatever its accounts need: no other replica would help them by taking its requests."""
    accounts = {name: _account(run, name, detailed=detailed) for name in run.service.lanes}
    ending, writable = run.service.draining or run.service.is_ending, run.store.writable
    member = None if run.fleet is None else run.fleet.is_member
    is_served = all(account.ready for account in accounts.values()) if member is None else member
    return Readiness(
        ready=writable and not ending and is_served,
        member=member,
        draining=ending,
        store=store_readiness(run.store),
        accounts=accounts,
        sinks={loop.sink.name: sink_readiness(loop, detailed=detailed) for loop in run.service.deliveries.loops},
    )


def _account(run: RunContext, name: str, *, detailed: bool) -> AccountReadiness:
    """A pause that ends by itself does not make the run unready."""
    state = run.service.lanes[name].gate.state()
    return AccountReadiness(
        ready=not (state.pause and Pause(state.pause).needs_person),
        pause=Pause(state.pause) if state.pause else None,
        resume_at=instant(state.resume_at),
        detail=state.pause_detail if detailed else UNSET,
    )
