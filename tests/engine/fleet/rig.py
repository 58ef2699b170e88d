"""Several processes of one fleet on virtual time: real lanes and gates, a server in memory, a strict HubSpot."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

from poller.core.accounts import AccountState
from poller.core.handover import Handover
from poller.core.model import Answer, Outcome, Running, Task
from poller.core.protocols import Clock, Store
from poller.core.request_protocols import RightLost
from poller.engine import GiveUpRules, Lane, Recorder, Service
from poller.engine.fleet.member import FleetMember
from poller.engine.fleet.sinks import MemberSinks
from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.trust import Trust
from poller.engine.fleet.turns import Turns
from poller.engine.metrics import Metrics
from poller.hubspot.limits import AccountGate, GateLimits
from poller.schedule.policy import Polling
from poller.store import open_store
from tests.support.fleet import FleetServer, MemoryMembership
from tests.support.store_makers import feed

REQUESTS, WINDOW_S = 4, 10.0
TIMES = BeatTimes()


def now() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class HubSpot:
    """Logs each request: when, for which account, of which process. Tasks never finish: each window is always full."""

    log: list[tuple[float, str, str]] = field(default_factory=list)
    outcome: Callable[[str, str], Outcome] = lambda _account, _process: Running(status="PENDING")
    takes_s: float = 0.2

    def times(self, account: str) -> list[float]:
        return [at for at, name, _ in self.log if name == account]

    def exceeded(self) -> list[str]:
        """Return the accounts of which some rolling window had more requests than its limit."""
        return sorted(
            {
                account
                for account in {name for _, name, _ in self.log}
                for earlier, later in zip(self.times(account), self.times(account)[REQUESTS:], strict=False)
                if later - earlier < WINDOW_S
            }
        )

    def sent_by(self, process: str, *, since: float) -> int:
        return sum(name == process and at >= since for at, _, name in self.log)


@dataclass
class Process:
    """One process: its lanes poll its own state, for only ownership is shared here."""

    name: str
    hubspot: HubSpot
    membership: MemoryMembership
    store: Store
    clock: Clock
    accounts: Sequence[str]
    times: BeatTimes = TIMES
    settings: dict[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.trust = Trust(self.times.trust_s, since_boot=loop.time, wall=self.clock)
        self.member = FleetMember(
            self.membership,
            times=self.times,
            trust=self.trust,
            monotonic=loop.time,
            serves=self.accounts,
            settings=self.settings,
        )
        how: dict[str, Any] = {"endless": True, "is_member": True, "shutdown_s": 30.0}
        self.service = Service(store=self.store, metrics=Metrics(), clock=self.clock, **how)
        sinks = MemberSinks(
            self.member, self.service, named={}, make_loop=_no_loop, take_over=_took_over_nothing, monotonic=loop.time
        )
        self.turns = Turns(
            self.member, self.service, sinks, open_lane=self.open_lane, monotonic=loop.time, show=_shown_nothing
        )

    async def poll(self, task: Task) -> Answer:
        if not self.trust():
            raise RightLost
        self.hubspot.log.append((now(), task.account, self.name))
        await asyncio.sleep(self.hubspot.takes_s)
        return Answer(outcome=self.hubspot.outcome(task.account, self.name))

    async def open_lane(self, account: str, handover: Handover) -> Lane:
        gate = AccountGate(
            account,
            GateLimits(requests=REQUESTS, window_s=WINDOW_S, workers=2),
            state=AccountState(),
            clock=self.clock,
            monotonic=now,
            rng=Random(1),
            is_trusted=self.trust,
            handover=handover,
        )
        recorder = Recorder(account, store=self.store, metrics=Metrics(), on_recorded=self.service.on_recorded)
        return Lane(
            account,
            store=self.store,
            gate=gate,
            client=self,
            polling=Polling(policy="fixed", first_gap_s=0.5, longest_gap_s=0.5, jitter=0.0),
            recorder=recorder,
            clock=self.clock,
            rng=Random(1),
            limits=GiveUpRules(),
        )

    async def run(self) -> None:
        await self.member.open()
        async with asyncio.TaskGroup() as group:
            turning = group.create_task(self.turns.run())
            await self.service.run()
            turning.cancel()
        await self.member.close()

    @property
    def owned(self) -> set[str]:
        return set(self.service.lanes)


def _no_loop(name: str) -> Any:
    raise AssertionError(name)


async def _shown_nothing(_: object) -> None:
    """No status is published."""


async def _took_over_nothing(names: Sequence[str]) -> None:
    """There are no sinks."""


class Fleet:
    """The processes by name; `kill` ends one as a power cut does."""

    def __init__(self, clock: Clock, accounts: Sequence[str]) -> None:
        self.clock = clock
        self.accounts = accounts
        self.server = FleetServer()
        self.hubspot = HubSpot()
        self.processes: dict[str, Process] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._group = asyncio.TaskGroup()

    async def start(self, *names: str, accounts: Sequence[str] | None = None, **how: Any) -> None:
        for name in names:
            self.processes[name] = await self.make(name, accounts, **how)
            self._running[name] = self._group.create_task(self.processes[name].run())

    async def make(self, name: str, accounts: Sequence[str] | None = None, **how: Any) -> Process:
        store = await open_store("sqlite:///:memory:", clock=self.clock)
        served = self.accounts if accounts is None else accounts
        for account in served:
            await feed(store, *(f"{account}{number}" for number in range(3)), account=account)
        return Process(
            name=name,
            hubspot=self.hubspot,
            membership=MemoryMembership(self.server, name),
            store=store,
            clock=self.clock,
            accounts=served,
            **how,
        )

    async def kill(self, name: str) -> None:
        """End a process at once: nothing of it reaches the server any more."""
        process = self.processes.pop(name)
        process.membership.is_cut = True
        process.trust.end()
        beating = process.member._beating
        for task in (self._running.pop(name), *([beating] if beating is not None else [])):
            task.cancel()
            await asyncio.wait([task])

    async def drain(self, name: str) -> None:
        self.processes.pop(name).service.drain()
        await asyncio.wait([self._running.pop(name)])

    def counts(self) -> Counter[int]:
        return Counter(len(process.owned) for process in self.processes.values())

    def owned_twice(self) -> list[str]:
        owned = Counter(account for process in self.processes.values() for account in process.owned)
        return [account for account, count in owned.items() if count > 1]

    def unowned(self) -> set[str]:
        return set(self.accounts) - set().union(*(process.owned for process in self.processes.values()))


@asynccontextmanager
async def fleet_of(clock: Clock, *names: str, accounts: int = 6) -> AsyncIterator[Fleet]:
    """Yield a fleet whose processes have settled."""
    fleet = Fleet(clock, [f"a{number}" for number in range(accounts)])
    async with fleet._group:
        await fleet.start(*names)
        await asyncio.sleep(5)
        yield fleet
        for name in list(fleet.processes):
            await fleet.kill(name)
