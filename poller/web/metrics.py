"""/metrics: the run's counters as Prometheus families, put together when somebody scrapes. Nothing of it runs per poll.

Labels never hold ids. What each metric means stands in its HELP; docs/metrics.md repeats that, and a test compares.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import get_args

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from poller.core.histogram import Histogram
from poller.core.model import GateReading, Kind, Outcome, Pause
from poller.core.record import decode
from poller.core.timestamps import epoch
from poller.engine.metrics import AccountPolls
from poller.web.context import Run
from poller.web.loop_lag import Lag

Labels = tuple[str, ...]

OUTCOMES = tuple(outcome.__name__.lower() for outcome in get_args(Outcome))


def metrics_handler(run: Run, lag: Lag) -> Handler:
    """Return the handler of GET /metrics, with what the kernel says of the process besides the run's own."""
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


async def _oldest_at(run: Run, sink: str) -> float | None:
    """Return when the first task that the sink lacks finished; None where it has all."""
    first = await run.store.undelivered(sink, 1)
    return epoch(decode(first[0].body).seen_at) if first else None


class RunCollector(Collector):
    """Reads the run's counters. `oldest_at` is handed in, for only the store knows it."""

    def __init__(self, run: Run, lag: Lag) -> None:
        self._run = run
        self._lag = lag
        self.oldest_at: Mapping[str, float | None] = {}  # by sink: when its first undelivered task finished

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
            "Tasks in the state by what is known of them: waiting for their outcome, or finished.",
            ("state",),
            [(("waiting",), metrics.waiting), (("finished",), metrics.finished)],
        )
        yield _counter(
            "tasks_finished",
            "Tasks that have their outcome, by kind; earlier runs on this state count too.",
            ("kind",),
            [((kind.value,), metrics.kinds[kind.value]) for kind in Kind],
        )
        yield _counter(
            "input_lines",
            "Lines fed to this run by what they were: a new task, a duplicate, rejected, or blank or comment.",
            ("class",),
            [
                (("task",), metrics.tasks),
                (("duplicate",), metrics.duplicates),
                (("rejected",), metrics.rejected),
                (("blank",), metrics.blank),
            ],
        )

    def _polls(self) -> Iterator[Metric]:
        accounts = {name: self._run.metrics.accounts[name] for name in self._run.service.lanes}
        yield _counter(
            "polls",
            "Answered status requests of this run by account and by what they said.",
            ("account", "outcome"),
            [((name, word), count) for name in accounts for word, count in _outcomes(accounts[name]).items()],
        )
        yield _counter(
            "poll_troubles",
            "Status requests of this run that told nothing of their task, by reason.",
            ("reason",),
            [((reason,), count) for reason, count in self._run.metrics.failed_polls.items()],
        )
        yield _histogram(
            "request_duration_seconds",
            "Time from sending a status request until its answer was read.",
            [((name,), polls.request) for name, polls in accounts.items()],
        )
        yield _histogram(
            "gate_wait_seconds",
            "Time that a due task waited for the right to send its request: rate limit, pauses, other tasks.",
            [((name,), polls.gate) for name, polls in accounts.items()],
        )

    def _sinks(self) -> Iterator[Metric]:
        run, delivery_loops = self._run, self._run.service.delivery_loops
        names = [loop.sink.name for loop in delivery_loops]
        now = run.clock()
        yield _counter(
            "sink_delivered",
            "Finished tasks that the sink took in this run.",
            ("sink",),
            [((name,), run.metrics.delivered[name]) for name in names],
        )
        yield _counter(
            "sink_refused",
            "Finished tasks that the sink refused for good in this run: dead letters.",
            ("sink",),
            [((name,), run.metrics.dead[name]) for name in names],
        )
        yield _gauge(
            "sink_undelivered",
            "Finished tasks that the sink does not have yet: its outbox.",
            ("sink",),
            [((name,), run.metrics.undelivered(name)) for name in names],
        )
        yield _gauge(
            "sink_oldest_undelivered_age_seconds",
            "How long ago the first task of the sink's outbox finished; 0 while that is empty.",
            ("sink",),
            [((name,), max(0.0, now - at) if (at := self.oldest_at.get(name)) else 0.0) for name in names],
        )
        yield _gauge(
            "sink_failing",
            "1 while the sink takes nothing.",
            ("sink",),
            [((loop.sink.name,), loop.backlog_reason is not None) for loop in delivery_loops],
        )

    def _process(self) -> Iterator[Metric]:
        run = self._run
        yield _gauge("store_writable", "0 while the state cannot be written.", (), [((), run.store.writable)])
        yield _gauge("draining", "1 while the run ends.", (), [((), run.service.is_ending)])
        yield _gauge(
            "event_loop_lag_seconds",
            "The latest that a timer of the event loop came in the last 15 to 30 s.",
            (),
            [((), self._lag.worst_s)],
        )
        yield _gauge(
            "build_info",
            "Always 1; the labels say what runs.",
            ("version", "python"),
            [((run.version, platform.python_version()), 1)],
        )


def _outcomes(polls: AccountPolls) -> Mapping[str, int]:
    """Return the counts of all outcomes, those that did not come included: a rate needs a first value."""
    return dict.fromkeys(OUTCOMES, 0) | polls.outcomes


def _limits(readings: Mapping[str, GateReading]) -> Iterator[Metric]:
    yield _counter(
        "requests",
        "Requests that this run sent, answered or not.",
        ("account",),
        [((name,), reading.requests) for name, reading in readings.items()],
    )
    yield _gauge(
        "requests_in_flight",
        "Requests that were sent and are not answered yet.",
        ("account",),
        [((name,), reading.in_flight) for name, reading in readings.items()],
    )
    yield _gauge(
        "window_requests_used",
        "Requests that the server may count in its rolling window now.",
        ("account",),
        [((name,), reading.window_used) for name, reading in readings.items()],
    )
    yield _gauge(
        "window_requests_limit",
        "Requests that the rolling window allows.",
        ("account",),
        [((name,), reading.window_limit) for name, reading in readings.items()],
    )
    yield _gauge(
        "window_seconds",
        "Length of the rolling window.",
        ("account",),
        [((name,), reading.window_s) for name, reading in readings.items()],
    )
    yield _gauge(
        "daily_requests_sent",
        "Requests sent since the account's midnight.",
        ("account",),
        [((name,), reading.state.day_requests) for name, reading in readings.items()],
    )
    yield _gauge(
        "daily_requests_left",
        "Requests that may still leave today, the reserve kept; missing while no daily limit is known.",
        ("account",),
        [((name,), reading.daily_left) for name, reading in readings.items() if reading.daily_left is not None],
    )


def _pauses(readings: Mapping[str, GateReading]) -> Iterator[Metric]:
    yield _gauge(
        "account_paused",
        "1 while the account sends nothing but probes, for this reason.",
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
        "Time that the account has been paused, ever.",
        ("account",),
        [((name,), reading.state.paused_s) for name, reading in readings.items()],
    )


def _counter(name: str, told: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    return _filled(CounterMetricFamily(f"poller_{name}", told, labels=labels), samples)


def _gauge(name: str, told: str, labels: Labels, samples: Iterable[tuple[Labels, float]]) -> Metric:
    return _filled(GaugeMetricFamily(f"poller_{name}", told, labels=labels), samples)


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, samples: Iterable[tuple[Labels, float]]
) -> CounterMetricFamily | GaugeMetricFamily:
    for values, number in samples:
        family.add_metric(values, float(number))
    return family


def _histogram(name: str, told: str, samples: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """Return one histogram an account: Prometheus wants how many took at most so long, for each bound."""
    family = HistogramMetricFamily(f"poller_{name}", told, labels=("account",))
    for values, histogram in samples:
        bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
        family.add_metric(values, list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
