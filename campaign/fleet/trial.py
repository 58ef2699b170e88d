"""One trial: a fleet under load for some seconds, blows from a seed, then rest until every outcome is delivered."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson
from psycopg.conninfo import conninfo_to_dict

from campaign.fleet.blows import BESIDE_OTHERS, DRAINED_WITHIN_S, OF_SERVER, ServerBlows, small_disk, strike_replica
from campaign.fleet.evidence import ROW_BY_ROW, OrderWatch, late_writes_of, owners_of
from campaign.fleet.history import Fault, History
from campaign.fleet.load import FEEDERS, FleetLoad
from campaign.fleet.patience import Patience
from campaign.fleet.relay import Relay
from campaign.fleet.replica import Replica
from campaign.fleet.server import PostgresServer
from campaign.fleet.settings import replica_settings
from campaign.fleet.shape import Shape
from campaign.fleet.strict import StrictHubspot
from campaign.pooler import Pooler
from campaign.targets import Receiver
from poller.core.errors import PollerError
from poller.core.sums import Sums
from poller.reports.ledger import imbalances
from poller.sandbox import Scenario, parse_durations, serve
from poller.store import read_store

OWNED_WITHIN_S = 8.0  # after a kill, by fleet.md
TABLE = "finished"
MORE = """\
input.feeds = "{feeds}"
imports.trial = 0
imports.options = {{ access = "PRIVATE", folderPath = "/p" }}
workers = 8
"""
SINKS = """
[[sinks]]
kind = "jsonl"
path = "disk/finished.jsonl"

[[sinks]]
kind = "sql"
url = "{server}"
table = "{table}"

[[sinks]]
kind = "webhook"
url = "{webhook}"
"""
# A row whose start's answer is lost is started again after its settle time, which is longer than a trial: it is over
# once the blows are, and no start can be in flight.
SETTLE = (
    "UPDATE {schema}.import_row SET due_at = first_sent_at WHERE task IS NULL AND lost > 0"
    " AND first_sent_at < extract(epoch FROM clock_timestamp()) - 10 RETURNING key"
)


@dataclass(slots=True)
class Trial:
    """The parts of one trial while it runs."""

    shape: Shape
    folder: Path
    server: PostgresServer
    schema: str
    rng: Random
    hubspot: StrictHubspot
    receiver: Receiver
    history: History
    relay: Relay  # of the SQL sink, whose URL is the same for all
    replicas: dict[str, Replica]
    load: FleetLoad
    blows: ServerBlows
    tree: Path  # of the program
    _struck: set[str] = field(default_factory=set)  # replicas, or the server, that a blow is at
    order: OrderWatch = field(default_factory=OrderWatch)

    @property
    def state(self) -> str:
        return f"{self.server.url}{'&' if '?' in self.server.url else '?'}schema={self.schema}"

    # --- blows

    def next_blow(self) -> Coroutine[Any, Any, None] | None:
        """Return a blow to a part that no other one is at; None where it is not the moment."""
        kind = self.rng.choice(self.shape.kinds)
        name = "server" if kind in OF_SERVER else self.rng.choice(list(self.replicas))
        lasts_s = self.rng.choice(self.shape.lasts_s)
        if name in self._struck or (name == "server" and self._struck and kind not in BESIDE_OTHERS):
            return None
        self._struck.add(name)
        return self._blow(kind, name, lasts_s)

    async def _blow(self, kind: str, name: str, lasts_s: float) -> None:
        """Strike one replica, or the server, and let it recover."""
        replica = self.replicas.get(name, next(iter(self.replicas.values())))
        fault = Fault(
            at=time.time(),
            kind=kind,
            replica=None if name == "server" else name,
            lasts_s=lasts_s,
            idle_s=OWNED_WITHIN_S + self.shape.window_s + 2.0,
        )
        self.history.faults.append(fault)
        if name == "server":
            await self.blows.strike(kind, lasts_s)
        else:
            await strike_replica(replica, kind, lasts_s, self.rng)
        await replica.start()
        self._struck.discard(name)

    # --- the end

    async def rest(self, session: aiohttp.ClientSession) -> list[str]:
        """Wait until every task has its outcome and every sink its record, for as long as less and less is left: a
        quick machine is fed more than the accounts may send. Return what is left `rest_s` after the last time that it
        was less than ever before."""
        for replica in self.replicas.values():
            await replica.start()
        self.history.settled_at = time.time()
        patience = Patience(self.shape.rest_s, clock=time.monotonic)
        while (left := await self._left())[1] and not patience.is_over(left[0]):
            await asyncio.to_thread(self.server.rows, SETTLE.format(schema=self.schema))  # may wait for what we relay
            await asyncio.sleep(0.3)
        for name in self.load.readers:
            while await self.load.read_page(session, name):
                pass
        return [f"after {self.shape.rest_s:.0f} s in which no less was left: {left[1]}"] if left[1] else []

    async def _left(self) -> tuple[int | None, str]:
        """Return how much is left and what, in words; nothing left is "". A finished task is less than a waiting one,
        though each sink has a record to deliver then."""
        sums = await self._sums()
        if sums is None:
            return None, "the state cannot be read"
        undelivered = {sink.name: sink.undelivered for sink in sums.sinks if sink.undelivered}
        steps = sums.waiting * (1 + len(sums.sinks)) + sum(undelivered.values())
        return steps, f"{sums.waiting} tasks wait, undelivered {undelivered}" if steps else ""

    async def _sums(self) -> Sums | None:
        try:
            reader = await read_store(self.state)
        except PollerError:
            return None
        try:
            return await reader.sums()
        finally:
            await reader.close()

    async def collect(self) -> None:
        """Take down what the store and the sinks hold in the end."""
        history, schema = self.history, self.schema
        reader = await read_store(self.state)
        try:
            records, after = [], 0
            while page := await reader.records(after, 500):
                records += [delivery.body for delivery in page]
                after = page[-1].number
            history.records = records
            history.imbalances = {"state": [str(each) for each in imbalances(await reader.sums())]}
        finally:
            await reader.close()
        history.lines = (self.folder / "disk/finished.jsonl").read_bytes().splitlines()
        history.table = [
            row.encode()
            for (row,) in self.server.rows(f"SELECT record::text FROM public.{self.table} ORDER BY 1")  # noqa: S608
        ]
        history.posts = list(self.receiver.taken)
        history.owners = owners_of(
            self.server.rows(
                "SELECT at, account, epoch, owner, replica, former, is_clean"  # noqa: S608
                f" FROM {schema}.owner_audit ORDER BY at"
            )
        )
        history.late_writes = late_writes_of(
            self.server.rows(f"SELECT at, replica FROM {schema}.late_write ORDER BY at")  # noqa: S608
        )
        history.idle_holders = len(self.order.idle_holders)
        history.arrivals, history.starts = self.hubspot.arrivals, self.hubspot.started()
        recorded = [orjson.loads(record) for record in history.records]
        history.recorded_requests = sum(each["polls"] + each.get("starts", 0) for each in recorded)
        for each in recorded:
            if "row" in each:
                expected = self.hubspot.accounts[each["account"]].expected(each["task_id"])
                history.expected[(each["account"], each["task_id"])] = expected.kind.value
        history.workers = 8 * self.shape.accounts

    @property
    def table(self) -> str:
        return f"{TABLE}_{self.schema}"


@asynccontextmanager
async def prepared(shape: Shape, folder: Path, server: PostgresServer, schema: str, tree: Path) -> AsyncIterator[Trial]:
    """Set a trial up: HubSpot, receiver, relays, replicas that are not started. They run the program of `tree`."""
    accounts = [f"acct{number}" for number in range(shape.accounts)]
    scenario = Scenario(
        durations=parse_durations("uniform:0.5,4"),
        fates={},
        requests=shape.limit,
        window_s=shape.window_s,
        latency_s=(0.005, 0.05),
        seed=shape.seed,
    )
    hubspot = StrictHubspot(scenario, accounts)
    receiver = Receiver(folder)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(hubspot))
        webhook = await stack.enter_async_context(receiver.serving())
        rng, replicas = Random(shape.seed), dict[str, Replica]()  # noqa: S311 - chooses blows
        history = History(window_s=shape.window_s, limit=shape.limit)
        (folder / "disk").mkdir()
        if "disk" in shape.kinds:
            stack.enter_context(small_disk(folder / "disk"))
        pooler = None
        if shape.is_pooled:
            pooler = Pooler(folder, conninfo_to_dict(server.url), mode="session", size=6 * shape.replicas)
            stack.callback(pooler.kill)
            await asyncio.to_thread(pooler.start)
        relay = await stack.enter_async_context(Relay(socket=server.socket).serving())
        blows = ServerBlows(
            server,
            schema=schema,
            relays=lambda: [relay, *(each.relay for each in replicas.values())],
            lost_from=history.lost_from,
            rng=rng,
            pooler=pooler,
            disk=folder / "disk",
        )
        trial = Trial(
            shape=shape,
            folder=folder,
            server=server,
            schema=schema,
            rng=rng,
            hubspot=hubspot,
            receiver=receiver,
            history=history,
            replicas=replicas,
            load=FleetLoad(rng, hubspot, history, replicas, rows_at_once=2 if shape.feeds_rows else 0),
            relay=relay,
            blows=blows,
            tree=tree,
        )
        if "failover" in shape.kinds:
            await asyncio.to_thread(server.add_standby)
        for number in range(1, shape.replicas + 1):
            there = Relay(socket=server.socket) if pooler is None else Relay(port=pooler.port)
            database = f"pooled?schema={schema}" if pooler else f"postgres?schema={schema}{ROW_BY_ROW}"
            await stack.enter_async_context(there.serving())
            name = f"r{number}"
            settings = replica_settings(
                name,
                state=f"postgresql://postgres@127.0.0.1:{there.port}/{database}",
                hubspot=url,
                requests=shape.limit,
                window_s=shape.window_s,
                gaps_s=(0.2, 2),
                accounts=accounts,
                more=MORE.format(feeds="ids" if number == shape.replicas > 1 else "imports"),
                more_polling="missing_again_s = 0.5",
                tables=SINKS.format(
                    server=f"postgresql://postgres@127.0.0.1:{trial.relay.port}/postgres",
                    table=trial.table,
                    webhook=str(webhook).removeprefix("webhook:"),
                ),
            )
            replica = Replica(
                name, folder, relay=there, settings=settings, accounts=accounts, tree=shape.former or tree
            )
            if shape.clocks or "step" in shape.kinds:
                replica.set_clock(shape.clocks[number % len(shape.clocks)] if shape.clocks else "+0")
            trial.replicas[name] = replica
        try:
            yield trial
        finally:
            for replica in trial.replicas.values():
                replica.send(signal.SIGCONT)
                replica.send(signal.SIGKILL)
                await replica.ended(5.0)


async def carry_out(trial: Trial) -> list[str]:
    """Run the trial to its end; return what went wrong beside the invariants. The history is complete afterwards."""
    wrong: list[str] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        first, *others = trial.replicas.values()
        await first.start()
        await _until(lambda: first.url is not None, 60.0)
        trial.server.audit(trial.schema)
        await trial.load.feed_stock(session, trial.shape.stock)
        for replica in others:
            await replica.start()
        await _until(lambda: all(replica.url is not None for replica in others), 60.0)
        for replica in trial.replicas.values():
            replica.tree = trial.tree
        async with asyncio.TaskGroup() as group:
            load = [group.create_task(trial.load.feed(session)) for _ in range(FEEDERS)]
            load += [group.create_task(trial.load.read(session, name)) for name in ("reader 1", "reader 2")]
            load.append(group.create_task(trial.order.run(trial.server.url)))
            await _strike(trial)
            for each in load[:FEEDERS]:
                each.cancel()
            wrong += await trial.rest(session)
            for each in load[FEEDERS:]:
                each.cancel()
        for replica in trial.replicas.values():
            replica.send(signal.SIGTERM)
        for replica in trial.replicas.values():
            if (code := await replica.ended(DRAINED_WITHIN_S)) not in (0, 1, 75):
                wrong.append(f"{replica.name} ended with {code}")
            wrong += replica.wrong_ends
    await trial.collect()
    return wrong


async def _strike(trial: Trial) -> None:
    """Strike for as long as the trial's shape asks; return once all have recovered."""
    ends_at = time.monotonic() + trial.shape.seconds
    async with asyncio.TaskGroup() as blows:
        while time.monotonic() < ends_at:
            await asyncio.sleep(trial.shape.every_s * trial.rng.uniform(0.5, 1.5))
            if (blow := trial.next_blow()) is not None:
                blows.create_task(blow)


async def _until(true: Callable[[], bool], within_s: float) -> None:
    ends_at = time.monotonic() + within_s
    while not true():
        if time.monotonic() > ends_at:
            raise TimeoutError("a replica did not start; see its log")
        await asyncio.sleep(0.05)
