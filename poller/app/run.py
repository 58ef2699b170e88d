"""The composition root: builds a run from its settings, runs it, and returns its exit code."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog
from rich.console import Console

from poller import __version__
from poller.app import inputs
from poller.app.build import Builder
from poller.app.environment import Environment
from poller.app.event_loop import tune_garbage_collector
from poller.app.progress import Progress
from poller.app.reload import Reload
from poller.config import AccountSettings, Settings, address_of
from poller.core import log as logs
from poller.core.errors import ConfigError, Exit, PollerError
from poller.core.model import Sums
from poller.core.protocols import Store
from poller.core.steady_clock import SteadyClock
from poller.core.text import redacted_url
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.hubspot import tracing as traces
from poller.hubspot.client import Connections
from poller.reports.ledger import exit_code, failed_polls, imbalances, summary
from poller.sources import Source, check_sources
from poller.store import open_store
from poller.web import Overview, RunContext, make_site

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

log = structlog.get_logger()

HISTORY, HISTORY_PAGE = 500, 50  # records; each may have a body of a megabyte


async def run_process(
    settings: Settings,
    input_specs: Sequence[str],
    environ: Mapping[str, str],
    read_settings: Callable[[], Settings] | None = None,
) -> Exit:
    """Run as this process: logs, progress and summary on stderr; SIGTERM and SIGINT drain, SIGHUP reloads.

    Raises `PollerError`.
    """
    console = Console(stderr=True)
    display = console if settings.progress and console.is_terminal else None

    def apply_to_log(now: Settings) -> None:
        quiet = display is not None and "level" not in now.log.model_fields_set
        logs.configure(format=now.log.format, level="warning" if quiet else now.log.level, clock=time.time)

    apply_to_log(settings)
    async with _tracing(settings, environ) as tracer:
        environment = Environment(
            environ=environ,
            monotonic=time.monotonic,
            connections=connect,
            console=display,
            tracer=tracer,
            read_settings=read_settings,
            apply_to_log=apply_to_log,
        )
        return await _run_with_signals(settings, input_specs, environment)


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


def connect(settings: Settings) -> Connections:
    """Return the run's connections to HubSpot, not opened yet."""
    return Connections(proxy=settings.proxy, ca_file=settings.ca_file)


async def _run_with_signals(settings: Settings, input_specs: Sequence[str], environment: Environment) -> Exit:
    """Run; the first SIGTERM or SIGINT drains, the second stops at once. SIGHUP reloads, but drains where the terminal
    was closed."""
    loop, this_task = asyncio.get_running_loop(), asyncio.current_task()
    services: list[Service] = []

    def on_stop_signal() -> None:
        if services and not services[0].draining:
            services[0].drain()
        elif this_task is not None:
            this_task.cancel()

    def on_start(service: Service) -> None:
        services.append(service)
        tune_garbage_collector()

    had_terminal = sys.stderr.isatty()

    def on_sighup() -> None:
        if had_terminal and not sys.stderr.isatty():
            on_stop_signal()
        elif services:
            services[0].reload_asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_stop_signal)
    loop.add_signal_handler(signal.SIGHUP, on_sighup)
    try:
        return await run(settings, input_specs, replace(environment, on_start=on_start))
    except asyncio.CancelledError:
        _print("poller: stopped at once; nothing is lost. Run the same command again to continue")
        return Exit.WORK_LEFT


async def run(settings: Settings, input_specs: Sequence[str], environment: Environment) -> Exit:
    """Feed the inputs, poll until every task has its outcome and every sink has it; return the exit code.

    Raises `PollerError` where the run cannot begin; what ends it later is printed after the summary.
    """
    sources = inputs.sources(settings, input_specs)
    check_sources(sources)
    monotonic = environment.monotonic or asyncio.get_running_loop().time
    environment = replace(environment, clock=SteadyClock(environment.clock, monotonic))
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await open_store(settings.state, clock=environment.clock)
        stack.push_async_callback(store.close)
        connections = await stack.enter_async_context(environment.connections(settings))
        builder = Builder(environment=environment, store=store, metrics=metrics, connections=connections)
        service = await _build_service(settings, sources, builder, stack)
        log.info("run.started", version=__version__, state=redacted_url(settings.state), accounts=len(service.lanes))
        environment.on_start(service)
        apply_to_site = await _open_site(settings, builder, service, stack)
        reload = Reload(settings, input_specs, service, builder, [apply_to_site, environment.apply_to_log])
        error = await _run_service(service, settings, metrics, environment, reload)
        sums = await store.sums()
        if error is None and (sums.waiting or not service.fed):
            error = service.stopped_by
    is_all_fed = service.fed and not service.endless
    return _conclude(sums, metrics, error, unfed=_nothing_fed(sums, metrics, sources) if is_all_fed else None)


async def _build_service(
    settings: Settings, sources: Sequence[Source], builder: Builder, stack: AsyncExitStack
) -> Service:
    """Build the service with its open sinks and its lanes. Sinks are closed when the stack unwinds."""
    environment, store, metrics = builder.environment, builder.store, builder.metrics
    sums = await store.sums()
    metrics.begin(sums)
    await _refuse_orphans(sums, settings.account_settings(), store)
    service = Service(
        store=store,
        metrics=metrics,
        clock=environment.clock,
        sources=sources,
        stdin=environment.stdin,
        endless=inputs.is_endless(settings, sources),
        shutdown_s=settings.shutdown_s,
        retention_s=settings.retention_s,
        stop_on_failures=settings.stop_on_failures,
    )
    stack.push_async_callback(service.close_sinks)
    service.delivery_loops = builder.delivery_loops(settings)
    positions = await store.attach_sinks([loop.sink.name for loop in service.delivery_loops])
    for loop in service.delivery_loops:
        await loop.open(positions[loop.sink.name])
    for name in settings.account_settings():
        service.lanes[name] = await builder.lane(name, settings, service)
    await _load_history(service, store, sums, environment.clock())
    return service


async def _load_history(service: Service, store: Store, sums: Sums, now: float) -> None:
    """Load the sums of earlier runs and the latest of their records, for the live page."""
    service.history.begin(now, sums)
    after = max(0, sums.finished - HISTORY)
    for _ in range(HISTORY // HISTORY_PAGE):
        page = await store.records(after, HISTORY_PAGE)
        for delivery in page:
            after = delivery.number
            service.history.add_earlier(delivery.body)
        if len(page) < HISTORY_PAGE:
            return


async def _refuse_orphans(sums: Sums, accounts: Mapping[str, AccountSettings], store: Store) -> None:
    """Raise `ConfigError` where an account that is not configured has waiting tasks: the run would never end."""
    for name in sums.accounts.keys() - accounts.keys():
        if await store.next_due_at(name) is not None:
            raise ConfigError(
                f"the state has waiting tasks of account {name!r}, which is not configured (configured: "
                f"{', '.join(accounts)}). Add [accounts.{name}], use --account {name}, or use another --state"
            )


async def _open_site(
    settings: Settings, builder: Builder, service: Service, stack: AsyncExitStack
) -> Callable[[Settings], None]:
    """Open the server; return what applies other settings to it. It closes first when the stack unwinds, after the last
    delivery. Raises `ConfigError` where an address that the person set is taken; where the default is, the run has no
    server."""
    environment = builder.environment
    site = RunContext(
        service=service,
        store=builder.store,
        metrics=builder.metrics,
        feeding=inputs.feeding(settings),
        clock=environment.clock,
        version=__version__,
        pid=os.getpid(),
        began_at=environment.clock(),
    )
    overview = Overview(service=service, metrics=builder.metrics, store=builder.store, clock=environment.clock)

    def apply(now: Settings) -> None:
        site.feeding = inputs.feeding(now)
        overview.deadline_s = max(account.deadline_s for account in now.account_settings().values())

    apply(settings)
    if (address := address_of(settings.listen)) is None:
        return apply
    tokens = await builder.site_token(settings)
    try:
        taken = await stack.enter_async_context(environment.open_site(make_site(site, overview, tokens), address))
    except ConfigError as error:
        if "listen" in settings.model_fields_set:
            raise
        log.warning("web.not_started", address=str(address), reason=str(error))
        return apply
    log.info("web.started", url=f"http://{taken.near()}/", address=str(taken), port=taken.port, token=bool(tokens))
    if environment.console is not None:
        _print(f"poller: live page at http://{taken.near()}/")
    return apply


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
                watchers.append(group.create_task(_progress(service, metrics, environment).show(environment.console)))
            try:
                await service.run()
            finally:
                for watcher in watchers:
                    watcher.cancel()
    except* PollerError as errors:
        ended_by = _first(errors)
    return ended_by or next((loop.stopped_by for loop in service.delivery_loops if loop.stopped_by), None)


def _first(errors: BaseExceptionGroup[PollerError]) -> PollerError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _progress(service: Service, metrics: Metrics, environment: Environment) -> Progress:
    return Progress(metrics, clock=environment.clock, pauses=service.pauses, ended=lambda: service.fed)


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


def _nothing_fed(sums: Sums, metrics: Metrics, sources: Sequence[Source]) -> str | None:
    """Return a message where the input had nothing to do; None where it had."""
    if metrics.tasks or metrics.duplicates:
        return None
    if metrics.rejected:
        return "no usable id in the input. `poller status --rejected` lists each line with its reason"
    if sums.waiting or sums.finished:
        return None
    return "the input has no id" if sources else "no input was given, and the state has no tasks: poller run FILE"


def _conclude(sums: Sums, metrics: Metrics, error: PollerError | None, *, unfed: str | None) -> Exit:
    """Print the closing summary; return the exit code."""
    _print("\n".join(filter(None, (summary(sums), failed_polls(metrics.failed_polls)))))
    code, message = exit_code(sums), None
    if broken := imbalances(sums):
        log.error("ledger.broken", differences=[str(imbalance) for imbalance in broken])
        code = Exit.INTERNAL
    elif error is not None:
        code, message = error.exit_code, str(error)
    elif unfed is not None:
        code, message = Exit.NO_INPUT, unfed
    if message is not None:
        _print(f"poller: {message}")
    log.info("run.ended", exit_code=int(code), finished=sums.finished, waiting=sums.waiting, polls=metrics.polls)
    return code


def _print(text: str) -> None:
    """Write to stderr for a person; ignore that it was closed."""
    stream = logs.QuietStream(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()
