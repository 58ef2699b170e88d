"""Traces: one span a poll with OpenTelemetry's names, on the run's clock, without a token, and only where enabled."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.hubspot.tracing import EXPORT_TIMEOUT_S, is_enabled
from poller.sandbox import Scenario
from poller.sandbox.scenario import Fate
from tests.support.processes import environ, hubspot, running, wait_until
from tests.support.simulation import TOKEN, Simulation


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    kept = InMemorySpanExporter()
    yield kept
    kept.shutdown()


async def traced(folder: Path, clock: Clock, scenario: Scenario, exporter: InMemorySpanExporter) -> list[ReadableSpan]:
    """Run 20 imports to their end; return the recorded spans."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    simulation = Simulation(folder, clock, scenario)
    simulation.tracer = provider.get_tracer("test")
    assert await simulation.run(simulation.write_ids(20)) in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE)
    return list(exporter.get_finished_spans())


async def test_each_poll_is_a_client_span_with_the_request_and_its_result(
    tmp_path: Path, clock: Clock, exporter: InMemorySpanExporter
) -> None:
    spans = await traced(tmp_path, clock, Scenario(latency_s=(0.05, 0.05), fates={Fate.COMPLETE: 1.0}), exporter)
    polls = [span for span in spans if span.attributes]
    assert len(polls) >= 20
    last = [span for span in polls if (span.attributes or {})["poller.outcome"] == "finished"]
    assert len(last) == 20
    for span in polls:
        attributes = dict(span.attributes or {})
        assert span.kind is SpanKind.CLIENT
        assert span.name == f"GET {attributes['url.template']}"
        assert "{task_id}" in span.name
        assert (attributes["http.request.method"], attributes["server.address"], attributes["server.port"]) == (
            "GET",
            "api.hubapi.com",
            443,
        )
        assert attributes["hubspot.task.status"] in ("PENDING", "PROCESSING", "COMPLETE")
        assert span.start_time is not None
        assert span.end_time is not None
        assert 50_000_000 <= span.end_time - span.start_time < 100_000_000  # nanoseconds of the virtual clock


async def test_a_failed_poll_is_an_error_span_with_its_type_and_a_missing_task_is_not(
    tmp_path: Path, clock: Clock, exporter: InMemorySpanExporter
) -> None:
    scenario = Scenario(fates={Fate.UNKNOWN: 0.5, Fate.COMPLETE: 0.5}, faults={"503": 0.3})
    spans = await traced(tmp_path, clock, scenario, exporter)
    by_outcome = {str((span.attributes or {})["poller.outcome"]): span for span in spans}
    missing, unreachable = by_outcome["missing"], by_outcome["unreachable"]
    assert (missing.attributes or {})["http.response.status_code"] in (400, 404)
    assert missing.status.status_code is StatusCode.UNSET
    assert (unreachable.attributes or {})["error.type"] == "http_503"
    assert unreachable.status.status_code is StatusCode.ERROR


async def test_no_span_holds_the_token(tmp_path: Path, clock: Clock, exporter: InMemorySpanExporter) -> None:
    spans = await traced(tmp_path, clock, Scenario(faults={"401": 0.1, "reset": 0.1}), exporter)
    assert [span.name for span in spans if TOKEN in span.to_json()] == []


@pytest.mark.parametrize(
    ("setting", "environ", "wanted"),
    [
        ("auto", {}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ("auto", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        ("off", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, False),
        ("on", {}, True),
    ],
)
def test_spans_are_sent_where_a_collector_or_the_setting_is_given(
    setting: Literal["auto", "on", "off"], environ: dict[str, str], wanted: bool
) -> None:
    assert is_enabled(setting, environ) is wanted


def test_nothing_of_opentelemetry_is_imported_where_it_is_not_enabled() -> None:
    program = "import sys, poller.app.run; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert done.stdout == "[]\n"


@pytest.mark.real_time
def test_a_collector_that_is_down_delays_the_end_by_seconds_only(tmp_path: Path) -> None:
    with hubspot("--fate", "complete=1", imports=5) as simulated:
        ids = simulated.ids_file(tmp_path, 5)
        env = environ(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
        command = ("run", ids.name, "--base-url", simulated.url, "--requests", "100", "--window-s", "0.3")
        with running(*command, "--listen", "off", folder=tmp_path, env=env) as traced_run:
            wait_until(traced_run.logged("run.ended"), "the work's end")
            began_at = time.monotonic()
            assert traced_run.ended() == Exit.ALL_COMPLETE
            assert time.monotonic() - began_at < 2 * EXPORT_TIMEOUT_S
    assert "Traceback" not in traced_run.log()
