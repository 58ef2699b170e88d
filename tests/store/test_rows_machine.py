"""After any operations on rows to import in any order, with crashes between, a store agrees with a model of attempts.

Ids are fed beside rows, and what ended is pruned: SQLite gives keys of pruned tasks to others. SOAK_STEPS=5000 makes it
take so many steps.
"""

from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, TypeVar

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from poller.core.model import Added, Chunk, Fed, FedRow, Finished, Kind, Position, Settled
from poller.core.protocols import Store
from poller.core.record import render, render_row
from poller.core.starts import Begin, EndRow, Row, StartAgain, Unsure
from poller.core.sums import StartSums
from poller.reports.ledger import imbalances
from poller.store import open_store
from tests.store.test_machine import SOAK_STEPS
from tests.support.postgres import fresh_schema
from tests.support.store_makers import kill
from tests.support.virtual import VirtualLoop

T = TypeVar("T")

ROWS, ACCOUNT, DUE_IN_S = ("a", "b"), "main", 600.0
LANDED = Finished(status="COMPLETE", num_errors=0, result=b'{"id":"1"}')
FAILED = Finished(status="COMPLETE", num_errors=1, errors=b'[{"message":"gone"}]', has_errors=True)
ANSWERS = ("begin", "begin", "known id", "again", "not left", "end", "unsent", "none")
OUTCOMES = {Kind.COMPLETE: LANDED, Kind.COMPLETE_WITH_ERRORS: FAILED}


@dataclass(kw_only=True, eq=False)
class Attempt:
    """One attempt at a row, or an id that was fed (`name` is empty)."""

    name: str = ""  # ROW, or ROW~n
    task_id: str | None = None
    kind: Kind | None = None
    starts: int = 0
    lost: int = 0
    due_at: float = 0.0
    ended_at: float = 0.0
    is_pruned: bool = False

    @property
    def has_failed(self) -> bool:
        return self.kind not in (None, Kind.COMPLETE) and not self.is_pruned


@dataclass
class Counts:
    """What stays in the sums whatever is pruned."""

    accepted: int = 0
    refused: int = 0
    repeated: int = 0
    starts_gone: int = 0
    lost_gone: int = 0
    tried_again_gone: int = 0


class RowsMachine(RuleBasedStateMachine):
    """Each rule does one thing to the store and to the model."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.clean = ExitStack()
        self.now = 1000.0
        self.numbers = count(1)
        self.rows: dict[str, list[Attempt]] = {}
        self.ids: list[Attempt] = []
        self.counts = Counts()
        self.hand: dict[str, Row] = {}  # rows that are leased
        self.fed = 0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def url(self) -> str:
        raise NotImplementedError

    @initialize()
    def begin(self) -> None:
        self.store: Store = self.run(self.opened())
        self.source = self.run(self.store.new_source("rows"))

    async def opened(self) -> Store:
        return await open_store(self.url(), clock=lambda: self.now, linger_s=0.0)

    @property
    def attempts(self) -> list[Attempt]:
        return [each for attempts in self.rows.values() for each in attempts]

    def attempt(self, name: str) -> Attempt:
        return next(each for each in self.attempts if each.name == name)

    # --- feeding

    @rule(names=st.lists(st.sampled_from(ROWS), max_size=4, unique=True), ids=st.integers(0, 2))
    def add(self, names: list[str], ids: int) -> None:
        new = [Attempt(task_id=f"id{next(self.numbers)}") for _ in range(ids)]
        fed = tuple(Fed(account=ACCOUNT, task_id=each.task_id or "") for each in new)
        rows = tuple(FedRow(account=ACCOUNT, row=name, body=b"{}", ref=orjson.dumps({"url": name})) for name in names)
        chunk = Chunk(fed=fed, rows=rows, rejected=(), blank=0, position=Position())
        added = self.run(self.store.add(self.source, chunk))
        tasks, duplicates, again = ids, 0, 0
        for name in names:
            known = self.rows.setdefault(name, [])
            if not known or known[-1].has_failed:
                again += bool(known)
                tasks += 1
                number = f"~{len(known) + 1}" if known else ""
                known.append(Attempt(name=f"{name}{number}", due_at=self.now))
            else:
                duplicates += 1
        assert added == Added(tasks=tasks, duplicates=duplicates, again=again)
        self.ids += new
        self.fed += tasks

    # --- starting

    @rule(limit=st.integers(1, 3), unsure=st.booleans())
    def claim(self, limit: int, unsure: bool) -> None:
        waiting = [each for each in self.attempts if each.task_id is None and each.kind is None]
        due = {
            each.name
            for each in waiting
            if each.due_at <= self.now and each.name not in self.hand and (each.lost or not unsure)
        }
        found = self.run(self.store.starts.claim(ACCOUNT, limit, unsure=unsure))
        assert len(found) == min(limit, len(due))
        for row in found:
            assert row.row in due
            known = self.attempt(row.row)
            assert (row.starts, row.lost) == (known.starts, known.lost)
            self.hand[row.row] = row

    @precondition(lambda self: bool(self.attempts))
    @rule(data=st.data(), answer=st.sampled_from(ANSWERS), waits=st.booleans())
    def start(self, data: st.DataObject, answer: str, waits: bool) -> None:
        self.now += 700 * waits  # until unsure rows are due
        if not self.hand:
            self.claim(3, unsure=False)
        if not self.hand:
            return
        name = data.draw(st.sampled_from(sorted(self.hand)))
        row, known, starts = self.hand.pop(name), self.attempt(name), self.store.starts
        if answer == "unsent":
            if not known.lost:
                starts.release([row])
                return
            record = render_row(row, None, Kind.START_UNKNOWN, seen_at=self.now)
            self.run(starts.end_unsent(row, record))
            known.kind, known.ended_at = Kind.START_UNKNOWN, self.now
            return
        sent = self.run(starts.intend(row, sent_at=self.now, due_at=self.now + DUE_IN_S))
        self.counts.repeated += known.lost > 0
        known.starts, known.lost, known.due_at = known.starts + 1, known.lost + 1, self.now + DUE_IN_S
        self.answer(sent, known, answer)

    def answer(self, sent: Row, known: Attempt, answer: str) -> None:
        starts = self.store.starts
        if answer == "none":
            starts.release([sent])
        elif answer == "begin":
            task_id = f"T{next(self.numbers)}"
            assert self.run(starts.settle(sent, Begin(task_id=task_id)))
            known.task_id, known.lost = task_id, known.lost - 1
            self.counts.accepted += 1
        elif answer == "known id":
            there = [each for each in (*self.ids, *self.attempts) if each.task_id and not each.is_pruned]
            if there:
                assert not self.run(starts.settle(sent, Begin(task_id=there[0].task_id or "")))
            else:
                starts.release([sent])
        elif answer in ("again", "not left"):
            left = answer == "again"
            self.run(starts.settle(sent, StartAgain(at=self.now + 5, refusals=1, left=left)))
            known.lost, known.due_at = known.lost - 1, self.now + 5
            self.counts.refused += left
            if not left:
                known.starts -= 1
                self.counts.repeated -= known.lost > 0
        else:
            record = render_row(sent, Unsure(reason="reset"), Kind.NOT_STARTED, seen_at=self.now)
            self.run(starts.settle(sent, EndRow(kind=Kind.NOT_STARTED), record))
            known.kind, known.ended_at, known.lost = Kind.NOT_STARTED, self.now, known.lost - 1
            self.counts.refused += 1

    # --- tasks

    @rule(limit=st.integers(1, 3), kind=st.sampled_from(sorted(OUTCOMES)))
    def finish(self, limit: int, kind: Kind) -> None:
        waiting = {
            each.task_id: each for each in (*self.ids, *self.attempts) if each.task_id is not None and each.kind is None
        }
        tasks = self.run(self.store.claim(ACCOUNT, limit))
        assert len(tasks) == min(limit, len(waiting))
        settled = [Settled(task=task, record=render(task, OUTCOMES[kind], kind, seen_at=self.now)) for task in tasks]
        self.run(self.store.record(settled))
        for task in tasks:
            known = waiting[task.task_id]
            assert (task.start is not None) == bool(known.name), "the record has the facts of its own start"
            known.kind, known.ended_at = kind, self.now

    @rule(age_s=st.sampled_from([-1, 0, 60]), limit=st.integers(1, 4))
    def prune(self, age_s: float, limit: int) -> None:
        old = [
            each
            for each in (*self.ids, *self.attempts)
            if each.kind is not None and not each.is_pruned and each.ended_at < self.now - age_s
        ]
        before = {delivery.task_id for delivery in self.run(self.store.records(0, 1000))}
        pruned = self.run(self.store.prune(self.now - age_s, limit))
        assert pruned == min(limit, len(old))
        left = {delivery.task_id for delivery in self.run(self.store.records(0, 1000))}
        for each in old:
            each.is_pruned = (each.task_id or f"start:{each.name}") in before - left
        assert sum(each.is_pruned for each in old) == pruned
        self.ids = [each for each in self.ids if not each.is_pruned]
        for name, attempts in list(self.rows.items()):
            if attempts and all(each.is_pruned for each in attempts):
                self.counts.starts_gone += sum(each.starts for each in attempts)
                self.counts.lost_gone += sum(each.lost for each in attempts)
                self.counts.tried_again_gone += len(attempts) - 1
                del self.rows[name]

    # --- restarts

    @rule(is_crash=st.booleans())
    def reopen(self, is_crash: bool) -> None:
        self.run(kill(self.store) if is_crash else self.store.close())
        self.store = self.run(self.opened())
        self.hand.clear()

    # --- what must agree

    @invariant()
    def sums_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        sums, counts = self.run(self.store.sums()), self.counts
        assert imbalances(sums) == []
        waiting = [each for each in self.attempts if each.task_id is None and each.kind is None]
        unfinished = [each for each in (*self.ids, *self.attempts) if each.kind is None]
        assert (sums.waiting, sums.waiting + sums.finished) == (len(unfinished), self.fed)
        expected = StartSums(
            unstarted=sum(each.lost == 0 for each in waiting),
            unsure=sum(each.lost > 0 for each in waiting),
            underway=len([each for each in self.attempts if each.task_id is not None and each.kind is None]),
            starts=sum(each.starts for each in self.attempts) + counts.starts_gone,
            accepted=counts.accepted,
            refused=counts.refused,
            lost=sum(each.lost for each in self.attempts) + counts.lost_gone,
            repeated=counts.repeated,
            tried_again=sum(len(each) - 1 for each in self.rows.values() if each) + counts.tried_again_gone,
        )
        assert sums.starts in (expected, None)
        assert sums.starts is not None or not (waiting or expected.starts)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.loop.close()
        self.clean.close()


class SqliteRows(RowsMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(self.clean.enter_context(TemporaryDirectory()))

    def url(self) -> str:
        return f"sqlite:///{self.folder}/poller.db"


class PostgresRows(RowsMachine):
    server: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.state = self.clean.enter_context(fresh_schema(self.server))

    def url(self) -> str:
        return self.state


def run(machine: type[RowsMachine], *, examples: int) -> None:
    examples = max(examples, SOAK_STEPS // 50)
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_rows_in_sqlite_agree_with_the_model() -> None:
    run(SqliteRows, examples=3)


def test_rows_in_postgres_agree_with_the_model(postgres_server: str) -> None:
    PostgresRows.server = postgres_server
    run(PostgresRows, examples=1)
