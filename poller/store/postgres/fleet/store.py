"""The store of a fleet's member: a PostgreSQL state that it shares. Only what it owns is claimed and recorded.

Leases are in memory here, too: an account's tasks are leased by its owner alone, and end with its ownership.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from poller.core.accounts import AccountState
from poller.core.deliveries import Delivery, PruneWalk, Selection, Written
from poller.core.fleet import Fenced
from poller.core.model import Added, Chunk, Settled, Task
from poller.core.protocols import Clock
from poller.store import pruning
from poller.store.intervals import HEAVY_ROWS, SAVE_WITHIN_S
from poller.store.leases import Leases
from poller.store.postgres import feeding, outbox, search, task_queue
from poller.store.postgres.connection import fetch_first
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.fleet import accounts, sinks
from poller.store.postgres.fleet.counts import WAITING
from poller.store.postgres.fleet.heart import REPLAYED, Heart
from poller.store.postgres.fleet.holdings import Holdings, OwnedAccount
from poller.store.postgres.fleet.membership import PostgresMembership
from poller.store.postgres.fleet.starts import FleetStarts
from poller.store.postgres.fleet.writer import FleetWriter
from poller.store.postgres.group_commit import OneByOne
from poller.store.postgres.store import PostgresStore
from poller.store.rows import Row, storable

Done = TypeVar("Done")

# "Pol" and "u": one member at a time prunes, or indexes.
UPKEEP = "(1349479541::bigint << 32) | to_regnamespace(current_schema())::oid::bigint"
SAVED_EVERY_S = 30.0  # for a lane that sends nothing; together with a request's time-out less than the gate's STALE_S
BEAT_WITHIN_S = 3.0  # for the answer to a heartbeat; trust counts from before it was sent


class FleetStore(PostgresStore):
    """One member's store. It writes nothing before `fleet.join`, and once it is fenced."""

    _writer: FleetWriter
    _starts: FleetStarts
    _starts_type = FleetStarts

    def __init__(
        self,
        connection: AsyncConnection,
        pool: AsyncConnectionPool[AsyncConnection],
        *,
        dsn: Dsn,
        clock: Clock,
        linger_s: float,
        replica: str,
    ) -> None:
        self._holdings = Holdings(name=replica)
        writer = FleetWriter(
            connection, dsn=dsn, holdings=self._holdings, linger_s=linger_s, clock=clock, on_fenced=self._end_membership
        )
        super().__init__(writer, pool, dsn=dsn, clock=clock)
        writer.applied_last = self._add_all
        self._candidate: tuple[float, int] | None = None  # a key with nothing older, and when that was seen
        self._stored: dict[str, tuple[int, AccountState]] = {}  # by account: its epoch, what is on disk
        self._fed: tuple[int | None, float] = None, 0.0  # by all, and since when
        self._index_at = 0.0  # nothing is there to be indexed before, unless something is fed
        self._starts.join_fleet(self._holdings, writer)
        self._heart = Heart(dsn, clock=clock, within_s=BEAT_WITHIN_S)
        self._fleet = PostgresMembership(
            self._holdings, writer, self._read, self._heart, clock, self.flush, self._starts.restore
        )
        self._fleet.on_taken = self._forget_leases

    @property
    def fleet(self) -> PostgresMembership:
        return self._fleet

    def beat(self) -> None:
        """Do nothing: a member's heartbeats are `fleet.beat`."""

    def _end_membership(self, fenced: Fenced) -> None:
        """Drop what rested on the membership that ended, and let the member know."""
        self._leases = Leases()
        self._starts.forget()
        self._first_poll_s.clear()
        self._noted_accounts.clear()
        self._stored.clear()
        self._noted_knowledge.clear()
        self._fleet.on_fenced(fenced)

    def _forget_leases(self, account: str) -> None:
        """End what is left of an account's leases when it is taken: a lane that was dropped releases nothing."""
        self._leases.forget(account)
        self._starts.forget_account(account)

    @property
    def _member(self) -> int:
        """The number of this member's row, within a transaction that has the fence."""
        if (member := self._holdings.member) is None:
            raise self._writer.no_member()
        return member

    # --- feeding

    def delay_first_polls(self, account: str, delay_s: float) -> None:
        """Store it with the account: other members feed it too."""
        if account in self._holdings.accounts and self._first_poll_s.get(account) != delay_s:
            self._first_poll_s[account] = delay_s
            write = OneByOne(accounts.delay_first_polls)
            self._writer.run_within(SAVE_WITHIN_S, write, (account, delay_s, self._member), on_commit=_ignore)

    async def add(self, source: int, chunk: Chunk) -> Added:
        paused_s = {name: state.paused_s for name, state in self._noted_accounts.items()}
        write = (source, chunk, paused_s, self._clock())
        added: Added
        added, _ = await self._writer.run(
            self._add_all,
            write,
            rows=len(chunk.fed) + len(chunk.rows),
            on_commit=lambda result: self._heart.hint(result[1]),
        )
        return added

    async def _add_all(
        self,
        connection: AsyncConnection,
        feedings: Sequence[tuple[int, Chunk, Mapping[str, float], float]],
    ) -> list[tuple[Added, list[str]]]:
        """Return for each chunk what was added, and the numbers of accounts whose owners may not know it. The ids of
        all of a commit's chunks are inserted in one go and in their own order, as those of other members: two that feed
        the same ids would otherwise wait for each other."""
        chunks = [chunk for _, chunk, _, _ in feedings]
        names = {name for chunk in chunks for name in _accounts_in(chunk)}
        known = await accounts.fed_accounts(connection, names)
        first_poll_s = {name: delay_s for name, _, delay_s in known}
        others = {name: str(number) for name, number, _ in known if name not in self._holdings.accounts}
        brought: Sequence[int | None] = [None] * len(chunks)
        if len(chunks) > 1:
            _, _, paused_s, now = feedings[-1]
            brought = await feeding.insert_tasks_of(connection, chunks, paused_s, first_poll_s, now)
        results = []
        for (source, chunk, paused_s, now), tasks in zip(feedings, brought, strict=True):
            values = (source, chunk, paused_s, first_poll_s, now)
            added = await feeding.add(connection, *values, is_alone=False, tasks=tasks)
            self._writer.last.counts.append((WAITING, added.tasks, added.again, 0))
            fed = _accounts_in(chunk) if added.tasks else set()
            results.append((added, [number for name, number in others.items() if name in fed]))
        return results

    # --- polling

    async def _claim(self, account: str, find: Callable[..., Awaitable[list[Row]]], *values: object) -> list[Task]:
        """Claim for the owner only. What was read before a change of owner may be older than the other's commits."""
        if (owned := self._holdings.accounts.get(account)) is None:
            return []
        tasks = await super()._claim(account, find, *values)
        if self._holdings.accounts.get(account) == owned:
            return tasks
        self._leases.release(tasks)
        return []

    async def record(self, settled: Sequence[Settled]) -> Sequence[Settled]:
        leases = self._leases
        held = [each for each in leases.begin_recording(settled) if each.task.account in self._holdings.accounts]
        if not held:
            return held
        owned = [self._holdings.accounts[each.task.account] for each in held]
        stored = await self._writer.run(
            self._record, (held, owned), rows=len(held), on_commit=lambda _: leases.end_recording(held)
        )
        return [each for each in held if each.task.key in stored]

    async def _record(
        self, connection: AsyncConnection, batches: Sequence[tuple[Sequence[Settled], Sequence[OwnedAccount]]]
    ) -> Sequence[set[int]]:
        """Record the polls of all lanes that share a commit in one go; return the keys that are stored to each."""
        settled = [each for batch, _ in batches for each in batch]
        owned = [account for _, batch in batches for account in batch]
        stored = await accounts.record(connection, settled, owned, self._member, self._writer.last)
        return [stored] * len(batches)

    def put_off(self, tasks: Sequence[tuple[Task, float]]) -> None:
        leases = self._leases
        if held := leases.begin_putting_off(tasks):
            self._writer.run_within(
                0.0 if len(held) >= HEAVY_ROWS else SAVE_WITHIN_S,
                OneByOne(self._put_off),
                (held,),
                on_commit=lambda _: leases.end_putting_off(held),
            )

    async def _put_off(self, connection: AsyncConnection, tasks: Sequence[tuple[Task, float]]) -> None:
        await accounts.put_off(connection, tasks, self._holdings, self._member)

    # --- what is remembered

    def save_account(self, name: str, state: AccountState) -> None:
        """Note it for the owner only: a lane that was overtaken may still save what it knew. Where nothing was sent
        since what is stored, that is renewed now and then."""
        owned = self._holdings.accounts.get(name)
        if owned is not None and (name in self._noted_accounts or not self._is_stored(name, owned.epoch, state)):
            super().save_account(name, state)

    def _is_stored(self, name: str, epoch: int, state: AccountState) -> bool:
        stored_in, stored = self._stored.get(name, (None, state))
        if stored_in != epoch or stored.active_at is None or state.active_at is None:
            return False
        is_recent = 0 <= state.active_at - stored.active_at < SAVED_EVERY_S
        return is_recent and replace(state, active_at=stored.active_at) == stored

    def save_knowledge(self, name: str, knowledge: bytes) -> None:
        if self._holdings.member is not None:
            super().save_knowledge(name, knowledge)

    async def _save(self, connection: AsyncConnection) -> None:
        noted, learned = self._begin_saving()
        await task_queue.save_knowledge(connection, dict(sorted(learned.items())))
        await accounts.save(connection, noted, self._holdings, self._member)

    def _end_saving(self) -> None:
        owned = self._holdings.accounts
        self._stored |= {name: (owned[name].epoch, state) for name, state in self._saving[0].items() if name in owned}
        super()._end_saving()

    # --- delivering

    async def attach_sinks(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        await self._fleet.want_sinks(names)
        return await self.positions(tuple(dict.fromkeys(names)))

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        numbers = [delivery.number for delivery in batch]
        refused = {number: storable(reason) for number, reason in written.refused.items()}
        values = (sink, numbers, refused, written.position, self._clock())
        await self._write(self._note_delivered, *values, rows=len(batch))

    async def _note_delivered(self, connection: AsyncConnection, sink: str, *values: Any) -> None:
        await self._check_sink(connection, sink)
        await outbox.note_delivered(connection, sink, *values)

    async def note_position(self, sink: str, position: bytes | None) -> None:
        await self._write(self._note_position, sink, position)

    async def _note_position(self, connection: AsyncConnection, sink: str, position: bytes | None) -> None:
        await self._check_sink(connection, sink)
        await outbox.note_position(connection, sink, position)

    async def replay(self, sink: str, selection: Selection, *, from_start: bool = False) -> int:
        """Any member may do it: the one that delivers the sink hears of it with the next beats."""
        replayed = await super().replay(sink, selection, from_start=from_start)
        self._heart.hint({REPLAYED})
        return replayed

    async def _check_sink(self, connection: AsyncConnection, sink: str) -> None:
        """Raise `Fenced` where this member does not deliver the sink: what it knows of the fleet is wrong."""
        epoch = self._holdings.sinks.get(sink, -1)
        if not await sinks.is_owned(connection, sink, epoch, self._member):
            raise Fenced(f"replica {self._holdings.name} does not deliver {sink} any more. It joins again.")

    # --- upkeep: one member at a time

    async def rebase_instants(self) -> float:
        """Return 0.0: `fleet.take` moves the instants of the account that it takes."""
        return 0.0

    async def index_rows(self, limit: int) -> int:
        """Index nothing where nothing was fed, by whichever member, since all was indexed that may be."""
        fed, now = self._fleet.fed, self._clock()
        if fed != self._fed[0]:
            self._fed, self._index_at = (fed, now), now
        if now < self._index_at:
            return 0
        indexed = await self._write(self._alone, None, search.index_rows, limit, now)
        if indexed == 0 and fed is not None:
            settled_at = self._fed[1] + search.SETTLED_S
            self._index_at = math.inf if now > settled_at else settled_at
        return indexed or 0

    async def prune(self, before: float, limit: int, walk: PruneWalk | None = None) -> int:
        return await pruning.prune(partial(self._write, self._alone, (0, None), outbox.prune), before, limit, walk)

    async def _alone(
        self, connection: AsyncConnection, nothing: Done, work: Callable[..., Awaitable[Done]], *values: object
    ) -> Done:
        """Do the work where no other member is at it; return what was done, else `nothing`."""
        row = await fetch_first(connection, f"SELECT pg_try_advisory_xact_lock({UPKEEP})")
        return await work(connection, *values) if row == (True,) else nothing

    async def oldest_waiting(self) -> float | None:
        """As of all stores, but keys of several feeders are not committed in their order: what was the oldest is passed
        over only once no transaction can still add a smaller key."""
        now = self._clock()
        before = self._finished_before
        oldest = await super().oldest_waiting()
        found, self._finished_before = self._finished_before, before
        if self._candidate is None:
            self._candidate = now, found
        elif abs(now - self._candidate[0]) > search.SETTLED_S:
            self._finished_before, self._candidate = min(self._candidate[1], found), None
        return oldest

    async def close(self) -> None:
        await super().close()
        await self._heart.close()


def _accounts_in(chunk: Chunk) -> set[str]:
    return {each.account for each in chunk.fed} | {each.account for each in chunk.rows}


def _ignore(_: object) -> None:
    """Nothing is to be done after the commit."""
