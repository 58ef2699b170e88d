"""Members of a fleet for the stores' tests: several stores of this process on one PostgreSQL state."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from poller.core.fleet import FleetView, Taken
from poller.store.postgres.fleet.store import FleetStore

Open = Callable[..., Awaitable[FleetStore]]

ACCOUNTS = ("one", "two", "three", "four")


async def see(store: FleetStore) -> FleetView:
    return await store.fleet.view()


async def take(store: FleetStore, *names: str) -> dict[str, Taken]:
    return {taken.account: taken for taken in await store.fleet.take(names or ACCOUNTS, 99)}


async def give(store: FleetStore, name: str, *, is_clean: bool = True, ages: tuple[float, ...] = ()) -> bool:
    epoch = store._holdings.accounts[name].epoch
    return await store.fleet.give(name, epoch, slot_ages_s=ages, is_clean=is_clean)


async def bury(by: FleetStore, dead: FleetStore) -> None:
    (seen,) = [member for member in (await see(by)).members if member.id == dead.fleet.id]
    assert await by.fleet.bury({seen.id: seen.beats}) == [seen.id]


def hold_commits(store: FleetStore, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the member's commits up before their last message. Return two events: one is due, and they may go on."""
    is_due, may_go_on = asyncio.Event(), asyncio.Event()
    commit = store._writer._commit

    async def commit_late(connection: Any) -> None:
        is_due.set()
        await may_go_on.wait()
        await commit(connection)

    monkeypatch.setattr(store._writer, "_commit", commit_late)
    return is_due, may_go_on


# --- statements that the server holds up in the middle ---------------------------------------------------------------

HELD = 77  # an advisory lock


def hold(database: psycopg.Connection[Any], event: str, table: str, condition: str) -> None:
    """Have rows of this table wait in this event while the test is in `held`."""
    database.execute(
        f"CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} THEN"
        f" PERFORM pg_advisory_xact_lock({HELD}); END IF; RETURN NEW; END $$;"
        f" CREATE TRIGGER hold BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION hold()".encode()
    )


@contextmanager
def held(database: psycopg.Connection[Any]) -> Iterator[None]:
    database.execute("SELECT pg_advisory_lock(%s)", (HELD,))
    try:
        yield
    finally:
        database.execute("SELECT pg_advisory_unlock(%s)", (HELD,))


async def blocked(
    database: psycopg.Connection[Any],
    sessions: int,
    *,
    unless: asyncio.Future[Any] | None = None,
    for_rows: bool = False,
) -> None:
    """Wait until so many sessions wait for an advisory lock, `for_rows` for a row of another one too, or `unless` is
    done."""
    for _ in range(2000):
        row = database.execute(
            "SELECT count(DISTINCT l.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted"
            " AND (l.locktype = 'advisory' OR l.locktype = 'transactionid' AND %s)"
            " AND a.datname = current_database()",
            (for_rows,),
        ).fetchone()
        if row == (sessions,) or (unless is not None and unless.done()):
            return
        await asyncio.sleep(0.005)
    raise TimeoutError(f"{sessions} sessions do not wait")
