"""What the server knows of the run that it belongs to: every handler reaches it as `request.app[RUN]`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from poller.core.protocols import Clock, Store
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.sources import ReadOptions
from poller.web.responses import RequestRefused


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
STORE_S = 8.0  # for the store to answer a request: a server that stops must not hold clients
NO_ANSWER = "The state cannot be used now: it does not answer, or its disk is full"


@asynccontextmanager
async def store_limit() -> AsyncIterator[None]:
    """Bound what a request waits for the store. Raises `RequestRefused` when the time is over."""
    try:
        async with asyncio.timeout(STORE_S):
            yield
    except TimeoutError:
        raise RequestRefused(
            503, "unavailable", f"{NO_ANSWER}. The poller's log names the reason; retry later"
        ) from None
