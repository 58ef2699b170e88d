"""Composes a run from its settings: the state, the sinks, the accounts, the server. Each is closed in reverse order.

`poller run` and the Python API both build their run here, and nowhere else.
"""

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog

from poller.app import inputs
from poller.app.build import Builder, check_build
from poller.app.environment import Environment
from poller.app.fleet import FleetRun, open_member
from poller.app.messages import no_input
from poller.app.page_note import forget_page, note_page
from poller.app.tokens import site_token
from poller.config import AccountSettings, Address, Settings, address_of
from poller.core.clock_note import CLOCK_NOTE, note_of
from poller.core.defect import defect
from poller.core.errors import ConfigError, PollerError, StoreError
from poller.core.protocols import Sink, Store
from poller.core.steady_clock import JUMP_S, SteadyClock
from poller.core.sums import Sums
from poller.engine import Service
from poller.engine.fleet.feed import MemberFeed
from poller.engine.fleet.member import FleetMember
from poller.engine.metrics import Metrics
from poller.sources import Source, check_beginnings
from poller.store import is_new, open_store
from poller.web import RunContext, make_site

log = structlog.get_logger("poller")

PORTS = 20  # the default and those after it: so many runs at once on a machine have a page
HISTORY, HISTORY_PAGE = 500, 50  # records; each may have a body of a megabyte


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParts:
    """The live parts of one run, open and ready to work."""

    store: Store
    metrics: Metrics
    service: Service
    builder: Builder
    fleet: FleetRun | None = None  # None: this process owns the state alone


@asynccontextmanager
async def open_run(
    settings: Settings,
    sources: Sequence[Source],
    environment: Environment,
    *,
    make_consumer: Callable[[Store], Sink] | None = None,
) -> AsyncIterator[RunParts]:
    """Open the state and build the run on it; a consumer takes finished tasks within this process. Raises `PollerError`
    where the run cannot begin: the state is as before."""
    monotonic, wall = environment.monotonic or asyncio.get_running_loop().time, environment.clock
    clock = SteadyClock(wall, monotonic)
    environment = dataclasses.replace(environment, clock=clock)
    metrics = Metrics()
    await check_build(settings, environment)
    if is_new(settings.state):
        if not sources and not inputs.is_endless(settings, sources):
            raise no_input(settings)
        check_beginnings(sources)
    async with AsyncExitStack() as stack:
        store = await open_store(settings.state, clock=clock, replica=settings.own_replica)
        stack.push_async_callback(store.close)
        if store.fleet is not None:  # members store instants for each other
            clock.move(await store.fleet.server_ahead_s(), since="the server of the state")
        if (member := await open_member(settings, store, environment, wall=wall)) is not None:
            stack.push_async_callback(member.close)
        await _agree_on_time(clock, store)
        connections = await stack.enter_async_context(environment.connections(settings))
        consumer = None if make_consumer is None else make_consumer(store)
        builder = Builder(
            environment=environment,
            store=store,
            metrics=metrics,
            connections=connections,
            consumer=consumer,
            is_trusted=None if member is None else member.trust,
        )
        sums = await store.sums()
        metrics.begin(sums)
        service = _make_service(settings, sources, builder, member)
        stack.push_async_callback(service.deliveries.close)
        fleet = None
        if member is not None:
            fleet = FleetRun(member=member, service=service, builder=builder, metrics=metrics, settings=settings)
        else:
            await _refuse_orphans(sums, settings.account_settings(), store)
            await _open_sinks_and_lanes(settings, service, builder)
        await _load_history(service, store, sums, environment.clock())
        yield RunParts(store=store, metrics=metrics, service=service, builder=builder, fleet=fleet)


async def _agree_on_time(clock: SteadyClock, store: Store) -> None:
    """Move what an earlier run stored by a wrong clock. Note in the state by how much the machine's is set from now on;
    members of a fleet go by the server's."""
    if ahead_s := await store.rebase_instants():
        log.warning("clock.jumped", by_s=-round(ahead_s, 3), since="an earlier run")
    if store.fleet is not None:
        return

    def note() -> None:
        with suppress(StoreError):  # any reading of the clock may notice the jump, also once the state is closed
            store.save_knowledge(CLOCK_NOTE, note_of(clock))

    clock.on_jump = note
    if abs(clock.behind_s) >= JUMP_S:  # it was set while the state was opened
        note()


def _make_service(
    settings: Settings, sources: Sequence[Source], builder: Builder, member: FleetMember | None
) -> Service:
    """Make the service without sinks and lanes."""
    environment, store, metrics = builder.environment, builder.store, builder.metrics
    return Service(
        store=store,
        feed_store=None if member is None else MemberFeed(store, member),
        metrics=metrics,
        clock=environment.clock,
        sources=sources,
        stdin=environment.stdin,
        endless=inputs.is_endless(settings, sources),
        is_member=member is not None,
        shutdown_s=settings.shutdown_s,
        retention_s=settings.retention_s,
        stop_on_failures=settings.stop_on_failures,
        trial=settings.trial,
    )


async def _open_sinks_and_lanes(settings: Settings, service: Service, builder: Builder) -> None:
    """Open all sinks and make all lanes: this process owns them."""
    store = builder.store
    service.deliveries.loops = builder.delivery_loops(settings)
    names = [loop.sink.name for loop in service.deliveries.loops]
    positions = await store.positions(names)
    for loop in service.deliveries.loops:
        await loop.open(positions[loop.sink.name])
    await store.attach_sinks(names)
    for name in settings.account_settings():
        service.lanes[name] = await builder.lane(name, settings, service)


async def _load_history(service: Service, store: Store, sums: Sums, now: float) -> None:
    """Load the sums of earlier runs and the latest of their records, for the live page."""
    service.history.begin(now, sums)
    after = max(0, sums.finished - HISTORY)
    for _ in range(HISTORY // HISTORY_PAGE):
        for delivery in await store.records(after, HISTORY_PAGE):
            after = delivery.number
            service.history.add_earlier(delivery.body)


async def _refuse_orphans(sums: Sums, accounts: Mapping[str, AccountSettings], store: Store) -> None:
    """Raise `ConfigError` where an account that is not configured has waiting tasks: the run would never end."""
    for name in sums.accounts.keys() - accounts.keys():
        if await store.starts.backlog(name, 1) or await store.next_due_at(name) is not None:
            raise ConfigError(
                f"the state has waiting tasks of account {name!r}, which is not configured (configured: "
                f"{', '.join(accounts)}). Add [accounts.{name}], use --account {name}, or use another --state"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The server of a run: where it listens, and what applies other settings to it."""

    url: str | None  # None: it does not listen
    apply: Callable[[Settings], None]


@asynccontextmanager
async def open_site(settings: Settings, parts: RunParts) -> AsyncIterator[Site]:
    """Open the server of a run. Raises `ConfigError` where an address that the person set is taken; where the default
    is, one of the next ports serves."""
    environment = parts.builder.environment
    word = f"{environment.rng.getrandbits(64):016x}" if address_of(settings.listen) is not None else ""
    context = RunContext(
        word=word,
        service=parts.service,
        store=parts.store,
        metrics=parts.metrics,
        clock=environment.clock,
        feeding=inputs.feeding(settings, "ids"),
        importing=inputs.importing(settings),
        deadline_s=settings.longest_deadline_s,
        fleet=None if parts.fleet is None else parts.fleet.reader,
    )

    def apply(now: Settings) -> None:
        context.feeding = inputs.feeding(now, "ids")
        context.importing = inputs.importing(now) if context.importing is not None else None  # its lanes start none
        context.deadline_s = now.longest_deadline_s

    async with AsyncExitStack() as stack:
        url = await _listen(settings, parts, context, stack)
        if parts.fleet is not None:
            parts.fleet.url = url
        yield Site(url=url, apply=apply)


async def _listen(settings: Settings, parts: RunParts, context: RunContext, stack: AsyncExitStack) -> str | None:
    """Serve until the stack unwinds; return the URL, None where there is no server."""
    if parts.fleet is None:
        await forget_page(parts.store, os.getpid())
    if (wanted := address_of(settings.listen)) is None:
        return None
    environment = parts.builder.environment
    tokens = await site_token(settings, environment.environ)
    refused: ConfigError | None = None
    for address in _addresses(wanted, is_chosen="listen" in settings.model_fields_set):
        try:
            taken = await stack.enter_async_context(environment.open_site(make_site(context, tokens), address))
        except ConfigError as error:
            refused = refused or error
            continue
        url = f"http://{taken.near()}/"
        if parts.fleet is None:  # a replica publishes its own
            note_page(parts.store, os.getpid(), context.word, taken)
            await parts.store.flush()
        if refused is not None:
            log.warning("web.moved", address=str(wanted), url=url)
        log.info("web.started", url=url, address=str(taken), port=taken.port, token=bool(tokens))
        return url
    if refused is not None and "listen" in settings.model_fields_set:
        raise refused
    log.warning("web.not_started", address=str(wanted), reason=str(refused))
    return None


def _addresses(wanted: Address, *, is_chosen: bool) -> list[Address]:
    """Return where to listen, the first that is free: instead of the default also at the ports after it."""
    return [wanted] if is_chosen else [wanted.at(wanted.port + number) for number in range(PORTS)]


async def run_service(service: Service, watchers: Iterable[Coroutine[Any, Any, None]] = ()) -> PollerError | None:
    """Run the service, and beside it the watchers. Return what ended it before its work was done."""
    ended_by: PollerError | None = None
    try:
        async with asyncio.TaskGroup() as group:
            watching = [group.create_task(each) for each in watchers]
            try:
                await service.run()
            finally:
                for watcher in watching:
                    watcher.cancel()
    except* PollerError as errors:
        error: BaseException = errors
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        ended_by = error if isinstance(error, PollerError) else None
    except* Exception as errors:
        log.exception("run.failed")
        ended_by = defect(errors)
    return ended_by or next((loop.stopped_by for loop in service.deliveries.loops if loop.stopped_by), None)
