"""Sinks: where finished tasks go. One file a kind; a sink is named by a spec such as `jsonl:finished.jsonl`."""

from collections.abc import Callable
from pathlib import Path

from poller.errors import ConfigError
from poller.protocols import Sink
from poller.sinks.jsonl import JsonlSink
from poller.sinks.stdout import StdoutSink

Factory = Callable[[str], Sink]  # gets what stands behind the colon of a spec, "" where there is nothing


def _make_jsonl(argument: str) -> Sink:
    if not argument:
        raise ConfigError("sink 'jsonl' needs the path of a file, such as jsonl:finished.jsonl")
    return JsonlSink(Path(argument))


def _make_stdout(argument: str) -> Sink:
    if argument:
        raise ConfigError(f"sink 'stdout' takes nothing behind it, but got {argument!r}; write just: stdout")
    return StdoutSink()


FACTORIES: dict[str, Factory] = {"jsonl": _make_jsonl, "stdout": _make_stdout}


def make_sink(spec: str) -> Sink:
    """Return the sink that `spec` (`KIND` or `KIND:ARGUMENT`) names. Raises `ConfigError` where there is none such."""
    kind, _, argument = spec.partition(":")
    factory = FACTORIES.get(kind)
    if factory is None:
        hint = f"; for a file write jsonl:{spec}" if ":" not in spec and "." in spec else ""
        raise ConfigError(f"there is no sink {spec!r}; known kinds: {', '.join(sorted(FACTORIES))}{hint}")
    return factory(argument)
