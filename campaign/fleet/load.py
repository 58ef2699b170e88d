"""The load of a trial: ids and rows are fed to random replicas, finished tasks are read from random replicas."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from random import Random

import aiohttp

from campaign.fleet.history import History
from campaign.fleet.replica import Replica
from campaign.fleet.shape import REQUESTS_A_SECOND
from campaign.fleet.strict import StrictHubspot

FEEDERS, FED_AT_ONCE = 2, 8  # as many ids and rows a second as there may be requests


@dataclass(slots=True)
class FleetLoad:
    """Feeds and reads, and notes in the history what was acknowledged and seen."""

    rng: Random
    hubspot: StrictHubspot
    history: History
    replicas: Mapping[str, Replica]
    readers: dict[str, int] = field(default_factory=dict)  # the number that each has read up to
    rows_at_once: int = 2  # beside the ids
    _rows: Iterator[int] = field(default_factory=count)

    async def feed(self, session: aiohttp.ClientSession) -> None:
        """Feed fresh ids and rows of random accounts to random replicas, until cancelled."""
        while True:
            account = self.rng.choice(list(self.hubspot.accounts))
            await self.feed_ids(session, account, FED_AT_ONCE)
            await self.feed_rows(session, account)
            await asyncio.sleep(
                self.rng.uniform(0.5, 1.5) * FEEDERS * FED_AT_ONCE / REQUESTS_A_SECOND / len(self.hubspot.accounts)
            )

    async def feed_stock(self, session: aiohttp.ClientSession, ids: int) -> None:
        """Feed so many ids to each account, and rows: however slow the machine is, a trial has these."""
        for account in self.hubspot.accounts if ids else ():
            await self.feed_ids(session, account, ids)
            await self.feed_rows(session, account)

    async def feed_ids(self, session: aiohttp.ClientSession, account: str, count: int) -> None:
        """Feed fresh ids to random replicas; a 200 acknowledges them."""
        ids = self.hubspot.accounts[account].preload(count)
        self.history.expected |= {
            (account, each): self.hubspot.accounts[account].expected(each).kind.value for each in ids
        }
        while not await self._post(session, "tasks", account, ids):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
        at = time.time()
        self.history.acknowledged |= {(account, each): at for each in ids}

    async def feed_rows(self, session: aiohttp.ClientSession, account: str) -> None:
        """Feed fresh rows to random replicas, of which one refuses all: its settings name no imports."""
        urls = [f"https://cdn.example.com/{next(self._rows)}.png" for _ in range(self.rows_at_once)]
        if not urls:
            return
        self.history.offered |= {(account, url) for url in urls}
        while not await self._post(session, "imports", account, urls):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.2)
        at = time.time()
        self.history.rows |= {(account, url): at for url in urls}

    async def _post(self, session: aiohttp.ClientSession, what: str, account: str, lines: Sequence[str]) -> bool:
        if (url := self._any_url()) is None:
            return False
        with suppress(aiohttp.ClientError, TimeoutError):
            data = "\n".join(lines)
            async with session.post(f"{url}/v1/{what}", params={"account": account}, data=data) as response:
                return response.status == 200
        return False

    def _any_url(self) -> str | None:
        urls = [replica.url for replica in self.replicas.values() if replica.url is not None]
        return self.rng.choice(urls) if urls else None

    async def read(self, session: aiohttp.ClientSession, name: str) -> None:
        """Read /v1/finished page by page, each from another replica."""
        while True:
            await self.read_page(session, name)
            await asyncio.sleep(self.rng.uniform(0.2, 0.8))

    async def read_page(self, session: aiohttp.ClientSession, name: str) -> bool:
        """Read the reader's next page; return whether it had any record."""
        if (url := self._any_url()) is None:
            return False
        with suppress(aiohttp.ClientError, TimeoutError):
            params = {"after": str(self.readers.get(name, 0))}
            async with session.get(f"{url}/v1/finished", params=params) as response:
                body = await response.read()
                if response.status == 200 and body:
                    self.history.read.setdefault(name, []).extend(body.splitlines())
                    self.readers[name] = int(response.headers["X-Next-After"])
                    return True
        return False
