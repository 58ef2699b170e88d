"""How long a request may use the store: a client of the server is never held by a state that does not answer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from poller.web.responses import RequestRefused

STORE_S = 8.0  # for the store to answer a request: a server that stops must not hold clients
SEARCH_S = 0.15  # after which a page is sent as it is, with its cursor
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


def late_after(seconds: float) -> Callable[[], bool]:
    """Return a test of whether so much time has passed from now on."""
    now = asyncio.get_running_loop().time
    ends_at = now() + seconds
    return lambda: now() >= ends_at
