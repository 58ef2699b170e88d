"""A run as a command: its process, signals, display and closing summary, to its exit code."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog
from msgspec.json import encode
from msgspec.structs import replace
from rich.console import Console

from poller import __version__
from poller.app import inputs
from poller.app.compose import open_run, open_site
from poller.app.environment import Environment
from poller.app.event_loop import tune_garbage_collector
from poller.app.progress import Progress
from poller.app.reload import Reload
from poller.config import Settings
from poller.core import log as logs
from poller.core.defect import defect
from poller.core.errors import Exit, InputError, PollerError, StoreError
from poller.core.model import Sums
from poller.core.protocols import Store
from poller.core.text import redacted_url, without_controls
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.hubspot import tracing as traces
from poller.hubspot.client import Connections
from poller.reports.ledger import failed_polls, imbalances, summary
from poller.reports.work import Work, WorkNote, begun, exit_code, work_note, work_of, work_text
from poller.sources import Source, check_sources

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = structlog.get_logger()

HISTORY, HISTORY_PAGE = 500, 50  # records; each may have a body of a megabyte


async def run_process(
    read_settings: Callable[[], Settings], input_specs: Sequence[str], environ: Mapping[str, str]
) -> Exit:
    """Run as this process: logs, progress and summary on stderr; the first SIGTERM or SIGINT drains, the second stops
    at once. SIGHUP reloads, but drains where the terminal was closed. Raises `PollerError`."""
    signals = _Signals()
    signals.handle()  # before the settings are read: a SIGHUP after that must reload them
    try:
        return await _run_with_logs(read_settings, input_specs, environ, signals)
    except asyncio.CancelledError:
        _print("poller: stopped at once; nothing is lost. Run the same command again to continue")
        return Exit.WORK_LEFT


async def _run_with_logs(
    read_settings: Callable[[], Settings],
    input_specs: Sequence[str],
    environ: Mapping[str, str],
    signals: "_Signals",
) -> Exit:
    settings = read_settings()
    console = Console(stderr=True)
    display = console if settings.progress and console.is_terminal else None
    signals.has_display = display is not None

    def apply_to_log(now: Settings) -> None:
        quiet = display is not None and "level" not in now.log.model_fields_set
        logs.configure(format=now.log.format, level="warning" if quiet else now.log.level, clock=time.time)

    apply_to_log(settings)
    async with _tracing(settings, environ) as tracer:
        environment = Environment(
            environ=environ,
            monotonic=time.monotonic,
            connections=lambda now: Connections(proxy=now.proxy, ca_file=now.ca_file),  # not opened yet
            console=display,
            tracer=tracer,
            on_start=signals.on_start,
            read_settings=read_settings,
            apply_to_log=apply_to_log,
        )
        return await run(settings, input_specs, environment)


@asynccontextmanager
async def _tracing(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator["Tracer | None"]:
    if not traces.is_enabled(settings.traces, environ):
        yield None
        return
    provider = traces.open_provider(environ)
    try:
        yield provider.get_tracer("poller", __version__)
    finally:
        await asyncio.to_thread(provider.shutdown)  # sends the last spans; may take seconds where the collector is down


class _Signals:
    """Stops or reloads the run of this process on signals, also on those that came before it began."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._service: Service | None = None
        self._had_terminal = sys.stderr.isatty()
        self._is_reload_asked = False  # before the service began
        self.has_display = False  # which shows that the run is stopping

    def handle(self) -> None:
        """Handle the signals from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def on_start(self, service: Service) -> None:
        self._service = service
        if self._is_reload_asked:
            service.reload_asked.set()
        tune_garbage_collector()

    def _stop(self) -> None:
        if self._service is not None and not self._service.draining:
            self._service.drain()
            if not self.has_display:
                _print("poller: stopping: polls in flight are finished and delivered. A second signal stops at once")
        elif self._task is not None:
            self._task.cancel()

    def _hang_up(self) -> None:
        if self._had_terminal and not sys.stderr.isatty():
            self._stop()
        elif self._service is not None:
            self._service.reload_asked.set()
        else:
            self._is_reload_asked = True


async def run(settings: Settings, input_specs: Sequence[str], environment: Environment) -> Exit:
    """Feed the inputs, poll until every task has its outcome and every sink has it; return the exit code.

    Raises `PollerError` where the run cannot begin; what ends it later is printed after the summary.
    """
    sources = inputs.sources(settings, input_specs)
    check_sources(sources)
    async with open_run(settings, sources, environment) as parts:
        store, metrics, service = parts.store, parts.metrics, parts.service
        given = await _GivenWork.begin(store, metrics)
        service.on_chunk = given.save
        log.info("run.started", version=__version__, state=redacted_url(settings.state), accounts=len(service.lanes))
        environment.on_start(service)
        async with open_site(settings, parts) as site:
            if site.url is not None and environment.console is not None:
                _print(f"poller: live page at {site.url}")
            reload = Reload(settings, input_specs, service, parts.builder, [site.apply, environment.apply_to_log])
            error = await _run_service(service, settings, metrics, parts.builder.environment, reload)
            sums = await _closing_sums(store, settings.state)
        if error is None and (sums.waiting or not service.fed):
            error = service.stopped_by
    state_flag = f" --state {redacted_url(settings.state)}" if "state" in settings.model_fields_set else ""
    if error is None and service.fed and not service.endless:
        error = _nothing_fed(sums, metrics, sources, state_flag)
    return _conclude(sums, given.work(sums), metrics, error, state_flag)


class _GivenWork:
    """What this run was given; noted in the state, so that the run after a crash has the same answer."""

    NOTED_AS = "work"

    def __init__(self, store: Store, metrics: Metrics, note: WorkNote) -> None:
        self._store, self._metrics, self._note = store, metrics, note
        self._saved = 0  # failed duplicates

    @classmethod
    async def begin(cls, store: Store, metrics: Metrics) -> "_GivenWork":
        """Note the work before its first line is stored."""
        note = work_note(await store.knowledge(cls.NOTED_AS), await store.sums())
        store.save_knowledge(cls.NOTED_AS, encode(note))
        await store.flush()
        return cls(store, metrics, note)

    def save(self) -> None:
        """Note the failed duplicates of a chunk; all other sums are in the state."""
        if self._metrics.failed_duplicates > self._saved:
            self._saved = self._metrics.failed_duplicates
            note = begun(self._note)
            note = replace(note, failed_duplicates=note.failed_duplicates + self._saved)
            self._store.save_knowledge(self.NOTED_AS, encode(note))

    def work(self, sums: Sums) -> Work:
        """Return what became of it."""
        return work_of(sums, self._note, self._metrics.failed_duplicates)


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


async def _run_service(
    service: Service, settings: Settings, metrics: Metrics, environment: Environment, reload: Reload
) -> PollerError | None:
    """Run the service with its summary lines and its display. Return what ended it before its work was done."""
    ended_by: PollerError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watchers = [
                group.create_task(_log_summaries(service, metrics, settings.summary_every_s)),
                group.create_task(reload.run()),
            ]
            if environment.console is not None:
                progress = Progress(
                    metrics=metrics,
                    clock=environment.clock,
                    pauses=service.pauses,
                    ended=lambda: service.fed,
                    draining=lambda: service.draining,
                )
                watchers.append(group.create_task(progress.show(environment.console)))
            try:
                await service.run()
            finally:
                for watcher in watchers:
                    watcher.cancel()
    except* PollerError as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        ended_by = error if isinstance(error, PollerError) else None
    except* Exception as errors:
        log.exception("run.failed")
        ended_by = defect(errors)
    return ended_by or next((loop.stopped_by for loop in service.delivery_loops if loop.stopped_by), None)


async def _log_summaries(service: Service, metrics: Metrics, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
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
        )


def _nothing_fed(sums: Sums, metrics: Metrics, sources: Sequence[Source], state_flag: str) -> InputError | None:
    """Return the error where the input had nothing to do; None where it had."""
    if metrics.tasks or metrics.duplicates:
        return None
    if metrics.rejected:
        listed = f"`poller status --rejected{state_flag}` lists each line with its reason"
        return InputError(f"no usable id in the input. {listed}")
    if sums.waiting or sums.finished:
        return None
    return InputError(
        "the input has no id" if sources else "no input was given, and the state has no tasks: poller run FILE"
    )


def _conclude(sums: Sums, work: Work, metrics: Metrics, error: PollerError | None, state_flag: str) -> Exit:
    """Print the closing summary; return the exit code."""
    _print("\n".join(filter(None, (summary(sums), failed_polls(metrics.failed_polls), work_text(work, state_flag)))))
    code, message = exit_code(sums, work), None
    if broken := imbalances(sums):
        log.error("ledger.broken", differences=[str(imbalance) for imbalance in broken])
        code = Exit.INTERNAL
    elif error is not None:
        code, message = error.exit_code, str(error)
    elif code is Exit.WORK_LEFT:
        undelivered = sum(sink.undelivered for sink in sums.sinks if sink.attached)
        left = f"{sums.waiting:,} tasks wait and {undelivered:,} records are not delivered"
        message = f"stopped with work left: {left}. Run the same command again to continue"
    if message is not None:
        _print(f"poller: {message}")
    log.info("run.ended", exit_code=int(code), finished=sums.finished, waiting=sums.waiting, polls=metrics.polls)
    return code


def _print(text: str) -> None:
    """Write to stderr for a person; ignore that it was closed."""
    stream = logs.QuietStream(sys.stderr)
    stream.write("".join(f"{without_controls(line)}\n" for line in text.splitlines()))
    stream.flush()
