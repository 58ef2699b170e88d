"""Virtual time and an in-memory network: hours of the real service in seconds, one trace for each seed.

`VirtualLoop` jumps to the next timer when nothing is ready. `MemoryConnector` lets the real aiohttp client talk to the
real aiohttp server without sockets. Over sockets it works too, but then the order of events is the kernel's.
"""

import asyncio
import contextlib
import selectors
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar, TypeVarTuple, Unpack

import aiohttp
from aiohttp import web
from aiohttp.client_proto import ResponseHandler

from tests.support.fair_time import Load

EPOCH = 1767571200.0  # 2026-01-05T00:00:00Z, when every virtual test begins
TURN_S = 1e-6  # charged each turn: aiolimiter live-locks on a clock that does not move
SOCKET_GRACE_S = 0.002  # real time in which data on a socket of this process always arrives; more with a server
THREAD_GRACE_S = 0.1  # real time given to a running thread before virtual time moves without it; more under load
DEADLOCK_GRACE_S = 0.5  # the same where nothing is scheduled: watchers of child processes are threads, too
SILENCE_S = 10.0  # real time without any I/O or a thread's end, and nothing scheduled, after which a test is stuck

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Deadlock(RuntimeError):
    """Nothing is scheduled and no I/O is awaited: the test would hang forever."""


class VirtualSelector(selectors.DefaultSelector):
    """Reports I/O that is ready; where there is none, moves the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.threads = 0
        self._load = Load()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += TURN_S
        if timeout == 0:
            return super().select(0)
        if events := super().select(self._grace_s(timeout)):
            return events
        if timeout is None:
            raise Deadlock("nothing is scheduled and no I/O came")
        self.now += timeout
        return []

    def _grace_s(self, timeout: float | None) -> float:
        has_fds = len(self.get_map()) > 1  # one is the loop's own pipe
        if timeout is None:
            return SILENCE_S if has_fds or self.threads else DEADLOCK_GRACE_S
        if self.threads:
            return THREAD_GRACE_S * self._load.factor()
        if not has_fds or SOCKET_GRACE_S < THREAD_GRACE_S:
            return SOCKET_GRACE_S if has_fds else 0
        return SOCKET_GRACE_S * self._load.factor()  # another process answers


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time starts at 0 and moves only when every task waits for it."""

    def __init__(self) -> None:
        self._virtual = VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now

    def stand_still(self, seconds: float) -> None:
        """Let time pass in which the loop does nothing, as while the process is stopped."""
        self._virtual.now += seconds

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[Unpack[Ts]], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._virtual.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *timeout: Any) -> None:  # Python 3.12 and later give one
        """Wait for the threads at the end of a test: they are joined in a thread of their own."""
        self._virtual.threads += 1
        try:
            await super().shutdown_default_executor(*timeout)
        finally:
            self._virtual.threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._virtual.threads -= 1

    def run_forever(self) -> None:
        try:
            super().run_forever()
        except Deadlock as deadlock:
            waiting = "\n".join(sorted(_where(task) for task in asyncio.all_tasks(self)))
            raise Deadlock(f"{deadlock}; waiting:\n{waiting}") from None


def _where(task: asyncio.Task[Any]) -> str:
    frames = task.get_stack(limit=1)
    line = f"{frames[0].f_code.co_filename}:{frames[0].f_lineno}" if frames else "nowhere"
    return f"  {task.get_name()} {getattr(task.get_coro(), '__qualname__', '?')} at {line}"


def loop_time() -> float:
    """Return the running loop's time. Replaces `aiohttp.connector.monotonic`, so that idle connections age."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


# --- the network -----------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class SimulatedNetwork:
    """How the in-memory network behaves. Change it while it runs to stage an outage."""

    rng: Random = field(default_factory=lambda: Random(0))
    latency_s: tuple[float, float] = (0.0, 0.0)  # one way, uniform, drawn for each chunk
    split: float = 0.0  # chance that a write arrives in two pieces
    reset: float = 0.0  # chance, for each write, that the connection resets instead
    down: bool = False  # connections are refused

    def delay_s(self) -> float:
        return self.rng.uniform(*self.latency_s)

    def pieces(self, data: bytes) -> list[bytes]:
        if len(data) < 2 or self.rng.random() >= self.split:
            return [data]
        at = self.rng.randrange(1, len(data))
        return [data[:at], data[at:]]


_EOF = None


class MemoryTransport(asyncio.Transport):
    """One end of a connection: what is written arrives at the peer's protocol, in order, after the network's delay."""

    HIGH_WATER, LOW_WATER = 65_536, 16_384

    def __init__(self, protocol: asyncio.Protocol, network: SimulatedNetwork, names: tuple[str, str]) -> None:
        super().__init__({"sockname": (names[0], 0), "peername": (names[1], 0)})
        self.peer: MemoryTransport
        self._loop = asyncio.get_running_loop()
        self._protocol, self._network = protocol, network
        self._arriving: deque[bytes | None] = deque()  # sent by the peer, still on its way
        self._unread: deque[bytes | None] = deque()  # arrived while reading was paused
        self._last_arrival = 0.0  # at the peer
        self._in_flight = 0  # bytes the peer's protocol has not got yet
        self._closing = self._lost = self._reading_paused = self._writing_paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._lost or not data:
            return
        if self._network.rng.random() < self._network.reset:
            self.abort()
            return
        for piece in self._network.pieces(bytes(data)):
            self._send(piece)
        self._in_flight += len(data)
        if self._in_flight > self.HIGH_WATER and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _send(self, piece: bytes | None) -> None:
        self._last_arrival = max(self._last_arrival, self._loop.time() + self._network.delay_s())
        self.peer._arriving.append(piece)
        self._loop.call_at(self._last_arrival, self.peer._arrive)

    def _arrive(self) -> None:
        if not self._arriving:
            return  # the connection was reset meanwhile
        self._unread.append(self._arriving.popleft())
        self._hand_over()

    def _hand_over(self) -> None:
        while self._unread and not self._reading_paused and not self._lost:
            piece = self._unread.popleft()
            if piece is _EOF:
                if not self._protocol.eof_received():
                    self.close()
            else:
                self.peer._received(len(piece))
                self._protocol.data_received(piece)

    def _received(self, count: int) -> None:
        self._in_flight -= count
        if self._writing_paused and self._in_flight <= self.LOW_WATER and not self._lost:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _lose(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._unread.clear()
            self._arriving.clear()
            self._loop.call_soon(self._protocol.connection_lost, exc)

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._send(_EOF)
            self._lose(None)

    def abort(self) -> None:
        self._lose(None)
        self.peer._lose(ConnectionResetError("reset by the simulated network"))

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._loop.call_soon(self._hand_over)

    def is_reading(self) -> bool:
        return not self._reading_paused

    def get_write_buffer_size(self) -> int:
        return 0  # the simulated kernel takes everything at once

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol


Server = Callable[[], asyncio.Protocol]  # what `AppRunner.server` is


class MemoryConnector(aiohttp.BaseConnector):
    """Connects an aiohttp client to in-process servers, by host or, given one server, whatever the host.

    https is not encrypted. A host without a server, and any host while `network.down`, refuses the connection.
    """

    def __init__(
        self, servers: Server | Mapping[str, Server], network: SimulatedNetwork | None = None, **kwargs: Any
    ) -> None:
        super().__init__(limit=0, **kwargs)  # as the real one: the gates limit
        self._servers = servers
        self.network = network or SimulatedNetwork()
        self.connections_total = 0

    async def _create_connection(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],  # noqa: ARG002 - aiohttp's signature
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> ResponseHandler:
        async with asyncio.timeout(timeout.sock_connect):
            await asyncio.sleep(self.network.delay_s())
        host = req.url.host or ""
        server = self._servers if callable(self._servers) else self._servers.get(host)
        if server is None or self.network.down:
            refused = ConnectionRefusedError(111, "refused by the simulated network")
            raise aiohttp.ClientConnectorError(req.connection_key, refused)
        self.connections_total += 1
        client_side: ResponseHandler = self._factory()
        _connect(client_side, server(), self.network, ("client", host))
        return client_side


def _connect(
    client: asyncio.Protocol, server: asyncio.Protocol, network: SimulatedNetwork, names: tuple[str, str]
) -> None:
    near = MemoryTransport(client, network, names)
    far = MemoryTransport(server, network, (names[1], names[0]))
    near.peer, far.peer = far, near
    client.connection_made(near)
    server.connection_made(far)


@contextlib.asynccontextmanager
async def serving(app: web.Application, *, auto_decompress: bool = True) -> AsyncIterator[Server]:
    """Run `app` without a socket; yields what `MemoryConnector` takes."""
    runner = web.AppRunner(app, access_log=None, auto_decompress=auto_decompress, shutdown_timeout=1)
    await runner.setup()
    try:
        assert runner.server is not None
        yield runner.server
    finally:
        await runner.cleanup()
