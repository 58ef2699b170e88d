"""Everything the live page shows, as one JSON object: from the run's memory, never by counting the store's rows.

Only due times and the few rows of the sources are read from the store, at most once a second for all who poll.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

import orjson

from poller import __version__
from poller.core.errors import StoreError
from poller.core.histogram import Histogram
from poller.core.model import GateReading, JsonObject, Kind, Pause, SourceSums
from poller.core.protocols import Clock, Store
from poller.core.text import PAUSE_TEXT
from poller.engine import DeliveryLoop, Service
from poller.engine.history import STEP_S, History, RecentReason, Step
from poller.engine.metrics import Metrics
from poller.web.dashboard.forecast import Forecast, LaneOutlook, forecast

FRESH_S = 1.0  # an overview so young serves the next viewer, too
TOP_REASONS = 12
LONGEST_LIST = 200  # sources
STUCK = frozenset({Pause.TOKEN_REFUSED, Pause.SCOPE_MISSING, Pause.WRONG_PATH})  # a person must act


class Overview:
    """Draws the live page's data of one run. `deadline_s` is the longest of its accounts'."""

    def __init__(
        self, *, service: Service, metrics: Metrics, store: Store, clock: Clock, deadline_s: float | None = None
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._history = service.history
        self._store = store
        self._clock = clock
        self.deadline_s = deadline_s  # a reload replaces it
        self._fed_at = clock()
        self._fed = 0
        self._drawn = b""
        self._drawn_at = float("-inf")

    async def json(self, *, fresh: bool = False) -> bytes:
        """Return the overview as of now, or, if it need not be fresh, of a second ago."""
        if fresh or not 0 <= self._clock() - self._drawn_at < FRESH_S:
            self._drawn, self._drawn_at = orjson.dumps(await self.draw()), self._clock()
        return self._drawn

    async def draw(self) -> JsonObject:
        """Return the overview as of now."""
        now, metrics, service = self._clock(), self._metrics, self._service
        lanes = {name: lane.gate.reading() for name, lane in service.lanes.items()}
        due = await self._due()
        return {
            "now": now,
            "version": __version__,
            "started_at": self._history.began_at or None,
            "state": self._state(lanes),
            "counts": {
                "finished": metrics.finished,
                "waiting": metrics.waiting,
                "known": metrics.known,
                "is_all": service.fed and not service.endless,
                "rejected": metrics.rejected,
                "duplicates": metrics.duplicates,
                "polls": metrics.polls,
                "polls_per_task": self._polls_per_task(),
            },
            "kinds": [{"kind": kind.value, "count": metrics.kinds[kind]} for kind in Kind],
            "forecast": asdict(self._forecast(now, lanes, due)),
            "lanes": [_lane(name, reading, due.get(name)) for name, reading in lanes.items()],
            "pace": _pace(self._history),
            "took": _spread(self._history.took),
            "late": _spread(self._history.late),
            "reasons": _reasons(self._history.reasons, metrics.finished),
            "troubles": [{"reason": reason, "count": count} for reason, count in metrics.failed_polls.most_common(8)],
            "sinks": [self._sink(loop) for loop in service.delivery_loops],
            "sources": _sources(await self._sources()),
            "warning": asdict(service.warning) if service.warning else None,
        }

    def _state(self, lanes: Mapping[str, GateReading]) -> str:
        """Say in one word how it goes."""
        service, metrics = self._service, self._metrics
        pauses = [reading.state.pause for reading in lanes.values() if reading.state.pause]
        if not metrics.waiting and service.fed and not service.endless:
            return "finished"
        if service.draining:
            return "draining"
        if any(pause in STUCK for pause in pauses):
            return "stuck"
        if pauses and len(pauses) == len(lanes):
            return "paused"
        return "running" if metrics.waiting else "idle"

    async def _due(self) -> dict[str, float | None]:
        """Return when each account's next poll is due; None where nothing waits, or the store cannot tell now."""
        due: dict[str, float | None] = {}
        with suppress(StoreError):
            for name in self._service.lanes:
                due[name] = await self._store.next_due_at(name)
        return due

    async def _sources(self) -> Sequence[SourceSums]:
        with suppress(StoreError):
            return await self._store.sources()
        return ()

    def _forecast(self, now: float, lanes: Mapping[str, GateReading], due: Mapping[str, float | None]) -> Forecast:
        metrics = self._metrics
        if metrics.tasks != self._fed:
            self._fed, self._fed_at = metrics.tasks, now
        return forecast(
            now=now,
            waiting=metrics.waiting,
            is_open=self._service.endless or not self._service.fed,
            steps=[*self._history.steps, self._unfinished(now)],
            lanes=[_future(name, reading, due.get(name)) for name, reading in lanes.items()],
            polls_per_task=self._polls_per_task() or 1.0,
            times_out_at=None if self.deadline_s is None else self._fed_at + self.deadline_s,
        )

    def _unfinished(self, now: float) -> Step:
        return self._history.unfinished(now, self._metrics.polls, self._metrics.finished, paused=False)

    def _polls_per_task(self) -> float | None:
        """Return how many polls an outcome has cost in this run; None while there is none."""
        finished = self._metrics.finished - (self._history.before.finished if self._history.before else 0)
        return self._metrics.polls / finished if finished > 0 else None

    def _sink(self, loop: DeliveryLoop) -> JsonObject:
        """Tell of one sink, what earlier runs delivered included."""
        name, metrics, sums = loop.sink.name, self._metrics, self._history.before
        before = next((sink for sink in sums.sinks if sink.name == name), None) if sums else None
        delivered = metrics.delivered[name] + (before.delivered if before else 0)
        dead = metrics.dead[name] + (before.dead if before else 0)
        return {
            "name": name,
            "delivered": delivered,
            "behind": metrics.undelivered(name),
            "dead": dead,
            "state": "stopped" if loop.stopped_by else "failing" if loop.backlog_reason else "ok",
            "reason": loop.backlog_reason,
        }


def _lane(name: str, reading: GateReading, due_at: float | None) -> JsonObject:
    state = reading.state
    return {
        "account": name,
        "pause": state.pause,
        "says": PAUSE_TEXT.get(state.pause or ""),
        "detail": state.pause_detail,
        "resume_at": state.resume_at,
        "is_stuck": state.pause in STUCK,
        "used": reading.window_used,
        "limit": reading.window_limit,
        "window_s": reading.window_s,
        "in_flight": reading.in_flight,
        "requests": reading.requests,
        "errors": reading.errors,
        "day_requests": state.day_requests,
        "daily_left": reading.daily_left,
        "daily_usable": reading.daily_usable,
        "resets_at": reading.resets_at,
        "due_at": due_at,
    }


def _future(name: str, reading: GateReading, due_at: float | None) -> LaneOutlook:
    return LaneOutlook(
        account=name,
        rate_per_s=reading.window_limit / reading.window_s,
        is_paused=reading.state.pause is not None,
        resume_at=reading.state.resume_at,
        next_due_at=due_at,
        daily_left=reading.daily_left,
        daily_usable=reading.daily_usable,
        resets_at=reading.resets_at,
    )


def _pace(history: History) -> JsonObject:
    steps = list(history.steps)
    return {
        "step_s": STEP_S,
        "end_at": history.steps_end_at,
        "seconds": [round(step.seconds, 1) for step in steps],
        "polls": [step.polls for step in steps],
        "finished": [step.finished for step in steps],
        "paused": [int(step.paused) for step in steps],
    }


def _spread(histogram: Histogram) -> JsonObject:
    return {
        "bounds_s": histogram.bounds,
        "counts": histogram.counts,
        "total": histogram.total,
        "half_s": histogram.quantile(0.5),
        "most_s": histogram.quantile(0.95),
    }


def _reasons(reasons: Mapping[str, RecentReason], finished: int) -> list[JsonObject]:
    top = sorted(reasons.items(), key=lambda item: (-item[1].count, item[0]))[:TOP_REASONS]
    return [
        {
            "reason": name,
            "count": reason.count,
            "share": reason.count / finished if finished else 0.0,
            "kind": reason.kind,
            "samples": [asdict(sample) for sample in reversed(reason.samples)],
        }
        for name, reason in top
    ]


def _sources(sources: Iterable[SourceSums]) -> list[JsonObject]:
    """Return the sources, those of one name (a file that was rotated) together, the latest first."""
    folded: dict[str, SourceSums] = {}
    for source in sources:
        before = folded.pop(source.name, None)
        folded[source.name] = source if before is None else _together(before, source)
    return [asdict(source) for source in [*folded.values()][: -LONGEST_LIST - 1 : -1]]


def _together(before: SourceSums, source: SourceSums) -> SourceSums:
    return replace(
        source,
        lines=before.lines + source.lines,
        tasks=before.tasks + source.tasks,
        duplicates=before.duplicates + source.duplicates,
        rejected=before.rejected + source.rejected,
        blank=before.blank + source.blank,
    )
