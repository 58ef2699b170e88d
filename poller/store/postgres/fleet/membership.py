"""This process's place in the fleet. For the contracts, see core/fleet.py."""

import os
import socket
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from psycopg import AsyncConnection

from poller.core.fleet import Beat, Fenced, FleetView, Hints, KindCount, Membership, Published, Taken, TakenSink
from poller.core.protocols import Clock
from poller.store.postgres import import_sums
from poller.store.postgres.fleet import accounts as owning
from poller.store.postgres.fleet import members, sinks, statuses
from poller.store.postgres.fleet.counts import counts
from poller.store.postgres.fleet.heart import RELOAD, Heart, hints_of
from poller.store.postgres.fleet.holdings import Holdings, OwnedAccount
from poller.store.postgres.fleet.members import SeenFleet
from poller.store.postgres.fleet.writer import FleetWriter
from poller.store.postgres.group_commit import OneByOne

Read = Callable[..., Awaitable[Any]]  # a function of a connection, and its other arguments


class PostgresMembership(Membership):
    """Reads with `read`, writes under the fence with `writer`, beats on a connection of its own."""

    def __init__(
        self,
        holdings: Holdings,
        writer: FleetWriter,
        read: Read,
        heart: Heart,
        clock: Clock,
        flush: Read,
        restore: Callable[[AsyncConnection], Awaitable[None]],
    ) -> None:
        """`restore` stores again what a failover may have lost, while the state still shows this process as owner."""
        self.name = holdings.name
        self.on_fenced: Callable[[Fenced], None] = lambda _fenced: None
        self.on_taken: Callable[[str], None] = lambda _account: None
        self._holdings = holdings
        self._writer = writer
        self._read = read
        self._heart = heart
        self._clock = clock
        self._flush = flush
        self._restore = restore
        self._known = SeenFleet()

    @property
    def id(self) -> int | None:
        return self._holdings.member

    @property
    def fed(self) -> int | None:
        """How many tasks and rows were ever fed to the fleet, as of the latest heartbeat; None before the first."""
        return None if self._heart.seen is None else sum(row[0] for row in self._heart.seen["kind"])

    # --- who is there

    async def join(self, *, serves: Collection[str], settings: Mapping[str, object]) -> int | None:
        await self.leave()
        await self._read(self._restore)
        process, former = (socket.gethostname(), os.getpid()), tuple(self._holdings.former)
        member: int | None = await self._read(
            members.insert_member, former, self.name, process, self._clock(), tuple(serves), settings
        )
        if member is not None:
            self._holdings.former.clear()
            self._writer.begin_membership(member)
        return member

    async def announce(self, *, serves: Collection[str], settings: Mapping[str, object]) -> None:
        await self._write(members.announce, self._member(), tuple(serves), settings)

    async def beat(self, status: bytes = b"") -> Beat:
        return await self._heartbeat(lambda member: self._heart.beat(member, status))

    async def server_ahead_s(self) -> float:
        ahead_s: float = await self._read(members.ahead_of, self._clock)
        return ahead_s

    @property
    def unheard_reason(self) -> str:
        return self._heart.failure

    async def set_draining(self) -> Beat:
        return await self._heartbeat(self._heart.drain)

    async def _heartbeat(self, update: Callable[[int], Awaitable[Beat]]) -> Beat:
        member = self._holdings.member
        if member is None:
            return Beat.FENCED
        beat = await update(member)
        if beat is Beat.FENCED and self._holdings.member == member:
            self._writer.run_within(0.0, OneByOne(_write_nothing), (), on_commit=lambda _: None)  # it finds out, too
        return beat

    async def seen(self) -> FleetView:
        rows = self._heart.seen
        if rows is None or not members.is_known(rows, self._known):
            return await self.view()
        return members.view_of(rows, self._holdings.member, self._known)

    async def view(self) -> FleetView:
        view: FleetView
        view, self._known = await self._read(members.see, self._holdings.member, self._known)
        return view

    async def bury(self, seen: Mapping[int, int]) -> list[int]:
        return await self._read(members.bury, dict(seen)) if seen else []

    async def leave(self) -> None:
        if (member := self._holdings.member) is None:
            return
        left = Fenced(f"replica {self.name} has left the fleet.")
        try:
            await self._write(members.delete_member, member, on_commit=lambda _: self._writer.end_membership(left))
        except Fenced:
            return

    # --- accounts

    async def take(self, accounts: Sequence[str], limit: int) -> list[Taken]:
        write = (owning.take, list(accounts), limit, self._member(), self._clock())
        found: list[tuple[Taken, OwnedAccount]] = await self._write(*write, on_commit=self._begin_owning)
        return [taken for taken, _ in found]

    def _begin_owning(self, found: Sequence[tuple[Taken, OwnedAccount]]) -> None:
        for taken, owned in found:
            self.on_taken(taken.account)
            self._holdings.accounts[taken.account] = owned

    async def adopt(self, account: str, epoch: int) -> bool:
        def begin(number: int | None) -> None:
            if number is not None:
                self.on_taken(account)
                self._holdings.accounts[account] = OwnedAccount(number, epoch)

        write = (owning.number_of, account, epoch, self._member())
        return await self._write(*write, on_commit=begin) is not None

    async def give(self, account: str, epoch: int, *, slot_ages_s: Sequence[float], is_clean: bool) -> bool:
        try:
            await self._flush()  # what was noted is stored while the account is still owned
            write = (owning.give, account, epoch, self._member(), list(slot_ages_s), is_clean)
            return bool(await self._write(*write, on_commit=lambda _: self._holdings.end_owning(account, epoch)))
        except Fenced:
            return False

    async def with_rows(self, accounts: Collection[str]) -> frozenset[str]:
        return frozenset(await self._read(import_sums.accounts_with_rows, list(accounts))) if accounts else frozenset()

    # --- sinks

    async def want_sinks(self, names: Sequence[str], *, shared: Collection[str] = ()) -> None:
        await self._write(sinks.want, list(dict.fromkeys(names)), frozenset(shared), self._member(), self.name)

    async def take_sinks(self, names: Sequence[str]) -> list[TakenSink]:
        return list(
            await self._write(sinks.take, list(names), self._member(), self.name, on_commit=self._begin_delivering)
        )

    def _begin_delivering(self, found: Sequence[TakenSink]) -> None:
        self._holdings.sinks.update({taken.name: taken.epoch for taken in found})

    async def give_sink(self, name: str, epoch: int) -> bool:
        try:
            write = (sinks.give, name, epoch, self._member())
            return bool(await self._write(*write, on_commit=lambda _: self._holdings.end_delivering(name, epoch)))
        except Fenced:
            return False

    async def detach_sinks(self, names: Collection[str]) -> list[str]:
        return list(await self._write(sinks.detach, tuple(names))) if names else []

    # --- what members show each other

    async def published(self) -> list[Published]:
        return list(await self._read(statuses.published))

    async def counts(self) -> Mapping[str, KindCount]:
        return dict(await self._read(counts))

    def hints(self) -> Hints:
        return hints_of(self._heart.heard(), {owned.number: name for name, owned in self._holdings.accounts.items()})

    async def hint_reload(self) -> None:
        self._heart.hint({RELOAD})

    # --- writing

    def _member(self) -> int:
        """Return the number of this member's row. Raises `Fenced` where there is none."""
        if (member := self._holdings.member) is None:
            raise self._writer.no_member()
        return member

    async def _write(
        self, write: Callable[..., Awaitable[Any]], *values: Any, on_commit: Callable[[Any], None] | None = None
    ) -> Any:
        return await self._writer.run(OneByOne(write), values, on_commit=on_commit)


async def _write_nothing(_: AsyncConnection) -> None:
    """The fence alone."""
