"""The composition root: the only place that turns settings into objects, and a run into an exit code."""

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
from poller.app import build
from poller.app.build import Builder, stored_token
from poller.app.environment import Environment
from poller.app.event_loop import tune_garbage_collector
from poller.app.progress import Progress
from poller.app.reload import Reload
from poller.config import AccountSettings, Settings, address_of
from poller.core import log as logs
from poller.core.errors import ConfigError, Exit, PollerError
from poller.core.model import Sums
from poller.core.protocols import Store, TokenSource
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

RECALLED, RECALLED_AT_ONCE = 500, 50  # records; each may have a body of a megabyte


async def run_here(
    settings: Settings,
    inputs: Sequence[str],
    environ: Mapping[str, str],
    reread: Callable[[], Settings] | None = None,
) -> Exit:
    """Run in this process: logs, progress and summary on stderr, signals drain, SIGHUP applies what `reread` returns.

    Raises `PollerError`.
    """
    console = Console(stderr=True)
    shown = console if settings.progress and console.is_terminal else None

    def set_log(now: Settings) -> None:
        quiet = shown is not None and "level" not in now.log.model_fields_set
        logs.configure(format=now.log.format, level="warning" if quiet else now.log.level, clock=time.time)

    set_log(settings)
    async with _tracing(settings, environ) as tracer:
        environment = Environment(
            environ=environ,
            monotonic=time.monotonic,
            connections=connect,
            console=shown,
            tracer=tracer,
            reread=reread,
            set_log=set_log,
        )
        return await _run_with_signals(settings, inputs, environment)


@asynccontextmanager
async def _tracing(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator["Tracer | None"]:
    if not traces.is_enabled(settings.traces, environ):
        yield None
        return
    provider = traces.open_provider(environ)
    try:
        yield provider.get_tracer("poller", __version__)
    finally:
        await asyncio.to_thread(provider.shutdown)  # sends what is left; a collector that is gone may take seconds


def connect(settings: Settings) -> Connections:
    """Return the run's connections to HubSpot, not opened yet."""
    return Connections(proxy=settings.proxy, ca_file=settings.ca_file)


async def _run_with_signals(settings: Settings, inputs: Sequence[str], environment: Environment) -> Exit:
    """The first SIGTERM or SIGINT drains, the second stops at once. SIGHUP applies settings that were changed; from a
    terminal that is gone it drains."""
    loop, this_task = asyncio.get_running_loop(), asyncio.current_task()
    services: list[Service] = []

    def on_signal() -> None:
        if services and not services[0].draining:
            services[0].drain()
        elif this_task is not None:
            this_task.cancel()

    def on_service(service: Service) -> None:
        services.append(service)
        tune_garbage_collector()

    had_terminal = sys.stderr.isatty()

    def on_hangup() -> None:
        if had_terminal and not sys.stderr.isatty():
            on_signal()
        elif services:
            services[0].reload_asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    try:
        return await run(settings, inputs, replace(environment, on_service=on_service))
    except asyncio.CancelledError:
        _say("poller: stopped at once; nothing is lost, run the same command again to go on")
        return Exit.WORK_LEFT


async def run(settings: Settings, inputs: Sequence[str], environment: Environment) -> Exit:
    """Feed `inputs`, poll until every task has its outcome and every sink has it; return the exit code.

    Raises `PollerError` where the run cannot begin; what ends it later is told after the summary.
    """
    sources = build.sources(settings, inputs)
    check_sources(sources)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await open_store(settings.state, clock=environment.clock)
        stack.push_async_callback(store.close)
        service, builder = await _assemble(settings, sources, environment, metrics, store, stack)
        log.info("run.started", version=__version__, state=redacted_url(settings.state), accounts=len(service.lanes))
        environment.on_service(service)
        await _open_site(settings, environment, service, metrics, store, stack)
        reload = Reload(settings, inputs, service, builder)
        error = await _run_service(service, settings, metrics, environment, reload)
        sums = await store.sums()
        if error is None and (sums.waiting or not service.fed):
            error = service.stopped_by
    is_all_fed = service.fed and not service.endless
    return _conclude(sums, metrics, error, unfed=_nothing_fed(sums, metrics, sources) if is_all_fed else None)


async def _assemble(
    settings: Settings,
    sources: Sequence[Source],
    environment: Environment,
    metrics: Metrics,
    store: Store,
    stack: AsyncExitStack,
) -> tuple[Service, Builder]:
    accounts = settings.account_settings()
    sums = await store.sums()
    metrics.begin(sums)
    await _refuse_orphans(sums, accounts, store)
    service = Service(
        store=store,
        metrics=metrics,
        clock=environment.clock,
        sources=sources,
        stdin=environment.stdin,
        endless=build.is_endless(settings, sources),
        shutdown_s=settings.shutdown_s,
        retention_s=settings.retention_s,
        stop_on_failures=settings.stop_on_failures,
    )
    stack.push_async_callback(service.close_sinks)
    connections = await stack.enter_async_context(environment.connections(settings))
    builder = Builder(environment=environment, store=store, metrics=metrics, connections=connections)
    service.delivery_loops = [builder.delivery_loop(spec, settings) for spec in build.sink_specs(settings)]
    build.refuse_same_names(service.delivery_loops)
    positions = await store.attach_sinks([loop.sink.name for loop in service.delivery_loops])
    for loop in service.delivery_loops:
        await loop.open(positions[loop.sink.name])
    for name in accounts:
        service.lanes[name] = await builder.lane(name, settings, service)
    await _recall(service, store, sums, environment.clock())
    return service, builder


async def _recall(service: Service, store: Store, sums: Sums, now: float) -> None:
    """Let the live page begin with what earlier runs left: their sums, and the latest of their records."""
    service.history.begin(now, sums)
    after = max(0, sums.finished - RECALLED)
    for _ in range(RECALLED // RECALLED_AT_ONCE):
        portion = await store.records(after, RECALLED_AT_ONCE)
        for delivery in portion:
            after = delivery.number
            service.history.add_earlier(delivery.body)
        if len(portion) < RECALLED_AT_ONCE:
            return


async def _refuse_orphans(sums: Sums, accounts: Mapping[str, AccountSettings], store: Store) -> None:
    """Waiting tasks of an account that is not configured would wait for ever, and with them the run."""
    for name in sums.accounts.keys() - accounts.keys():
        if await store.next_due_at(name) is not None:
            raise ConfigError(
                f"the state holds waiting tasks of account {name!r}, which is not configured (configured: "
                f"{', '.join(accounts)}): add [accounts.{name}], use --account {name}, or use another --state"
            )


async def _open_site(
    settings: Settings,
    environment: Environment,
    service: Service,
    metrics: Metrics,
    store: Store,
    stack: AsyncExitStack,
) -> None:
    """Open the admin server; it closes first when the stack unwinds, after the last delivery. An address that the
    person set must be had; where the default is taken, by another run most likely, this one goes on without."""
    address = address_of(settings.listen)
    if address is None:
        return
    run = RunContext(
        service=service,
        store=store,
        metrics=metrics,
        feeding=build.feeding(settings),
        clock=environment.clock,
        version=__version__,
        pid=os.getpid(),
        began_at=environment.clock(),
    )
    deadline_s = max(account.deadline_s for account in settings.account_settings().values())
    overview = Overview(service=service, metrics=metrics, store=store, clock=environment.clock, deadline_s=deadline_s)
    tokens = await _site_token(settings, environment)
    try:
        taken = await stack.enter_async_context(environment.open_site(make_site(run, overview, tokens), address))
    except ConfigError as error:
        if "listen" in settings.model_fields_set:
            raise
        log.warning("web.not_started", address=str(address), reason=str(error))
        return
    log.info("web.started", url=f"http://{taken.near()}/", address=str(taken), port=taken.port, token=bool(tokens))
    if environment.console is not None:
        _say(f"poller: live page at http://{taken.near()}/")


async def _site_token(settings: Settings, environment: Environment) -> TokenSource | None:
    """Return where the token of the admin server comes from, None where none is set. Raises `ConfigError`."""
    file, variable = settings.listen_token_file, settings.listen_token_env
    if file is None and variable is None:
        return None
    return await stored_token(file, variable or "", environment.environ)


async def _run_service(
    service: Service, settings: Settings, metrics: Metrics, environment: Environment, reload: Reload
) -> PollerError | None:
    """Run the service beside its summary lines and its display. Return what ended it before its work was done."""
    ended_by: PollerError | None = None
    try:
        async with asyncio.TaskGroup() as showing:
            watchers = [
                showing.create_task(_log_summaries(service, metrics, settings.summary_every_s)),
                showing.create_task(reload.whenever_asked()),
            ]
            if environment.console is not None:
                watchers.append(showing.create_task(_progress(service, metrics, environment).show(environment.console)))
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
    """Return what to say where the input brought nothing to do; None where it did."""
    if metrics.tasks or metrics.duplicates:
        return None
    if metrics.rejected:
        return "no usable id in the input; `poller status --rejected` lists each line with its reason"
    if sums.waiting or sums.finished:
        return None
    return "the input holds no id" if sources else "no input was given, and the state holds no tasks: poller run FILE"


def _conclude(sums: Sums, metrics: Metrics, error: PollerError | None, *, unfed: str | None) -> Exit:
    """Print the closing summary; return the exit code."""
    _say("\n".join(filter(None, (summary(sums), failed_polls(metrics.failed_polls)))))
    code, message = exit_code(sums), None
    if broken := imbalances(sums):
        log.error("ledger.broken", differences=[str(imbalance) for imbalance in broken])
        code = Exit.INTERNAL
    elif error is not None:
        code, message = error.exit_code, str(error)
    elif unfed is not None:
        code, message = Exit.NO_INPUT, unfed
    if message is not None:
        _say(f"poller: {message}")
    log.info("run.ended", exit_code=int(code), finished=sums.finished, waiting=sums.waiting, polls=metrics.polls)
    return code


def _say(text: str) -> None:
    """Write to stderr for a person; whoever closed it does not want to know."""
    stream = logs.QuietStream(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()
