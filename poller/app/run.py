"""A run as a command: builds it, runs it beside its display and reloads, and returns its exit code."""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any

import structlog
from msgspec.json import encode
from msgspec.structs import replace

from poller import __version__
from poller.app import inputs
from poller.app.compose import RunParts, open_run, open_site, run_service
from poller.app.environment import Environment
from poller.app.messages import conclude, notes_at_start, nothing_fed, state_flag, write
from poller.app.reload import Reload
from poller.config import Settings, unused_proxies
from poller.core.errors import Exit, PollerError, StoreError, TooManyFailures
from poller.core.protocols import Clock, Store
from poller.core.sums import Sums
from poller.core.text import redacted_url
from poller.engine import Service
from poller.engine.idle import idle_until
from poller.engine.metrics import Metrics
from poller.reports.work import Work, WorkNote, is_work_left, with_refused, work_note, work_of
from poller.sources import check_sources

log = structlog.get_logger("poller")


async def run(settings: Settings, input_specs: Sequence[str], environment: Environment) -> Exit:
    """Feed the inputs, poll until every task has its outcome and every sink has it; return the exit code.

    Raises `PollerError` where the run cannot begin; what ends it later is printed after the summary.
    """
    sources = inputs.sources(settings, input_specs)
    check_sources(sources)
    async with open_run(settings, sources, environment) as parts:
        store, metrics, service = parts.store, parts.metrics, parts.service
        given = await _GivenWork.begin(store, has_input=bool(sources) and not service.endless)
        service.ingest.on_refused = partial(given.add_refused, store)
        service.ingest.on_input_left = partial(given.note_input_left, store)
        log.info("run.started", version=__version__, state=redacted_url(settings.state), accounts=len(service.lanes))
        for note in notes_at_start(settings):
            write(f"poller: {note}", environment.terminal)
        if variables := unused_proxies(settings, environment.environ):
            log.warning("proxy.not_used", variables=variables)
        environment.on_start(service)
        async with open_site(settings, parts) as site:
            if site.url is not None and (environment.terminal is not None or hides_page(settings)):
                write(f"poller: live page at {site.url}", environment.terminal)
            reload = Reload(
                settings, input_specs, service, parts.builder, [site.apply, environment.apply_to_log], parts.fleet
            )
            error = await run_service(service, _watchers(settings, parts, reload))
            sums = await _closing_sums(store, settings.state)
        error = error or _what_ended(service, sums)
    if error is None and not (service.ingest.is_input_left or service.endless):
        refused = 0 if service.ingest.unchanged.lines else service.ingest.refused
        error = nothing_fed(sums, metrics, sources, settings, refused)
    again = environment.again.text(is_fed=not service.ingest.is_input_left)
    return conclude(sums, given.work(sums, service, metrics, store), metrics, error, state_flag(settings), again)


def _what_ended(service: Service, sums: Sums) -> PollerError | None:
    """Return why the run drained by itself; a limit on failures ends nothing where all is done."""
    is_done = service.fed and not sums.waiting
    return None if is_done and isinstance(service.stopped_by, TooManyFailures) else service.stopped_by


def hides_page(settings: Settings) -> bool:
    """Whether a log for people leaves out `web.started`."""
    return settings.log.format == "console" and settings.log.level in ("warning", "error")


class _GivenWork:
    """What this run was given; noted in the state, so that the run after a crash has the same answer."""

    NOTED_AS = "work"

    def __init__(self, note: WorkNote, *, is_work_left: bool, has_input: bool) -> None:
        self._note = note
        self._is_work_left = is_work_left
        self._has_input = has_input

    @classmethod
    async def begin(cls, store: Store, *, has_input: bool) -> "_GivenWork":
        """Note the work before its first line is stored. `has_input`: it is given input that ends."""
        sums, noted = await store.sums(), await store.knowledge(cls.NOTED_AS)
        note = work_note(noted, sums, has_input=has_input)
        store.save_knowledge(cls.NOTED_AS, encode(note))
        await store.flush()
        is_left = is_work_left(sums) or note.start == note.next_start
        return cls(note, is_work_left=is_left, has_input=has_input)

    async def add_refused(self, store: Store, what: str) -> None:
        """Note an input that was refused as a whole, before its file is moved to where no run finds it."""
        self._note = with_refused(self._note, what)
        store.save_knowledge(self.NOTED_AS, encode(self._note))
        await store.flush()

    def note_input_left(self, store: Store, is_left: bool) -> None:
        """Note whether the next run reads on, also after a crash: from then on the tasks show whether work is left."""
        if self._has_input and is_left != self._note.is_input_left:
            self._note = replace(self._note, is_input_left=is_left)
            store.save_knowledge(self.NOTED_AS, encode(self._note))

    def work(self, sums: Sums, service: Service, metrics: Metrics, store: Store) -> Work:
        """Return what became of it, once the store is closed: until then it may still write."""
        unchanged = service.ingest.unchanged
        has_more = self._is_work_left or metrics.lines or not unchanged.lines
        work = work_of(sums, self._note, unchanged, is_all_unchanged=not has_more)
        ingest, unwritable = service.ingest, store.unwritable_reason
        is_left = ingest.is_input_left and not service.endless
        return replace(work, is_input_left=is_left, unread_reason=ingest.unread_reason, unwritable=unwritable)


async def _closing_sums(store: Store, state: str) -> Sums:
    """Return the sums. Raises `StoreError` where the state is out of reach: the run must end in time."""
    reading = asyncio.ensure_future(store.sums())
    try:
        while not (await asyncio.wait([reading], timeout=0.5))[0]:
            if not store.writable:
                raise StoreError(
                    f"the state {redacted_url(state)} does not answer, so the sums of this run are unknown. What was "
                    "acknowledged is stored: run the same command again to continue"
                )
        return reading.result()
    finally:
        reading.cancel()


def _watchers(settings: Settings, parts: RunParts, reload: Reload) -> list[Coroutine[Any, Any, None]]:
    """Return what works beside the service: summary lines, reloads, the display."""
    service, metrics, environment = parts.service, parts.metrics, parts.builder.environment
    watchers = [_log_summaries(service, metrics, environment.clock, settings.summary_every_s), reload.run()]
    if parts.fleet is not None:
        watchers.append(parts.fleet.turns.run())
    if environment.terminal is not None:
        from poller.app.progress import progress_of

        progress = progress_of(service, metrics, environment, settings.longest_deadline_s)
        watchers.append(progress.show(environment.terminal))
    return watchers


async def _log_summaries(service: Service, metrics: Metrics, clock: Clock, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        now = clock()
        until = idle_until(service.lanes.values(), now)
        log.info(
            "run.summarized",
            finished=metrics.finished,
            waiting=metrics.waiting,
            rejected=metrics.rejected,
            polls=metrics.polls,
            kinds=dict(metrics.kinds),
            outcomes=dict(metrics.outcomes),
            failed_polls=dict(metrics.failed_polls),
            delivered=dict(metrics.delivered),
            paused=dict(service.pauses()),
            due_in_s=None if until is None else round(until - now, 3),
        )
