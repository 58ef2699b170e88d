"""Is it alive, and is it ready? For probes, load balancers and people; no token is needed."""

from typing import Any

from aiohttp import web

from poller.core.model import Pause
from poller.core.timestamps import iso
from poller.web.auth import MAY_SEE, as_json
from poller.web.context import RUN, Run

STUCK = frozenset({Pause.TOKEN_REFUSED, Pause.SCOPE_MISSING, Pause.WRONG_PATH})  # a person must act


async def healthz(request: web.Request) -> web.Response:
    """The event loop runs. `poller healthcheck` compares the process id with that of the state's owner."""
    run = request.app[RUN]
    up_s = round(run.clock() - run.began_at, 3)
    return as_json({"status": "alive", "pid": run.pid, "version": run.version, "up_s": up_s})


async def readyz(request: web.Request) -> web.Response:
    """200 while the run can take tasks and poll them; 503 with the component that cannot."""
    told = readiness(request.app[RUN], detailed=request[MAY_SEE])
    return as_json(told, status=200 if told["ready"] else 503)


def readiness(run: Run, *, detailed: bool) -> dict[str, Any]:
    """Return each component's state. Texts for people are left out unless `detailed`: they may name hosts."""
    accounts = {name: _account(run, name, detailed=detailed) for name in run.service.lanes}
    ending = run.service.draining or run.service.is_ending
    components = [run.store.writable, not ending, *(account["ready"] for account in accounts.values())]
    return {
        "ready": all(components),
        "draining": ending,
        "store": {"ready": run.store.writable, "state": "writable" if run.store.writable else "unwritable"},
        "accounts": accounts,
        "sinks": {loop.sink.name: _sink(loop, detailed=detailed) for loop in run.service.delivery_loops},
    }


def _account(run: Run, name: str, *, detailed: bool) -> dict[str, Any]:
    """A pause that ends by itself is no reason to take the run out of service."""
    state = run.service.lanes[name].gate.state()
    told = {
        "ready": state.pause not in STUCK,
        "pause": state.pause,
        "resume_at": None if state.resume_at is None else iso(state.resume_at),
    }
    return told | ({"detail": state.pause_detail} if detailed else {})


def _sink(loop: Any, *, detailed: bool) -> dict[str, Any]:
    stopped, failing = loop.stopped_by is not None, loop.backlog_reason is not None
    told = {"ready": not failing, "state": "stopped" if stopped else "failing" if failing else "delivering"}
    return told | ({"detail": loop.backlog_reason} if detailed else {})
