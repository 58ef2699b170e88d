"""Whole services as one fleet on one real server, in this process. Beats are short."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import aiohttp
import orjson
import psycopg

from poller.app.environment import Environment
from poller.app.run import run
from poller.config import Settings, load
from poller.core.errors import Exit
from poller.engine import Service
from poller.hubspot.client import Connections
from poller.sandbox import SandboxApi, Scenario, parse_durations, serve
from tests.support.postgres import session_of
from tests.support.processes import run as run_command

ACCOUNTS = ("a0", "a1", "a2", "a3")
BEAT_S = 0.3  # a server that is slow for a second and a half makes no one dead
PATIENCE_S = 60.0  # until a hang is one, on a loaded machine too


class Replica:
    """One service of the fleet, in this process."""

    def __init__(self, name: str, settings: Settings, environ: dict[str, str]) -> None:
        self.name = name
        self.settings = settings
        self.service: Service | None = None
        self.ahead_s = 0.0  # its clock, of all others
        self.reread: Callable[[], Settings] = lambda: self.settings
        self._environ = environ
        self._task: asyncio.Task[Exit] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        environment = Environment(
            clock=lambda: time.time() + self.ahead_s,
            environ=self._environ,
            rng=Random(1),
            connections=lambda _settings: Connections(),
            on_start=self._keep,
            read_settings=lambda: self.reread(),
        )
        self._task = group.create_task(run(self.settings, [], environment))

    def _keep(self, service: Service) -> None:
        self.service = service

    @property
    def lanes(self) -> set[str]:
        return set() if self.service is None else set(self.service.lanes)

    async def drain(self) -> Exit:
        assert self.service is not None
        assert self._task is not None
        self.service.drain()
        return await self._task


class FleetAtWork:
    """Two replicas, one of them with the file that is the sink's."""

    def __init__(
        self,
        folder: Path,
        url: str,
        api: SandboxApi,
        base_url: str,
        events: list[MutableMapping[str, Any]],
        own: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """`own`: settings by replica that the others do not have."""
        self.api = api
        self.folder = folder
        self.url = url
        self._events = events
        environ = {f"TOKEN_{account}": f"token-of-{account}" for account in ACCOUNTS}
        self.replicas = {
            name: Replica(
                name,
                load(
                    None,
                    {
                        "state": url,
                        "fleet": True,
                        "replica": name,
                        "beat_s": BEAT_S,
                        "base_url": base_url,
                        "listen": "127.0.0.1:0",
                        "sinks": [f"jsonl:{folder}/finished.jsonl"],
                        "account": "a0",
                        "accounts": {account: {"token_env": f"TOKEN_{account}"} for account in ACCOUNTS},
                        "requests": 50,
                        "window_s": 0.5,
                        "polling": {"policy": "backoff", "first_gap_s": 0.1},
                        **own.get(name, {}),
                    },
                    {},
                    secrets_dir=folder / "none",
                ),
                environ,
            )
            for name in ("r1", "r2")
        }

    def logged(self, event: str) -> list[MutableMapping[str, Any]]:
        return [each for each in self._events if each["event"] == event]

    def command(self, *words: str) -> tuple[str, int]:
        """Run a command as a person does beside replica r2; return its output and its exit code."""
        config = self.folder / "r2.toml"
        config.write_text(f'state = "{self.url}"\nfleet = true\nreplica = "r2"\nlisten = "off"\n')
        done = run_command(*words, "-c", str(config), folder=self.folder)
        return done.stdout + done.stderr, done.returncode

    def has_pages(self, number: int) -> bool:
        return len(self.pages()) == number

    def pages(self) -> list[str]:
        """Return the URLs of the servers, in the order of their start."""
        return [str(each["url"]) for each in self.logged("web.started")]

    async def until(self, true: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not true():  # noqa: ASYNC110 - what other processes would do
                await asyncio.sleep(0.05)
        assert true(), what

    async def feed(self, page: str, count: int) -> list[str]:
        """Feed this many tasks of all accounts to one replica over HTTP."""
        ids = self.api.preload(count)
        await self._post(f"{page}v1/tasks", "task_id", ids)
        return ids

    async def feed_rows(self, page: str, first: int, count: int) -> list[str]:
        """Feed this many rows of all accounts to one replica over HTTP; return their URLs."""
        urls = [f"https://cdn.example.com/{number}.png" for number in range(first, first + count)]
        await self._post(f"{page}v1/imports", "url", urls)
        return urls

    async def _post(self, url: str, column: str, values: Sequence[str]) -> None:
        rows = [f"{value},{ACCOUNTS[number % 4]}" for number, value in enumerate(values)]
        body = "\n".join([f"{column},account", *rows])
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, data=body, headers={"Content-Type": "text/csv"}) as response,
        ):
            answer = await response.json()
            assert (response.status, answer.get("accepted")) == (200, len(values)), answer

    def starts(self) -> Counter[str]:
        """Return how often each URL was posted to HubSpot."""
        return Counter(url for _, url in self.api.starts.posts)

    @property
    def database(self) -> AbstractContextManager[psycopg.Connection[Any]]:
        """A connection that reads the tables or changes them behind the replicas' back."""
        return session_of(self.url)

    async def overview(self, page: str) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{page}v1/overview") as response:
            found = await response.json()
            assert isinstance(found, dict)
            return found

    async def overview_with(self, page: str, *, finished: int, delivered: int) -> dict[str, Any]:
        """Return what the page shows once it has so many tasks and records: pages are some seconds old."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                shown = await self.overview(page)
                sinks = sum(sink["delivered"] for sink in shown["ledger"]["sinks"])
                if (shown["ledger"]["finished"], sinks) == (finished, delivered):
                    return shown
                await asyncio.sleep(0.1)

    async def overview_of(self, page: str, accounts: Collection[str]) -> dict[str, Any]:
        """Return what the page shows once it has the lanes of these accounts: pages are some seconds old."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                shown = await self.overview(page)
                if {lane["account"] for lane in shown["lanes"]} == set(accounts):
                    return shown
                await asyncio.sleep(0.1)

    def delivered(self) -> Counter[str]:
        file = self.folder / "finished.jsonl"
        lines = file.read_bytes().splitlines() if file.exists() else []
        return Counter(orjson.loads(line)["task_id"] for line in lines)


@asynccontextmanager
async def at_work(
    tmp_path: Path,
    url: str,
    events: list[MutableMapping[str, Any]],
    own: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    *,
    ahead_s: Mapping[str, float] = MappingProxyType({}),
    **scenario_of: Any,
) -> AsyncIterator[FleetAtWork]:
    """Yield two replicas that have settled, each with two accounts. `ahead_s`: of their clocks."""
    usual: dict[str, Any] = {"fates": {}, "durations": parse_durations("fixed:0.2"), "requests": 50, "window_s": 0.5}
    scenario = Scenario(**(usual | {"window_per_token": True} | scenario_of))
    api = SandboxApi(scenario, time.time)
    async with serve(api) as base_url, asyncio.TaskGroup() as group:
        fleet = FleetAtWork(tmp_path, url, api, base_url, events, own)
        for number, replica in enumerate(fleet.replicas.values(), 1):
            replica.ahead_s = ahead_s.get(replica.name, 0.0)
            replica.start(group)
            await fleet.until(partial(fleet.has_pages, number), "the server")
        await fleet.until(lambda: all(len(each.lanes) == 2 for each in fleet.replicas.values()), "an even share")
        yield fleet
        for replica in fleet.replicas.values():
            if replica.service is not None and not replica.service.is_ending:
                assert await replica.drain() in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE, Exit.WORK_LEFT)
