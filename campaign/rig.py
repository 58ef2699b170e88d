"""One small run of the real process against a sandbox of this process, and what must hold after it ended for good.

A `Rig` is one folder with ids, state and output. Whatever was done to its runs, `violations` must stay empty.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
import psycopg

from campaign.forked import Forked
from campaign.targets import Receiver, Spec, Target, postgres_state
from poller.core.errors import Exit, PollerError
from poller.reports.ledger import imbalances
from poller.sandbox import Fate, SandboxApi, Scenario, parse_durations, serve
from poller.store import read_store

STATE = ("poller.db", "poller.db-wal", "poller.db-journal", "poller.db.lock")
IDS, LOG = "ids.txt", "stderr.log"
SETTLED = (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE)
STUCK_S = 60.0  # and a second for 20 tasks: a run that takes longer is killed and counted as a violation
TRIES = 4  # runs to the end after the last fault; more are never needed

SCENARIO = Scenario(
    durations=parse_durations("fixed:0"),
    fates={Fate.COMPLETE_WITH_ERRORS: 0.2, Fate.CANCELED: 0.15, Fate.UNKNOWN: 0.15},
    faults={"503": 0.05, "null": 0.15},  # so that some tasks need several polls
    requests=1_000_000,
    window_s=0.1,
    latency_s=(0.0, 0.005),
)
ENVIRON = {
    "HUBSPOT_TOKEN": "sandbox-token",
    "WEBHOOK_SECRET": "whsec_c2FuZGJveC1zZWNyZXQtb2YtMjQtYnl0ZXM=",
    "POLLER_LISTEN": "off",
    "POLLER_POLLING__POLICY": "backoff",
    "POLLER_POLLING__FIRST_GAP_S": "0.1",
    "POLLER_POLLING__MISSING_AGAIN_S": "0.1",
    "POLLER_POLLING__FAILURE_GAP_S": "0.1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How big a rig's run is, and where its records go."""

    targets: Sequence[type[Target]]
    tasks: int = 12
    seed: int = 1
    requests: int = 1000  # per 0.1 s
    workers: int = 1  # few, so that nearly each poll is a commit of its own
    on_postgres: bool = False  # the state is in PostgreSQL


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one run of the process ended."""

    code: int  # negative: the signal that killed it
    stderr: str

    @property
    def settled(self) -> bool:
        return self.code in SETTLED and "run.ended" in self.stderr  # an uncaught exception ends with 1, too


@dataclass(slots=True)
class Rig:
    """One folder, one simulated HubSpot, any number of runs."""

    folder: Path
    shape: Shape
    api: SandboxApi
    base_url: str
    sinks: Sequence[Spec] = ()
    targets: Sequence[Target] = ()
    ids: list[str] = field(default_factory=list)
    state: str = "sqlite:///poller.db"  # seen from the folder
    _seen: dict[Target, list[bytes]] = field(default_factory=dict)  # by readers: the newest, and what it contradicts

    def command(self) -> list[str]:
        words = ["run", IDS, "--state", self.state, "--no-progress"]
        words += ["--base-url", self.base_url, "--requests", str(self.shape.requests), "--window-s", "0.1"]
        return [*words, "--workers", str(self.shape.workers)]

    def environ(self) -> dict[str, str]:
        return ENVIRON | {"PATH": os.environ["PATH"], "POLLER_SINKS": orjson.dumps(self.sinks).decode()}

    def paths(self) -> list[str]:
        """Return what the process keeps on disk, the folder included, as names that the process may use; nothing where
        what it sends to a server matters as much."""
        if self.shape.on_postgres:
            return []
        names = [*STATE, *(name for target in self.targets for name in target.files)]
        return [str(self.folder), *names, *(str(self.folder / name) for name in names)]

    async def run(
        self, *, before: Sequence[str] = (), kill_after_s: float | None = None, kill_at_arrival: int | None = None
    ) -> Ended:
        """Run the process once, with the strace command `before` attached. It may be killed after a time, or when its
        n-th request of this run has reached the webhook's receiver, unanswered."""
        log = self.folder / LOG
        log.unlink(missing_ok=True)
        process = Forked(self.command(), self.folder, self.environ(), before, "stdout.ndjson")
        self._kill_at_arrival(process, kill_at_arrival)
        try:
            async with asyncio.timeout(STUCK_S + self.shape.tasks / 20 if kill_after_s is None else kill_after_s):
                code = await process.wait()
        except TimeoutError:
            process.send_signal(signal.SIGKILL)
            code = await process.wait()
        finally:
            process.send_signal(signal.SIGKILL)
        self.observe()
        return Ended(code=code, stderr=log.read_text(errors="replace") if log.exists() else "")

    def _kill_at_arrival(self, process: Forked, number: int | None) -> None:
        arrivals = itertools.count(1)

        def on_arrival() -> None:
            if next(arrivals) == number:
                process.send_signal(signal.SIGKILL)

        for target in self.targets:
            if isinstance(target, Receiver):
                target.on_arrival = on_arrival

    def observe(self) -> None:
        """Remember what readers can see now: it must stay true."""
        for target in self.targets:
            now = target.read()
            before = [seen for seen in self._seen.get(target, []) if not target.continues(now, seen)]
            self._seen[target] = [*before, now]

    async def finish(self) -> list[str]:
        """Run undisturbed until the work is done; return what does not hold then."""
        ended = Ended(code=-1, stderr="")
        for _ in range(TRIES):
            ended = await replace_pace(self).run()
            if ended.settled:
                return await self.violations(ended)
        return [f"no end: exit code {ended.code} after {TRIES} runs: {ended.stderr[-800:]}"]

    async def violations(self, ended: Ended) -> list[str]:
        """Return everything that does not hold of the finished rig."""
        try:
            records = await self._stored()
        except (PollerError, sqlite3.Error, psycopg.Error) as error:
            return [f"the state cannot be read after exit code {ended.code}: {error}"]
        found = self._wrong_outcomes(records)
        found += [words for target in self.targets for words in target.violations(records)]
        self.observe()
        found += [
            f"{type(target).__name__}: what a reader saw before was changed later"
            for target, seen in self._seen.items()
            if len(seen) > 1
        ]
        expected = Exit.NOT_ALL_COMPLETE if self._kinds() != {"complete"} else Exit.ALL_COMPLETE
        if ended.code != expected:
            found.append(f"exit code {ended.code}, not {int(expected)}")
        return found

    async def _stored(self) -> list[bytes]:
        url = self.state.replace("sqlite:///", f"sqlite:///{self.folder}/")
        store = await read_store(url)
        try:
            broken = imbalances(await store.sums())
        finally:
            await store.close()
        if broken:
            return [f"the ledger does not balance: {broken}".encode()]
        return self._bodies()

    def _bodies(self) -> list[bytes]:
        """Return the records, not read by the code under test."""
        query = "SELECT body FROM record ORDER BY number"
        if self.shape.on_postgres:
            server, _, schema = self.state.rpartition("schema=")
            with psycopg.connect(server.rstrip("?&")) as server_connection:
                server_connection.execute("SELECT set_config('search_path', %s, false)", (schema,))
                return [bytes(body) for (body,) in server_connection.execute(query)]
        with contextlib.closing(sqlite3.connect(self.folder / "poller.db")) as connection:
            return [body for (body,) in connection.execute(query)]

    def _wrong_outcomes(self, records: Sequence[bytes]) -> list[str]:
        try:
            kinds = {record["task_id"]: record["kind"] for record in map(orjson.loads, records)}
        except orjson.JSONDecodeError:
            return [record.decode(errors="replace") for record in records[:1]]
        count = Counter(orjson.loads(record)["task_id"] for record in records)
        wrong = [f"{task_id} is {count[task_id]} times in the store" for task_id in self.ids if count[task_id] != 1]
        wrong += [f"{task_id} was never fed" for task_id in count.keys() - set(self.ids)]
        return wrong + [
            f"{task_id} ended as {kinds[task_id]}, not {self._kind(task_id)}"
            for task_id in self.ids
            if kinds.get(task_id, self._kind(task_id)) != self._kind(task_id)
        ]

    def _kind(self, task_id: str) -> str:
        return self.api.expected(task_id).kind.value

    def _kinds(self) -> set[str]:
        return {self._kind(task_id) for task_id in self.ids}


def own_folder(base: str) -> Path:
    """Return a new folder for a rig, beside which there is room for logs."""
    folder = Path(base).resolve() / "rig"
    folder.mkdir()
    return folder


def replace_pace(rig: Rig) -> Rig:
    """Return the same rig at full pace: what is left is only to be finished."""
    return replace(rig, shape=replace(rig.shape, requests=1000, workers=16))


@contextlib.asynccontextmanager
async def rigged(folder: Path, shape: Shape) -> AsyncIterator[Rig]:
    """Yield a new rig in `folder`. The same seed gives the same ids, outcomes and faults."""
    api = SandboxApi(replace(SCENARIO, seed=shape.seed), time.time)
    async with serve(api) as base_url, contextlib.AsyncExitStack() as stack:
        targets = [make(folder) for make in shape.targets]
        sinks = [await stack.enter_async_context(target.serving()) for target in targets]
        rig = Rig(folder, shape, api, base_url, sinks, targets)
        if shape.on_postgres:
            rig.state = stack.enter_context(postgres_state())
        rig.ids = api.preload(shape.tasks)
        (folder / IDS).write_text("".join(f"{task_id}\n" for task_id in rig.ids))
        yield rig
