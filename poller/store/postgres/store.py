"""The store on a schema of a PostgreSQL database. One connection writes, a pool reads.

Leases stand in the tables, with fencing tokens, so that several processes can share a state without another schema. For
now one process owns it, and remembers beside the tables which leases it holds: to renew them, and to pass over doubles.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from poller.core.errors import ConfigError, StoreError
from poller.core.model import (
    AccountState,
    Added,
    Chunk,
    DeadLetter,
    Delivery,
    Position,
    Rejection,
    Selection,
    Settled,
    SourceSums,
    Sums,
    Task,
    TaskDetails,
    Written,
)
from poller.core.protocols import Clock
from poller.store.postgres import outbox, queue
from poller.store.postgres import reader as reading
from poller.store.postgres.dsn import Dsn
from poller.store.postgres.errors import may_pass, words
from poller.store.postgres.group_commit import RETRY_S, Writer
from poller.store.rows import storable, storable_name, unknown_sink

log = structlog.get_logger()
T = TypeVar("T")

SAVE_WITHIN_S = 1.0
BEAT_EVERY_S = 2.0
TELL_AFTER_TRIES = 5  # the pool's connections may be as broken as they are many
SETTLING = -1  # the lease of a task whose poll is recorded but not committed yet


class PostgresStore:
    """The `Store` of protocols.py."""

    def __init__(self, writer: Writer, pool: AsyncConnectionPool[AsyncConnection], *, place: Dsn, clock: Clock) -> None:
        self._writer = writer
        self._pool = pool
        self._place = place
        self._clock = clock
        self._leases: dict[int, int] = {}  # task key → fencing token
        self._releasing = 0  # releases not committed yet
        self._noted: dict[str, AccountState] = {}  # not committed yet
        self._learned: dict[str, bytes] = {}  # not committed yet
        self._first_poll_s: dict[str, float] = {}  # by account, where its first polls are put off
        self._beaten_at = clock()
        self._beating = False
        self._unreadable = False
        self._closed = False

    @property
    def writable(self) -> bool:
        """False while commits fail for a reason that may pass, such as a server that is down."""
        return self._writer.writable

    def beat(self) -> None:
        """Show the process's sign of life, which `last_beat` reads, and renew the leases it holds."""
        now = self._clock()
        if self._beating or 0 <= now - self._beaten_at < BEAT_EVERY_S:
            return
        self._beaten_at, self._beating = now, True
        self._writer.run_within(0.0, _OneByOne(self._renew), (), settle=self._note_beaten)

    async def _renew(self, connection: AsyncConnection) -> None:
        held = {key: lease for key, lease in self._leases.items() if lease != SETTLING}
        if held:
            await queue.renew(connection, held)

    def _note_beaten(self, _: None) -> None:
        self._beating = False

    # --- feeding ---------------------------------------------------------------------------------------------------

    async def open_source(self, name: str) -> tuple[int, Position] | None:
        """Return the latest source of this name and how far it was read; None if there is none."""
        return await self._read(lambda connection: reading.read_source(connection, storable_name(name)))

    async def new_source(self, name: str, fingerprint: str = "") -> int:
        """Begin the sums of a source, with the fingerprint of its position 0; return its number."""
        source: int = await self._writer.run(_OneByOne(queue.insert_source), (storable_name(name), fingerprint))
        return source

    async def was_read(self, position: Position) -> bool:
        """Whether a source, of whatever name, was read up to exactly this position; its fingerprint names the file."""
        return await self._read(lambda connection: reading.read_was_read(connection, position))

    async def add(self, source: int, chunk: Chunk) -> Added:
        """Store a chunk and the position after it in one transaction. A known (account, task_id) is a duplicate."""
        paused_s = {name: state.paused_s for name, state in self._noted.items()}
        noted = (source, chunk, paused_s, self._first_poll_s, self._clock())
        added: Added = await self._writer.run(_OneByOne(queue.add), noted)
        return added

    def delay_first_polls(self, account: str, delay_s: float) -> None:
        """Let the account's new tasks be due so long after they are added; until then they are due at once."""
        self._first_poll_s[account] = delay_s

    # --- polling ---------------------------------------------------------------------------------------------------

    async def claim(self, account: str, limit: int) -> list[Task]:
        """Lease up to `limit` due tasks, longest due first. A lease ends with `record`, `release`, the process, or
        `queue.LEASE_S` after the last `beat`."""
        self._writer.check()
        if limit <= 0:
            return []
        tasks: list[Task] = await self._writer.run(
            _OneByOne(queue.claim),
            (account, limit, self._clock()),
            first=True,
            settle=self._note_leases,
            abandoned=self.release,
        )
        return tasks

    def _note_leases(self, tasks: Sequence[Task]) -> None:
        self._leases.update({task.key: task.lease for task in tasks})

    async def next_due_at(self, account: str) -> float | None:
        """Return when the earliest task that is waiting and not leased is due; None if there is none."""
        if self._releasing:
            await self.flush()
        return await self._read(lambda connection: reading.read_next_due_at(connection, account))

    async def record(self, settled: Sequence[Settled]) -> None:
        """Count one poll for each task and store what was decided; for finished ones, in the same transaction, the
        record and one undelivered row per attached sink. A task whose lease is not held any more is passed over."""
        held = [each for each in settled if self._begin_settling(each.task)]
        if held:
            await self._writer.run(self._record, held, settle=lambda _: self._end_leases(held))

    def _begin_settling(self, task: Task) -> bool:
        if task.lease == SETTLING or self._leases.get(task.key) != task.lease:
            return False
        self._leases[task.key] = SETTLING
        return True

    def _end_leases(self, settled: Sequence[Settled]) -> None:
        for each in settled:
            if self._leases.get(each.task.key) == SETTLING:
                del self._leases[each.task.key]

    async def _record(self, connection: AsyncConnection, batches: Sequence[Sequence[Settled]]) -> Sequence[None]:
        settled = [each for batch in batches for each in batch]
        late = len(settled) - await queue.record(connection, settled)
        if late:
            log.warning("lease.lost", path=self._place.shown, polls=late)
        return [None] * len(batches)

    def release(self, tasks: Sequence[Task]) -> None:
        """Give leases back unused."""
        held = {task.key: task.lease for task in tasks if self._leases.get(task.key) == task.lease}
        for key in held:
            del self._leases[key]
        if held:
            with suppress(StoreError):  # a store that has failed lets all leases run out
                self._writer.run_within(0.0, _OneByOne(queue.release), (held,), first=True, settle=self._note_released)
                self._releasing += 1

    def _note_released(self, _: None) -> None:
        self._releasing -= 1

    # --- accounts --------------------------------------------------------------------------------------------------

    async def account(self, name: str) -> AccountState:
        """Return what is remembered of the account."""
        return await self._read(lambda connection: reading.read_account(connection, name, self._noted.get(name)))

    def save_account(self, name: str, state: AccountState) -> None:
        """Note the account's state; stored with the next commit, within a second."""
        self._writer.check()
        idle = not self._noted
        self._noted[name] = state
        if idle:
            self._save_soon()

    def _save_soon(self) -> None:
        saved: dict[str, AccountState] = {}
        self._writer.run_within(SAVE_WITHIN_S, self._save_accounts, saved, settle=lambda _: self._forget_noted(saved))

    async def _save_accounts(
        self, connection: AsyncConnection, noted: Sequence[dict[str, AccountState]]
    ) -> Sequence[None]:
        for saved in noted:
            saved.clear()
            saved.update(self._noted)
            await queue.save_accounts(connection, saved)
        return [None] * len(noted)

    def _forget_noted(self, saved: Mapping[str, AccountState]) -> None:
        for name, state in saved.items():
            if self._noted[name] is state:
                del self._noted[name]
        if self._noted:  # noted while the transaction was under way
            self._save_soon()

    async def knowledge(self, name: str) -> bytes | None:
        """Return what `save_knowledge` last noted under this name; None if nothing."""
        if name in self._learned:
            return self._learned[name]
        return await self._read(lambda connection: reading.read_knowledge(connection, name))

    def save_knowledge(self, name: str, knowledge: bytes) -> None:
        """Note what was learned, such as how long imports take; stored with the next commit, within a second."""
        self._writer.check()
        idle = not self._learned
        self._learned[name] = knowledge
        if idle:
            self._save_learned_soon()

    def _save_learned_soon(self) -> None:
        saved: dict[str, bytes] = {}
        self._writer.run_within(SAVE_WITHIN_S, self._save_learned, saved, settle=lambda _: self._forget_learned(saved))

    async def _save_learned(self, connection: AsyncConnection, noted: Sequence[dict[str, bytes]]) -> Sequence[None]:
        for saved in noted:
            saved.clear()
            saved.update(self._learned)
            await queue.save_knowledge(connection, saved)
        return [None] * len(noted)

    def _forget_learned(self, saved: Mapping[str, bytes]) -> None:
        for name, knowledge in saved.items():
            if self._learned[name] is knowledge:
                del self._learned[name]
        if self._learned:  # noted while the transaction was under way
            self._save_learned_soon()

    async def flush(self) -> None:
        """Return when everything noted so far is on disk, `save_account` included."""
        await self._writer.run(_OneByOne(_nothing), ())

    # --- delivering ------------------------------------------------------------------------------------------------

    async def attach_sinks(self, names: Sequence[str]) -> Mapping[str, bytes | None]:
        """Make these, and only these, the sinks of the run; return each one's noted position. A sink gets everything
        that finished while it was not attached, also before it was first named."""
        wanted = tuple(dict.fromkeys(names))
        positions: Mapping[str, bytes | None] = await self._writer.run(_OneByOne(outbox.attach_sinks), (wanted,))
        return positions

    async def undelivered(self, sink: str, limit: int) -> list[Delivery]:
        """Return the first undelivered records that are safely on disk, in the order in which they finished."""
        return await self._read(lambda connection: reading.read_undelivered(connection, sink, limit))

    async def delivered(self, sink: str, batch: Sequence[Delivery], written: Written) -> None:
        """Strike the batch off the sink's outbox, note its position if it has one, keep the refused as dead letters."""
        numbers = [delivery.number for delivery in batch]
        refused = {number: storable(reason) for number, reason in written.refused.items()}
        struck = (sink, numbers, refused, written.position, self._clock())
        await self._writer.run(_OneByOne(outbox.strike_off), struck)

    async def note_position(self, sink: str, position: bytes | None) -> None:
        """Note a sink's position by itself, after `Sink.open`."""
        await self._writer.run(_OneByOne(outbox.note_position), (sink, position))

    async def replay(self, sink: str, selection: Selection) -> int:
        """Put the selected records, as far as they are kept, into the sink's outbox again, dead letters revived; return
        how many. Raises `ConfigError` for a sink that the state does not know."""
        known = await self._read(reading.read_sink_names)
        if sink not in known:
            raise ConfigError(unknown_sink(sink, known))
        replayed: int = await self._writer.run(_OneByOne(outbox.replay), (sink, selection))
        return replayed

    async def dead_letters(self, sink: str | None = None) -> Sequence[DeadLetter]:
        """Return what the sink, or any sink, refused for good, oldest first."""
        return await self._read(lambda connection: reading.read_dead_letters(connection, sink))

    async def records(self, after: int, limit: int) -> list[Delivery]:
        """Return kept finished records in the order in which they finished, beginning after number `after`."""
        return await self._read(lambda connection: reading.read_records(connection, after, limit))

    async def prune(self, before: float, limit: int) -> int:
        """Forget up to `limit` tasks that finished before the instant; return how many. What an attached sink lacks or
        has refused is kept. Their counts stay in `sums`. A pruned id that is fed again is a new task."""
        pruned: int = await self._writer.run(_OneByOne(outbox.prune), (before, limit))
        return pruned

    # --- reporting -------------------------------------------------------------------------------------------------

    async def sums(self) -> Sums:
        """Count everything from the rows themselves."""
        return await self._read(lambda connection: reading.read_sums_at_once(connection, self._noted))

    async def sources(self) -> Sequence[SourceSums]:
        """Return where each source's lines went, in the order of their beginning."""
        return await self._read(reading.read_sources)

    async def task_details(self, task_id: str) -> Sequence[TaskDetails]:
        """Return what is known of the tasks with this id, one for each account that has it, by account."""
        return await self._read(lambda connection: reading.read_task_details(connection, task_id))

    async def rejections(self) -> Sequence[tuple[str, Rejection]]:
        """Return every rejected line with its source's name, in input order."""
        return await self._read(reading.read_rejections)

    async def close(self) -> None:
        """Commit what is pending and let go of the state. Closing twice does nothing."""
        if self._closed:
            return
        self._closed = True
        await self._writer.close()
        await self._pool.close()
        log.info("store.closed", path=self._place.shown)

    async def _read(self, read: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Return what `read` finds of what is committed, however long the server is out of reach. That it is, the
        writer says; here is told only what hinders reading alone."""
        tries = 0  # while the writer reaches the server
        while True:
            self._writer.check()
            try:
                async with self._pool.connection() as connection:
                    found = await read(connection)
            except psycopg.Error as error:
                if not may_pass(error):
                    raise self._writer.fail(error) from None
                tries = tries + 1 if self.writable else 0
                self._tell_unreadable(error, tries)
            else:
                self._tell_readable()
                return found
            await asyncio.sleep(0 if tries == 1 else RETRY_S)

    def _tell_unreadable(self, error: psycopg.Error, tries: int) -> None:
        if tries >= TELL_AFTER_TRIES and not self._unreadable:
            self._unreadable = True
            log.error("store.unreadable", path=self._place.shown, reason=words(error, self._place), retry_s=RETRY_S)

    def _tell_readable(self) -> None:
        if self._unreadable:
            self._unreadable = False
            log.info("store.readable", path=self._place.shown)


@dataclass(frozen=True, slots=True)
class _OneByOne:
    """Applies `function` to one payload after the other."""

    function: Callable[..., Awaitable[object]]

    async def __call__(self, connection: AsyncConnection, payloads: Sequence[tuple[object, ...]]) -> list[object]:
        return [await self.function(connection, *payload) for payload in payloads]


async def _nothing(_: AsyncConnection) -> None:
    """Write nothing: what is pending is committed with it."""
