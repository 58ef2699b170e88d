"""What a trial's PostgreSQL can testify, whatever the replicas say: who owned what, who wrote when it was no member,
and who held the order of records without the server working for it.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg

from campaign.fleet.history import LateWrite, Ownership

# `slowness` stretches the statement that takes accounts, as a server with a slow disk does: see `slow_down`.
AUDIT = """
CREATE TABLE {schema}.owner_audit (at float8, account text, epoch bigint, owner bigint, replica text,
  former bigint, is_clean boolean);
CREATE FUNCTION {schema}.note_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {schema}.owner_audit VALUES (extract(epoch FROM clock_timestamp()), NEW.name, NEW.epoch, NEW.owner,
    (SELECT name FROM {schema}.replica WHERE id = NEW.owner), OLD.owner,
    CASE WHEN NEW.owner IS NULL THEN NEW.freed_at IS NOT NULL ELSE OLD.freed_at IS NOT NULL END);
  RETURN NULL;
END $$;
CREATE TRIGGER note_owner AFTER UPDATE OF owner ON {schema}.account FOR EACH ROW
  WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION {schema}.note_owner();
CREATE TABLE {schema}.slowness (share float8, longest_s float8);
INSERT INTO {schema}.slowness VALUES (0, 0);
CREATE FUNCTION {schema}.take_slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  PERFORM pg_sleep(CASE WHEN random() < share THEN random() * longest_s ELSE 0 END) FROM {schema}.slowness;
  RETURN NEW;
END $$;
CREATE TRIGGER take_slowly BEFORE UPDATE OF owner ON {schema}.account FOR EACH ROW
  WHEN (NEW.owner IS NOT NULL) EXECUTE FUNCTION {schema}.take_slowly();
CREATE TABLE {schema}.late_write (at float8, replica text);
CREATE FUNCTION {schema}.note_late_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NOT EXISTS (SELECT FROM {schema}.replica WHERE name = NEW.replica) THEN
    INSERT INTO {schema}.late_write VALUES (extract(epoch FROM clock_timestamp()), NEW.replica);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER note_late_write AFTER INSERT OR UPDATE ON {schema}.kind_count FOR EACH ROW
  WHEN (NEW.replica <> '') EXECUTE FUNCTION {schema}.note_late_write();
"""
ROW_BY_ROW = "&options=-c%20enable_hashjoin%3Doff%20-c%20enable_mergejoin%3Doff"  # a take locks one account at a time

_ORDER = 1349479538  # the upper half of the advisory lock of `FleetWriter`
_HOLDERS = (
    "SELECT a.pid, a.xact_start, a.state FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"  # noqa: S608
    f" WHERE l.locktype = 'advisory' AND l.classid = {_ORDER} AND l.granted"
)
WATCHED_EVERY_S = 0.03


def slow_down(schema: str, *, share: float, longest_s: float) -> str:
    """Return the statement that makes taking an account wait in the server: this share of them, for up to so long."""
    return f"UPDATE {schema}.slowness SET share = {share}, longest_s = {longest_s}"  # noqa: S608 - our own numbers


def owners_of(rows: Iterable[tuple[Any, ...]]) -> list[Ownership]:
    """Return the changes of owners from the rows of `owner_audit`, in order."""
    names: dict[int, str] = {}
    found = []
    for at, account, epoch, owner, name, former, is_clean in rows:
        if owner is not None:
            names[owner] = name
        found.append(
            Ownership(
                at=at,
                account=account,
                epoch=epoch,
                replica=names.get(owner),
                is_clean=is_clean,
                taken_from=names.get(former, "") if owner is not None and former is not None else None,
            )
        )
    return found


def late_writes_of(rows: Iterable[tuple[float, str]]) -> list[LateWrite]:
    return [LateWrite(at=at, replica=replica) for at, replica in rows]


class Holder(NamedTuple):
    """A session that has the lock which orders records."""

    transaction: object  # when it began
    state: str


class OrderWatch:
    """Watches who holds the lock that orders records. Its holder sends it with the commit, so that it never waits for
    a client: `idle_holders` counts transactions in which it did."""

    def __init__(self) -> None:
        self.idle_holders: set[tuple[int, object]] = set()

    async def run(self, url: str) -> None:
        """Watch until cancelled, through restarts of the server."""
        while True:
            with suppress(psycopg.Error):
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
                    while True:
                        first, second = await _holders(connection), await _holders(connection)
                        self.idle_holders |= idle_in_both(first, second)
                        await asyncio.sleep(WATCHED_EVERY_S)
            await asyncio.sleep(0.5)


async def _holders(connection: psycopg.AsyncConnection[Any]) -> Mapping[int, Holder]:
    found = await (await connection.execute(_HOLDERS.encode())).fetchall()
    return {pid: Holder(begun, state) for pid, begun, state in found}


def idle_in_both(first: Mapping[int, Holder], second: Mapping[int, Holder]) -> set[tuple[int, object]]:
    """Return the sessions that surely held the lock while they waited for their client. A server reads its locks before
    its sessions: one that has the lock in the second reading, in the transaction of the first, still had it when it was
    seen idle."""
    same = {pid: each for pid, each in second.items() if pid in first and each.transaction == first[pid].transaction}
    return {(pid, each.transaction) for pid, each in same.items() if each.state == "idle in transaction"}
