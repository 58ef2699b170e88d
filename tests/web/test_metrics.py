"""GET /metrics passes the rules of promtool's lint, has the run's numbers, and is what docs/metrics.md describes."""

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from poller.core.protocols import Clock
from poller.sandbox import Fate, Outage, Scenario, parse_durations
from poller.web.metrics import METRICS
from tests.support.simulation import Simulation
from tests.support.site import visited

BUSY = Scenario(seed=2, fates={Fate.CANCELED: 0.2}, durations=parse_durations("fixed:10"), daily=50_000)
DOCS = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text("utf-8")
BAD_UNITS = re.compile(
    r"_(ms|milliseconds?|us|micro\w+|nano\w+|minutes?|hours?|days?|kb|mb|\w*bits?|kilo\w+|mega\w+|percent)(_|$)"
)
TYPE_WORDS = re.compile(r"(?:^|_)(counter|gauge|histogram|summary|untyped)(?:_|$)")


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, BUSY)


async def scraped(session: aiohttp.ClientSession) -> dict[str, Metric]:
    async with session.get("/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return {metric.name: metric for metric in read_text(await response.text())}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    (found,) = [
        sample.value
        for metric in metrics.values()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return float(found)


async def test_the_numbers_are_those_of_the_run(simulation: Simulation) -> None:
    async with visited(simulation, simulation.write_ids(50)) as session:
        body = simulation.api.preload(1)[0] + "\n/\n\n"
        async with session.post("/v1/tasks", data=body, headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 200
        await asyncio.sleep(60)
        metrics = await scraped(session)
    assert value(metrics, "poller_tasks", state="finished") == 51
    assert value(metrics, "poller_tasks", state="waiting") == 0
    landed = sum(record["landed"] for record in simulation.records())
    assert sum(sample.value for sample in metrics["poller_tasks_landed"].samples) == landed > 0
    assert value(metrics, "poller_oldest_waiting_age_seconds") == 0
    canceled = sum(record["kind"] == "canceled" for record in simulation.records())
    assert value(metrics, "poller_tasks_finished_total", kind="canceled") == canceled > 0
    assert sum(sample.value for sample in metrics["poller_tasks_by_reason"].samples) == canceled
    assert value(metrics, "poller_input_lines_total", **{"class": "task"}) == 51
    assert value(metrics, "poller_input_lines_total", **{"class": "blank"}) == 2
    assert value(metrics, "poller_input_lines_total", **{"class": "rejected"}) == 1
    polls = value(metrics, "poller_request_duration_seconds_count", account="default")
    assert polls == simulation.api.stats().requests_total == value(metrics, "poller_requests_total")
    assert value(metrics, "poller_polls_total", outcome="finished") == 51
    assert 0 < value(metrics, "poller_request_duration_seconds_sum") / polls < 0.5
    assert value(metrics, "poller_gate_wait_seconds_count", account="default") == polls
    assert value(metrics, "poller_daily_requests_left") == 45_000 - polls
    assert value(metrics, "poller_sink_delivered_total") == 51
    assert value(metrics, "poller_sink_undelivered") == 0
    assert value(metrics, "poller_window_requests_limit") == 100


async def test_the_outbox_of_a_failing_sink_grows_and_ages(simulation: Simulation) -> None:
    flags = {"sinks": [f"jsonl:{simulation.folder}/finished.jsonl", "command:false"]}
    async with visited(simulation, simulation.write_ids(5), flags | {"shutdown_s": 1}) as session:
        await asyncio.sleep(120)
        metrics = await scraped(session)
    assert value(metrics, "poller_sink_undelivered", sink="command:false") == 5
    assert value(metrics, "poller_sink_failing", sink="command:false") == 1
    assert 60 < value(metrics, "poller_sink_oldest_undelivered_age_seconds", sink="command:false") < 120


async def test_a_pause_is_counted_by_its_reason(tmp_path: Path, clock: Clock) -> None:
    down = Scenario(outages=(Outage(from_s=0, to_s=100, fault="503"),), durations=parse_durations("fixed:1"))
    simulation = Simulation(tmp_path, clock, down)
    async with visited(simulation, simulation.write_ids(20)) as session:
        await asyncio.sleep(60)
        metrics = await scraped(session)
        assert value(metrics, "poller_account_paused", reason="outage") == 1
        assert value(metrics, "poller_account_paused", reason="throttled") == 0
        assert value(metrics, "poller_account_pauses_total", reason="outage") == 1
        await asyncio.sleep(120)
        metrics = await scraped(session)
    assert value(metrics, "poller_account_paused", reason="outage") == 0
    assert 60 < value(metrics, "poller_account_paused_seconds_total") < 120
    assert value(metrics, "poller_poll_failures_total", reason="http_503") > 0


def openmetrics(text: str) -> Iterable[Metric]:
    parsed: Iterable[Metric] = openmetrics_parser.text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return parsed


async def test_it_passes_the_lint(simulation: Simulation) -> None:
    async with visited(simulation, simulation.write_ids(5)) as session:
        await asyncio.sleep(30)
        metrics = await scraped(session)
        async with session.get(
            "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
        ) as response:
            assert {metric.name for metric in openmetrics(await response.text())} == metrics.keys()
    assert [fault for metric in metrics.values() for fault in faults(metric)] == []
    ids = {record["task_id"] for record in simulation.records()}
    values = {text for metric in metrics.values() for sample in metric.samples for text in sample.labels.values()}
    assert ids & values == set()


def faults(metric: Metric) -> Iterable[str]:
    """Yield what promtool's `check metrics` and our own rules find wrong."""
    name = metric.name  # without _total for a counter
    if not metric.documentation.strip():
        yield f"{name}: no HELP"
    if not re.fullmatch(r"poller_[a-z0-9]+(_[a-z0-9]+)*", name):
        yield f"{name}: not snake_case under poller_"
    if BAD_UNITS.search(name) or re.search(r"_(second|byte)(_|$)", name):
        yield f"{name}: not in base units"
    if TYPE_WORDS.search(name):
        yield f"{name}: names its type"
    if name.endswith(("_total", "_count", "_sum", "_bucket")):
        yield f"{name}: ends like a part of another type"
    for sample in metric.samples:
        yield from faults_of(sample, metric.type)


def faults_of(sample: Sample, kind: str) -> Iterable[str]:
    if (kind == "counter") != sample.name.endswith("_total"):
        yield f"{sample.name}: _total is for counters, and for all of them"
    if "quantile" in sample.labels or ("le" in sample.labels) != sample.name.endswith("_bucket"):
        yield f"{sample.name}: le and quantile belong to histograms and summaries"
    for label in sample.labels:
        if not re.fullmatch(r"[a-z]+(_[a-z]+)*", label):
            yield f"{sample.name}: label {label}"


def test_the_lint_finds_what_it_is_for() -> None:
    bad = Metric("poller_wait_ms", "", "counter")
    bad.add_sample("poller_wait_ms", {"le": "1", "Kind": "x"}, 1)
    assert len(list(faults(bad))) == 5


async def test_docs_metrics_md_lists_what_the_server_has(tmp_path: Path, clock: Clock) -> None:
    down = Scenario(outages=(Outage(from_s=0, to_s=9, fault="503"),), daily=50_000)  # else some have no sample
    simulation = Simulation(tmp_path, clock, down)
    async with visited(simulation, simulation.write_ids(20)) as session:
        await asyncio.sleep(60)
        metrics = await scraped(session)
    rows = [row(metric) for metric in metrics.values()]
    listed = re.findall(r"(?m)^\| `poller_.*$", DOCS)
    assert listed == rows, "docs/metrics.md must have:\n" + "\n".join(rows)


def row(metric: Metric) -> str:
    name = f"{metric.name}_total" if metric.type == "counter" else metric.name
    labels = {label: None for sample in metric.samples for label in sample.labels if label != "le"}
    if not metric.samples:  # of a fleet
        labels = dict.fromkeys(METRICS[metric.name.removeprefix("poller_")][1])
    return f"| `{name}` | {metric.type} | {', '.join(f'`{label}`' for label in labels)} | {metric.documentation} |"


async def test_the_age_of_the_oldest_waiting_task_is_counted_from_its_feeding(simulation: Simulation) -> None:
    async with visited(simulation) as session:
        for wait_s in (4, 3):
            body = simulation.api.preload(1)[0]
            async with session.post("/v1/tasks", data=body, headers={"Content-Type": "text/plain"}) as response:
                assert response.status == 200
            await asyncio.sleep(wait_s)
        assert value(await scraped(session), "poller_oldest_waiting_age_seconds") == pytest.approx(7, abs=0.5)
        await asyncio.sleep(60)
        assert value(await scraped(session), "poller_oldest_waiting_age_seconds") == 0
