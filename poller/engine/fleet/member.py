"""This process as a member of a fleet: it joins, beats, notices that it was buried, and leaves.

What the member owns is not its matter; see `turns`.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress

import structlog

from poller.core.errors import ConfigError
from poller.core.fleet import Beat, Fenced, FleetView, Hints, Membership
from poller.core.protocols import Clock
from poller.engine.fleet.death_watch import DeathWatch
from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.trust import Trust

log = structlog.get_logger("poller")

BEAT_SETTING = "beat_s"  # the one setting that all members must have the same


class FleetMember:
    """A membership from `open` to `close`, with an id of its own after each time it was buried."""

    def __init__(
        self,
        membership: Membership,
        *,
        times: BeatTimes,
        trust: Trust,
        monotonic: Clock,
        serves: Collection[str],
        settings: Mapping[str, object],
    ) -> None:
        """`serves` are the accounts that this process can poll; `settings`, without secrets, show what differs."""
        self.membership = membership
        membership.on_fenced = self.note_fenced
        self.times = times
        self.trust = trust
        self.serves = frozenset(serves)
        self.on_hints: Callable[[Hints], None] = lambda _hints: None
        self.status: Callable[[], bytes] = lambda: b""  # asked before a heartbeat, which publishes it unless empty
        self.turned_at = 0.0  # monotonic: the latest turn began; no status is published where that is a lease ago
        self.failure: Exception | None = None  # a defect or a failed state ended the heartbeats: this process must stop
        self.doubted_until = 0.0  # monotonic: until then another process may still act for what is found free
        self._settings = {BEAT_SETTING: times.beat_s, **settings}
        self._monotonic = monotonic
        self._watch = DeathWatch(times.lease_s)
        self._is_member = asyncio.Event()
        self._beating: asyncio.Task[None] | None = None
        self._begun = self._made = 0  # the latest heartbeat that began, and the latest of those that were made
        self._unheard_since: float | None = None  # monotonic: trust has ended, as no heartbeat was made
        self._news = asyncio.Event()  # for `next_view`
        self._is_late = asyncio.Event()  # the next heartbeat is asked for at once

    @property
    def name(self) -> str:
        return self.membership.name

    @property
    def is_fenced(self) -> bool:
        """Whether this process was buried and has not joined again."""
        return not self._is_member.is_set()

    async def open(self) -> None:
        """Join, and beat from then on. Raises `ConfigError` where a living member has this name."""
        await self.join()
        # Outside any group, as the store's writer is: it must beat until the last sink is closed. `close` awaits it.
        self._beating = asyncio.get_running_loop().create_task(self._beat())

    async def close(self) -> None:
        """Leave the fleet: what is still owned is free, and unclean."""
        self.trust.end()
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        with suppress(TimeoutError):
            async with asyncio.timeout(self.times.lease_s):  # after that time the others bury it
                await self.membership.leave()

    # --- joining

    async def join(self) -> None:
        """Become a member, once the last one of this name is dead. Raises `ConfigError` where it goes on beating, or
        where members beat differently."""
        began_at, first_seen = self._monotonic(), None
        while True:
            sent = self.trust.mark()
            member = await self.membership.join(serves=self.serves, settings=self._settings)
            if member is not None:
                break
            view = await self.membership.view()
            await self.bury(view)
            other = next((each for each in view.members if each.name == self.name), None)
            if other is None:
                continue
            if first_seen is None:
                first_seen = other
                log.warning("member.waiting", replica=self.name, host=other.host, pid=other.pid)
            has_beaten = (other.id, other.beats) != (first_seen.id, first_seen.beats) and not other.is_draining
            if has_beaten and self._monotonic() - began_at > self.times.lease_s:
                raise ConfigError(
                    f"two replicas are named {self.name!r}: the other is process {other.pid} on {other.host}. Give "
                    "each a name of its own: replica = …, or POLLER_REPLICA"
                )
            await asyncio.sleep(self.times.beat_s)
        self.trust.renew(sent)
        self.turned_at = self._monotonic()
        self._is_member.set()
        log.info("member.joined", replica=self.name, member=member)
        await self._refuse_other_beats()

    async def _refuse_other_beats(self) -> None:
        """Raise `ConfigError` where another member's lease may be shorter than our trust."""
        for other in (await self.membership.view()).members:
            if other.settings.get(BEAT_SETTING, self.times.beat_s) != self.times.beat_s:
                await self.close()
                raise ConfigError(
                    f"beat_s = {self.times.beat_s:g} differs from that of replica {other.name} "
                    f"({other.settings[BEAT_SETTING]}): all members of a fleet need the same"
                )

    async def announce(self, serves: Collection[str], settings: Mapping[str, object] | None = None) -> None:
        """Show the others which accounts this process can serve from now on. Raises `Fenced`."""
        self.serves = frozenset(serves)
        if settings is not None:
            self._settings = {BEAT_SETTING: self.times.beat_s, **settings}
        await self.membership.announce(serves=self.serves, settings=self._settings)

    # --- beating

    async def _beat(self) -> None:
        try:
            while True:
                began_at = self._monotonic()
                if self.membership.id is not None:
                    await self._beat_once(self.membership.id)
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(0.0, began_at + self.times.beat_s - self._monotonic())):
                        await self._is_late.wait()
                self._is_late.clear()
        except Exception as error:  # noqa: BLE001 - the turns raise it
            self.failure = error
            self.recheck()

    async def _beat_once(self, member: int) -> None:
        self._begun = number = self._begun + 1
        sent = self.trust.mark()
        is_turning = self._monotonic() - self.turned_at < self.times.lease_s
        match await self.membership.beat(self.status() if is_turning else b""):
            case Beat.MADE if self.membership.id == member:
                self.trust.renew(sent)
                self._made = number
                self.recheck()
                if self._unheard_since is not None:
                    after_s, self._unheard_since = round(self._monotonic() - self._unheard_since, 3), None
                    log.info("member.heard", replica=self.name, after_s=after_s)
            case Beat.FENCED if self.membership.id in (member, None):
                self.note_fenced()
            case Beat.UNREACHED if self._unheard_since is None and not self.trust():
                self._unheard_since = self._monotonic()
                log.error("member.unheard", replica=self.name, reason=self.membership.unheard_reason)
        if any(hints := self.membership.hints()):
            self.on_hints(hints)

    async def next_view(self, *, after: float, unless: Callable[[], bool]) -> FleetView | None:
        """Return what the next heartbeat sees that begins from now on, which comes at once where the view before, of
        the instant `after`, is a beat old. None where this process is fenced before, or `unless` returns True, which is
        asked again after each `recheck`. Raises what ended the heartbeats."""
        last = self._begun
        if self._monotonic() >= after + self.times.beat_s:
            self._is_late.set()
        while self._made <= last:
            if self.failure is not None:
                raise self.failure
            if self.is_fenced or unless():
                return None
            self._news.clear()
            await self._news.wait()
        return await self.membership.seen()

    def recheck(self) -> None:
        """Have `next_view` check what it waits for."""
        self._news.set()

    def note_fenced(self, error: Fenced | None = None) -> None:
        """This process was buried, or the server lost what it had confirmed: nothing leaves until it has joined
        again."""
        self.trust.end()
        if error is not None and error.lost_commits:
            self.doubted_until = self._monotonic() + self.times.trust_s
        self._is_member.clear()
        self.recheck()

    async def until_member(self) -> None:
        """Return once this process is a member."""
        await self._is_member.wait()

    # --- others

    async def bury(self, view: FleetView) -> list[str]:
        """Bury those who stopped beating; return their names. What they owned is free."""
        me = self.membership.id
        beats = {member.id: member.beats for member in view.members if member.id != me}
        dead = self._watch.dead(beats, self._monotonic())
        if not dead:
            return []
        names = {member.id: member.name for member in view.members}
        buried = [names[member] for member in await self.membership.bury(dead)]
        for name in buried:
            log.warning("member.buried", replica=name, after_s=self.times.lease_s)
        return buried
