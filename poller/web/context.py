"""What the server knows of the run that it belongs to: every handler reaches it as `request.app[RUN]`."""

from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from poller.core.protocols import Clock, Store
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.sources import ReadOptions


@dataclass(slots=True, kw_only=True)
class Run:
    """One run's parts, as its server shows and feeds them."""

    service: Service
    store: Store
    metrics: Metrics
    feeding: ReadOptions  # how lines that come over HTTP are read, but for the accounts; a reload replaces it
    clock: Clock
    version: str
    pid: int
    began_at: float


RUN: web.AppKey[Run] = web.AppKey("run", Run)


def told(error: str, message: str, **more: object) -> Mapping[str, object]:
    """Return the body of an answer that is not a success: one word for programs, one sentence for people."""
    return {"error": error, "message": message, **more}
