"""The periodic work of a run: it saves lanes, prunes, indexes and samples the pace, and holds nothing else up."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog

from poller.core.deliveries import PruneWalk
from poller.core.fleet import Fenced
from poller.core.protocols import Clock, Store
from poller.engine.history import History, counts_of
from poller.engine.lane import Lane
from poller.engine.left_out import beside_many_rows, left_out
from poller.engine.metrics import Metrics

log = structlog.get_logger("poller")

SAVE_EVERY_S = 5.0  # how often lanes are saved, so that a restart knows when an account was last used
COUNT_EVERY_S = 30.0  # how often the tasks of accounts that the forecast leaves out are counted
PRUNED_AT_ONCE = 500  # 30 ms in SQLite, which the event loop waits for
PRUNE_EVERY_S = 60.0
INDEXED_AT_ONCE = 256  # tasks: 4 ms in SQLite, of every
INDEX_GAP_S = 0.2
INDEX_EVERY_S = 5.0  # once all is indexed


class Upkeep:
    """What a run does every few seconds, whatever its tasks do. A fenced member of a fleet skips its turn."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        clock: Clock,
        *,
        lanes: Mapping[str, Lane],
        history: History,
        retention_s: float | None,
    ) -> None:
        """`lanes`: those at work, as they come and go. `retention_s` may be set to another value at any time."""
        self.retention_s = retention_s
        self._store, self._metrics, self._clock = store, metrics, clock
        self._lanes, self._history = lanes, history
        self._blocked: set[str] = set()  # the accounts whose tasks were counted last
        self._elsewhere: set[str] = set()
        self._count_at = 0.0

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Return the endless loops of this work, each to be run as a task and cancelled."""
        return [self._save_lanes(), self._prune(), self._sample_pace(), self._index()]

    async def _save_lanes(self) -> None:
        while True:
            with suppress(Fenced):
                for lane in self._lanes.values():
                    lane.save()
                self._store.beat()
                await self._count_blocked()
            await asyncio.sleep(SAVE_EVERY_S)

    async def _count_blocked(self) -> None:
        now = asyncio.get_running_loop().time()
        blocked = left_out(self._lanes)
        elsewhere = beside_many_rows(self._lanes.keys() - blocked, self._lanes)
        if (blocked, elsewhere) == (self._blocked, self._elsewhere) and now < self._count_at:
            return
        self._blocked, self._elsewhere, self._count_at = blocked, elsewhere, now + COUNT_EVERY_S
        self._metrics.blocked = await self._store.waiting_of(blocked) if blocked else 0
        self._metrics.elsewhere = await self._store.waiting_of(elsewhere) if elsewhere else 0

    async def _sample_pace(self) -> None:
        metrics, lanes = self._metrics, self._lanes
        await self._history.watch(
            self._clock,
            lambda: counts_of(metrics),
            paused=lambda: sum(lane.gate.pause is not None for lane in lanes.values()) / max(1, len(lanes)),
        )

    async def _prune(self) -> None:
        while True:
            with suppress(Fenced):
                await self._prune_expired()
            await asyncio.sleep(PRUNE_EVERY_S)

    async def _prune_expired(self) -> None:
        """Delete all that is past its retention. Half of the time is for other work: pruning must be faster than tasks
        finish, and hold nothing up."""
        loop, walk, pruned = asyncio.get_running_loop(), PruneWalk(), 0
        try:
            while self.retention_s is not None:
                began = loop.time()
                latest = await self._store.prune(self._clock() - self.retention_s, PRUNED_AT_ONCE, walk)
                pruned += latest
                if latest < PRUNED_AT_ONCE:
                    break
                await asyncio.sleep(loop.time() - began)
        finally:
            if pruned:
                log.info("tasks.pruned", tasks=pruned)

    async def _index(self) -> None:
        """Index what was fed, for searches: little at a time, so that feeding and polling do not wait for it."""
        while True:
            indexed = 0
            with suppress(Fenced):
                indexed = await self._store.index_rows(INDEXED_AT_ONCE)
            await asyncio.sleep(INDEX_GAP_S if indexed else INDEX_EVERY_S)
