"""One OpenTelemetry span for each poll, where the extra `otel` is installed and a collector is configured. Otherwise
nothing of it is imported, and polls cost nothing more. No span contains a token, a body or a URL with an id in it.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from poller import __version__
from poller.core.errors import ConfigError
from poller.core.model import Answer, Finished, Missing, Running, Task
from poller.core.poll_log import failure_reason, outcome_name
from poller.core.protocols import Clock
from poller.core.request_protocols import StatusClient

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

EXPORT_TIMEOUT_S = 3.0  # with all retries: a collector that is down must not delay the end of a run
TIMEOUTS = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT")
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def is_enabled(setting: Literal["auto", "on", "off"], environ: Mapping[str, str]) -> bool:
    """Return whether to send spans; "auto": where the environment names a collector and the extra is installed."""
    if setting == "auto":
        is_disabled = environ.get("OTEL_SDK_DISABLED") == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none"
        return not is_disabled and any(environ.get(name) for name in ENDPOINTS) and _is_installed()
    return setting == "on"


def _is_installed() -> bool:
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401 - both are needed
    except ImportError:
        return False
    return True


def open_provider(environ: Mapping[str, str]) -> "TracerProvider":
    """Return a provider that sends spans in batches, from its own thread, to the collector that the environment names.

    Raises `ConfigError` where the extra is missing. The caller shuts it down, which sends the remaining spans.
    """
    if not _is_installed():
        raise ConfigError('traces = "on" needs the extra `otel`. Run: pip install "hubspot-import-poller[otel]"')
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    attributes = {"service.name": environ.get("OTEL_SERVICE_NAME") or "poller", "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    is_timeout_set = any(environ.get(name) for name in TIMEOUTS)
    exporter = OTLPSpanExporter(timeout=None if is_timeout_set else EXPORT_TIMEOUT_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class TracedClient:
    """A `StatusClient` that records each poll of another client as a span."""

    def __init__(
        self, client: StatusClient, tracer: "Tracer", *, clock: Clock, account: str, base_url: str, status_path: str
    ) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        self._client = client
        self._tracer = tracer
        self._clock = clock
        self._kind, self._error = SpanKind.CLIENT, StatusCode.ERROR
        parts = urlsplit(base_url)
        self._path = parts.path + status_path
        self._known: dict[str, str | int] = {
            "http.request.method": "GET",
            "server.address": parts.hostname or "",
            "server.port": parts.port or (443 if parts.scheme == "https" else 80),
            "url.template": self._path,
            "poller.account": account,
        }

    async def poll(self, task: Task) -> Answer:
        """Poll with the other client; see `StatusClient`."""
        span = self._tracer.start_span(f"GET {self._path}", kind=self._kind, start_time=self._now_ns())
        span.set_attributes({**self._known, "poller.task_id": task.task_id, "poller.polls": task.polls + 1})
        try:
            answer = await self._client.poll(task)
            span.set_attributes(_attributes(answer))
            if (error := failure_reason(answer.outcome)) is not None:
                span.set_attribute("error.type", error)
                span.set_status(self._error)
            return answer
        finally:
            span.end(end_time=self._now_ns())

    def _now_ns(self) -> int:
        return int(self._clock() * 1_000_000_000)


def _attributes(answer: Answer) -> dict[str, str | int]:
    outcome = answer.outcome
    attributes: dict[str, str | int] = {"poller.outcome": outcome_name(outcome)}
    if outcome.correlation_id is not None:
        attributes["hubspot.correlation_id"] = outcome.correlation_id
    match outcome:
        case Running(status=str(status)) | Finished(status=status):
            attributes["hubspot.task.status"] = status
        case Missing(code=code):
            attributes["http.response.status_code"] = code
    return attributes
