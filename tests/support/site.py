"""Send requests to the admin server of a simulated run, in memory."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp

from tests.support.simulation import TOKEN, Simulation
from tests.support.virtual import MemoryConnector

BASE = "http://127.0.0.1:8321"
SITE_TOKEN = "a-token-of-the-admin-server"
WITH_TOKEN = {"listen": "0.0.0.0:8321", "listen_token_env": "SITE_TOKEN"}


@asynccontextmanager
async def visited(
    simulation: Simulation,
    ids: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    env: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[aiohttp.ClientSession]:
    """Run a service that never ends beside the caller, who sends it requests through the session; then drain it."""
    own = {"follow": True, "listen": "127.0.0.1:8321"} | dict(flags or {})
    environ = {"HUBSPOT_TOKEN": TOKEN, "SITE_TOKEN": SITE_TOKEN} | dict(env)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, own, environ=environ))
        await simulation.site_is_open.wait()
        assert simulation.site is not None
        async with aiohttp.ClientSession(BASE, connector=MemoryConnector(simulation.site)) as session:
            yield session
        if not running.done():
            simulation.drain()


async def json_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return an answer's JSON object."""
    body = await response.json()
    assert isinstance(body, dict)
    return body
