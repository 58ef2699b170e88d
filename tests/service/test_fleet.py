"""Whole services as one fleet on one real server: fed anywhere, shown anywhere, buried and back. Beats are short."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
import psycopg
import pytest

from poller.app.environment import Environment
from poller.app.run import run
from poller.config import Settings, load
from poller.core.errors import ConfigError, Exit
from poller.engine import Service
from poller.hubspot.client import Connections
from poller.sandbox import SandboxApi, Scenario, parse_durations, serve
from poller.store import read_store
from tests.support.processes import run as run_command

ACCOUNTS = ("a0", "a1", "a2", "a3")
BEAT_S = 0.1
PATIENCE_S = 20.0

pytestmark = pytest.mark.real_time


class Replica:
    """One service of the fleet, in this process."""

    def __init__(self, name: str, settings: Settings, environ: dict[str, str]) -> None:
        self.name = name
        self.settings = settings
        self.service: Service | None = None
        self._environ = environ
        self._task: asyncio.Task[Exit] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        environment = Environment(
            environ=self._environ,
            rng=Random(1),
            connections=lambda _settings: Connections(),
            on_start=self._keep,
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
        self, folder: Path, url: str, api: SandboxApi, base_url: str, events: list[MutableMapping[str, Any]]
    ) -> None:
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
        rows = [f"{task_id},{ACCOUNTS[number % 4]}" for number, task_id in enumerate(ids)]
        body = "\n".join(["task_id,account", *rows])
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{page}v1/tasks", data=body, headers={"Content-Type": "text/csv"}) as response,
        ):
            answer = await response.json()
            assert (response.status, answer["accepted"]) == (200, count), answer
        return ids

    async def overview(self, page: str) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{page}v1/overview") as response:
            found = await response.json()
            assert isinstance(found, dict)
            return found

    def delivered(self) -> Counter[str]:
        file = self.folder / "finished.jsonl"
        lines = file.read_bytes().splitlines() if file.exists() else []
        return Counter(orjson.loads(line)["task_id"] for line in lines)


@asynccontextmanager
async def at_work(tmp_path: Path, url: str, events: list[MutableMapping[str, Any]]) -> AsyncIterator[FleetAtWork]:
    scenario = Scenario(
        fates={}, durations=parse_durations("fixed:0.2"), requests=50, window_s=0.5, window_per_token=True
    )
    api = SandboxApi(scenario, time.time)
    async with serve(api) as base_url, asyncio.TaskGroup() as group:
        fleet = FleetAtWork(tmp_path, url, api, base_url, events)
        for number, replica in enumerate(fleet.replicas.values(), 1):
            replica.start(group)
            await fleet.until(partial(fleet.has_pages, number), "the server")
        await fleet.until(lambda: all(len(each.lanes) == 2 for each in fleet.replicas.values()), "an even share")
        yield fleet
        for replica in fleet.replicas.values():
            if replica.service is not None and not replica.service.is_ending:
                assert await replica.drain() in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE, Exit.WORK_LEFT)


async def test_fed_at_one_replica_all_is_polled_by_its_owners_and_any_page_shows_the_fleet(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        ids = await fleet.feed(fleet.pages()[1], 80)
        await fleet.until(lambda: len(fleet.delivered()) == 80, "all outcomes")
        assert fleet.delivered() == Counter(ids)
        assert fleet.api.stats().throttled_total == 0
        await asyncio.sleep(1.2)  # pages are up to a second old
        for page in fleet.pages():
            shown = await fleet.overview(page)
            assert [each["replica"] for each in shown["fleet"]["members"]] == ["r1", "r2"]
            assert [each["accounts"] for each in shown["fleet"]["members"]] == [2, 2]
            assert sorted(lane["account"] for lane in shown["lanes"]) == list(ACCOUNTS)
            assert (shown["ledger"]["finished"], shown["ledger"]["waiting"]) == (80, 0)
            (sink,) = shown["ledger"]["sinks"]
            assert (sink["delivered"], sink["undelivered"]) == (80, 0)
        text, code = await asyncio.to_thread(fleet.command, "status")
        assert (code, "r1: at work, 2 accounts" in text, "r2: at work, 2 accounts" in text) == (0, True, True), text
        text, code = await asyncio.to_thread(fleet.command, "healthcheck")
        assert code == 0, text


async def test_a_buried_replica_joins_again_and_nothing_is_lost_or_doubled(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        ids = await fleet.feed(fleet.pages()[0], 60)
        bare, schema = re.sub(r"[?&]schema=\w+", "", postgres_url), postgres_url.rpartition("=")[2]
        with psycopg.connect(bare, autocommit=True) as connection:
            connection.execute(f"SET search_path = {schema}".encode())
            connection.execute("DELETE FROM replica WHERE name = 'r1'")
        await fleet.until(lambda: bool(fleet.logged("replica.fenced")), "the end of the membership")
        await fleet.until(lambda: all(len(each.lanes) == 2 for each in fleet.replicas.values()), "an even share")
        ids += await fleet.feed(fleet.pages()[0], 40)
        await fleet.until(lambda: len(fleet.delivered()) == 100, "all outcomes")
        await asyncio.sleep(0.3)
        assert fleet.delivered() == Counter(ids)
        assert fleet.api.stats().throttled_total == 0


async def test_a_replica_that_is_stopped_leaves_its_accounts_to_the_other_one(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        ids = await fleet.feed(fleet.pages()[0], 40)
        await fleet.replicas["r2"].drain()
        await fleet.until(lambda: len(fleet.replicas["r1"].lanes) == 4, "all accounts")
        await fleet.until(lambda: len(fleet.delivered()) == 40, "all outcomes")
        assert fleet.delivered() == Counter(ids)
        assert all(each["clean"] for each in fleet.logged("account.taken"))
        assert fleet.api.stats().throttled_total == 0
    reader = await read_store(postgres_url)
    assert (await reader.sums()).waiting == 0
    await reader.close()


async def test_a_second_replica_of_the_same_name_ends_with_the_reason(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        first = fleet.replicas["r1"]
        environment = Environment(environ=first._environ, connections=lambda _settings: Connections())
        with pytest.raises(ConfigError, match="two replicas are named 'r1'"):
            await run(first.settings, [], environment)


async def test_a_fleet_on_sqlite_is_refused(tmp_path: Path) -> None:
    settings = load(None, {"fleet": True, "state": f"sqlite:///{tmp_path}/p.db"}, {}, secrets_dir=tmp_path)
    environment = Environment(environ={"HUBSPOT_TOKEN": "t"}, connections=lambda _settings: Connections())
    with pytest.raises(ConfigError, match="a fleet needs a state in PostgreSQL"):
        await run(settings, [], environment)
    assert not (tmp_path / "p.db").exists()
