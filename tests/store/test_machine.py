"""After any operations in any order, with crashes between, a store agrees with a model of a few dictionaries.

SOAK_STEPS=5000 makes each of the two machines take at least 5,000 steps; SOAK_SEED=… begins with that seed. Both are
printed: run `pytest -s`.
"""

import asyncio
import os
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    get_state_machine_test,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from poller.core.accounts import AccountState
from poller.core.deliveries import Selection, Written
from poller.core.model import Added, Chunk, Failed, Fed, Kind, PollAgain, Position, Record, Rejection, Settled, Task
from poller.core.protocols import Store
from poller.core.sums import SinkSums, SourceSums
from poller.reports.ledger import imbalances
from poller.store import open_store
from poller.store.rows import storable
from tests.support.postgres import fresh_schema, session_of
from tests.support.store_makers import kill
from tests.support.virtual import VirtualLoop

T = TypeVar("T")
Identity = tuple[str, str]

ACCOUNTS = ("one", "two")
SINKS = ("file", "hook")
IDS = [f"id{n}" for n in range(12)]
ODD = (  # what servers send in errors; a reason is text that was read from it
    b"null",
    rb'["cut \u0000 short"]',
    rb'["half of \ud83d a pair"]',
    '["two\u2028lines \u2029 \x85 🗎"]'.encode(),
    b'[{"numErrors": 18446744073709551616, "took": 1e400}]',
    b"[" * 100 + b"]" * 100,
    b'["' + b"x" * 100_000 + b'"]',
)
REASONS = (None, "cut \0 short", "two\u2028lines \x85 🗎", "half \ud83d", "\ufffe", "x" * 200)
KINDS = st.sets(st.sampled_from([str(Kind.COMPLETE), str(Kind.CANCELED)]), max_size=1).map(frozenset)


@dataclass(kw_only=True, eq=False)
class ModelTask:
    identity: Identity
    key: int
    due_at: float
    polls: int = 0
    errors: int = 0
    kind: Kind | None = None
    seen_at: float = 0.0
    body: bytes = b""
    reason: str | None = None


@dataclass(kw_only=True)
class ModelSink:
    attached: bool = False
    position: bytes | None = None
    delivered: set[ModelTask] = field(default_factory=set)
    dead: list[ModelTask] = field(default_factory=list)  # in the order of refusal
    gone: int = 0  # pruned, after it was delivered
    missed: int = 0  # pruned before


class StoreMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and to the model; the invariants compare all that both know."""

    steps: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.clean = ExitStack()
        self.now = 1000.0
        self.requests = 0
        self.keys = 0
        self.tasks: dict[Identity, ModelTask] = {}
        self.finished: list[ModelTask] = []  # and kept, in the order of finishing
        self.pruned: list[ModelTask] = []
        self.sinks: dict[str, ModelSink] = {}
        self.accounts: dict[str, AccountState] = {}
        self.lines: Counter[str] = Counter()
        self.leased: dict[Identity, Task] = {}
        self.stale: list[Task] = []  # no longer leased: must be skipped

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def url(self) -> str:
        raise NotImplementedError

    async def open(self) -> Store:
        return await open_store(self.url(), clock=lambda: self.now)

    @initialize()
    def begin(self) -> None:
        self.store = self.run(self.open())
        self.source = self.run(self.store.new_source("ids"))

    # --- feeding and polling

    @rule(
        account=st.sampled_from(ACCOUNTS),
        ids=st.lists(st.sampled_from(IDS), max_size=8),
        rejected=st.integers(0, 2),
        blank=st.integers(0, 2),
    )
    def add(self, account: str, ids: list[str], rejected: int, blank: int) -> None:
        new = [task_id for task_id in dict.fromkeys(ids) if (account, task_id) not in self.tasks]
        fed = tuple(Fed(account=account, task_id=task_id) for task_id in ids)
        bad = tuple(Rejection(line=n, reason="bad", excerpt=str(REASONS[n + 1])) for n in range(rejected))
        chunk = Chunk(fed=fed, rejected=bad, blank=blank, position=Position())
        added = self.run(self.store.add(self.source, chunk))
        known = [self.tasks.get((account, task_id)) for task_id in ids]
        failed = sum(task is not None and task.kind not in (None, Kind.COMPLETE) for task in known)
        assert added == Added(tasks=len(new), duplicates=len(ids) - len(new), failed=failed)
        for task_id in new:
            self.keys += 1
            self.tasks[account, task_id] = ModelTask(identity=(account, task_id), key=self.keys, due_at=self.now)
        if ids:
            self.accounts.setdefault(account, AccountState())
        self.lines.update(tasks=added.tasks, duplicates=added.duplicates, rejected=rejected, blank=blank, failed=failed)
        dead = sum(any(task in sink.dead for sink in self.sinks.values()) for task in known if task is not None)
        assert self.run(self.store.count_failed(chunk)) == Failed(failed=failed, dead=dead)
        has_failed = any(task.kind not in (None, Kind.COMPLETE) for task in self.tasks.values())
        assert self.run(self.store.has_failed()) >= has_failed

    def due(self, account: str) -> list[Identity]:
        free = [
            (task.due_at, task.key, identity)
            for identity, task in self.tasks.items()
            if identity[0] == account and task.kind is None
            if identity not in self.leased
        ]
        return [identity for _, _, identity in sorted(free)]

    @rule(account=st.sampled_from(ACCOUNTS), limit=st.integers(1, 6))
    def claim(self, account: str, limit: int) -> None:
        due = [identity for identity in self.due(account) if self.tasks[identity].due_at <= self.now]
        claimed = self.run(self.store.claim(account, limit))
        assert [(task.account, task.task_id) for task in claimed] == due[:limit]
        for task in claimed:
            known = self.tasks[account, task.task_id]
            assert (task.polls, task.errors, task.due_at) == (known.polls, known.errors, known.due_at)
            self.lease(task)

    def lease(self, task: Task) -> None:
        assert (task.account, task.task_id) not in self.leased
        self.leased[task.account, task.task_id] = task

    @rule(account=st.sampled_from(ACCOUNTS))
    def ask_when_next(self, account: str) -> None:
        due_at = min((self.tasks[identity].due_at for identity in self.due(account)), default=None)
        assert self.run(self.store.next_due_at(account)) == due_at

    @precondition(lambda self: self.leased or self.stale)
    @rule(data=st.data(), again_in_s=st.sampled_from([0, 50, 200]))
    def record(self, data: st.DataObject, again_in_s: int) -> None:
        """Leased tasks are recorded, and stale ones skipped, also a task that is twice in one batch."""
        choice = st.lists(st.sampled_from([*self.leased.values(), *self.stale]), min_size=1, max_size=6)
        settled = [
            self.settle(task, data.draw(st.booleans()), again_in_s, data.draw(st.integers(0, 99)))
            for task in data.draw(choice)
        ]
        self.run(self.store.record(settled))
        for each in settled:
            self.note_settled(each)

    def settle(self, task: Task, finish: bool, again_in_s: int, odd: int = 0) -> Settled:
        if not finish:
            return Settled(task=task, again=PollAgain(at=self.now + again_in_s, errors=task.errors + 1))
        kind = Kind.COMPLETE if task.polls else Kind.CANCELED
        errors, reason = ODD[odd % len(ODD)], REASONS[odd % len(REASONS)]
        record = Record(
            body=b'{"task_id":"%s","errors":%s}' % (task.task_id.encode(), errors),
            kind=kind,
            landed=kind is Kind.COMPLETE,
            reason=reason,
            seen_at=self.now,
            account=task.account,
            task_id=task.task_id,
        )
        return Settled(task=task, record=record)

    def note_settled(self, settled: Settled) -> None:
        identity = settled.task.account, settled.task.task_id
        if self.leased.get(identity) is not settled.task:
            return
        self.end_lease(identity)
        known = self.tasks[identity]
        known.polls += 1
        if settled.record is not None:
            known.kind, known.seen_at = settled.record.kind, settled.record.seen_at
            known.body, known.reason = settled.record.body, settled.record.reason
            self.finished.append(known)
        elif settled.again is not None:
            known.due_at, known.errors = settled.again.at, settled.again.errors

    def end_lease(self, identity: Identity) -> None:
        self.stale.append(self.leased.pop(identity))

    @precondition(lambda self: self.leased or self.stale)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        tasks = data.draw(st.lists(st.sampled_from([*self.leased.values(), *self.stale]), max_size=4))
        self.store.release(tasks)
        for task in tasks:
            if self.leased.get((task.account, task.task_id)) is task:
                self.end_lease((task.account, task.task_id))

    @precondition(lambda self: self.leased or self.stale)
    @rule(data=st.data(), due_in_s=st.sampled_from([2.0, 60.0]))
    def put_off(self, data: st.DataObject, due_in_s: float) -> None:
        tasks = data.draw(st.lists(st.sampled_from([*self.leased.values(), *self.stale]), max_size=4))
        self.store.put_off([(task, self.now + due_in_s) for task in tasks])
        self.run(self.store.flush())
        for task in tasks:
            identity = task.account, task.task_id
            if self.leased.get(identity) is task:
                self.tasks[identity].due_at = self.now + due_in_s
                self.end_lease(identity)

    @rule()
    def let_time_pass(self) -> None:
        self.now += 60

    # --- accounts and delivering

    @rule(account=st.sampled_from(ACCOUNTS), day=st.sampled_from(["", "2026-01-05"]), more=st.integers(0, 3))
    def save_account(self, account: str, day: str, more: int) -> None:
        self.requests += more
        state = AccountState(active_at=self.now, day=day, day_requests=self.requests if day else 0)
        self.store.save_account(account, state)
        self.run(self.store.flush())
        self.accounts[account] = state

    @rule(names=st.lists(st.sampled_from(SINKS), max_size=2))
    def attach(self, names: list[str]) -> None:
        positions = self.run(self.store.attach_sinks(names))
        for name in names:
            self.sinks.setdefault(name, ModelSink(missed=len(self.pruned)))
        for name, sink in self.sinks.items():
            sink.attached = name in names
        assert positions == {name: self.sinks[name].position for name in names}

    def outbox(self, sink: ModelSink) -> list[ModelTask]:
        return [task for task in self.finished if task not in sink.delivered and task not in sink.dead]

    @precondition(lambda self: any(sink.attached for sink in self.sinks.values()))
    @rule(data=st.data(), limit=st.integers(1, 5), refuse=st.booleans(), position=st.binary(min_size=1, max_size=2))
    def deliver(self, data: st.DataObject, limit: int, refuse: bool, position: bytes) -> None:
        name = data.draw(st.sampled_from([name for name, sink in self.sinks.items() if sink.attached]))
        sink = self.sinks[name]
        batch = self.run(self.store.undelivered(name, limit))
        owed = self.outbox(sink)[:limit]
        assert [(delivery.account, delivery.task_id) for delivery in batch] == [task.identity for task in owed]
        assert [delivery.body for delivery in batch] == [task.body for task in owed]
        refused = {batch[-1].number: str(REASONS[limit])} if refuse and batch else {}
        for _ in range(2):  # the second time changes nothing
            self.run(self.store.delivered(name, batch, Written(position=position, refused=refused)))
        sink.position = position
        sink.dead += owed[-1:] if refused else []
        sink.delivered.update(owed[:-1] if refused else owed)

    @precondition(lambda self: bool(self.sinks))
    @rule(data=st.data(), age_s=st.sampled_from([None, 0, 60]), kinds=KINDS, dead=st.booleans())
    def replay(self, data: st.DataObject, age_s: float | None, kinds: frozenset[str], dead: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.sinks)))
        sink = self.sinks[name]
        since = None if age_s is None else self.now - age_s
        chosen = {
            task
            for task in ({*sink.dead} if dead else {*sink.dead, *sink.delivered})
            if (not kinds or str(task.kind) in kinds) and (since is None or task.seen_at >= since)
        }
        replayed = self.run(self.store.replay(name, Selection(since=since, kinds=kinds, dead=dead)))
        assert replayed == len(chosen)
        sink.delivered -= chosen
        sink.dead = [task for task in sink.dead if task not in chosen]

    @rule(age_s=st.sampled_from([-1, 0, 60]), limit=st.integers(0, 5))
    def prune(self, age_s: float, limit: int) -> None:
        attached = [sink for sink in self.sinks.values() if sink.attached]
        before = self.now - age_s
        expired = [task for task in self.finished if task.seen_at < before]
        old = sorted(expired, key=lambda task: (task.seen_at, task.key))  # not as they were recorded
        going = [task for task in old if all(task in sink.delivered for sink in attached)][:limit]
        assert self.run(self.store.prune(before, limit)) == len(going)
        for task in going:
            self.finished.remove(task)
            self.pruned.append(task)
            del self.tasks[task.identity]
        for sink in self.sinks.values():
            sink.gone += len(sink.delivered.intersection(going))
            sink.missed += len(set(going) - sink.delivered)
            sink.delivered.difference_update(going)
            sink.dead = [task for task in sink.dead if task not in going]

    # --- restarts

    def forget_leases(self) -> None:
        self.leased.clear()
        self.stale.clear()

    @rule()
    def close_and_reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.run(self.open())
        self.forget_leases()

    @rule()
    def crash_and_reopen(self) -> None:
        """Die with a write that is not committed: what was acknowledged is there, the rest is not."""
        self.run(self.crash())
        self.store = self.run(self.open())
        self.forget_leases()

    async def crash(self) -> None:
        settled = [self.settle(task, True, 0) for task in self.leased.values()]
        writes = (self.store.record(settled), self.store.new_source("never acknowledged"))
        dying = asyncio.gather(*writes, return_exceptions=True)
        await asyncio.sleep(0)
        self.leave_remains()
        await kill(self.store)
        await dying

    def leave_remains(self) -> None:
        """Keep what is on disk now for the next to open."""

    # --- what must agree

    @invariant()
    def sums_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        type(self).steps += 1
        sums = self.run(self.store.sums())
        everything = [*self.tasks.values(), *self.pruned]
        assert sums.kinds == Counter(str(task.kind) for task in everything if task.kind is not None)
        assert (sums.finished, sums.pruned) == (len(self.finished) + len(self.pruned), len(self.pruned))
        assert sums.waiting == len(self.tasks) - len(self.finished)
        assert sums.polls == sum(task.polls for task in everything)
        assert sums.accounts == self.accounts
        reasons = Counter(storable(task.reason) for task in self.finished if task.reason is not None)
        assert {name: count for name, count, _ in sums.reasons} == reasons
        assert sums.sources == (self.source_sums(),)
        assert {sink.name: sink for sink in sums.sinks} == {name: self.sink_sums(name) for name in self.sinks}
        assert imbalances(sums) == []

    @invariant()
    def records_and_dead_letters_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        records = self.run(self.store.records(0, 1000))
        assert [(record.account, record.task_id) for record in records] == [task.identity for task in self.finished]
        assert [record.body for record in records] == [task.body for task in self.finished]
        letters = self.run(self.store.dead_letters())
        dead = {(letter.sink, (letter.delivery.account, letter.delivery.task_id)) for letter in letters}
        assert dead == {(name, task.identity) for name, sink in self.sinks.items() for task in sink.dead}

    def source_sums(self) -> SourceSums:
        tasks, duplicates, rejected, blank = (self.lines[each] for each in ("tasks", "duplicates", "rejected", "blank"))
        return SourceSums(
            name="ids",
            lines=tasks + duplicates + rejected + blank,
            tasks=tasks,
            duplicates=duplicates,
            rejected=rejected,
            blank=blank,
            ended=False,
            failed=self.lines["failed"],
        )

    def sink_sums(self, name: str) -> SinkSums:
        sink = self.sinks[name]
        return SinkSums(
            name=name,
            delivered=len(sink.delivered) + sink.gone,
            undelivered=len(self.outbox(sink)),
            dead=len(sink.dead),
            attached=sink.attached,
            missed=sink.missed,
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.close()
        self.clean.close()


class SqliteMachine(StoreMachine):
    """A file; its crash is a copy of the file as it is, opened elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.clean.enter_context(tempfile.TemporaryDirectory())) / "0"
        self.folder.mkdir()

    def url(self) -> str:
        return f"sqlite:///{self.folder}/poller.db"

    def leave_remains(self) -> None:
        successor = self.folder.with_name(str(int(self.folder.name) + 1))
        successor.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(self.folder / f"poller.db{suffix}", successor)
        self.folder = successor


class PostgresMachine(StoreMachine):
    """A schema; also, connections are cut during writes."""

    server: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.state = self.clean.enter_context(fresh_schema(self.server))
        self.database = self.clean.enter_context(session_of(self.state))

    def url(self) -> str:
        return self.state

    @rule()
    def beat(self) -> None:
        self.now += 5
        self.store.beat()
        self.run(self.store.flush())

    @rule(data=st.data())
    def cut_the_connections_while_recording(self, data: st.DataObject) -> None:
        """The server ends the owner's connection around a write: it counts all the same, and once."""
        settled = [self.settle(task, data.draw(st.booleans()), 0) for task in self.leased.values()]
        turns = data.draw(st.integers(0, 12))
        self.run(self.record_and_cut(settled, turns))
        for each in settled:
            self.note_settled(each)

    async def record_and_cut(self, settled: list[Settled], turns: int) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.store.record(settled))
            await asyncio.sleep(0.019)  # just before the writes that gathered are committed
            for _ in range(turns):
                await asyncio.sleep(0.0005)
            self.database.execute(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_locks"
                " WHERE locktype = 'advisory' AND objid = current_schema()::regnamespace"
            )


SOAK_STEPS = int(os.environ.get("SOAK_STEPS", "0"))
SOAK_SEED = int(os.environ.get("SOAK_SEED") or random.SystemRandom().getrandbits(32))


def run(machine: type[StoreMachine], *, examples: int) -> None:
    """Try a few examples; or, in a soak, as many as it takes for the steps asked."""
    if not SOAK_STEPS:
        run_state_machine_as_test(
            machine, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
        )
        return
    rounds = settings(
        max_examples=20, stateful_step_count=50, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    machine.steps = 0
    for number in count(SOAK_SEED):
        seed(number)(get_state_machine_test(machine, settings=rounds))()
        print(f"{machine.__name__}: {machine.steps:,} steps agreed, seeds {SOAK_SEED} to {number}", flush=True)  # noqa: T201
        if machine.steps >= SOAK_STEPS:
            return


def test_sqlite_agrees_with_the_model() -> None:
    run(SqliteMachine, examples=30)


def test_postgres_agrees_with_the_model(postgres_server: str) -> None:
    PostgresMachine.server = postgres_server
    run(PostgresMachine, examples=6)
