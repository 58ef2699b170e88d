"""What the server knows: of a state, as `request.app[STATE]`, and of the run on it, as `request.app[RUN]`.

A server that only shows a state has no run: its handlers use `STATE` alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiohttp import web

from poller.core.accounts import AccountState
from poller.core.protocols import Clock, StateReader, Store
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.sources import ReadOptions
from poller.web.fleet import FleetReader
from poller.web.store_limit import store_limit


@dataclass(slots=True, kw_only=True)
class StateContext:
    """A state that a server shows."""

    store: StateReader
    clock: Clock
    deadline_s: float  # the longest of the accounts'; a reload replaces it
    timings: Mapping[str, str] = field(default_factory=dict)  # by account: the key of what its polls taught

    async def account_state(self, name: str) -> AccountState:
        """Return the account's pause and requests."""
        async with store_limit():
            return await self.store.account(name)


@dataclass(slots=True, kw_only=True)
class RunContext(StateContext):
    """The parts of one run that its server shows and feeds."""

    store: Store
    word: str  # random, by which its server is known from others
    service: Service
    metrics: Metrics
    feeding: ReadOptions  # how lines that arrive over HTTP are read; not for which accounts; a reload replaces it
    importing: ReadOptions | None  # the same for rows to import; None: the run starts none
    fleet: FleetReader | None = None  # the other members; None: the run owns the state alone

    @property
    def accounts(self) -> frozenset[str]:
        """The accounts that can be fed: in a fleet, those of any member."""
        own = frozenset(self.service.lanes)
        return own if self.fleet is None else own | self.fleet.accounts

    async def account_state(self, name: str) -> AccountState:
        """Return the account's pause and requests, as of now where it is configured."""
        lane = self.service.lanes.get(name)
        return lane.gate.state() if lane is not None else await StateContext.account_state(self, name)


STATE: web.AppKey[StateContext] = web.AppKey("state", StateContext)
RUN: web.AppKey[RunContext] = web.AppKey("run", RunContext)
