"""A member's turns, one a heartbeat: see the others, bury the dead, take and give accounts, attend to sinks.

All members do the same, each for itself, from the rows of the state: there is no leader.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Protocol

import structlog

from poller.core.accounts import Pause
from poller.core.errors import ConfigError
from poller.core.fleet import Fenced, FleetView, Hints, Taken
from poller.core.fleet_faults import unserved
from poller.core.handover import Handover
from poller.core.protocols import Clock
from poller.engine.fleet.balance import Seat, moves, shares
from poller.engine.fleet.member import FleetMember
from poller.engine.fleet.sinks import MemberSinks
from poller.engine.lane import Lane
from poller.engine.service import Service

log = structlog.get_logger("poller")

MEMBER_TURNS = 2  # after which a member gives: by then it has seen who is there
ROWS_EVERY = 10  # turns, after which rows to import are looked for whose hint was lost
STUCK_S = 60.0  # an account that only a person can help is tried by another member after this time
IN_OTHER_HANDS = -1  # in place of the owner of an account that is on its way out


class OpenLane(Protocol):
    """Makes the lane of an account that this member owns now. Raises `ConfigError` where it has no token."""

    async def __call__(self, account: str, handover: Handover) -> Lane: ...


class Turns:
    """The accounts and sinks of one member, from its first turn to its last."""

    def __init__(
        self,
        member: FleetMember,
        service: Service,
        sinks: MemberSinks,
        *,
        open_lane: OpenLane,
        monotonic: Clock,
        show: Callable[[FleetView], Awaitable[None]],
    ) -> None:
        """`show` publishes what this member does, with what it saw of the others; called once a turn."""
        self._member = member
        self._membership = member.membership
        self._service = service
        self._sinks = sinks
        self._open_lane = open_lane
        self._monotonic = monotonic
        self._show = show
        self._accounts = member.serves
        self._epochs: dict[str, int] = {}  # accounts that this member owns by its own doing
        self._giving: set[str] = set()
        self._given: set[str] = set()  # since the latest view was asked for, which may still show them as ours
        self._declined: set[str] = set()  # accounts that are for others, while others serve them
        self._stuck_since: dict[str, float] = {}
        self._fed: frozenset[str] = frozenset()  # accounts that others fed since the latest turn
        self._unserved: list[str] = []  # as last logged
        self._turns = 0  # as this member
        self._began_at = 0.0  # the latest turn, on the monotonic clock
        self._fed_total: int | None = None  # tasks and rows of the fleet, when rows were last looked for
        self._members = frozenset[int]()  # of the latest view
        self._group: asyncio.TaskGroup | None = None
        service.on_lane_ended = self._give
        service.on_fenced = member.note_fenced
        member.on_hints = self._on_hints

    async def run(self) -> None:
        """Take turns until cancelled, or until the run ends without a membership. Raises `ConfigError` where another
        process took this member's name."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._recheck_at_the_end())
            while True:
                try:
                    if self._member.is_fenced:
                        await self._drop_all()
                        if self._service.is_ending:
                            return
                        await self._member.join()
                        self._service.ingest.read_again()
                    await self._turn()
                except Fenced as error:
                    self._member.note_fenced(error)
                    continue
                if self._service.is_ending:
                    await asyncio.sleep(self._member.times.beat_s)

    async def _recheck_at_the_end(self) -> None:
        await self._service.ending.wait()
        self._member.recheck()

    async def _see(self) -> FleetView | None:
        """Return what the next heartbeat sees, which paces the turns; the first turn, and those of a drain, do not wait
        for it. None where this process is fenced."""
        self._given.clear()
        if self._turns and not self._service.is_ending:
            view = await self._member.next_view(after=self._began_at, unless=lambda: self._service.is_ending)
            if view is not None or not self._service.is_ending:
                return view
        return await self._membership.view()

    async def _turn(self) -> None:
        if (failure := self._member.failure) is not None:
            raise failure
        if (view := await self._see()) is None:
            return
        self._began_at = self._member.turned_at = self._monotonic()
        members = frozenset(member.id for member in view.members)
        if view.me not in members:
            self._member.note_fenced()
            return
        if self._members - members:
            self._wake(self._service.lanes)  # one that is gone may have fed them, and sent no hint
        self._members = members
        if await self._member.bury(view):
            view = await self._membership.view()
        if self._service.is_ending:
            await self._membership.set_draining()
        else:
            await self._move_accounts(view)
            await self._sinks.turn(view)
            self._turns += 1
        await self._show(view)

    # --- accounts

    async def _move_accounts(self, view: FleetView) -> None:
        await self._reconcile(view)
        for account in self._epochs.keys() - self._member.serves - self._giving:
            self._begin_to_give(account)
        await self._give_up_stuck(view)
        await self._give_up_outgrown(sum(count.tasks for count in view.counts.values()))
        seats = [Seat(member=each.id, serves=each.serves, is_draining=each.is_draining) for each in view.members]
        self._log_unserved(unserved(view))
        moving = (self._giving | self._given) & view.owners.keys()
        owners = dict(view.owners) | dict.fromkeys(moving, IN_OTHER_HANDS)
        found = moves(
            shares(view.me or 0, seats, owners),
            may_give=self._turns >= MEMBER_TURNS,
            knows_others=self._turns > 0,
            is_busy=self._is_busy,
        )
        for account in found.give:
            self._begin_to_give(account)
        for accounts, limit in found.take:
            for taken in await self._membership.take(accounts, limit):
                await self._begin(taken.account, taken.epoch, self._handover(taken))

    def _is_busy(self, account: str) -> bool:
        lane = self._service.lanes.get(account)
        return lane is not None and lane.gate.reading().in_flight > 0

    def _handover(self, taken: Taken) -> Handover:
        if taken.is_clean:
            return Handover(is_clean=True, slot_ages_s=taken.slot_ages_s)
        is_doubted = self._monotonic() < self._member.doubted_until
        return Handover(is_clean=False, settle_s=self._member.times.trust_s if is_doubted else 0.0)

    async def _begin(self, account: str, epoch: int, handover: Handover) -> None:
        """Begin the work of an account that is ours now."""
        try:
            lane = await self._open_lane(account, handover)
        except ConfigError as error:
            log.error("account.declined", account=account, reason=str(error))  # noqa: TRY400 - a message
            await self._give_back(account, epoch, handover)
            await self._decline(account)
            return
        if self._service.is_ending:  # since this turn began: its lanes are stopped already
            await self._give_back(account, epoch, handover)
            return
        self._epochs[account] = epoch
        self._service.begin_lane(lane)
        log.info("account.taken", account=account, epoch=epoch, clean=handover.is_clean)

    async def _give_back(self, account: str, epoch: int, handover: Handover) -> None:
        """Give an account back that was never polled here, as it came."""
        ages_s = handover.slot_ages_s if handover.is_clean else ()
        await self._membership.give(account, epoch, slot_ages_s=ages_s, is_clean=handover.is_clean)

    def _begin_to_give(self, account: str) -> None:
        if self._group is not None and account in self._service.lanes:
            self._giving.add(account)
            self._group.create_task(self._service.end_lane(account))

    async def _give(self, lane: Lane) -> None:
        """Give an account back: its lane has ended, all its polls are recorded."""
        account, ages_s = lane.account, lane.gate.slot_ages_s
        self._giving.add(account)
        epoch = self._epochs.pop(account, None)
        if epoch is not None:
            await self._membership.give(account, epoch, slot_ages_s=ages_s or (), is_clean=ages_s is not None)
            self._given.add(account)
            log.info("account.given", account=account, epoch=epoch, clean=ages_s is not None)
        self._giving.discard(account)

    async def _reconcile(self, view: FleetView) -> None:
        """Compare what the state shows with what we did: after a failover of the server they may differ."""
        for account in self._epochs.keys() - view.mine.keys() - self._giving:
            if (epoch := self._epochs.pop(account, None)) is None:
                continue  # given meanwhile
            log.error("account.lost", account=account, epoch=epoch)
            await self._service.drop_lane(account)
        for account in view.mine.keys() - self._epochs.keys() - self._giving - self._given:
            log.error("account.found", account=account, epoch=view.mine[account])
            handover = Handover(is_clean=False, settle_s=self._member.times.trust_s)
            if await self._membership.adopt(account, view.mine[account]):
                await self._begin(account, view.mine[account], handover)

    # --- accounts that need another lane

    async def _give_up_outgrown(self, fed_total: int) -> None:
        """Give back accounts that have rows to import and a lane for ids alone: the next owner, maybe this member,
        begins one that starts them."""
        fed, self._fed = self._fed, frozenset()
        for_ids = {name for name, lane in self._service.lanes.items() if lane.imports is None} - self._giving
        asked = for_ids & fed
        if self._turns % ROWS_EVERY == 0 and fed_total != self._fed_total:
            asked, self._fed_total = for_ids, fed_total
        for account in await self._membership.with_rows(asked):
            log.info("account.outgrown", account=account)
            self._begin_to_give(account)

    # --- accounts that others should try

    async def _give_up_stuck(self, view: FleetView) -> None:
        """Leave an account to others, once, where this member has been refused for a minute; serve it again where no
        other member does."""
        others = Counter(
            account for each in view.members if each.id != view.me and not each.is_draining for account in each.serves
        )
        if alone := {account for account in self._declined if not others[account]}:
            self._declined -= alone
            await self._announce()
        now, lanes = self._monotonic(), self._service.lanes
        stuck = {account for account, lane in lanes.items() if _is_stuck(lane.gate.pause)}
        self._stuck_since = {account: self._stuck_since.get(account, now) for account in stuck}
        tried_for = {account: now - since for account, since in self._stuck_since.items()}
        for account, stuck_s in tried_for.items():
            if stuck_s < STUCK_S or not others[account] or account in self._giving:
                continue
            if account in self._stuck_since and account in lanes:  # `_decline` waits: a reload may have come
                log.warning("account.declined", account=account, reason=str(lanes[account].gate.pause))
                await self._decline(account)
                self._begin_to_give(account)

    async def _decline(self, account: str) -> None:
        self._declined.add(account)
        await self._announce()

    async def _announce(self) -> None:
        await self._member.announce(self._accounts - self._declined)

    async def change(self, accounts: Collection[str], settings: Mapping[str, object]) -> None:
        """Serve these accounts from now on: settings were reloaded, so that all are tried again."""
        self._accounts = frozenset(accounts)
        self._declined.clear()
        self._stuck_since.clear()
        with suppress(Fenced):  # the next `join` announces them
            await self._member.announce(self._accounts, settings)

    def _log_unserved(self, accounts: list[str]) -> None:
        if accounts != self._unserved:
            self._unserved = accounts
            if accounts:
                log.warning("account.unserved", accounts=accounts)

    # --- the end of a membership

    async def _drop_all(self) -> None:
        """Drop all that this process owned, without recording: it has been buried."""
        await self._service.ingest.leave_off()  # a failover may have taken the position back
        await self._service.drop_lanes()
        self._epochs.clear()
        self._giving.clear()
        await self._sinks.drop()
        self._turns = 0

    def _on_hints(self, hints: Hints) -> None:
        self._fed |= hints.fed
        self._wake(hints.fed & self._service.lanes.keys())
        if hints.replayed:
            self._sinks.count_again()
        if hints.reload:
            self._service.reload_asked.set()

    def _wake(self, accounts: Iterable[str]) -> None:
        for account in accounts:
            self._service.lanes[account].wake()


def _is_stuck(pause: Pause | None) -> bool:
    return pause is not None and pause.needs_person and pause is not Pause.PAUSED_BY_PERSON
