"""What the other tests rely on: virtual time and the in-memory network."""

import asyncio
import socket
import time
from collections.abc import Callable
from random import Random

import aiohttp
import pytest
from aiohttp import web

from tests.support import virtual
from tests.support.virtual import EPOCH, Deadlock, MemoryConnector, SimulatedNetwork, VirtualLoop, serving


async def test_an_hour_of_sleep_takes_no_time(clock: Callable[[], float]) -> None:
    began = time.monotonic()
    for _ in range(3600):
        await asyncio.sleep(1)
    assert time.monotonic() - began < 5
    assert clock() == pytest.approx(EPOCH + 3600, abs=0.1)


async def test_timers_fire_in_the_order_of_their_times() -> None:
    fired: list[float] = []

    async def sleeper(delay: float) -> None:
        await asyncio.sleep(delay)
        fired.append(delay)

    delays = [Random(1).uniform(0, 100) for _ in range(200)]
    async with asyncio.TaskGroup() as group:
        for delay in delays:
            group.create_task(sleeper(delay))
    assert fired == sorted(delays)


async def test_a_timeout_ends_a_wait_at_its_virtual_instant() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await asyncio.Event().wait()
    assert loop.time() - began == pytest.approx(600, abs=0.001)


def test_a_deadlock_raises_and_names_who_waits() -> None:
    async def waits_forever() -> None:
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner, pytest.raises(Deadlock, match="waits_forever"):
        runner.run(waits_forever())


async def test_a_thread_is_waited_for() -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with asyncio.timeout(3600):
        await asyncio.to_thread(time.sleep, 0.02)
    assert loop.time() - began < 1


async def test_a_slow_thread_is_no_deadlock_where_nothing_else_is_scheduled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual, "DEADLOCK_GRACE_S", 0.001)
    await asyncio.to_thread(time.sleep, 0.02)


def test_the_end_of_a_test_waits_for_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine takes its time to join them."""
    monkeypatch.setattr(virtual, "DEADLOCK_GRACE_S", 0.001)

    async def leaves_a_thread() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        super(VirtualLoop, loop).run_in_executor(None, time.sleep, 0.05)  # not counted

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(leaves_a_thread())


@pytest.mark.real_time
async def test_a_test_can_ask_for_real_time() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualLoop)


async def test_loopback_sockets_work_under_virtual_time() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, family=socket.AF_INET)
    async with server, asyncio.timeout(1):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer == b"hello\n"


def slow_app(rng: Random) -> web.Application:
    """Answer each request with its own name after 0.1 to 2 s."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(rng.uniform(0.1, 2))
        return web.Response(text=request.match_info["name"] * 10)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    return app


async def trace(seed: int, requests: int, network: SimulatedNetwork, workers: int = 8) -> tuple[list[str], int]:
    """Return what happened, each line with its virtual instant, and the number of connections made."""
    loop, lines = asyncio.get_running_loop(), list[str]()
    began = loop.time()
    names = iter(range(requests))

    async def worker(session: aiohttp.ClientSession) -> None:
        for name in names:
            try:
                async with session.get(f"https://api.example/{name}") as response:
                    body = await response.text()
                    assert body == f"{name}" * 10
            except aiohttp.ClientError as error:
                body = type(error).__name__
            lines.append(f"{loop.time() - began:.3f} {name} {body}")

    async with serving(slow_app(Random(seed))) as server:
        connector = MemoryConnector(server, network)
        async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker(session))
    return lines, connector.connections_total


def network(seed: int) -> SimulatedNetwork:
    return SimulatedNetwork(rng=Random(seed), latency_s=(0.02, 0.15), split=0.3, reset=0.1)


async def test_the_same_seed_gives_the_same_trace_of_a_thousand_requests() -> None:
    first, _ = await trace(7, 1000, network(7))
    second, _ = await trace(7, 1000, network(7))
    other, _ = await trace(8, 1000, network(8))
    assert len(first) == 1000
    assert any("Server" in line or "Client" in line for line in first), "resets are part of it"
    assert first == second
    assert first != other


async def test_connections_are_kept_alive() -> None:
    lines, connections = await trace(1, 200, SimulatedNetwork(latency_s=(0.01, 0.02)))
    assert len(lines) == 200
    assert connections == 8


async def test_idle_connections_age_in_virtual_time() -> None:
    async with serving(slow_app(Random(0))) as server:
        connector = MemoryConnector(server, keepalive_timeout=15)
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(2):
                await (await session.get("http://api.example/x")).read()
                await asyncio.sleep(16)
    assert connector.connections_total == 2


async def test_a_network_that_is_down_refuses() -> None:
    async with serving(slow_app(Random(0))) as server:
        connector = MemoryConnector({"known.example": server})
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.get("http://known.example/x") as response:
                assert response.status == 200
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("http://unknown.example/x")
            connector.network.down = True
            await asyncio.sleep(16)
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get("http://known.example/x")


async def test_a_large_answer_arrives_whole() -> None:
    body = Random(3).randbytes(3_000_000)

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body)

    app = web.Application()
    app.router.add_get("/", answer)
    async with serving(app) as server:
        connector = MemoryConnector(server, SimulatedNetwork(latency_s=(0.01, 0.05), split=0.5))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/") as response:
            assert await response.read() == body
