"""The composition root: builds a run from its settings, runs it, and returns its exit code."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

import structlog
from msgspec.json import encode
from msgspec.structs import replace

from poller import __version__
from poller.app import inputs
from poller.app.build import Builder
from poller.app.environment import Environment
from poller.app.messages import conclude, nothing_fed, write
from poller.app.progress import Progress
from poller.app.reload import Reload
from poller.config import AccountSettings, Settings, address_of
from poller.core.defect import defect
from poller.core.errors import ConfigError, Exit, PollerError, StoreError
from poller.core.model import Sums
from poller.core.protocols import Store
from poller.core.steady_clock import SteadyClock
from poller.core.text import redacted_url
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.reports.work import Work, WorkNote, begun, work_note, work_of
from poller.sources import Source, check_sources
from poller.store import open_store
from poller.web import RunContext, make_site

log = structlog.get_logger()

HISTORY, HISTORY_PAGE = 500, 50  # records; each may have a body of a megabyte


async def run(settings: Settings, input_specs: Sequence[str], environment: Environment) -> Exit:
    """Feed the inputs, poll until every task has its outcome and every sink has it; return the exit code.

    Raises `PollerError` where the run cannot begin; what ends it later is printed after the summary.
    """
    sources = inputs.sources(settings, input_specs)
    check_sources(sources)
    monotonic = environment.monotonic or asyncio.get_running_loop().time
    environment = dataclasses.replace(environment, clock=SteadyClock(environment.clock, monotonic))
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await open_store(settings.state, clock=environment.clock)
        stack.push_async_callback(store.close)
        if ahead_s := await store.rebase_instants():
            log.warning("clock.jumped", by_s=-round(ahead_s, 3), since="an earlier run")
        connections = await stack.enter_async_context(environment.connections(settings))
        builder = Builder(environment=environment, store=store, metrics=metrics, connections=connections)
        service = await _build_service(settings, sources, builder, stack)
        given = await _GivenWork.begin(store, metrics)
        service.on_chunk = given.save
        log.info("run.started", version=__version__, state=redacted_url(settings.state), accounts=len(service.lanes))
        environment.on_start(service)
        apply_to_site = await _open_site(settings, builder, service, stack)
        reload = Reload(settings, input_specs, service, builder, [apply_to_site, environment.apply_to_log])
        error = await _run_service(service, settings, metrics, environment, reload)
        sums = await _closing_sums(store, settings.state)
        if error is None and (sums.waiting or not service.fed):
            error = service.stopped_by
    state_flag = f" --state {redacted_url(settings.state)}" if "state" in settings.model_fields_set else ""
    if error is None and service.fed and not service.endless:
        error = nothing_fed(sums, metrics, sources, state_flag)
    return conclude(sums, given.work(sums), metrics, error, state_flag)


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
    names = [loop.sink.name for loop in service.delivery_loops]
    positions = await store.positions(names)
    for loop in service.delivery_loops:
        await loop.open(positions[loop.sink.name])
    await store.attach_sinks(names)
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
        clock=environment.clock,
        feeding=inputs.feeding(settings),
        deadline_s=_longest_deadline_s(settings),
    )

    def apply(now: Settings) -> None:
        site.feeding = inputs.feeding(now)
        site.deadline_s = _longest_deadline_s(now)

    if (address := address_of(settings.listen)) is None:
        return apply
    tokens = await builder.site_token(settings)
    try:
        taken = await stack.enter_async_context(environment.open_site(make_site(site, tokens), address))
    except ConfigError as error:
        if "listen" in settings.model_fields_set:
            raise
        log.warning("web.not_started", address=str(address), reason=str(error))
        return apply
    log.info("web.started", url=f"http://{taken.near()}/", address=str(taken), port=taken.port, token=bool(tokens))
    if environment.console is not None:
        write(f"poller: live page at http://{taken.near()}/")
    return apply


def _longest_deadline_s(settings: Settings) -> float:
    return max(account.deadline_s for account in settings.account_settings().values())


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
