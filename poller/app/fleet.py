"""Composes a member of a fleet: joins the state's other replicas, and gives the turns what they begin and end."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from poller.app.build import Builder, sink_environment
from poller.app.environment import Environment
from poller.config import Settings
from poller.core.errors import ConfigError
from poller.core.fleet import FleetView
from poller.core.handover import Handover
from poller.core.protocols import Clock, Store
from poller.engine import DeliveryLoop, Lane, Service
from poller.engine.fleet.member import FleetMember
from poller.engine.fleet.sinks import MemberSinks
from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.trust import Trust
from poller.engine.fleet.turns import Turns
from poller.engine.metrics import Metrics
from poller.sinks import SinkSpec, is_shared, make_sinks
from poller.web.fleet import FleetReader, member_status

log = structlog.get_logger("poller")

PUBLISHED_EVERY = 2  # heartbeats


async def open_member(settings: Settings, store: Store, environment: Environment, *, wall: Clock) -> FleetMember | None:
    """Join the fleet; None where the store has none. `wall` is the machine's own clock. Raises `ConfigError` where
    another process has this replica's name."""
    if store.fleet is None:
        return None
    loop_time = asyncio.get_running_loop().time
    times = BeatTimes(beat_s=settings.beat_s)
    member = FleetMember(
        store.fleet,
        times=times,
        trust=Trust(times.trust_s, since_boot=environment.since_boot or loop_time, wall=wall),
        monotonic=environment.monotonic or loop_time,
        serves=settings.account_settings(),
        settings=shown_settings(settings),
    )
    await member.open()
    return member


def shown_settings(settings: Settings) -> dict[str, object]:
    """Return the settings that all members should have alike, by dotted name. None of them is a secret."""
    shown: dict[str, object] = {"account": settings.account, "retention_s": settings.retention_s}
    rules = settings.imports.model_dump(mode="json", include={"unsure", "underway", "trial", "retries"})
    shown |= {f"imports.{key}": value for key, value in rules.items()}
    for name, account in settings.account_settings().items():
        values = account.model_dump(mode="json", exclude={"oauth", "token_env", "token_file", "max_body_bytes"})
        shown |= {f"accounts.{name}.{key}": value for key, value in values.items()}
    return shown


@dataclass(slots=True, kw_only=True)
class FleetRun:
    """One member's work: its turns, and what they are given."""

    member: FleetMember
    service: Service
    builder: Builder
    metrics: Metrics
    settings: Settings  # in force; a reload replaces them
    url: str | None = None  # of this member's server
    view: FleetView | None = None  # as of the latest turn
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)  # held while a lane is opened, or settings change
    turns: Turns = field(init=False)
    reader: FleetReader = field(init=False)
    _sinks: dict[str, SinkSpec] = field(init=False)  # by name
    _mine: MemberSinks = field(init=False)
    _beats: int = 0
    _polls: int = 0
    _polls_at: float = 0.0

    def __post_init__(self) -> None:
        environment = self.builder.environment
        monotonic = environment.monotonic or asyncio.get_running_loop().time
        specs = self.settings.sink_specs
        sinks = make_sinks(specs, sink_environment(self.settings, environment))
        self._sinks = {sink.name: spec for sink, spec in zip(sinks, specs, strict=True)}
        self._mine = MemberSinks(
            self.member,
            self.service,
            named={sink.name: is_shared(sink) for sink in sinks},
            make_loop=self._make_loop,
            take_over=self.builder.count_delivered,
            monotonic=monotonic,
        )
        self.turns = Turns(
            self.member, self.service, self._mine, open_lane=self._open_lane, monotonic=monotonic, show=self._show
        )
        self.member.status = self._status
        self.reader = FleetReader(self.member, view=lambda: self.view, clock=environment.clock)
        self._polls_at = environment.clock()

    async def announce(self) -> None:
        """Show the others the settings that are in force, and take and give accounts by them."""
        settings = self.settings
        await self.turns.change(settings.account_settings(), shown_settings(settings))

    def reopen_sinks(self, must_reopen: Callable[[DeliveryLoop, SinkSpec], bool]) -> None:
        """Have the sinks opened again that stopped, or read a file that may have changed."""
        loops = self.service.deliveries.loops
        self._mine.reopen([loop.sink.name for loop in loops if must_reopen(loop, self._sinks[loop.sink.name])])

    async def _open_lane(self, account: str, handover: Handover) -> Lane:
        async with self.opening:
            if account not in self.settings.account_settings():
                raise ConfigError(f"a reload has removed account {account}")
            lane = await self.builder.lane(account, self.settings, self.service, handover)
        self.metrics.accounts_taken[handover.is_clean] += 1
        return lane

    def _make_loop(self, name: str) -> DeliveryLoop:
        return self.builder.delivery_loop(self._sinks[name], self.settings)

    async def _show(self, view: FleetView) -> None:
        """Take over the counts of all."""
        self.view = view
        self.metrics.count_all(view.counts)

    def _status(self) -> bytes:
        """Return what this member does, to be published with the next heartbeat; nothing with some."""
        self._beats += 1
        if self._beats % PUBLISHED_EVERY:
            return b""
        now, polls = self.builder.environment.clock(), self.metrics.polls
        pace = (polls - self._polls) / max(0.1, now - self._polls_at)
        self._polls, self._polls_at = polls, now
        return member_status(self.service, self.metrics, url=self.url, polls_per_s=pace)
