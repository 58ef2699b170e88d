"""A fleet of real processes for figures: one PostgreSQL, one simulated HubSpot that knows who sent each request."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

from campaign.bugs import HOUSE
from campaign.fleet.history import Arrival
from campaign.fleet.relay import Relay
from campaign.fleet.replica import Replica
from campaign.fleet.server import PostgresServer, own_server
from campaign.fleet.settings import replica_settings
from campaign.fleet.strict import StrictHubspot
from poller.sandbox import Scenario, parse_durations, serve

SCHEMA = "fleet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the accounts of a fleet have to do."""

    accounts: int = 30
    requests: int = 20  # in a window, of each account
    window_s: float = 10.0
    durations: str = "fixed:36000"  # of imports: these never end, so that each window is always full
    tasks: int = 20  # that each account has from the start
    gaps_s: tuple[float, float] = (0.2, 1.0)  # between two polls of a task: the first, and the longest


@dataclass(slots=True, kw_only=True)
class Rig:
    """The parts of a fleet while it runs."""

    load: Load
    server: PostgresServer
    hubspot: StrictHubspot
    session: aiohttp.ClientSession
    replicas: Mapping[str, Replica]

    async def start(self, *names: str) -> None:
        """Start these replicas and wait until they have joined and serve."""
        for name in names:
            await self.replicas[name].start()
        await asyncio.gather(*(self._until_serving(name) for name in names))

    async def _until_serving(self, name: str) -> None:
        ends_at = time.monotonic() + 60.0
        while self.replicas[name].url is None:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{name} did not start")
            await asyncio.sleep(0.05)

    def joined_at(self, name: str) -> float:
        """Return when a replica joined after its latest start, by its log."""
        (joined, *_) = [event for event in self.replicas[name].events() if event["event"] == "member.joined"]
        return datetime.fromisoformat(str(joined["timestamp"])).timestamp()

    async def stop(self, *names: str) -> None:
        """Drain these replicas and wait for their ends."""
        for name in names:
            self.replicas[name].send(signal.SIGTERM)
        for name in names:
            await self.replicas[name].ended(40.0)

    async def feed(self, account: str, ids: Sequence[str], *, at: str) -> int:
        """Post ids to one replica; return the status, 0 where it does not answer."""
        url, data = self.replicas[at].url, "\n".join(ids)
        if url is None:
            return 0
        try:
            async with self.session.post(f"{url}/v1/tasks", params={"account": account}, data=data) as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def get(self, name: str, path: str) -> bytes:
        """Return what a replica answers. Raises `aiohttp.ClientError`."""
        async with self.session.get(f"{self.replicas[name].url}{path}") as answer:
            answer.raise_for_status()
            return await answer.read()

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query of the state returns."""
        return await asyncio.to_thread(self.server.rows, query.format(schema=SCHEMA))

    async def owners(self) -> dict[str, str | None]:
        """Return the replica that owns each account."""
        found = await self.rows(
            "SELECT a.name, r.name FROM {schema}.account a LEFT JOIN {schema}.replica r ON r.id = a.owner"
        )
        return dict(found)

    async def until_even(self, *names: str, within_s: float = 90.0) -> float:
        """Wait until these replicas own all accounts, in equal numbers but for one; return the instant by the change
        that made it so."""
        ends_at = time.monotonic() + within_s
        while time.monotonic() < ends_at:
            owned = list((await self.owners()).values())
            counts = [owned.count(name) for name in names]
            if sum(counts) == self.load.accounts and max(counts) - min(counts) <= 1:
                ((at,),) = await self.rows("SELECT max(at) FROM {schema}.owner_audit")
                return float(at)
            await asyncio.sleep(0.2)
        raise TimeoutError(f"not even after {within_s:.0f} s")

    def arrivals(self, since: float) -> list[Arrival]:
        """Return the polls that came since an instant."""
        found = []
        for arrival in reversed(self.hubspot.arrivals):
            if arrival.at < since:
                break
            found.append(arrival)
        return found[::-1]

    async def arrival(self, since: float, fits: Callable[[Arrival], bool]) -> Arrival:
        """Wait for a poll that fits, and return the first one since an instant."""
        while True:
            for arrival in self.arrivals(since):
                if fits(arrival):
                    return arrival
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(load: Load, folder: Path, *, replicas: int) -> AsyncIterator[Rig]:
    """Set a fleet up, with `replicas` replicas that are not started but for the first, which makes the tables and gets
    the tasks. All are killed at the end."""
    accounts = [f"acct{number:03d}" for number in range(load.accounts)]
    scenario = Scenario(
        durations=parse_durations(load.durations),
        fates={},
        requests=load.requests,
        window_s=load.window_s,
        latency_s=(0.005, 0.05),
    )
    hubspot = StrictHubspot(scenario, accounts)
    async with AsyncExitStack() as stack:
        server = stack.enter_context(own_server())
        url = await stack.enter_async_context(serve(hubspot))
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)))
        names = [f"r{number}" for number in range(1, replicas + 1)]
        started = {name: _replica(name, folder, load, server, url, accounts) for name in names}
        rig = Rig(load=load, server=server, hubspot=hubspot, session=session, replicas=started)
        try:
            await rig.start("r1")
            server.audit(SCHEMA)
            for account in accounts if load.tasks else ():
                ids = hubspot.accounts[account].preload(load.tasks)
                while await rig.feed(account, ids, at="r1") != 200:  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.2)
            yield rig
        finally:
            for replica in started.values():
                replica.send(signal.SIGKILL)
                await replica.ended(5.0)


def _replica(
    name: str, folder: Path, load: Load, server: PostgresServer, hubspot: str, accounts: Sequence[str]
) -> Replica:
    settings = replica_settings(
        name,
        state=f"{server.url}&schema={SCHEMA}",
        hubspot=hubspot,
        requests=load.requests,
        window_s=load.window_s,
        gaps_s=load.gaps_s,
        accounts=accounts,
        more='sinks = ["jsonl:finished.jsonl"]',
    )
    return Replica(name, folder, relay=Relay(), settings=settings, accounts=accounts, tree=HOUSE)
