"""A delivery loop: one sink and its outbox. Delivers in order, at its own pace; no other sink waits for it."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import assert_never

import structlog

from poller.core.deliveries import Delivery, Retry, Written, check_answer, checked_position
from poller.core.errors import ConfigError, GaveUp, OutputClosed, PollerError, SinkError, raise_error
from poller.core.log import error_message
from poller.core.protocols import Clock, DeliveryStore, Sink
from poller.core.text import without_controls
from poller.engine.metrics import Metrics

log = structlog.get_logger("poller")

CLOSE_WITHIN_S = 10.0  # a sink that hangs would keep the run from ending
NONE_TAKEN_S = 1.0  # until the next try, where a sink took no record and gave no reason


class DeliveryLoop:
    """One sink and its outbox: delivers in order, at its own pace; no other sink waits for it."""

    BATCH = 500  # records a write
    LINGER_S = 0.1  # collects a batch, so that a sink syncs ten times a second at most

    def __init__(
        self,
        sink: Sink,
        *,
        store: DeliveryStore,
        metrics: Metrics,
        clock: Clock,
        give_up_s: float | None,
        idle_s: float | None = None,
    ) -> None:
        """`idle_s`: how often an empty outbox is read again, for what other processes finish; None: only when woken."""
        self.sink = sink
        self.backlog_reason: str | None = None  # why writes fail now
        self.stopped_by: PollerError | None = None  # why it stopped until a person acts
        self.refusal: str | None = None  # why the sink refused the latest dead letter of this run
        self.on_stopped: Callable[[], None] = lambda: None
        self.on_given_up: Callable[[PollerError], None] = raise_error  # called for what ends the run, after its loop
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._give_up_s = give_up_s
        self._idle_s = idle_s
        self._failing_since: float | None = None
        self._is_opened = self._is_closed = False
        self._opened_at: bytes | None = None  # the position to note before anything is written
        self._woken = asyncio.Event()
        self._ending = False
        self._stopping = asyncio.Event()
        self._reconsider = asyncio.Event()  # ends a wait for the next try, which may not be worth it any more
        self._drained_at = math.inf  # loop time at which a drain ends

    @property
    def undelivered(self) -> int:
        """How many finished tasks the sink does not have yet."""
        return self._metrics.undelivered(self.sink.name)

    async def open(self, position: bytes | None) -> None:
        """Open the sink; the state stays as it is. Raises `SinkError` where a person must act, `ConfigError` where what
        its settings name cannot be used."""
        following = await self._store.undelivered(self.sink.name, self.BATCH)
        with self._defects_as_sink_errors("open"):
            self._opened_at = checked_position(await self.sink.open(position, following))
        self._is_opened = True

    async def run(self) -> None:
        """Deliver until `end` was called and the outbox is empty, `stop` was called, or the sink needs a person."""
        if self._is_opened:
            await self._store.note_position(self.sink.name, self._opened_at)
        try:
            await self._deliver_all()
        except (SinkError, ConfigError) as error:
            self.fail(error)
            self.on_stopped()
        except (GaveUp, OutputClosed) as error:
            self.stopped_by, self.backlog_reason = error, str(error)
            self.on_given_up(error)

    def fail(self, error: PollerError) -> None:
        """Note that nothing can be delivered until a person acts. Called in place of `run` where `open` raised it."""
        self.stopped_by, self.backlog_reason = error, _shown(str(error))
        log.error("sink.stopped", sink=self.sink.name, reason=self.backlog_reason)

    async def close(self) -> None:
        """Close the sink, once, within `CLOSE_WITHIN_S`. A defect of it is logged: the others are closed all the
        same."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            with self._defects_as_sink_errors("close"):
                async with asyncio.timeout(CLOSE_WITHIN_S):
                    await self.sink.close()
        except PollerError as error:
            log.error("sink.stopped", sink=self.sink.name, reason=str(error))  # noqa: TRY400 - a message

    @contextmanager
    def _defects_as_sink_errors(self, call: str) -> Iterator[None]:
        """A sink may be other people's code: what it raises against its contract stops this sink alone."""
        try:
            yield
        except (SinkError, ConfigError, OutputClosed):
            raise
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            log.exception("sink.crashed", sink=self.sink.name, call=call)
            raise SinkError(
                f"sink {self.sink.name}: its code failed in {call}: {error_message(error)}. Fix the sink and "
                "run again: no record is lost"
            ) from None

    async def _deliver_all(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            if batch := await self._store.undelivered(self.sink.name, self.BATCH):
                await self._deliver(batch)
            elif self._ending:
                return
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._idle_s):
                        await self._woken.wait()
                await asyncio.sleep(0 if self._ending else self.LINGER_S)

    async def _deliver(self, batch: Sequence[Delivery]) -> None:
        with self._defects_as_sink_errors("write"):
            result = await self.sink.write(list(batch))  # its own: what it leaves in there is no answer
            check_answer(result, batch)
        match result:
            case Retry(reason=reason, wait_s=wait_s, position=position):
                if position is not None:
                    await self._store.note_position(self.sink.name, position)
                self._note_failure(reason)
                await self._wait(max(wait_s, self.LINGER_S))
            case Written(count=0) if not self._stopping.is_set():
                self._note_failure("it took none of the records")
                await self._wait(NONE_TAKEN_S)
            case Written() as written:
                self._note_success()
                batch = batch[: written.count]
                await self._store.delivered(self.sink.name, batch, written)
                self._metrics.delivered[self.sink.name] += len(batch) - len(written.refused)
                self._metrics.dead[self.sink.name] += len(written.refused)
                if written.refused:
                    reason, *_ = reasons = [_shown(each) for each in written.refused.values()]
                    self.refusal = reasons[-1]
                    log.warning("sink.refused", sink=self.sink.name, records=len(written.refused), reason=reason)
            case _:
                assert_never(result)

    def _note_failure(self, reason: str) -> None:
        now, reason = self._clock(), _shown(reason)
        if self._failing_since is None:
            self._failing_since = now
        if reason != self.backlog_reason:
            log.warning("sink.failed", sink=self.sink.name, reason=reason)
        self.backlog_reason = reason

    async def _wait(self, wait_s: float) -> None:
        """Wait for the next try. Raises `GaveUp` as soon as the sink has failed for `give_up_s`; stops the loop where
        a drain ends before the next try."""
        now = asyncio.get_running_loop().time
        retry_at = now() + wait_s
        while not self._stopping.is_set() and now() < retry_at:
            patience_s = self._patience_s()
            if retry_at > self._drained_at:
                self.stop()
                return
            self._reconsider.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(retry_at - now(), patience_s)):
                    await self._reconsider.wait()
        self._patience_s()

    def _patience_s(self) -> float:
        """Return how much longer the sink may fail. Raises `GaveUp` where it may not."""
        if self._give_up_s is None or self._failing_since is None:
            return math.inf
        failing_s = self._clock() - self._failing_since
        if failing_s < self._give_up_s:
            return self._give_up_s - failing_s
        raise GaveUp(
            f"sink {self.sink.name}: {self.backlog_reason}, for {failing_s:.0f} s; nothing is lost. Run the same "
            "command again when the sink is back"
        )

    def _note_success(self) -> None:
        if self._failing_since is not None:
            log.info("sink.recovered", sink=self.sink.name, failed_s=round(self._clock() - self._failing_since, 3))
        self._failing_since = self.backlog_reason = None

    def wake(self) -> None:
        """Check the outbox: there may be records to deliver."""
        self._woken.set()

    def apply(self, *, give_up_s: float | None) -> None:
        """Use another limit from now on."""
        self._give_up_s = give_up_s
        self._reconsider.set()

    def drain(self, until: float) -> None:
        """The run ends at this loop time: do not wait for a try that comes later."""
        self._drained_at = until
        self._reconsider.set()

    def stop(self) -> None:
        """Return from `run` after the current write."""
        self._stopping.set()
        self._reconsider.set()
        self.wake()

    def end(self) -> None:
        """Return from `run` as soon as everything is delivered."""
        self._ending = True
        self.wake()


def _shown(reason: str) -> str:
    """Return a sink's words in one line of text that pages and probes can show: a path need not be UTF-8."""
    return without_controls(" ".join(reason.split()))


def _is_cancelled() -> bool:
    """Return whether somebody cancels this task; otherwise a library of the sink cancelled something of its own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
