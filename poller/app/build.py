"""The parts of a run, each made from settings, also from such that change later: sources, sinks, accounts."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import assert_never

import structlog

from poller.app.environment import Environment
from poller.config import AccountSettings, OAuthTable, Settings, SourceTable
from poller.core import log as logs
from poller.core.credentials import secret_in_env, secret_in_file
from poller.core.errors import ConfigError
from poller.core.protocols import StatusClient, Store, TokenSource
from poller.engine import DeliveryLoop, GiveUpRules, Lane, Recorder, Service
from poller.engine.metrics import Metrics
from poller.hubspot import tracing as traces
from poller.hubspot.client import Connections, HubSpotClient
from poller.hubspot.limits import AccountGate, GateLimits
from poller.hubspot.tokens import EnvToken, FileToken, OAuthToken
from poller.schedule import AccountTiming, KnowledgeUnreadable, knowledge_key
from poller.sinks import SinkEnvironment, SinkSpec, make_sink
from poller.sources import STDIN, ReadOptions, Source

log = structlog.get_logger()

DEFAULT_SINK = "jsonl:finished.jsonl"

# --- sources ---------------------------------------------------------------------------------------------------------


def feeding(settings: Settings) -> ReadOptions:
    """Return how lines are read where nothing else is said."""
    return ReadOptions(
        format=settings.input.format,
        id_column=settings.input.id_column,
        accounts=frozenset(settings.account_settings()),
        default_account=settings.account,
        max_line_bytes=settings.input.max_line_bytes,
    )


def sources(settings: Settings, inputs: Sequence[str]) -> list[Source]:
    """Return the sources on the command line, then those of the settings; each file is one."""
    read = feeding(settings)
    given = [_file(path, follow=settings.follow, read=read) for path in inputs]
    return given + [source for table in settings.sources for source in _sources_of(table, settings.follow, read)]


def is_endless(settings: Settings, named: Sequence[Source]) -> bool:
    """Whether the run goes on when its work is done."""
    return settings.follow or any(source.follow for source in named)


def missing_places(settings: Settings) -> list[str]:
    """Return, for people, which sources of the settings are not there now; those that follow are waited for."""
    named = [source for source in sources(settings, []) if source.kind in ("file", "folder")]
    absent = [source for source in named if not Path(source.location).exists()]
    return [f"{source}: is not there{', and waited for' if source.follow else ''}" for source in absent]


def _sources_of(table: SourceTable, run_follows: bool, read: ReadOptions) -> list[Source]:
    own = replace(
        read,
        format=table.format or read.format,
        id_column=table.id_column or read.id_column,
        default_account=table.account or read.default_account,
    )
    follow = run_follows if table.follow is None else table.follow
    match table.found_kind:
        case "file":
            return [_file(path, follow=follow, read=own) for path in table.paths]
        case "stdin":
            return [_file(STDIN, follow=False, read=own)]
        case "glob":
            return [Source(kind="glob", location=table.glob or "", follow=follow, options=own)]
        case "folder":
            place, settle_s = table.folder or "", table.settle_s
            return [Source(kind="folder", location=place, follow=follow, options=own, settle_s=settle_s)]
        case _:
            assert_never(table.found_kind)


def _file(path: str, *, follow: bool, read: ReadOptions) -> Source:
    is_stdin = path == STDIN
    return Source(kind="stdin" if is_stdin else "file", location=path, follow=follow and not is_stdin, options=read)


# --- sinks and accounts ----------------------------------------------------------------------------------------------


def sink_specs(settings: Settings) -> list[SinkSpec]:
    """Return where finished tasks go."""
    return list(settings.sinks) or [DEFAULT_SINK]


def gate_limits(account: AccountSettings) -> GateLimits:
    """Return what the person set for the account's gate."""
    return GateLimits(
        requests=account.requests,
        window_s=account.window_s,
        workers=account.workers,
        daily_limit=account.daily_limit,
        daily_reserve=account.daily_reserve,
        time_zone=account.time_zone,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Makes the parts of one run."""

    environment: Environment
    store: Store
    metrics: Metrics
    connections: Connections
    gates: dict[str, AccountGate] = field(default_factory=dict)  # by account

    def delivery_loop(self, spec: SinkSpec, settings: Settings) -> DeliveryLoop:
        """Return the way to a sink, not opened yet. Raises `ConfigError`."""
        environment, hidden = self.environment, settings.secret_variables()
        around = SinkEnvironment(
            clock=environment.clock, rng=environment.rng, environ=environment.environ, hidden=hidden
        )
        return DeliveryLoop(
            make_sink(spec, around),
            store=self.store,
            metrics=self.metrics,
            clock=environment.clock,
            give_up_s=settings.give_up_s,
        )

    async def lane(self, name: str, settings: Settings, service: Service) -> Lane:
        """Return an account, ready to work. Raises `ConfigError` where it has no token."""
        account, environment = settings.account_settings()[name], self.environment
        rng = random.Random(environment.rng.getrandbits(64))  # noqa: S311 - spreads polls, keeps no secret
        tokens = await self.tokens(account)
        gate = self.gates[name] = AccountGate(
            name,
            gate_limits(account),
            state=await self.store.account(name),
            clock=environment.clock,
            monotonic=environment.monotonic or asyncio.get_running_loop().time,
            rng=rng,
            has_new_token=tokens.has_changed,
        )
        return Lane(
            name,
            store=self.store,
            gate=gate,
            client=self.client(name, account, tokens),
            polling=account.polling_rules(),
            timing=await self.timing(name, account),
            recorder=Recorder(name, store=self.store, metrics=self.metrics, on_recorded=service.on_recorded),
            clock=environment.clock,
            rng=rng,
            limits=GiveUpRules(
                give_up_s=settings.give_up_s,
                needs_token=len(settings.account_settings()) == 1 and not service.endless,
            ),
        )

    def client(self, name: str, account: AccountSettings, tokens: TokenSource) -> StatusClient:
        """Return what makes the account's polls."""
        client: StatusClient = HubSpotClient(
            self.connections,
            base_url=account.base_url,
            status_path=account.status_path,
            tokens=tokens,
            request_timeout_s=account.request_timeout_s,
            max_body_bytes=account.max_body_bytes,
        )
        if self.environment.tracer is not None:
            asked = {"account": name, "base_url": account.base_url, "status_path": account.status_path}
            client = traces.TracedClient(client, self.environment.tracer, clock=self.environment.clock, **asked)
        return client

    async def timing(self, name: str, account: AccountSettings) -> AccountTiming | None:
        """Return the account's learned timing with what is kept of it; None where another policy is chosen."""
        rules = account.polling_rules()
        if rules.policy != "learned":
            return None
        kept_as = knowledge_key(name, account.status_path)
        try:
            return AccountTiming(kept_as, rules.tradeoff, await self.store.knowledge(kept_as))
        except KnowledgeUnreadable as reason:
            log.warning("timing.forgotten", account=name, reason=str(reason))
            return AccountTiming(kept_as, rules.tradeoff)

    async def tokens(self, account: AccountSettings) -> TokenSource:
        """Return where the account's token comes from. Raises `ConfigError` now, not at the first poll."""
        if account.oauth is not None:
            return self._oauth(account.base_url, account.oauth)
        return await stored_token(account.token_file, account.token_env, self.environment.environ)

    def _oauth(self, base_url: str, oauth: OAuthTable) -> TokenSource:
        environ = self.environment.environ
        if oauth.client_secret is not None:
            secret = oauth.client_secret.get_secret_value()
        elif oauth.client_secret_env is not None:
            secret = secret_in_env(oauth.client_secret_env, environ)
        else:
            secret = secret_in_file(oauth.client_secret_file or Path())
        variable = oauth.refresh_token_env
        logs.keep_secret(secret)
        source = OAuthToken(
            client_id=oauth.client_id,
            client_secret=secret,
            refresh_token=None if variable is None else secret_in_env(variable, environ),
            refresh_token_file=oauth.refresh_token_file,
            token_url=base_url + oauth.token_path,
            post=self.connections.post,
            clock=self.environment.clock,
        )
        return _HiddenToken(source)


async def stored_token(file: Path | None, variable: str, environ: Mapping[str, str]) -> TokenSource:
    """Return a token in a file, or else in a variable. Raises `ConfigError` where there is none."""
    source = _HiddenToken(FileToken(file) if file is not None else EnvToken(variable, environ))
    await source.token()
    return source


def refuse_same_names(delivery_loops: Sequence[DeliveryLoop]) -> None:
    """Raise `ConfigError` where two sinks have the same name."""
    names = [loop.sink.name for loop in delivery_loops]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"sinks: two have the name {twice[0]}; give one another, in its [[sinks]] table: name = …")


class _HiddenToken:
    """Hands on another source's tokens, each of them known to the log as something never to show."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._known: str | None = None

    async def token(self) -> str:
        token = await self._source.token()
        if token is not self._known:
            logs.keep_secret(token)
            self._known = token
        return token

    def refused(self, token: str) -> None:
        self._source.refused(token)

    def has_changed(self) -> bool:
        return self._source.has_changed()
