"""GET /metrics: the run's counters as Prometheus families, built at each scrape, so that a poll costs nothing here.

Labels never hold ids. docs/metrics.md repeats the table `METRICS`, and a test compares the two.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import accumulate, chain
from typing import get_args

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from poller import __version__
from poller.core.accounts import GateReading, Pause
from poller.core.errors import PollerError
from poller.core.histogram import Histogram
from poller.core.model import Kind, Outcome
from poller.core.record import decode
from poller.core.starts import ImportsReading, StartOutcome
from poller.core.timestamps import epoch
from poller.reports.fleet import MEMBER_STATES, member_state
from poller.web.context import RunContext
from poller.web.loop_lag import LoopLag
from poller.web.responses import RequestRefused
from poller.web.store_limit import store_limit

Samples = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, and the number

REASONS = 20  # of the label `reason`: a reason is a text, so their number must have a bound

COUNTER, GAUGE = CounterMetricFamily, GaugeMetricFamily
OUTCOMES = tuple(outcome.__name__.lower() for outcome in get_args(Outcome))
NO_IMPORTS = ImportsReading(unstarted=0, underway=0)
STARTS = tuple(outcome.__name__.lower() for outcome in get_args(StartOutcome))
METRICS: Mapping[str, tuple[type[CounterMetricFamily | GaugeMetricFamily], tuple[str, ...], str]] = {
    "tasks": (GAUGE, ("state",), "Tasks in the state: waiting for their outcome, or finished."),
    "tasks_finished": (COUNTER, ("kind",), "Tasks that have their outcome; earlier runs on this state count."),
    "tasks_landed": (COUNTER, ("kind",), "Finished tasks whose file landed; earlier runs on this state count."),
    "tasks_tried_again": (
        COUNTER,
        (),
        "Finished attempts at rows that have a later one; those finished and neither landed nor tried again did not.",
    ),
    "tasks_by_reason": (
        GAUGE,
        ("reason",),
        "Finished tasks that are not plainly complete, by commonest reasons.",
    ),
    "oldest_waiting_age_seconds": (GAUGE, (), "Time since the task that waits longest was fed; 0 if none waits."),
    "input_lines": (COUNTER, ("class",), "Lines fed to this run: a task, a duplicate, rejected, or blank or comment."),
    "polls": (COUNTER, ("account", "outcome"), "Answered status requests of this run."),
    "poll_failures": (COUNTER, ("reason",), "Failed status requests of this run: nothing was learned of the task."),
    "starts": (COUNTER, ("account", "outcome"), "Answered start calls of this run, and lost ones (unsure)."),
    "rows_unstarted": (GAUGE, ("account",), "Rows to import without a task; unsure ones count, and 100,000 at most."),
    "imports_underway": (GAUGE, ("account",), "Imports that were started and have no outcome yet."),
    "requests": (COUNTER, ("account",), "Requests that this run sent, answered or not."),
    "requests_in_flight": (GAUGE, ("account",), "Requests without an answer yet."),
    "window_requests_used": (GAUGE, ("account",), "Requests that the server may count in its rolling window now."),
    "window_requests_limit": (GAUGE, ("account",), "Requests that the rolling window allows."),
    "window_seconds": (GAUGE, ("account",), "Length of the rolling window."),
    "daily_requests_sent": (GAUGE, ("account",), "Requests sent since the account's midnight."),
    "daily_requests_left": (GAUGE, ("account",), "Requests left today, less the reserve; absent without a limit."),
    "account_paused": (GAUGE, ("account", "reason"), "1 while the account sends only probes, for this reason."),
    "account_pauses": (COUNTER, ("account", "reason"), "Pauses that began in this run."),
    "account_paused_seconds": (COUNTER, ("account",), "Time that the account was paused, in all runs."),
    "sink_delivered": (COUNTER, ("sink",), "Records that the sink accepted in this run."),
    "sink_refused": (COUNTER, ("sink",), "Records that the sink refused for good in this run: dead letters."),
    "sink_undelivered": (GAUGE, ("sink",), "Records in the sink's outbox."),
    "sink_oldest_undelivered_age_seconds": (GAUGE, ("sink",), "Age of the oldest record in the outbox; 0 if empty."),
    "sink_failing": (GAUGE, ("sink",), "1 while the sink accepts nothing."),
    "store_writable": (GAUGE, (), "0 while the state cannot be written."),
    "draining": (GAUGE, (), "1 while the run ends."),
    "fleet_members": (GAUGE, (), "Replicas at work on the state; absent outside a fleet."),
    "fleet_replicas": (GAUGE, ("state",), "Replicas by what they do: at_work, stopping, no_news (no status for 6 s)."),
    "fleet_accounts_taken": (
        COUNTER,
        ("clean",),
        "Accounts that this replica took in this run; clean=no: from one that was killed, one window is waited for.",
    ),
    "fleet_accounts_owned": (GAUGE, (), "Accounts that this replica polls."),
    "fleet_accounts_unowned": (GAUGE, (), "Accounts that no replica polls now."),
    "fleet_settings_differ": (GAUGE, (), "Settings that replicas have with different values."),
    "event_loop_lag_seconds": (GAUGE, (), "Longest delay of a timer of the event loop in the last 30 s."),
    "build_info": (GAUGE, ("version", "python"), "Always 1; the labels name the versions."),
}


def metrics_handler(run: RunContext, lag: LoopLag) -> Handler:
    """Return the handler of GET /metrics: the run's own metrics and the kernel's of the process."""
    collector = RunCollector(run, lag)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(namespace="poller", registry=registry)
    scrape = make_aiohttp_handler(registry)

    async def metrics(request: web.Request) -> web.StreamResponse:
        if run.store.writable:
            with suppress(PollerError, RequestRefused):  # without the store all other metrics are still scraped
                async with store_limit():
                    await collector.read_store()
        return await scrape(request)

    return metrics


class RunCollector(Collector):
    """Reads the run's counters. `read_store` comes before each scrape, because reading the store is async."""

    def __init__(self, run: RunContext, lag: LoopLag) -> None:
        self._run = run
        self._lag = lag
        self._oldest_at: dict[str, float | None] = {}  # by sink: when the first task in its outbox finished
        self._waiting_since: float | None = None  # of the task that waits longest

    async def read_store(self) -> None:
        """Read what only the store knows. What an earlier call read remains where it cannot be read."""
        self._waiting_since = await self._run.store.oldest_waiting()
        for loop in self._run.service.deliveries.loops:
            first = await self._run.store.undelivered(loop.sink.name, 1)
            self._oldest_at[loop.sink.name] = epoch(decode(first[0].body).seen_at) if first else None
        if self._run.fleet is not None:
            await self._run.fleet.read()

    def collect(self) -> Iterator[Metric]:
        numbers = dict(chain(self._tasks(), self._polls(), self._accounts(), self._sinks(), self._process()))
        for name, (family, labels, help_text) in METRICS.items():
            metric = family(f"poller_{name}", help_text, labels=labels)
            for values, number in numbers[name]:
                metric.add_metric(values, float(number))
            yield metric
        accounts = {name: self._run.metrics.accounts[name] for name in self._run.service.lanes}
        yield _histogram(
            "request_duration_seconds",
            "Time from sending a status request until its answer was read.",
            {name: polls.request for name, polls in accounts.items()},
        )
        yield _histogram(
            "gate_wait_seconds",
            "Time that a due task waited to send its request: rate limit, pauses, other tasks.",
            {name: polls.gate for name, polls in accounts.items()},
        )

    def _tasks(self) -> Iterator[tuple[str, Samples]]:
        metrics = self._run.metrics
        yield "tasks", _labelled({"waiting": metrics.waiting, "finished": metrics.finished})
        yield "tasks_finished", _labelled({kind.value: metrics.kinds[kind.value] for kind in Kind})
        yield "tasks_landed", _labelled({kind.value: metrics.landed[kind.value] for kind in Kind})
        yield "tasks_tried_again", [((), metrics.tried_again)]
        reasons = sorted(self._run.service.history.reasons.items(), key=lambda item: (-item[1].count, item[0]))
        yield "tasks_by_reason", _labelled({name: reason.count for name, reason in reasons[:REASONS]})
        since = self._waiting_since
        yield "oldest_waiting_age_seconds", [((), 0.0 if since is None else max(0.0, self._run.clock() - since))]
        fed = {"task": metrics.tasks, "duplicate": metrics.duplicates}
        yield "input_lines", _labelled(fed | {"rejected": metrics.rejected, "blank": metrics.blank})

    def _polls(self) -> Iterator[tuple[str, Samples]]:
        accounts = {name: self._run.metrics.accounts[name].outcomes for name in self._run.service.lanes}
        # Outcomes without a poll count, too: a rate needs a first value.
        yield "polls", [((name, word), counts[word]) for name, counts in accounts.items() for word in OUTCOMES]
        yield "poll_failures", _labelled(self._run.metrics.failed_polls)
        starts = {name: self._run.metrics.accounts[name].starts for name in self._run.service.lanes}
        yield "starts", [((name, word), counts[word]) for name, counts in starts.items() for word in STARTS]
        lanes = self._run.service.lanes
        imports = {name: lane.imports or NO_IMPORTS for name, lane in lanes.items()}
        yield "rows_unstarted", _labelled({name: reading.unstarted for name, reading in imports.items()})
        yield "imports_underway", _labelled({name: reading.underway for name, reading in imports.items()})

    def _accounts(self) -> Iterator[tuple[str, Samples]]:
        readings = {name: lane.gate.reading() for name, lane in self._run.service.lanes.items()}

        def each(number: Callable[[GateReading], float]) -> Samples:
            return _labelled({name: number(reading) for name, reading in readings.items()})

        yield "requests", each(lambda reading: reading.requests)
        yield "requests_in_flight", each(lambda reading: reading.in_flight)
        yield "window_requests_used", each(lambda reading: reading.window_used)
        yield "window_requests_limit", each(lambda reading: reading.window_limit)
        yield "window_seconds", each(lambda reading: reading.window_s)
        yield "daily_requests_sent", each(lambda reading: reading.state.day_requests)
        left = {name: reading.daily_left for name, reading in readings.items()}
        yield "daily_requests_left", _labelled({name: count for name, count in left.items() if count is not None})
        yield "account_paused_seconds", each(lambda reading: reading.state.paused_s)
        pairs = [(name, reading, pause) for name, reading in readings.items() for pause in Pause]
        yield "account_paused", [((name, pause), reading.state.pause == pause) for name, reading, pause in pairs]
        yield "account_pauses", [((name, pause), reading.pauses.get(pause, 0)) for name, reading, pause in pairs]

    def _sinks(self) -> Iterator[tuple[str, Samples]]:
        metrics, loops, now = self._run.metrics, self._run.service.deliveries.loops, self._run.clock()
        names = [loop.sink.name for loop in loops]
        yield "sink_delivered", _labelled({name: metrics.delivered[name] for name in names})
        yield "sink_refused", _labelled({name: metrics.dead[name] for name in names})
        yield "sink_undelivered", _labelled({name: metrics.undelivered(name) for name in names})
        ages = {name: max(0.0, now - (self._oldest_at.get(name) or now)) for name in names}
        yield "sink_oldest_undelivered_age_seconds", _labelled(ages)
        yield "sink_failing", _labelled({loop.sink.name: loop.backlog_reason is not None for loop in loops})

    def _process(self) -> Iterator[tuple[str, Samples]]:
        run = self._run
        yield "store_writable", [((), run.store.writable)]
        yield "draining", [((), run.service.is_ending)]
        yield from self._fleet()
        yield "event_loop_lag_seconds", [((), self._lag.worst_s)]
        yield "build_info", [((__version__, platform.python_version()), 1)]

    def _fleet(self) -> Iterator[tuple[str, Samples]]:
        fleet = None if self._run.fleet is None else self._run.fleet.latest
        members = [] if fleet is None else fleet.members
        yield "fleet_members", [] if fleet is None else [((), len(members))]
        states = Counter(member_state(member) for member in members)
        yield "fleet_replicas", [] if fleet is None else _labelled({state: states[state] for state in MEMBER_STATES})
        taken = self._run.metrics.accounts_taken
        yield "fleet_accounts_taken", [] if fleet is None else [(("yes",), taken[True]), (("no",), taken[False])]
        yield "fleet_accounts_owned", [((), member.accounts) for member in members if member.is_this]
        yield "fleet_accounts_unowned", [] if fleet is None else [((), len(fleet.unowned))]
        yield "fleet_settings_differ", [] if fleet is None else [((), len(fleet.settings_differ))]


def _labelled(numbers: Mapping[str, float]) -> Samples:
    return [((label,), number) for label, number in numbers.items()]


def _histogram(name: str, help_text: str, accounts: Mapping[str, Histogram]) -> Metric:
    """Return one histogram per account, with the cumulative counts that Prometheus expects."""
    family = HistogramMetricFamily(f"poller_{name}", help_text, labels=("account",))
    for account, histogram in accounts.items():
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        family.add_metric((account,), list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
