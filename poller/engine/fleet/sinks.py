"""A member's sinks: it takes those that it names and that no member delivers, and gives up those that moved away.

A sink of one machine (a file, a command) has a home, the name of the only replica that may deliver it. The others have
one owner in the whole fleet.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import structlog

from poller.core.errors import ConfigError, SinkError
from poller.core.fleet import FleetView, SinkPlace, TakenSink
from poller.core.protocols import Clock
from poller.engine.delivery import DeliveryLoop
from poller.engine.fleet.member import FleetMember
from poller.engine.service import Service

log = structlog.get_logger("poller")

DETACHED_AFTER_S = 60.0  # a sink that no member names
UNUSABLE_S = 60.0  # how long a sink that cannot be made is left to others
STOPPED_S = 60.0  # how long a member keeps a shared sink that stopped, so that its page and probes show why
LEFT_TO_OTHERS_S = 10.0  # how long it is left to others then: several turns of each


class TakeOver(Protocol):
    """Counts what a sink has already, before this member delivers to it."""

    async def __call__(self, names: Sequence[str], /) -> None: ...


class MemberSinks:
    """The sinks that one member's settings name."""

    def __init__(
        self,
        member: FleetMember,
        service: Service,
        *,
        named: Mapping[str, bool],
        make_loop: Callable[[str], DeliveryLoop],
        take_over: TakeOver,
        monotonic: Clock,
    ) -> None:
        """`named`: the sinks, each with whether any replica may deliver it. `make_loop` raises `ConfigError`."""
        self._member = member
        self._membership = member.membership
        self._service = service
        self._named = dict(named)
        self._make_loop = make_loop
        self._take_over = take_over
        self._monotonic = monotonic
        self._epochs: dict[str, int] = {}  # sinks that this member delivers
        self._unwanted_since: dict[str, float] = {}
        self._is_replayed = False  # since the latest turn
        self._to_reopen: set[str] = set()  # since the latest turn
        self._unusable_until: dict[str, float] = {}
        self._stopped_since: dict[str, float] = {}  # shared sinks that need a person, as it seems here
        self._announced_as: int | None = None  # the member id for which the store knows the names

    async def turn(self, view: FleetView) -> None:
        """Take what is free, end what moved. Raises `Fenced`."""
        if self._announced_as != view.me:
            shared = [name for name, is_shared in self._named.items() if is_shared]
            await self._membership.want_sinks(list(self._named), shared=shared)
            self._announced_as = view.me
            return  # the next view has them
        to_give = set(self._epochs) if self._is_replayed else self._to_reopen
        self._is_replayed, self._to_reopen = False, set()
        to_give |= self._stopped_for_long(view)
        for place in view.sinks:
            if place.name in self._epochs and (place.name in to_give or not self._may_deliver(place, view.me)):
                await self._end(place)
        waiting = {place.name for place in view.sinks if place.has_waiting}
        for loop in self._service.deliveries.loops:
            if loop.sink.name in waiting:
                loop.wake()
        free = [
            place.name
            for place in view.sinks
            if place.owner is None and place.name in self._named and place.home in (None, self._member.name)
        ]
        if free:
            now = self._monotonic()
            await self._take(
                [name for name in free if name not in self._epochs and self._unusable_until.get(name, now) <= now]
            )
        await self._detach(view)

    def _stopped_for_long(self, view: FleetView) -> set[str]:
        """Return the shared sinks that stopped here a while ago, where there are other members: the cause may be this
        machine's alone, such as its network or a secret."""
        now, loops = self._monotonic(), self._service.deliveries.loops
        stopped = {loop.sink.name for loop in loops if loop.stopped_by is not None and self._named.get(loop.sink.name)}
        self._stopped_since = {name: self._stopped_since.get(name, now) for name in stopped}
        long = {name for name, since in self._stopped_since.items() if now - since >= STOPPED_S}
        if len(view.members) < 2:
            return set()
        self._unusable_until |= dict.fromkeys(long, now + LEFT_TO_OTHERS_S)
        return long

    def count_again(self) -> None:
        """Another process put records back into an outbox: give all sinks back in the next turn, so that who takes them
        counts what they have."""
        self._is_replayed = True

    def reopen(self, names: Collection[str]) -> None:
        """Give these sinks back in the next turn, and try those again that could not be made: settings were reloaded.
        Who takes them opens them."""
        self._to_reopen |= set(names)
        self._unusable_until.clear()

    def _may_deliver(self, place: SinkPlace, me: int | None) -> bool:
        return place.owner == me and place.home in (None, self._member.name)

    async def _take(self, names: Sequence[str]) -> None:
        taken = await self._membership.take_sinks(names)
        if taken:
            await self._take_over([sink.name for sink in taken])
        for sink in taken:
            try:
                loop = await self._open(sink)
            except (ConfigError, SinkError) as error:  # such as a file that it needs and that is gone since the start
                log.error("sink.stopped", sink=sink.name, reason=str(error))  # noqa: TRY400 - a message
                self._unusable_until[sink.name] = self._monotonic() + UNUSABLE_S
                await self._membership.give_sink(sink.name, sink.epoch)
                continue
            if self._service.is_ending:  # since this turn began
                await loop.close()
                await self._membership.give_sink(sink.name, sink.epoch)
                continue
            self._epochs[sink.name] = sink.epoch
            self._service.deliveries.begin(loop)
            log.info("sink.taken", sink=sink.name, epoch=sink.epoch)

    async def _open(self, sink: TakenSink) -> DeliveryLoop:
        """Return the delivery to a sink, which has stopped where a person must act. Raises `ConfigError`."""
        loop = self._make_loop(sink.name)
        try:
            await loop.open(sink.position)
        except SinkError as error:
            loop.fail(error)
        except ConfigError:
            await loop.close()
            raise
        return loop

    async def _end(self, place: SinkPlace) -> None:
        """End a delivery that is another member's from now on."""
        epoch = self._epochs.pop(place.name)
        for loop in [each for each in self._service.deliveries.loops if each.sink.name == place.name]:
            await self._service.deliveries.end(loop)
            self._service.deliveries.loops.remove(loop)
        await self._membership.give_sink(place.name, epoch)
        log.info("sink.given", sink=place.name, epoch=epoch, home=place.home)

    async def _detach(self, view: FleetView) -> None:
        """Detach what no member has named for a minute: records that finish from now on are not kept for it."""
        now = self._monotonic()
        unwanted = {place.name for place in view.sinks if not place.is_wanted}
        self._unwanted_since = {name: self._unwanted_since.get(name, now) for name in unwanted}
        if long := [name for name, since in self._unwanted_since.items() if now - since >= DETACHED_AFTER_S]:
            for name in await self._membership.detach_sinks(long):
                log.warning("sink.detached", sink=name)

    async def drop(self) -> None:
        """End all deliveries at once: this member was buried."""
        self._epochs.clear()
        for loop in list(self._service.deliveries.loops):
            await self._service.deliveries.drop(loop)
