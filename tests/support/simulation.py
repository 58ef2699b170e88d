"""Runs the whole service against the sandbox on a virtual clock: real client, real server, no sockets."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import orjson
from aiohttp import web
from opentelemetry.trace import Tracer

from poller.app.environment import Environment
from poller.app.live_block import LiveBlock
from poller.app.run import run
from poller.config import Address, Settings, load
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.sums import Sums
from poller.engine import Service
from poller.hubspot.client import Connections
from poller.sandbox import SandboxApi, Scenario, make_app
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.store import read_store
from poller.store.sqlite.store import SqliteStore
from tests.support.virtual import MemoryConnector, Server, SimulatedNetwork, serving

TOKEN = "pat-na1-0123456789abcdef"
KINDS = {"never": "timed_out", "unknown": "not_found"}


def settings_for(folder: Path, flags: Mapping[str, Any] | None = None) -> Settings:
    own = {
        "state": f"sqlite:///{folder}/poller.db",
        "sinks": [f"jsonl:{folder}/finished.jsonl"],
        "base_url": "https://api.hubapi.com",
        "listen": "off",
    }
    return load(None, own | dict(flags or {}), {}, secrets_dir=folder / "none")


class StagedApi(SandboxApi):
    """A sandbox whose replies a test can change, one by one."""

    stage: Callable[[SandboxRequest, SandboxReply], SandboxReply] = staticmethod(lambda _, reply: reply)

    def respond(self, ask: SandboxRequest) -> SandboxReply:
        return self.stage(ask, super().respond(ask))


class Simulation:
    """One sandbox, and runs of the service against it. `one_way_s` is the network's own latency."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        scenario: Scenario,
        *,
        seed: int = 0,
        one_way_s: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.api = StagedApi(scenario, clock)
        self.seed = seed
        self.service: Service | None = None
        self.on_start: Callable[[Service], None] = lambda _service: None
        self.reread: Callable[[], Settings] | None = None  # returns the settings for a reload
        self.tracer: Tracer | None = None
        self.terminal: LiveBlock | None = None  # shows the progress display
        self.apply_to_log: Callable[[Settings], None] = lambda _settings: None
        self.network = SimulatedNetwork(rng=Random(seed), latency_s=one_way_s)
        self._server: Server | None = None
        self.site: Server | None = None  # the run's own server, once it is up and `listen` is not off
        self.site_is_open = asyncio.Event()
        self.site_paths: set[str] = set()

    @asynccontextmanager
    async def _open_site(self, app: web.Application, address: Address) -> AsyncIterator[Address]:
        self.site_paths = {resource.canonical for resource in app.router.resources()}
        async with serving(app, auto_decompress=False) as self.site:
            self.site_is_open.set()
            yield address
        self.site_is_open.clear()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Server]:
        """Keep the sandbox up between runs, so that the requests of a killed one still arrive."""
        if self._server is not None:
            yield self._server
            return
        async with serving(make_app(self.api)) as self._server:
            yield self._server
        self._server = None

    async def run(
        self, ids: Path | None, flags: Mapping[str, Any] | None = None, *, environ: Mapping[str, str] | None = None
    ) -> Exit:
        async with self.serving():
            environment = self.environment({"HUBSPOT_TOKEN": TOKEN} if environ is None else environ)
            return await run(settings_for(self.folder, flags), [] if ids is None else [str(ids)], environment)

    def environment(self, environ: Mapping[str, str]) -> Environment:
        """Return what a run takes from outside itself, while the sandbox is serving."""
        server = self._server
        assert server is not None

        def connector(fresh: bool) -> MemoryConnector:
            return MemoryConnector(server, self.network, force_close=fresh)

        return Environment(
            clock=self.clock,
            rng=Random(self.seed),
            environ=environ,
            connections=lambda _settings: Connections(connector=connector),
            on_start=self._keep,
            read_settings=self.reread,
            tracer=self.tracer,
            terminal=self.terminal,
            apply_to_log=self.apply_to_log,
            open_site=self._open_site,
        )

    async def run_for(self, seconds: float, ids: Path, flags: Mapping[str, Any] | None = None) -> None:
        """Run, then stop as at a power loss: the next run finds what is on disk at that moment."""
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.run(ids, flags))
            await asyncio.sleep(seconds)
            left = self.folder.with_name(f"{self.folder.name}-killed")
            shutil.copytree(self.folder, left)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
        shutil.rmtree(self.folder)
        left.rename(self.folder)

    def _keep(self, service: Service) -> None:
        self.service = service
        self.on_start(service)

    def drain(self) -> None:
        assert self.service is not None
        self.service.drain()

    def write_ids(self, count: int) -> Path:
        ids = self.folder / "ids.csv"
        lines = [
            f"{task_id},https://example.com/{number}.png" for number, task_id in enumerate(self.api.preload(count))
        ]
        ids.write_text("\n".join(["task_id,url", *lines]) + "\n")
        return ids

    def records(self, name: str = "finished.jsonl") -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in (self.folder / name).read_bytes().splitlines()]

    async def sums(self) -> Sums:
        """What `poller status` reads, also beside a run."""
        reader = await read_store(f"sqlite:///{self.folder}/poller.db")
        try:
            return await reader.sums()
        finally:
            await reader.close()

    def ask_as_another(self, token: str = TOKEN) -> int:
        """Send a request of another client of the account; return the status code."""
        return self.api.respond(SandboxRequest(method="GET", path="/crm/v3/objects/contacts", token=token)).code


def assert_each_has_its_right_outcome_once(simulation: Simulation, ids: Path) -> None:
    fed = [line.split(",")[0] for line in ids.read_text().splitlines()[1:]]
    number_of = {task_id: number for number, task_id in enumerate(fed)}
    records = simulation.records()
    assert Counter(record["task_id"] for record in records) == Counter(fed)
    for record in records:
        expected = simulation.api.expected(record["task_id"])
        assert record["kind"] == KINDS.get(expected.kind.value, expected.kind.value), record
        assert record["ref"] == {"url": f"https://example.com/{number_of[record['task_id']]}.png"}


def named(events: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    """Return the log events of one name."""
    return [logged for logged in events if logged["event"] == event]


def fill_disk(service: Service) -> None:
    """Let the state not grow any more."""
    store = service.feed_store
    assert isinstance(store, SqliteStore)
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}")
