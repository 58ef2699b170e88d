"""GET /metrics: the run's counters as Prometheus families, built at each scrape, so that a poll costs nothing here.

Labels never hold ids. Each metric's HELP defines it; docs/metrics.md repeats that, and a test compares the two.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import get_args

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from poller.core.model import GateReading, Kind, Outcome, Pause
from poller.core.timestamps import epoch
from poller.engine.metrics import AccountPolls, Histogram
from poller.web.context import RunContext
from poller.web.loop_lag import LoopLag

Labels = tuple[str, ...]
Sample = tuple[Labels, float]

OUTCOMES = tuple(outcome.__name__.lower() for outcome in get_args(Outcome))


def metrics_handler(run: RunContext, lag: LoopLag) -> Handler:
    """Return the handler of GET /metrics: the run's own metrics and the kernel's of the process."""
    collector = RunCollector(run, lag)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    ProcessCollector(namespace="poller", registry=registry)
    scrape = make_aiohttp_handler(registry)

    async def metrics(request: web.Request) -> web.StreamResponse:
        sinks = [loop.sink.name for loop in run.service.delivery_loops]
        collector.oldest_at = {name: await _oldest_at(run, name) for name in sinks}
        return await scrape(request)

    return metrics


class _SeenAt(msgspec.Struct):
    seen_at: str


_seen_at = msgspec.json.Decoder(_SeenAt)


async def _oldest_at(run: RunContext, sink: str) -> float | None:
    """Return when the first task in the sink's outbox finished; None where the outbox is empty."""
    first = await run.store.undelivered(sink, 1)
    return epoch(_seen_at.decode(first[0].body).seen_at) if first else None


class RunCollector(Collector):
    """Reads the run's counters. The handler sets `oldest_at` before each scrape, because reading the store is async."""

    def __init__(self, run: RunContext, lag: LoopLag) -> None:
        self._run = run
        self._lag = lag
        self.oldest_at: Mapping[str, float | None] = {}  # by sink: when the first task in its outbox finished

    def collect(self) -> Iterator[Metric]:
        yield from self._tasks()
        yield from self._polls()
        readings = {name: lane.gate.reading() for name, lane in self._run.service.lanes.items()}
        yield from _limits(readings)
        yield from _pauses(readings)
        yield from self._sinks()
        yield from self._process()

    def _tasks(self) -> Iterator[Metric]:
        metrics = self._run.metrics
        yield _gauge(
            "tasks",
            "Tasks in the state: waiting for their outcome, or finished.",
            ("state",),
            [(("waiting",), metrics.waiting), (("finished",), metrics.finished)],
        )
        yield _counter(
            "tasks_finished",
            "Tasks that have their outcome, by kind, including those of earlier runs on this state.",
            ("kind",),
            [((kind.value,), metrics.kinds[kind.value]) for kind in Kind],
        )
        classes = {
            "task": metrics.tasks,
            "duplicate": metrics.duplicates,
            "rejected": metrics.rejected,
            "blank": metrics.blank,
        }
        yield _counter(
            "input_lines",
            "Lines fed to this run: a new task, a duplicate, rejected, or blank or comment.",
            ("class",),
            [((name,), count) for name, count in classes.items()],
        )

    def _polls(self) -> Iterator[Metric]:
        accounts = {name: self._run.metrics.accounts[name] for name in self._run.service.lanes}
        yield _counter(
            "polls",
            "Answered status requests of this run, by account and outcome.",
            ("account", "outcome"),
            [((name, outcome), count) for name in accounts for outcome, count in _outcomes(accounts[name]).items()],
        )
        yield _counter(
            "poll_failures",
            "Failed status requests of this run, by reason: nothing was learned of the task.",
            ("reason",),
            [((reason,), count) for reason, count in self._run.metrics.troubles.items()],
        )
        yield _histogram(
            "request_duration_seconds",
            "Time from sending a status request until its answer was read.",
            [((name,), polls.request) for name, polls in accounts.items()],
        )
        yield _histogram(
            "gate_wait_seconds",
            "Time that a due task waited for permission to send its request: rate limit, pauses, other tasks.",
            [((name,), polls.gate) for name, polls in accounts.items()],
        )

    def _sinks(self) -> Iterator[Metric]:
        metrics, loops, now = self._run.metrics, self._run.service.delivery_loops, self._run.clock()

        def by_sink(number: Callable[[str], float]) -> list[Sample]:
            return [((loop.sink.name,), number(loop.sink.name)) for loop in loops]

        def age_s(name: str) -> float:
            oldest_at = self.oldest_at.get(name)
            return max(0.0, now - oldest_at) if oldest_at else 0.0

        sink = ("sink",)
        yield _counter(
            "sink_delivered",
            "Records that the sink accepted in this run.",
            sink,
            by_sink(metrics.delivered.__getitem__),
        )
        yield _counter(
            "sink_refused",
            "Records that the sink refused for good in this run: dead letters.",
            sink,
            by_sink(metrics.dead.__getitem__),
        )
        yield _gauge("sink_undelivered", "Records in the sink's outbox.", sink, by_sink(metrics.undelivered))
        yield _gauge(
            "sink_oldest_undelivered_age_seconds",
            "Time since the first task in the sink's outbox finished; 0 while the outbox is empty.",
            sink,
            by_sink(age_s),
        )
        failing = [((loop.sink.name,), float(loop.backlog_reason is not None)) for loop in loops]
        yield _gauge("sink_failing", "1 while the sink accepts nothing.", sink, failing)

    def _process(self) -> Iterator[Metric]:
        run = self._run
        yield _gauge("store_writable", "0 while the state cannot be written.", (), [((), run.store.writable)])
        yield _gauge("draining", "1 while the run ends.", (), [((), run.service.is_ending)])
        lag_help = "Longest delay of a timer of the event loop in the last 15 to 30 s."
        yield _gauge("event_loop_lag_seconds", lag_help, (), [((), self._lag.worst_s)])
        build = (run.version, platform.python_version())
        yield _gauge("build_info", "Always 1; the labels name the versions.", ("version", "python"), [(build, 1)])


def _outcomes(polls: AccountPolls) -> Mapping[str, int]:
    """Return the counts of all outcomes, including those with none: a rate needs a first value."""
    return dict.fromkeys(OUTCOMES, 0) | polls.outcomes


def _limits(readings: Mapping[str, GateReading]) -> Iterator[Metric]:
    def by_account(number: Callable[[GateReading], float | None]) -> list[Sample]:
        numbers = {name: number(reading) for name, reading in readings.items()}
        return [((name,), count) for name, count in numbers.items() if count is not None]

    account = ("account",)
    sent = "Requests that this run sent, answered or not."
    yield _counter("requests", sent, account, by_account(lambda reading: reading.requests))
    gauges: Sequence[tuple[str, str, Callable[[GateReading], float | None]]] = (
        ("requests_in_flight", "Requests without an answer yet.", lambda reading: reading.in_flight),
        (
            "window_requests_used",
            "Requests that the server may count in its rolling window now.",
            lambda reading: reading.window_used,
        ),
        (
            "window_requests_limit",
            "Requests that the rolling window allows.",
            lambda reading: reading.window_limit,
        ),
        ("window_seconds", "Length of the rolling window.", lambda reading: reading.window_s),
        (
            "daily_requests_sent",
            "Requests sent since the account's midnight.",
            lambda reading: reading.state.day_requests,
        ),
        (
            "daily_requests_left",
            "Requests that may be sent until the account's midnight, without the reserve; absent while no daily limit "
            "is known.",
            lambda reading: reading.daily_left,
        ),
    )
    for name, help_text, number in gauges:
        yield _gauge(name, help_text, account, by_account(number))


def _pauses(readings: Mapping[str, GateReading]) -> Iterator[Metric]:
    yield _gauge(
        "account_paused",
        "1 while the account is paused for this reason and sends only probes.",
        ("account", "reason"),
        [((name, reason), reading.state.pause == reason) for name, reading in readings.items() for reason in Pause],
    )
    yield _counter(
        "account_pauses",
        "Pauses that began in this run, by reason.",
        ("account", "reason"),
        [((name, reason), reading.pauses.get(reason, 0)) for name, reading in readings.items() for reason in Pause],
    )
    yield _counter(
        "account_paused_seconds",
        "Time that the account was paused, in all runs.",
        ("account",),
        [((name,), reading.state.paused_s) for name, reading in readings.items()],
    )


def _counter(name: str, help_text: str, labels: Labels, samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(f"poller_{name}", help_text, labels=labels), samples)


def _gauge(name: str, help_text: str, labels: Labels, samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(f"poller_{name}", help_text, labels=labels), samples)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, samples: Iterable[Sample]) -> Metric:
    for values, number in samples:
        family.add_metric(values, float(number))
    return family


def _histogram(name: str, help_text: str, samples: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """Return one histogram per account, with the cumulative counts that Prometheus expects."""
    family = HistogramMetricFamily(f"poller_{name}", help_text, labels=("account",))
    for values, histogram in samples:
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
