"""The composition root: the only place that turns settings into objects, and a run into an exit code."""

import asyncio
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from rich.console import Console

from poller import __version__
from poller import log as logs
from poller.client import Connections, HubSpotClient
from poller.config import AccountSettings, OAuthTable, Settings
from poller.engine import Lane, Limits, Outlet, Service
from poller.errors import ConfigError, Exit, PollerError
from poller.gate import AccountGate, GateLimits
from poller.metrics import Metrics
from poller.model import Added, Chunk, Sums
from poller.progress import Progress
from poller.protocols import Clock, Store, TokenSource
from poller.report import exit_code, imbalances, summary, troubles
from poller.sinks import Surroundings, make_sinks
from poller.source import STDIN, Feeding, check_readable, feed, follow, source_name
from poller.store import open_store, without_secret
from poller.tokens import EnvToken, FileToken, OAuthToken, secret_in_env, secret_in_file

log = structlog.get_logger()

DEFAULT_SINK = "jsonl:finished.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What a run takes from outside itself. Tests bring their own time, chance and network."""

    clock: Clock = time.time
    rng: random.Random = field(default_factory=random.SystemRandom)
    stdin: int = 0
    environ: Mapping[str, str]
    connections: Callable[[Settings], Connections]
    console: Console | None = None  # where the progress display is drawn; None: nowhere
    on_service: Callable[[Service], None] = lambda _service: None  # told before work begins


async def run_here(settings: Settings, inputs: Sequence[str], environ: Mapping[str, str]) -> Exit:
    """Run in this process: logs, progress and summary on stderr, signals drain. Raises `PollerError`."""
    console = Console(stderr=True)
    shown = console if settings.progress and console.is_terminal else None
    quiet = shown is not None and "level" not in settings.log.model_fields_set
    logs.configure(format=settings.log.format, level="warning" if quiet else settings.log.level, clock=time.time)
    world = World(environ=environ, connections=connect, console=shown)
    return await _run_with_signals(settings, inputs, world)


def connect(settings: Settings) -> Connections:
    """Return the run's connections to HubSpot, not opened yet."""
    return Connections(proxy=settings.proxy, ca_file=settings.ca_file)


async def _run_with_signals(settings: Settings, inputs: Sequence[str], world: World) -> Exit:
    """The first SIGTERM or SIGINT drains, the second stops at once."""
    loop, this_task = asyncio.get_running_loop(), asyncio.current_task()
    services: list[Service] = []

    def on_signal() -> None:
        if services and not services[0].draining:
            services[0].drain()
        elif this_task is not None:
            this_task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        return await run(settings, inputs, replace(world, on_service=services.append))
    except asyncio.CancelledError:
        _say("poller: stopped at once; nothing is lost, run the same command again to go on")
        return Exit.WORK_LEFT


async def run(settings: Settings, inputs: Sequence[str], world: World) -> Exit:
    """Feed `inputs`, poll until every task has its outcome and every sink has it; return the exit code.

    Raises `PollerError` where the run cannot begin; what ends it later is told after the summary.
    """
    if not settings.follow:
        check_readable(inputs)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        store = await open_store(settings.state, clock=world.clock)
        stack.push_async_callback(store.close)
        service = await _assemble(settings, inputs, world, metrics, store, stack)
        log.info("run.started", version=__version__, state=without_secret(settings.state), accounts=len(service.lanes))
        world.on_service(service)
        error = await _run_service(service, settings, metrics, world)
        sums = await store.sums()
    is_all_fed = service.fed and not settings.follow
    return _conclude(sums, metrics, error, unfed=_nothing_fed(sums, metrics, inputs) if is_all_fed else None)


async def _assemble(
    settings: Settings, inputs: Sequence[str], world: World, metrics: Metrics, store: Store, stack: AsyncExitStack
) -> Service:
    accounts = settings.account_settings()
    sums = await store.sums()
    metrics.begin(sums)
    await _refuse_orphans(sums, accounts, store)
    feeding = Feeding(
        format=settings.input.format,
        id_column=settings.input.id_column,
        accounts=frozenset(accounts),
        default_account=settings.account,
        max_line_bytes=settings.input.max_line_bytes,
    )

    async def feed_all(on_chunk: Callable[[Chunk, Added], None]) -> None:
        if settings.follow:
            await follow_all(on_chunk)
        else:
            for spec in inputs:
                await feed(spec, store, feeding, stdin=world.stdin, on_chunk=on_chunk)

    async def follow_all(on_chunk: Callable[[Chunk, Added], None]) -> None:
        async with asyncio.TaskGroup() as following:
            for spec in {source_name(spec): spec for spec in inputs}.values():
                if spec == STDIN:
                    following.create_task(feed(spec, store, feeding, stdin=world.stdin, on_chunk=on_chunk))
                else:
                    following.create_task(follow(spec, store, feeding, on_chunk=on_chunk))

    service = Service(
        store=store,
        metrics=metrics,
        clock=world.clock,
        feed=feed_all,
        endless=settings.follow,
        shutdown_s=settings.shutdown_s,
        retention_s=settings.retention_s,
    )
    service.outlets = await _open_outlets(settings, world, metrics, store, stack)
    connections = await stack.enter_async_context(world.connections(settings))
    for name, account in accounts.items():
        service.lanes[name] = await _lane(name, account, settings, world, metrics, store, connections, service)
    return service


async def _refuse_orphans(sums: Sums, accounts: Mapping[str, AccountSettings], store: Store) -> None:
    """Waiting tasks of an account that is not configured would wait for ever, and with them the run."""
    for name in sums.accounts.keys() - accounts.keys():
        if await store.next_due_at(name) is not None:
            raise ConfigError(
                f"the state holds waiting tasks of account {name!r}, which is not configured (configured: "
                f"{', '.join(accounts)}): add [accounts.{name}], use --account {name}, or use another --state"
            )


async def _open_outlets(
    settings: Settings, world: World, metrics: Metrics, store: Store, stack: AsyncExitStack
) -> list[Outlet]:
    around = Surroundings(clock=world.clock, rng=world.rng, environ=world.environ, hidden=settings.secret_variables())
    outlets = [
        Outlet(sink, store=store, metrics=metrics, clock=world.clock, give_up_s=settings.give_up_s)
        for sink in make_sinks(settings.sinks or [DEFAULT_SINK], around)
    ]
    positions = await store.attach_sinks([outlet.sink.name for outlet in outlets])
    for outlet in outlets:
        stack.push_async_callback(outlet.sink.close)
        await outlet.open(positions[outlet.sink.name])
    return outlets


async def _lane(
    name: str,
    account: AccountSettings,
    settings: Settings,
    world: World,
    metrics: Metrics,
    store: Store,
    connections: Connections,
    service: Service,
) -> Lane:
    rng = random.Random(world.rng.getrandbits(64))  # noqa: S311 - spreads looks, keeps no secret
    tokens = await _tokens(account, world, connections)
    gate = AccountGate(
        name,
        GateLimits(
            requests=account.requests,
            window_s=account.window_s,
            workers=account.workers,
            daily_limit=account.daily_limit,
            daily_reserve=account.daily_reserve,
            time_zone=account.time_zone,
        ),
        state=await store.account(name),
        clock=world.clock,
        monotonic=asyncio.get_running_loop().time,
        rng=rng,
        has_new_token=tokens.has_news,
    )
    client = HubSpotClient(
        connections,
        base_url=account.base_url,
        status_path=account.status_path,
        tokens=tokens,
        request_timeout_s=account.request_timeout_s,
        max_body_bytes=account.max_body_bytes,
    )
    return Lane(
        name,
        store=store,
        gate=gate,
        client=client,
        polling=account.polling_rules(),
        metrics=metrics,
        clock=world.clock,
        rng=rng,
        limits=Limits(
            give_up_s=settings.give_up_s,
            needs_token=len(settings.account_settings()) == 1 and not settings.follow,
        ),
        on_recorded=service.on_recorded,
    )


async def _tokens(account: AccountSettings, world: World, connections: Connections) -> TokenSource:
    """Return where the account's token comes from. Raises `ConfigError` at the start, not at the first look."""
    if account.oauth is not None:
        return _oauth(account.base_url, account.oauth, world, connections)
    file, variable = account.token_file, account.token_env
    source = _HiddenToken(FileToken(file) if file is not None else EnvToken(variable, world.environ))
    await source.token()
    return source


def _oauth(base_url: str, oauth: OAuthTable, world: World, connections: Connections) -> TokenSource:
    if oauth.client_secret is not None:
        secret = oauth.client_secret.get_secret_value()
    elif oauth.client_secret_env is not None:
        secret = secret_in_env(oauth.client_secret_env, world.environ)
    else:
        secret = secret_in_file(oauth.client_secret_file or Path())
    variable = oauth.refresh_token_env
    logs.keep_secret(secret)
    source = OAuthToken(
        client_id=oauth.client_id,
        client_secret=secret,
        refresh_token=None if variable is None else secret_in_env(variable, world.environ),
        refresh_token_file=oauth.refresh_token_file,
        token_url=base_url + oauth.token_path,
        post=connections.post,
        clock=world.clock,
    )
    return _HiddenToken(source)


class _HiddenToken:
    """Hands on another source's tokens, each of them known to the log as something never to show."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    async def token(self) -> str:
        token = await self._source.token()
        logs.keep_secret(token)
        return token

    def refused(self, token: str) -> None:
        self._source.refused(token)

    def has_news(self) -> bool:
        return self._source.has_news()


async def _run_service(service: Service, settings: Settings, metrics: Metrics, world: World) -> PollerError | None:
    """Run the service beside its summary lines and its display. Return what ended it before its work was done."""
    ended_by: PollerError | None = None
    try:
        async with asyncio.TaskGroup() as showing:
            watchers = [showing.create_task(_log_summaries(service, metrics, settings.summary_every_s))]
            if world.console is not None:
                watchers.append(showing.create_task(_progress(service, metrics, world).show(world.console)))
            try:
                await service.run()
            finally:
                for watcher in watchers:
                    watcher.cancel()
    except* PollerError as errors:
        ended_by = _first(errors)
    return ended_by or next((outlet.stopped_by for outlet in service.outlets if outlet.stopped_by), None)


def _first(errors: BaseExceptionGroup[PollerError]) -> PollerError:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _progress(service: Service, metrics: Metrics, world: World) -> Progress:
    return Progress(metrics, clock=world.clock, pauses=service.pauses, ended=lambda: service.fed)


async def _log_summaries(service: Service, metrics: Metrics, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        log.info(
            "run.summarized",
            finished=metrics.finished,
            waiting=metrics.waiting,
            rejected=metrics.rejected,
            looks=metrics.looks,
            kinds=dict(metrics.kinds),
            outcomes=dict(metrics.outcomes),
            troubles=dict(metrics.troubles),
            delivered=dict(metrics.delivered),
            paused=dict(service.pauses()),
        )


def _nothing_fed(sums: Sums, metrics: Metrics, inputs: Sequence[str]) -> str | None:
    """Return what to say where the input brought nothing to do; None where it did."""
    if metrics.tasks or metrics.duplicates:
        return None
    if metrics.rejected:
        return "no usable id in the input; `poller status --rejected` lists each line with its reason"
    if sums.waiting or sums.finished:
        return None
    return "the input holds no id" if inputs else "no input was given, and the state holds no tasks: poller run FILE"


def _conclude(sums: Sums, metrics: Metrics, error: PollerError | None, *, unfed: str | None) -> Exit:
    """Print the closing summary; return the exit code."""
    _say("\n".join(filter(None, (summary(sums), troubles(metrics.troubles)))))
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
    log.info("run.ended", exit_code=int(code), finished=sums.finished, waiting=sums.waiting, looks=metrics.looks)
    return code


def _say(text: str) -> None:
    """Write to stderr for a person; whoever closed it does not want to know."""
    stream = logs.QuietStream(sys.stderr)
    stream.write(f"{text}\n")
    stream.flush()
