"""An account's polls on their way to the disk: recorded in groups, logged and counted only after the commit."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

import structlog
from msgspec import Struct
from structlog.typing import FilteringBoundLogger as BoundLogger

from poller.core.log import gathered, is_debug
from poller.core.model import Outcome, Record, Running, Settled
from poller.core.poll_log import outcome_detail, outcome_name
from poller.core.protocols import Store
from poller.core.starts import Row, StartOutcome
from poller.engine.metrics import Metrics

log = structlog.get_logger("poller")


class Polled(Struct, frozen=True, kw_only=True, gc=False):
    """A poll made and decided, not recorded yet."""

    outcome: Outcome
    settled: Settled
    at: float  # when it was decided


class Recorder:
    """Records an account's polls: each commit takes all that were made during the commit before."""

    def __init__(
        self, account: str, *, store: Store, metrics: Metrics, on_recorded: Callable[[Sequence[Record]], None]
    ) -> None:
        """`on_recorded` is called after each commit that finished tasks, with their records."""
        self.count = partial(metrics.add_poll, account)  # an answered request, also one whose outcome is not recorded
        self.ended = False
        self._account = account
        self._store = store
        self._metrics = metrics
        self._on_recorded = on_recorded
        self._unrecorded: list[Polled] = []
        self._has_unrecorded = asyncio.Event()
        self._has_room = asyncio.Event()
        self._unknown_statuses: set[str | None] = set()

    def count_start(self, outcome: StartOutcome, *, request_s: float, gate_s: float) -> None:
        """Count an answered start."""
        self._metrics.add_start(self._account, outcome, request_s=request_s, gate_s=gate_s)

    def finish_row(self, row: Row, record: Record) -> None:
        """Log and count a stored outcome of a row without a task."""
        self._metrics.finish(record.kind, landed=record.landed)
        self._log_finished(log, record, polls=0, waited_s=record.seen_at - row.fed_at)
        self._on_recorded([record])

    def add(self, polled: Polled) -> None:
        """Take a poll for the next commit."""
        if not self._unrecorded:
            self._has_unrecorded.set()
        self._unrecorded.append(polled)

    @property
    def unrecorded(self) -> int:
        """How many polls wait for their commit."""
        return len(self._unrecorded)

    async def wait_for_room(self, limit: int) -> None:
        """Wait until fewer than `limit` polls are unrecorded: a crash would repeat them all."""
        while len(self._unrecorded) >= limit:
            self._has_room.clear()
            await self._has_room.wait()

    def end(self) -> None:
        """Return from `run` once everything is recorded."""
        self.ended = True
        self._has_unrecorded.set()

    def wake(self) -> None:
        """Commit soon: `prepare` has polls to add."""
        self._has_unrecorded.set()

    async def run(self, *, prepare: Callable[[], None], on_commit: Callable[[Sequence[Polled]], None]) -> None:
        """Record until `end`. `prepare` is called before each commit, and may add to it, `on_commit` after it with the
        recorded polls."""
        while self._unrecorded or not self.ended:
            await self._has_unrecorded.wait()
            self._has_unrecorded.clear()
            prepare()
            polled, self._unrecorded = self._unrecorded, []
            self._has_room.set()
            recorded = await self._store.record([each.settled for each in polled])
            if len(recorded) < len(polled):  # the others' leases were lost
                stored = {id(each) for each in recorded}
                polled = [each for each in polled if id(each.settled) in stored]
            with gathered():
                self._note(polled)
            on_commit(polled)

    def _note(self, polled: Sequence[Polled]) -> None:
        """Log and count polls that are on disk."""
        bound, finished = log.bind(), list[Record]()  # bound once: that is a third of the cost of a line
        logs_polls = is_debug()
        for each in polled:
            if logs_polls:
                self._log_poll(each)
            if isinstance(each.outcome, Running) and not each.outcome.known:
                self._warn_of_status(each)
            if (record := each.settled.record) is not None:
                task = each.settled.task
                self._log_finished(bound, record, polls=task.polls + 1, waited_s=each.at - task.fed_at)
                self._metrics.finish(record.kind, landed=record.landed)
                finished.append(record)
        if finished:
            self._on_recorded(finished)

    def _log_poll(self, polled: Polled) -> None:
        outcome, task, again = polled.outcome, polled.settled.task, polled.settled.again
        log.debug(
            "poll.answered",
            account=self._account,
            task_id=task.task_id,
            outcome=outcome_name(outcome),
            detail=outcome_detail(outcome),
            polls=task.polls + 1,
            again_in_s=None if again is None else round(again.at - polled.at, 3),
        )

    def _warn_of_status(self, polled: Polled) -> None:
        """Log an unknown status of HubSpot's, once a word."""
        outcome, task = polled.outcome, polled.settled.task
        if isinstance(outcome, Running) and outcome.status not in self._unknown_statuses:
            self._unknown_statuses.add(outcome.status)
            log.warning("status.unknown", account=self._account, status=outcome.status, task_id=task.task_id)

    def _log_finished(self, log: BoundLogger, record: Record, *, polls: int, waited_s: float) -> None:
        log.info(
            "task.finished",
            account=self._account,
            task_id=record.task_id,
            kind=str(record.kind),
            landed=record.landed,
            polls=polls,
            waited_s=round(waited_s, 3),
            reason=record.reason,
            correlation_id=record.correlation_id,
        )
