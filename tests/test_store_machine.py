"""Whatever is done to a store in whatever order, with crashes between, it agrees with a model of a few dictionaries."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poller.model import (
    AccountState,
    Added,
    Chunk,
    Fed,
    Kind,
    LookAgain,
    Position,
    Record,
    Rejection,
    Settled,
    SinkSums,
    SourceSums,
    Task,
    Written,
)
from poller.store import SqliteStore, open_store
from tests.virtual import VirtualLoop

T = TypeVar("T")
Identity = tuple[str, str]

ACCOUNTS = ("one", "two")
SINKS = ("file", "hook")
IDS = [f"id{n}" for n in range(12)]


@dataclass(kw_only=True)
class ModelTask:
    key: int
    due_at: float
    looks: int = 0
    errors: int = 0
    kind: Kind | None = None


@dataclass(kw_only=True)
class ModelSink:
    attached: bool = False
    position: bytes | None = None
    struck: set[Identity] = field(default_factory=set)
    dead: int = 0


class StoreMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and to the model; the invariant compares all they can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.folder = tempfile.TemporaryDirectory()
        self.place = Path(self.folder.name) / "0"
        self.place.mkdir()
        self.now = 1000.0
        self.requests = 0
        self.tasks: dict[Identity, ModelTask] = {}
        self.finished: list[Identity] = []
        self.sinks: dict[str, ModelSink] = {}
        self.accounts: dict[str, AccountState] = {}
        self.lines: Counter[str] = Counter()
        self.leased: dict[Identity, Task] = {}
        self.stale: list[Task] = []  # no longer leased: must be passed over

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    async def open(self) -> SqliteStore:
        return await open_store(f"sqlite:///{self.place}/poller.db", clock=lambda: self.now)

    @initialize()
    def begin(self) -> None:
        self.store = self.run(self.open())
        self.source = self.run(self.store.new_source("ids"))

    # --- feeding and looking

    @rule(
        account=st.sampled_from(ACCOUNTS),
        ids=st.lists(st.sampled_from(IDS), max_size=8),
        rejected=st.integers(0, 2),
        blank=st.integers(0, 2),
    )
    def add(self, account: str, ids: list[str], rejected: int, blank: int) -> None:
        new = [task_id for task_id in dict.fromkeys(ids) if (account, task_id) not in self.tasks]
        fed = tuple(Fed(account=account, task_id=task_id) for task_id in ids)
        bad = tuple(Rejection(line=n, reason="bad", excerpt="?") for n in range(rejected))
        chunk = Chunk(fed=fed, rejected=bad, blank=blank, position=Position())
        added = self.run(self.store.add(self.source, chunk))
        assert added == Added(tasks=len(new), duplicates=len(ids) - len(new))
        for task_id in new:
            self.tasks[account, task_id] = ModelTask(key=len(self.tasks), due_at=self.now)
        if ids:
            self.accounts.setdefault(account, AccountState())
        self.lines.update(tasks=added.tasks, duplicates=added.duplicates, rejected=rejected, blank=blank)

    def due(self, account: str) -> list[Identity]:
        free = [
            (task.due_at, task.key, identity)
            for identity, task in self.tasks.items()
            if identity[0] == account and task.kind is None and identity not in self.leased
        ]
        return [identity for _, _, identity in sorted(free)]

    @rule(account=st.sampled_from(ACCOUNTS), limit=st.integers(1, 6))
    def claim(self, account: str, limit: int) -> None:
        due = [identity for identity in self.due(account) if self.tasks[identity].due_at <= self.now]
        claimed = self.run(self.store.claim(account, limit))
        assert [(task.account, task.task_id) for task in claimed] == due[:limit]
        for task in claimed:
            known = self.tasks[account, task.task_id]
            assert (task.looks, task.errors, task.due_at) == (known.looks, known.errors, known.due_at)
            self.leased[account, task.task_id] = task

    @rule(account=st.sampled_from(ACCOUNTS))
    def ask_when_next(self, account: str) -> None:
        due_at = min((self.tasks[identity].due_at for identity in self.due(account)), default=None)
        assert self.run(self.store.next_due_at(account)) == due_at

    @precondition(lambda self: self.leased or self.stale)
    @rule(data=st.data(), again_in_s=st.sampled_from([0, 50, 200]))
    def record(self, data: st.DataObject, again_in_s: int) -> None:
        """Leased tasks are recorded, and stale ones passed over, also a task that stands twice in one batch."""
        choice = st.lists(st.sampled_from([*self.leased.values(), *self.stale]), min_size=1, max_size=6)
        settled = [self.settle(task, data.draw(st.booleans()), again_in_s) for task in data.draw(choice)]
        self.run(self.store.record(settled))
        for each in settled:
            self.note_settled(each)

    def settle(self, task: Task, finish: bool, again_in_s: int) -> Settled:
        if not finish:
            return Settled(task=task, again=LookAgain(at=self.now + again_in_s, errors=task.errors + 1))
        kind = Kind.COMPLETE if task.looks else Kind.CANCELED
        return Settled(task=task, record=Record(body=task.task_id.encode(), kind=kind, reason=None, seen_at=self.now))

    def note_settled(self, settled: Settled) -> None:
        identity = settled.task.account, settled.task.task_id
        if self.leased.get(identity) is not settled.task:
            return
        self.stale.append(self.leased.pop(identity))
        known = self.tasks[identity]
        known.looks += 1
        if settled.record is not None:
            known.kind = settled.record.kind
            self.finished.append(identity)
        elif settled.again is not None:
            known.due_at, known.errors = settled.again.at, settled.again.errors

    @precondition(lambda self: self.leased or self.stale)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        tasks = data.draw(st.lists(st.sampled_from([*self.leased.values(), *self.stale]), max_size=4))
        self.store.release(tasks)
        for task in tasks:
            if self.leased.get((task.account, task.task_id)) is task:
                self.stale.append(self.leased.pop((task.account, task.task_id)))

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
            self.sinks.setdefault(name, ModelSink())
        for name, sink in self.sinks.items():
            sink.attached = name in names
        assert positions == {name: self.sinks[name].position for name in names}

    def outbox(self, sink: str) -> list[Identity]:
        return [identity for identity in self.finished if identity not in self.sinks[sink].struck]

    @precondition(lambda self: any(sink.attached for sink in self.sinks.values()))
    @rule(data=st.data(), limit=st.integers(1, 5), refuse=st.booleans(), position=st.binary(min_size=1, max_size=2))
    def deliver(self, data: st.DataObject, limit: int, refuse: bool, position: bytes) -> None:
        name = data.draw(st.sampled_from([name for name, sink in self.sinks.items() if sink.attached]))
        batch = self.run(self.store.undelivered(name, limit))
        identities = [(delivery.account, delivery.task_id) for delivery in batch]
        assert identities == self.outbox(name)[:limit]
        assert [delivery.body for delivery in batch] == [task_id.encode() for _, task_id in identities]
        refused = {batch[-1].number: "no"} if refuse and batch else {}
        for _ in range(2):  # the second time changes nothing
            self.run(self.store.delivered(name, batch, Written(position=position, refused=refused)))
        self.sinks[name].struck.update(identities)
        self.sinks[name].dead += len(refused)
        self.sinks[name].position = position

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
        """Die with a write that is not committed: what was acknowledged is there, what was not is as if never tried."""
        self.run(self.crash())
        self.store = self.run(self.open())
        self.forget_leases()

    async def crash(self) -> None:
        settled = [self.settle(task, True, 0) for task in self.leased.values()]
        dying = asyncio.gather(self.store.record(settled), self.store.new_source("never acknowledged"))
        await asyncio.sleep(0)
        successor = self.place.with_name(str(int(self.place.name) + 1))
        successor.mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(self.place / f"poller.db{suffix}", successor)
        await self.store.close()
        with suppress(asyncio.CancelledError):
            await dying
        self.place = successor

    @invariant()
    def sums_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        sums = self.run(self.store.sums())
        kinds = Counter(str(task.kind) for task in self.tasks.values() if task.kind is not None)
        assert sums.kinds == kinds
        assert sums.finished == len(self.finished)
        assert sums.waiting == len(self.tasks) - len(self.finished)
        assert sums.looks == sum(task.looks for task in self.tasks.values())
        assert sums.accounts == self.accounts
        assert sums.sources == (self.source_sums(),)
        assert {sink.name: sink for sink in sums.sinks} == {name: self.sink_sums(name) for name in self.sinks}

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
        )

    def sink_sums(self, name: str) -> SinkSums:
        sink = self.sinks[name]
        return SinkSums(
            name=name,
            delivered=len(sink.struck) - sink.dead,
            undelivered=len(self.outbox(name)),
            dead=sink.dead,
            attached=sink.attached,
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.close()
        self.folder.cleanup()


TestStoreAgreesWithItsModel = StoreMachine.TestCase
TestStoreAgreesWithItsModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
