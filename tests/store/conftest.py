"""Fixtures of the stores' tests."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest

from poller.core.protocols import Clock
from poller.store import open_store
from poller.store.postgres.fleet.store import FleetStore
from tests.support.fleet_members import ACCOUNTS, Open
from tests.support.postgres import session_of
from tests.support.wire import Wire, wire_to


@pytest.fixture
async def open_member(postgres_url: str, clock: Clock) -> AsyncIterator[Open]:
    """Return a function that opens the state as a replica and joins; all are closed at the end of the test."""
    opened: list[FleetStore] = []

    async def open_it(name: str, *, joins: bool = True, url: str = postgres_url, clock: Clock = clock) -> FleetStore:
        store = await open_store(url, clock=clock, linger_s=0.0, replica=name)
        assert isinstance(store, FleetStore)
        opened.append(store)
        if joins:
            assert await store.fleet.join(serves=ACCOUNTS, settings={"limit": 10}) is not None
        return store

    yield open_it
    for each in opened:
        await each.close()


@pytest.fixture
def database(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Return a connection that reads the tables or changes them behind the stores' back."""
    with session_of(postgres_url) as connection:
        yield connection


@pytest.fixture
async def wire(postgres_server: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Wire]:
    monkeypatch.setattr(
        "tests.support.virtual.SOCKET_GRACE_S", 0.002
    )  # a listening socket would be waited for at every step
    async with wire_to(postgres_server) as wire:
        yield wire
        wire.flows.set()
        await asyncio.sleep(6)  # the pool's connections in the making end by then
