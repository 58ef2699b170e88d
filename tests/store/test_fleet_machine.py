"""Two members on one state agree with a model of a few dictionaries, whatever is taken, given, buried, fed and recorded
between: what is not owned is not claimed, what was owned before is not recorded, and no task ends twice.

SOAK_STEPS=2000 makes it take so many steps.
"""

import os
from collections import Counter
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from poller.core.fleet import Fenced
from poller.core.model import Chunk, Fed, FedRow, Kind, Position, Task
from poller.core.starts import Begin, Row
from poller.reports.ledger import imbalances
from poller.store import open_store
from poller.store.postgres.fleet.store import FleetStore
from tests.support.postgres import fresh_schema
from tests.support.store_makers import finished, running
from tests.support.virtual import VirtualLoop

T = TypeVar("T")

ACCOUNTS = ("one", "two")
NAMES = ("a", "b")
MEMBERS, OF_ACCOUNTS = st.sampled_from(NAMES), st.sampled_from(ACCOUNTS)
IDS = st.lists(st.sampled_from([f"id{n}" for n in range(8)]), max_size=4, unique=True)


@dataclass(kw_only=True)
class ModelMember:
    """A member as far as the model knows it."""

    store: FleetStore
    source: int
    is_member: bool = True
    tasks: list[Task] = field(default_factory=list)  # claimed, and owned since
    rows: list[Row] = field(default_factory=list)
    stale: list[Task] = field(default_factory=list)  # claimed under an ownership that has ended


class FleetMachine(RuleBasedStateMachine):
    """Each rule does one thing with one member and with the model; the invariants compare all that both know."""

    server: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.clean = ExitStack()
        self.url = self.clean.enter_context(fresh_schema(self.server))
        self.now = 1000.0
        self.members: dict[str, ModelMember] = {}
        self.owners: dict[str, str | None] = dict.fromkeys(ACCOUNTS)
        self.unclean: set[str] = set()
        self.waiting: dict[tuple[str, str], float] = {}  # due_at by account and id
        self.rows: dict[tuple[str, str], float] = {}
        self.ended: set[tuple[str, str]] = set()  # tasks that have their outcome
        self.begun: set[tuple[str, str]] = set()  # rows that have their task
        self.kinds: Counter[str] = Counter()
        self.lines = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        for name in NAMES:
            store = self.run(open_store(self.url, clock=lambda: self.now, linger_s=0.0, replica=name))
            assert isinstance(store, FleetStore)
            assert self.run(store.fleet.join(serves=ACCOUNTS, settings={})) is not None
            self.members[name] = ModelMember(store=store, source=self.run(store.new_source(f"{name}:ids")))

    def write(self, member: ModelMember, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what a write returns; None where the member is fenced, as the model has it."""
        try:
            done = self.run(work)
        except Fenced:
            assert not member.is_member
            return None
        assert member.is_member
        return done

    # --- who is there, who owns what

    @rule(name=MEMBERS, limit=st.integers(1, 2))
    def take(self, name: str, limit: int) -> None:
        member = self.members[name]
        found = self.write(member, self._take(member, limit))
        if found is None:
            return
        free = {account for account, owner in self.owners.items() if owner is None}
        assert len(found) == min(limit, len(free))
        for taken in found:
            assert taken.account in free
            assert taken.is_clean == (taken.account not in self.unclean)
            self.owners[taken.account] = name
            self.unclean.discard(taken.account)

    async def _take(self, member: ModelMember, limit: int) -> list[Any]:
        return await member.store.fleet.take(ACCOUNTS, limit)

    @rule(name=MEMBERS, account=OF_ACCOUNTS, is_clean=st.booleans())
    def give(self, name: str, account: str, is_clean: bool) -> None:
        member = self.members[name]
        owned = member.store._holdings.accounts.get(account)
        if owned is None:
            return
        self.release(member, account)
        given = self.run(member.store.fleet.give(account, owned.epoch, slot_ages_s=(), is_clean=is_clean))
        assert given == (self.owners[account] == name)
        if given:
            self.end_owning(account, is_clean=is_clean)

    def release(self, member: ModelMember, account: str) -> None:
        """A lane that ends releases what it holds."""
        member.store.release([task for task in member.tasks if task.account == account])
        member.store.starts.release([row for row in member.rows if row.account == account])

    def end_owning(self, account: str, *, is_clean: bool) -> None:
        owner = self.owners[account]
        self.owners[account] = None
        if not is_clean:
            self.unclean.add(account)
        if owner is not None:
            member = self.members[owner]
            member.stale += [task for task in member.tasks if task.account == account]
            member.tasks = [task for task in member.tasks if task.account != account]
            member.rows = [row for row in member.rows if row.account != account]

    @rule(name=MEMBERS)
    def bury(self, name: str) -> None:
        (by,) = [self.members[other] for other in NAMES if other != name]
        member = self.members[name]
        dead = member.store.fleet.id
        if dead is None or not member.is_member:
            return
        (seen,) = [each for each in self.run(by.store.fleet.view()).members if each.id == dead]
        assert self.run(by.store.fleet.bury({dead: seen.beats})) == [dead]
        member.is_member = False
        for account in [account for account, owner in self.owners.items() if owner == name]:
            self.end_owning(account, is_clean=False)

    @rule(name=MEMBERS)
    def join(self, name: str) -> None:
        member = self.members[name]
        if not member.is_member:
            assert self.run(member.store.fleet.join(serves=ACCOUNTS, settings={})) is not None
            member.is_member = True

    # --- feeding, polling, starting

    @rule(name=MEMBERS, account=OF_ACCOUNTS, ids=IDS, rows=IDS)
    def add(self, name: str, account: str, ids: list[str], rows: list[str]) -> None:
        member = self.members[name]
        fed = tuple(Fed(account=account, task_id=each, ref=b"{}") for each in ids)
        rows_fed = tuple(FedRow(account=account, row=each, body=b"{}", ref=b"{}") for each in rows)
        self.lines += len(ids) + len(rows)
        position = Position(offset=self.lines, line=self.lines)
        chunk = Chunk(fed=fed, rows=rows_fed, rejected=(), blank=0, position=position)
        if self.write(member, member.store.add(member.source, chunk)) is None:
            return
        for each in ids:
            if (account, each) not in self.waiting and (account, each) not in self.ended:
                self.waiting[account, each] = self.now
        for each in rows:
            if (account, each) not in self.begun:
                self.rows.setdefault((account, each), self.now)

    @rule(name=MEMBERS, account=OF_ACCOUNTS, limit=st.integers(1, 3))
    def claim(self, name: str, account: str, limit: int) -> None:
        member = self.members[name]
        tasks = self.run(member.store.claim(account, limit))
        if not member.is_member:
            return  # it may not know yet: what it claims is never recorded
        assert not tasks or self.owners[account] == name
        held = {(task.account, task.task_id) for task in member.tasks}
        for task in tasks:
            assert self.waiting[task.account, task.task_id] <= self.now
            assert (task.account, task.task_id) not in held
        member.tasks += tasks
        rows = self.run(member.store.starts.claim(account, limit))
        assert not rows or self.owners[account] == name
        assert all((row.account, row.row) in self.rows for row in rows)
        member.rows += rows

    @rule(name=MEMBERS, data=st.data(), finishes=st.booleans())
    def record(self, name: str, data: st.DataObject, finishes: bool) -> None:
        """Of a task that is owned it is stored; of one that was owned before, nothing."""
        member = self.members[name]
        claimed = member.tasks + member.stale
        if not claimed:
            return
        task = data.draw(st.sampled_from(claimed))
        is_owned = task in member.tasks
        settled = finished(task) if finishes else running(task, self.now + 5)
        try:
            stored = self.run(member.store.record([settled]))
        except Fenced:
            assert not member.is_member
            stored = []
        assert bool(stored) == is_owned
        (member.tasks if is_owned else member.stale).remove(task)
        if not is_owned:
            return
        identity = task.account, task.task_id
        if finishes:
            del self.waiting[identity]
            self.ended.add(identity)
            self.kinds[Kind.COMPLETE] += 1
        else:
            self.waiting[identity] = self.now + 5

    @rule(name=MEMBERS, data=st.data(), answers=st.booleans())
    def start(self, name: str, data: st.DataObject, answers: bool) -> None:
        """Only the owner stores a start, before it leaves; one without an answer is handed out again after its time."""
        member = self.members[name]
        if not member.rows:
            return
        row = data.draw(st.sampled_from(member.rows))
        member.rows.remove(row)
        identity = row.account, row.row
        sent = self.write(member, member.store.starts.intend(row, sent_at=self.now, due_at=self.now + 60))
        if sent is None:
            return
        self.rows[identity] = self.now + 60
        if not answers:
            member.store.starts.release([row])
            return
        task_id = f"of-{row.row}"
        assert self.write(member, member.store.starts.settle(sent, Begin(task_id=task_id)))
        del self.rows[identity]
        self.begun.add(identity)
        self.waiting[row.account, task_id] = self.now

    @rule(passes_s=st.sampled_from([3, 30]))
    def let_time_pass(self, passes_s: int) -> None:
        self.now += passes_s

    # --- what all agree on

    @invariant()
    def any_member_shows_the_same_sums(self) -> None:
        for member in self.members.values():
            sums = self.run(member.store.sums())
            assert imbalances(sums) == []
            assert (sums.waiting, sums.finished) == (len(self.waiting) + len(self.rows), len(self.ended))
            assert sums.kinds == self.kinds
            counts = self.run(member.store.fleet.counts())
            shown = {kind: each.tasks for kind, each in counts.items() if each.tasks}
            waiting = {"": sums.waiting} if sums.waiting else {}
            assert shown == waiting | self.kinds
            view = self.run(member.store.fleet.view())
            ids = {each.store.fleet.id: name for name, each in self.members.items() if each.is_member}
            assert {name: owner and ids[owner] for name, owner in view.owners.items()} == self.owners

    def teardown(self) -> None:
        for member in self.members.values():
            self.run(member.store.close())
        self.loop.close()
        self.clean.close()


STEPS = int(os.environ.get("SOAK_STEPS", "0"))


def test_two_members_agree_with_the_model(postgres_server: str) -> None:
    FleetMachine.server = postgres_server
    examples = STEPS // 30 if STEPS else 4
    how = settings(max_examples=examples, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(FleetMachine, settings=how)
