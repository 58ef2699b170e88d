"""From settings to the live parts of a run: accounts and sinks, at the start and on a reload."""

import asyncio
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypedDict

import structlog

from poller.app.environment import Environment
from poller.app.tokens import account_tokens, check_tokens, credentials_hash
from poller.config import AccountSettings, Settings
from poller.core.columns import Columns
from poller.core.errors import ConfigError
from poller.core.handover import Handover
from poller.core.learned_limit import decode_limit, limit_key
from poller.core.model import Record
from poller.core.proof import Proof, decode_proof, proof_key
from poller.core.protocols import Sink, StartStore, Store
from poller.core.record import decode
from poller.core.request_protocols import StartClient, StatusClient, TokenSource
from poller.engine import DeliveryLoop, GiveUpRules, Lane, Recorder, Service
from poller.engine.due_tasks import LONGEST_SLEEP_S
from poller.engine.import_lane import ImportLane
from poller.engine.metrics import Metrics
from poller.engine.retries import Retries
from poller.hubspot import tracing as traces
from poller.hubspot.client import Connections, HubSpotClient
from poller.hubspot.limits import AccountGate, GateLimits
from poller.hubspot.start_client import HubSpotStarts
from poller.hubspot.tokens import OAuthToken
from poller.reports.finished_task import read_record
from poller.reports.retryable import retry_advice
from poller.schedule import AccountTiming, KnowledgeUnreadable, knowledge_key
from poller.schedule.policy import Polling
from poller.sinks import SinkEnvironment, SinkSpec, check_sinks, make_sink, refuse_alike
from poller.store import is_new

log = structlog.get_logger("poller")

FLEET_SLEEP_S = 30.0  # most that a lane sleeps while other members feed its account, should their hint be lost
FLEET_IDLE_S = 10.0  # how often an empty outbox is read, should no heartbeat have seen what others finish
KNOWN_AMONG = 200  # kept records that are searched for a task that HubSpot knows


class LaneSettings(TypedDict):
    """All that settings decide of a lane: arguments of `Lane` at the start, and of its `apply` later."""

    client: StatusClient
    polling: Polling
    timing: AccountTiming | None
    limits: GiveUpRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Builder:
    """Builds the parts of one run, and applies other settings to its lanes."""

    environment: Environment
    store: Store
    metrics: Metrics
    connections: Connections
    gates: dict[str, AccountGate] = field(default_factory=dict)  # by account
    consumer: Sink | None = None  # takes finished tasks within this process, beside the sinks of the settings
    is_trusted: Callable[[], bool] | None = None  # whether this member of a fleet may send requests; None: it is alone
    _credentials: dict[str, bytes] = field(default_factory=dict)  # a hash of each account's
    _oauth: dict[bytes, OAuthToken] = field(default_factory=dict)  # by a hash of all that each is made of

    # --- sinks

    def delivery_loops(
        self, settings: Settings, kept: Mapping[str, DeliveryLoop] = MappingProxyType({})
    ) -> list[DeliveryLoop]:
        """Return a delivery loop for each sink: that of the same spec in `kept`, or a new one, not opened yet.

        Raises `ConfigError`.
        """
        specs = settings.sink_specs if self.consumer is None else settings.sinks
        loops = [kept.get(repr(spec)) or self.delivery_loop(spec, settings) for spec in specs]
        if self.consumer is not None:
            loops.append(self._loop_of(self.consumer, settings))
        refuse_alike([loop.sink for loop in loops])
        return loops

    def delivery_loop(self, spec: SinkSpec, settings: Settings) -> DeliveryLoop:
        """Return the delivery loop of a sink, not opened yet. Raises `ConfigError`."""
        return self._loop_of(make_sink(spec, sink_environment(settings, self.environment)), settings)

    def _loop_of(self, sink: Sink, settings: Settings) -> DeliveryLoop:
        return DeliveryLoop(
            sink,
            store=self.store,
            metrics=self.metrics,
            clock=self.environment.clock,
            give_up_s=settings.give_up_s,
            idle_s=None if self.is_trusted is None else FLEET_IDLE_S,
        )

    async def count_delivered(self, sinks: Collection[str]) -> None:
        """Take over what the state has of these sinks, to which nothing is being delivered: what they got, or missed,
        was counted elsewhere, or while they were not attached."""
        for sums in (await self.store.sums()).sinks:
            if sums.name in sinks:
                self.metrics.take_over(sums)

    # --- accounts

    async def lane(self, name: str, settings: Settings, service: Service, handover: Handover | None = None) -> Lane:
        """Return an account's lane, ready to run. In a fleet, `handover` is what the owner before left. Raises
        `ConfigError` where the account has no token."""
        account, environment = settings.account_settings()[name], self.environment
        rng = random.Random(environment.rng.getrandbits(64))  # noqa: S311 - spreads polls, keeps no secret
        tokens = await self.tokens(account)
        self._credentials[name] = await credentials_hash(account, tokens)
        self._warn_of_shared_token(name, settings)
        gate = self.gates[name] = AccountGate(
            name,
            _gate_limits(account),
            state=await self.store.account(name),
            clock=environment.clock,
            monotonic=environment.monotonic or asyncio.get_running_loop().time,
            rng=rng,
            has_new_token=tokens.has_changed,
            is_trusted=self.is_trusted,
            handover=handover,
            known=decode_limit(await self.store.knowledge(limit_key(name))),
        )
        parts: dict[str, Any] = {
            "store": self.store,
            "gate": gate,
            "recorder": self._recorder(name, service),
            "clock": environment.clock,
            "rng": rng,
            "longest_sleep_s": LONGEST_SLEEP_S if self.is_trusted is None else FLEET_SLEEP_S,
            **await self._lane_settings(name, settings, tokens, service),
        }
        starts = await self._starts(name, settings)
        if starts is None:
            lane = Lane(name, **parts)
        else:
            retries = self._retries(name, settings, service, rng)
            lane = ImportLane(
                name,
                starts=starts,
                retries=retries,
                starter=self._starter(account, tokens),
                start_rules=settings.imports.rules(),
                on_trial_failed=None if service.is_member else _stop_after_trial(service),
                **parts | {"recorder": self._recorder(name, service, retries)},
            )
        if (proof := await self._proof(name)) is not None:
            lane.know(proof)
        return lane

    def _recorder(self, name: str, service: Service, retries: Retries | None = None) -> Recorder:
        def on_recorded(records: Sequence[Record]) -> None:
            if retries is not None:
                retries.on_recorded(records)  # first: the run may end with these
            service.on_recorded(records)

        return Recorder(name, store=self.store, metrics=self.metrics, on_recorded=on_recorded)

    def _retries(self, name: str, settings: Settings, service: Service, rng: random.Random) -> Retries:
        return Retries(
            name,
            service=service,
            store=self.store,
            most=settings.imports.retries,
            is_worth_it=_may_pass(settings),
            clock=self.environment.clock,
            rng=rng,
        )

    async def _starts(self, account: str, settings: Settings) -> StartStore | None:
        """Return the account's rows where this run reads some, or an earlier one left some; None for ids alone."""
        starts = self.store.starts
        if settings.feeds_imports or await starts.backlog(account, 1) or await starts.underway(account):
            return starts
        return None

    def _starter(self, account: AccountSettings, tokens: TokenSource) -> StartClient:
        """Raises `ConfigError` where the status path is not that of imports."""
        return HubSpotStarts(
            self.connections,
            base_url=account.base_url,
            start_path=start_path_of(account),
            tokens=tokens,
            request_timeout_s=account.request_timeout_s,
            is_trusted=self.is_trusted,
        )

    async def _proof(self, account: str) -> Proof | None:
        """Return what an earlier run noted. An earlier version noted nothing: then a task whose outcome HubSpot
        reported, if one is among the first that are kept."""
        if (proof := decode_proof(await self.store.knowledge(proof_key(account)))) is not None:
            return proof
        for delivery in await self.store.records(0, KNOWN_AMONG):
            if delivery.account == account and decode(delivery.body).status in ("COMPLETE", "CANCELED"):
                return Proof(task_id=delivery.task_id, credentials=b"")
        return None

    async def apply(self, name: str, settings: Settings, tokens: TokenSource | None, service: Service) -> None:
        """Apply settings to an account at work. Without `tokens`, only its limits and how rows are started may have
        changed. An account that a fleet's turn gave away meanwhile is left out: its next lane has all settings."""
        if (lane := service.lanes.get(name)) is None:
            return
        if isinstance(lane, ImportLane):
            lane.apply_rules(settings.imports.rules())
            if lane.retries is not None:
                lane.retries.apply(settings.imports.retries, _may_pass(settings))
        is_same_token = True
        if tokens is not None:
            lane.keep_knowledge()
            credentials = await credentials_hash(settings.account_settings()[name], tokens)
            is_same_token = credentials == self._credentials[name]
            self._credentials[name] = credentials
            lane.apply(**await self._lane_settings(name, settings, tokens, service))
            if not is_same_token:
                self._warn_of_shared_token(name, settings)
            if isinstance(lane, ImportLane):
                lane.apply_starter(self._starter(settings.account_settings()[name], tokens))
        has_new_token = None if tokens is None else tokens.has_changed
        limits = _gate_limits(settings.account_settings()[name])
        self.gates[name].apply(limits, has_new_token=has_new_token, is_same_token=is_same_token)

    async def _lane_settings(
        self, name: str, settings: Settings, tokens: TokenSource, service: Service
    ) -> LaneSettings:
        account = settings.account_settings()[name]
        is_only_account = len(settings.account_settings()) == 1
        is_awaited = not service.endless or self.consumer is not None
        return LaneSettings(
            client=self._client(name, account, tokens),
            polling=account.polling_rules(),
            timing=await self._timing(name, account),
            limits=GiveUpRules(give_up_s=settings.give_up_s, needs_answer=is_only_account and is_awaited),
        )

    def _client(self, name: str, account: AccountSettings, tokens: TokenSource) -> StatusClient:
        client: StatusClient = HubSpotClient(
            self.connections,
            base_url=account.base_url,
            status_path=account.status_path,
            tokens=tokens,
            request_timeout_s=account.request_timeout_s,
            max_body_bytes=account.max_body_bytes,
            is_trusted=self.is_trusted,
        )
        if self.environment.tracer is not None:
            attributes = {"account": name, "base_url": account.base_url, "status_path": account.status_path}
            client = traces.TracedClient(client, self.environment.tracer, clock=self.environment.clock, **attributes)
        return client

    async def _timing(self, name: str, account: AccountSettings) -> AccountTiming | None:
        """Return the account's learned timing with what is stored of it; None where another policy is chosen."""
        if account.polling.policy != "learned":
            return None
        kept_as, tradeoff = knowledge_key(name, account.status_path), account.polling_rules().tradeoff
        try:
            return AccountTiming(kept_as, tradeoff, await self.store.knowledge(kept_as))
        except KnowledgeUnreadable as reason:
            log.warning("timing.forgotten", account=name, reason=str(reason))
            return AccountTiming(kept_as, tradeoff)

    # --- tokens

    def _warn_of_shared_token(self, name: str, settings: Settings) -> None:
        same = {other for other, each in self._credentials.items() if each == self._credentials[name]} - {name}
        if same:
            for other in same & settings.account_settings().keys():
                log.warning("lane.token_shared", account=name, other=other)

    async def tokens(self, account: AccountSettings) -> TokenSource:
        """Return where the account's token comes from. Raises `ConfigError` now, not at the first poll."""
        return await account_tokens(
            account, self.environment.environ, self.connections, clock=self.environment.clock, kept=self._oauth
        )


def start_path_of(account: AccountSettings) -> str:
    """Return the path of the start call. Raises `ConfigError` where the status path is not that of imports."""
    start_path, _, rest = account.status_path.partition("/tasks/")
    if rest != "{task_id}/status" or not start_path.endswith("/import-from-url/async"):
        raise ConfigError(
            "imports cannot be started: status_path is not that of import-from-url tasks. Use "
            "/files/v3/files/import-from-url/async/tasks/{task_id}/status, or another version of it"
        )
    return start_path


def _may_pass(settings: Settings) -> Callable[[bytes], bool]:
    """Return whether the failure in a record's bytes may pass, so that its row is worth another attempt."""
    columns = Columns(named=settings.imports.columns)
    return lambda record: retry_advice(read_record(record, columns)).retryable


def _stop_after_trial(service: Service) -> Callable[[int, str], None]:
    """Return what ends the run where each row of its trial failed for one reason."""

    def stop(size: int, reason: str) -> None:
        service.stop_for(
            f"stopped after a trial of {size} rows: each failed for one reason, {reason}. No other row was started."
        )

    return stop


def sink_environment(settings: Settings, environment: Environment) -> SinkEnvironment:
    return SinkEnvironment(
        clock=environment.clock,
        rng=environment.rng,
        environ=environment.environ,
        hidden=settings.secret_variables(),
    )


async def check_build(settings: Settings, environment: Environment) -> None:
    """Raise `PollerError` where a sink cannot be made, a secret is missing, or a new state would find the output of
    another: before the run creates any file."""
    check_sinks(settings.sink_specs, sink_environment(settings, environment), is_new=is_new(settings.state))
    await check_tokens(settings, environment.environ)


def _gate_limits(account: AccountSettings) -> GateLimits:
    return GateLimits(
        requests=account.requests,
        window_s=account.window_s,
        workers=account.workers,
        daily_limit=account.daily_limit,
        daily_reserve=account.daily_reserve,
        time_zone=account.time_zone,
    )
