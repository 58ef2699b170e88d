"""The blows of a trial, each with its recovery. Whoever strikes starts the struck replica again."""

import asyncio
import random
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psycopg

from campaign.fleet.evidence import slow_down
from campaign.fleet.relay import Relay
from campaign.fleet.replica import Replica
from campaign.fleet.server import PostgresServer
from campaign.pooler import Pooler

OF_SERVER = ("disk", "restart", "stall", "slow", "failover", "lock", "read-only", "full", "end sessions", "pooler")
BESIDE_OTHERS = ("slow",)  # of the server, while replicas are struck: what it stretches happens then
FAILOVER_LAG_S = 3.0
DRAINED_WITHIN_S = 50.0  # as in deploy/: `shutdown_s`, then up to 16 s to leave the fleet and to commit
LOCKED = ("account", "sink", "task", "record", "undelivered", "replica", "progress", "kind_count", "import_row")
# Sessions of the replicas, as an administrator ends them.
_END_SESSIONS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'poller%' AND random() < 0.5"
)


_RELOAD = "SELECT pg_reload_conf()"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Put a file system of 4 MB there. Needs the rights of root."""
    command = ("/usr/bin/mount", "-t", "tmpfs", "-o", "size=4m", "poller-campaign", str(folder))
    subprocess.run(command, check=True)  # noqa: S603 - our own
    try:
        yield
    finally:
        subprocess.run(("/usr/bin/umount", str(folder)), check=True)  # noqa: S603


async def strike_replica(replica: Replica, kind: str, lasts_s: float, rng: random.Random) -> None:
    match kind:
        case "kill":
            replica.send(signal.SIGKILL)
            await replica.ended(5.0)
            await asyncio.sleep(lasts_s)
        case "drain":
            replica.send(signal.SIGTERM)
            await replica.ended(DRAINED_WITHIN_S)
        case "freeze":
            replica.send(signal.SIGSTOP)
            await asyncio.sleep(lasts_s)
            replica.send(signal.SIGCONT)
        case "partition":
            replica.relay.freeze()
            await asyncio.sleep(lasts_s)
            replica.relay.thaw()
        case "deaf" | "mute":  # it gets no answers, or reaches no one
            replica.relay.freeze(outward=kind == "mute", inward=kind == "deaf")
            await asyncio.sleep(lasts_s)
            replica.relay.thaw()
        case "cut":
            replica.relay.cut()
        case "lose answers":  # connections break between a commit and its answer
            replica.relay.loses_answers = True
            await asyncio.sleep(lasts_s)
            replica.relay.loses_answers = False
        case "step":  # its wall clock is set
            replica.set_clock(rng.choice(("-2d", "-1h", "-7s", "+3s", "+20s", "+1h", "+1d")))
            await asyncio.sleep(lasts_s)


class ServerBlows:
    """Strikes the server that all replicas share."""

    def __init__(
        self,
        server: PostgresServer,
        *,
        schema: str,
        relays: Callable[[], Sequence[Relay]],
        lost_from: list[float],
        rng: random.Random,
        pooler: Pooler | None,
        disk: Path,
    ) -> None:
        """`disk`: the folder of the file that is a sink; `lost_from`: from when on each failover lost commits."""
        self._server = server
        self._schema = schema
        self._relays = relays
        self._lost_from = lost_from
        self._rng = rng
        self._pooler = pooler
        self._disk = disk

    async def strike(self, kind: str, lasts_s: float) -> None:
        match kind:
            case "restart":
                await asyncio.to_thread(self._server.restart)
            case "failover":
                await self._fail_over()
            case "end sessions":
                await self._execute(_END_SESSIONS)
            case "pooler" if self._pooler is not None:
                await asyncio.to_thread(self._pooler.kill)
                await asyncio.sleep(min(lasts_s, 3.0))
                await asyncio.to_thread(self._pooler.start)
            case _:
                await self._hinder(kind, lasts_s)

    async def _hinder(self, kind: str, lasts_s: float) -> None:
        match kind:
            case "stall":
                self._server.stall()
                await asyncio.sleep(lasts_s)
                self._server.resume()
            case "slow":
                await self._execute(slow_down(self._schema, share=0.4, longest_s=2.5))
                await asyncio.sleep(lasts_s)
                await self._execute(slow_down(self._schema, share=0.0, longest_s=0.0))
            case "lock":
                await self._lock(lasts_s)
            case "read-only":
                await self._execute("ALTER SYSTEM SET default_transaction_read_only = on", _RELOAD)
                await asyncio.sleep(lasts_s)
                await self._execute("ALTER SYSTEM RESET default_transaction_read_only", _RELOAD)
            case "full":
                await self._use_all_connections(lasts_s)
            case "disk":
                await self._fill_disk(lasts_s)

    async def _fail_over(self) -> None:
        self._lost_from.append(await asyncio.to_thread(self._server.fail_over, FAILOVER_LAG_S))
        for relay in self._relays():
            relay.retarget(self._server.socket)
        await asyncio.to_thread(self._server.add_standby)

    async def _fill_disk(self, lasts_s: float) -> None:
        ballast = self._disk / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
        await asyncio.sleep(lasts_s)
        ballast.unlink()

    async def _lock(self, lasts_s: float) -> None:
        """Lock one table as VACUUM FULL and ALTER TABLE do."""
        table = f"{self._schema}.{self._rng.choice(LOCKED)}"
        async with await psycopg.AsyncConnection.connect(self._server.url) as connection:
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
            await asyncio.sleep(lasts_s)

    async def _use_all_connections(self, lasts_s: float) -> None:
        """Break the replicas' connections, and have others take their places."""

        def take(held: ExitStack) -> None:
            with suppress(psycopg.OperationalError):
                while True:
                    held.enter_context(psycopg.connect(self._server.url))

        with ExitStack() as held:
            for relay in self._relays():
                relay.cut()
            await asyncio.to_thread(take, held)
            await asyncio.sleep(lasts_s)

    async def _execute(self, *statements: str) -> None:
        for statement in statements:
            await asyncio.to_thread(self._server.execute, statement)
