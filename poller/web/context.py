"""What the server knows of the run that it belongs to: every handler reaches it as `request.app[RUN]`."""

from dataclasses import dataclass

from aiohttp import web

from poller.core.protocols import Clock, Store
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.sources import ReadOptions


@dataclass(slots=True, kw_only=True)
class RunContext:
    """The parts of one run that its server shows and feeds."""

    service: Service
    store: Store
    metrics: Metrics
    clock: Clock
    feeding: ReadOptions  # how lines that arrive over HTTP are read; not for which accounts; a reload replaces it
    deadline_s: float  # the longest of the accounts'; a reload replaces it


RUN: web.AppKey[RunContext] = web.AppKey("run", RunContext)
