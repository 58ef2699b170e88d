"""A fleet's server in memory, for tests of the engine on virtual time: the rows of docs/… and nothing of the tasks.

The promises of the real one are held by tests/store/test_fleet.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from poller.core.fleet import (
    Beat,
    Fenced,
    FleetView,
    Hints,
    KindCount,
    Member,
    Published,
    SinkPlace,
    Taken,
    TakenSink,
)


@dataclass(kw_only=True)
class AccountRow:
    owner: int | None = None
    epoch: int = 0
    ages_s: tuple[float, ...] = ()
    is_clean: bool = True


@dataclass(kw_only=True)
class SinkRow:
    owner: int | None = None
    epoch: int = 0
    home: str | None = None


@dataclass(kw_only=True)
class FleetServer:
    """The rows that all members see."""

    members: dict[int, Member] = field(default_factory=dict)
    accounts: dict[str, AccountRow] = field(default_factory=dict)
    sinks: dict[str, SinkRow] = field(default_factory=dict)
    status: dict[int, bytes] = field(default_factory=dict)
    with_rows: frozenset[str] = frozenset()
    is_up: bool = True
    last_id: int = 0

    def owners(self) -> dict[str, int | None]:
        return {name: row.owner for name, row in self.accounts.items()}

    def delete(self, member: int) -> None:
        self.members.pop(member, None)
        for account in self.accounts.values():
            if account.owner == member:
                account.owner, account.is_clean = None, False
        for sink in self.sinks.values():
            if sink.owner == member:
                sink.owner = None


class MemoryMembership:
    """One process's way to the server; `is_cut` cuts it off."""

    def __init__(self, server: FleetServer, name: str) -> None:
        self.name = name
        self.server = server
        self.is_cut = False
        self.unheard_reason = "cut off"
        self.on_fenced: Callable[[Fenced], None] = lambda _fenced: None
        self.beats = 0
        self._id: int | None = None
        self._seen: FleetView | None = None
        self._has_missed = False  # hints of others

    @property
    def id(self) -> int | None:
        return self._id

    async def server_ahead_s(self) -> float:
        return 0.0

    async def _reach(self) -> None:
        while self.is_cut or not self.server.is_up:  # noqa: ASYNC110 - as the store's retries do
            await asyncio.sleep(0.5)

    def _row(self) -> int:
        if self._id is None or self._id not in self.server.members:
            self._id = None
            raise Fenced("this member was buried")
        return self._id

    async def join(self, *, serves: Collection[str], settings: Mapping[str, object]) -> int | None:
        await self._reach()
        if self._id is not None:
            self.server.delete(self._id)
            self._id = None
        if any(member.name == self.name for member in self.server.members.values()):
            return None
        self.server.last_id += 1
        self._id = self.server.last_id
        self.server.members[self._id] = Member(
            id=self._id,
            name=self.name,
            beats=0,
            seen_at=0.0,
            host="here",
            pid=self._id,
            is_draining=False,
            serves=frozenset(serves),
            settings=dict(settings),
            owns=0,
            sinks=frozenset(),
        )
        for account in serves:
            self.server.accounts.setdefault(account, AccountRow())
        return self._id

    def _change(self, **fields: object) -> None:
        row = self._row()
        member = self.server.members[row]
        values = {name: getattr(member, name) for name in member.__struct_fields__} | fields
        self.server.members[row] = Member(**values)

    async def announce(self, *, serves: Collection[str], settings: Mapping[str, object]) -> None:
        await self._reach()
        self._change(serves=frozenset(serves), settings=dict(settings))

    async def beat(self, status: bytes = b"") -> Beat:
        if self.is_cut or not self.server.is_up:
            self._has_missed = True
            await asyncio.sleep(1.0)
            return Beat.UNREACHED
        try:
            self._change(beats=self.server.members[self._row()].beats + 1)
        except Fenced:
            return Beat.FENCED
        self.beats += 1
        if status:
            self.server.status[self._row()] = status
        self._seen = await self.view()
        return Beat.MADE

    async def seen(self) -> FleetView:
        return await self.view() if self._seen is None else self._seen

    async def view(self) -> FleetView:
        await self._reach()
        me = self._id if self._id in self.server.members else None
        wanted: frozenset[str] = frozenset().union(*(member.sinks for member in self.server.members.values()))
        return FleetView(
            me=me,
            members=tuple(self.server.members.values()),
            mine={name: row.epoch for name, row in self.server.accounts.items() if me and row.owner == me},
            owners=self.server.owners(),
            free=frozenset(name for name, row in self.server.accounts.items() if row.owner is None),
            sinks=tuple(
                SinkPlace(name=name, owner=row.owner, epoch=row.epoch, home=row.home, is_wanted=name in wanted)
                for name, row in self.server.sinks.items()
            ),
            counts={},
        )

    async def bury(self, seen: Mapping[int, int]) -> list[int]:
        await self._reach()
        dead = [each for each, beats in seen.items() if (row := self.server.members.get(each)) and row.beats == beats]
        for member in dead:
            self.server.delete(member)
        return dead

    async def set_draining(self) -> Beat:
        self._change(is_draining=True)
        return Beat.MADE

    async def leave(self) -> None:
        if self._id is not None:
            self.server.delete(self._id)
            self._id = None

    async def take(self, accounts: Sequence[str], limit: int) -> list[Taken]:
        await self._reach()
        me, taken = self._row(), []
        for name in [name for name in accounts if self.server.accounts[name].owner is None][:limit]:
            row = self.server.accounts[name]
            row.owner, row.epoch = me, row.epoch + 1
            taken.append(
                Taken(
                    account=name,
                    epoch=row.epoch,
                    is_clean=row.is_clean,
                    slot_ages_s=row.ages_s if row.is_clean else (),
                    freed_ago_s=0.0 if row.is_clean else None,
                    moved_s=0.0,
                )
            )
            row.is_clean, row.ages_s = False, ()
        return taken

    async def adopt(self, account: str, epoch: int) -> bool:
        await self._reach()
        row = self.server.accounts[account]
        return self._id is not None and row.owner == self._id and row.epoch == epoch

    async def give(self, account: str, epoch: int, *, slot_ages_s: Sequence[float], is_clean: bool) -> bool:
        await self._reach()
        row = self.server.accounts[account]
        if self._id is None or row.owner != self._id or row.epoch != epoch:
            return False
        row.owner, row.is_clean, row.ages_s = None, is_clean, tuple(slot_ages_s)
        return True

    async def with_rows(self, accounts: Collection[str]) -> frozenset[str]:
        return frozenset(accounts) & self.server.with_rows

    async def want_sinks(self, names: Sequence[str], *, shared: Collection[str] = ()) -> None:
        self._change(sinks=frozenset(names))
        for name in names:
            row = self.server.sinks.setdefault(name, SinkRow())
            if name not in shared and row.home is None:
                row.home = self.name

    async def take_sinks(self, names: Sequence[str]) -> list[TakenSink]:
        me, taken = self._row(), []
        for name in names:
            row = self.server.sinks[name]
            if row.owner is None and row.home in (None, self.name):
                row.owner, row.epoch = me, row.epoch + 1
                taken.append(TakenSink(name=name, epoch=row.epoch, position=None))
        return taken

    async def give_sink(self, name: str, epoch: int) -> bool:
        row = self.server.sinks[name]
        if self._id is None or row.owner != self._id or row.epoch != epoch:
            return False
        row.owner = None
        return True

    async def detach_sinks(self, names: Collection[str]) -> list[str]:
        self._row()
        for name in names:
            del self.server.sinks[name]
        return list(names)

    async def published(self) -> list[Published]:
        members = self.server.members
        return [
            Published(member=member, name=members[member].name, age_s=0.0, body=body)
            for member, body in self.server.status.items()
            if member in members
        ]

    async def counts(self) -> Mapping[str, KindCount]:
        return {}

    def hints(self) -> Hints:
        has_missed, self._has_missed = self._has_missed and not self.is_cut, self._has_missed and self.is_cut
        mine = frozenset(name for name, row in self.server.accounts.items() if row.owner == self._id)
        return Hints(fed=mine if has_missed else frozenset(), reload=False)

    async def hint_reload(self) -> None:
        """No hints in memory."""
