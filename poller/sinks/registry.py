"""Makes sinks of specs and tables: our own kinds, and those of other packages."""

import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from itertools import permutations
from pathlib import Path
from typing import Any

from poller.core.errors import ConfigError, PollerError
from poller.core.protocols import Sink
from poller.sinks.command.sink import CommandTable
from poller.sinks.files.csv_lines import CsvTable
from poller.sinks.files.jsonl import JsonlTable
from poller.sinks.files.rotation import may_write
from poller.sinks.files.sink import FileSink
from poller.sinks.plugin import SinkFactory
from poller.sinks.sql.sink import SqlTable
from poller.sinks.stdout import StdoutSink, StdoutTable
from poller.sinks.table import SinkEnvironment, SinkTable
from poller.sinks.webhook.sink import WebhookTable

GROUP = "poller.sinks"  # of entry points, each a `SinkFactory`

# `KIND`, `KIND:TARGET`, or a table with `kind`, maybe `name`, and the kind's own keys
SinkSpec = str | Mapping[str, Any]

KINDS: Mapping[str, type[SinkTable]] = {
    table.KIND: table for table in (CommandTable, CsvTable, JsonlTable, SqlTable, StdoutTable, WebhookTable)
}

OTHER_NAMES = {
    "json": "jsonl",
    "ndjson": "jsonl",
    "file": "jsonl",
    "http": "webhook",
    "https": "webhook",
    "hook": "webhook",
    "postgres": "sql",
    "postgresql": "sql",
    "sqlite": "sql",
    "db": "sql",
    "exec": "command",
    "cmd": "command",
    "shell": "command",
    "console": "stdout",
}


def make_sinks(specs: Sequence[SinkSpec], environment: SinkEnvironment) -> list[Sink]:
    """Return the sinks of `specs`, each with a name of its own. Raises `ConfigError`."""
    sinks = [make_sink(spec, environment) for spec in specs]
    refuse_alike(sinks)
    return sinks


def is_shared(sink: Sink) -> bool:
    """Return whether any replica of a fleet can deliver to the sink: its target is on no machine of theirs."""
    return getattr(sink, "shared", False) is True


def refuse_alike(sinks: Sequence[Sink]) -> None:
    """Raise `ConfigError` where two sinks have one name, for the state knows them by it, where a file of one has a name
    that another gives its own, as it would take the lines for its own, or where two write to standard output."""
    names = [sink.name for sink in sinks]
    paths = [sink.path.absolute() for sink in sinks if isinstance(sink, FileSink)]
    for path, file in permutations(paths, 2):
        if path != file and may_write(path, file):
            raise ConfigError(
                f"sinks: {file} is a name that the sink of {path} gives its own files. Name one of them otherwise"
            )
    if sum(isinstance(sink, StdoutSink) for sink in sinks) > 1:
        raise ConfigError("sinks: two are stdout, whose lines would mix. Keep one")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"sinks: two have the name {twice[0]}. Give one another in its [[sinks]] table: name = …")


def make_sink(spec: SinkSpec, environment: SinkEnvironment) -> Sink:
    """Return the sink of `spec`. Raises `ConfigError` with the remedy where there is none."""
    name, kind, target, options = _read(spec)
    found = _find(spec, kind)
    if isinstance(found, EntryPoint):
        sink = _make_plugin(found, target, options)
    else:
        sink = _settings(found, target, options).make(environment)
    if name is not None:
        sink.name = name
    if not (isinstance(sink.name, str) and _is_utf8(sink.name)):
        raise ConfigError(f"sink {kind}: its name {sink.name!a} is not UTF-8 text, and the state knows it by that")
    return sink


def check_sinks(specs: Sequence[SinkSpec], environment: SinkEnvironment | None = None, *, is_new: bool = False) -> None:
    """Raise `ConfigError` where a spec cannot be used as written, and, for a state that `is_new`, `SinkError` where its
    target has data of another. Creates nothing, and reads secrets only with an `environment`; runs no code of other
    packages."""
    made: list[Sink] = []
    for spec in specs:
        name, kind, target, options = _read(spec)
        found = _find(spec, kind)
        if isinstance(found, EntryPoint):
            continue
        settings = _settings(found, target, options)
        if environment is not None:
            sink = settings.make(environment)
            sink.name = sink.name if name is None else name
            made.append(sink)
        if is_new:
            settings.check_new()
    refuse_alike(made)


def check_targets(specs: Sequence[SinkSpec]) -> None:
    """Raise `ConfigError` where a spec, accepted by `check_sinks`, names what can be no sink's target: a folder."""
    for spec in specs:
        _, kind, target, options = _read(spec)
        found = _find(spec, kind)
        if not isinstance(found, EntryPoint):
            _settings(found, target, options).check_target()


def _read(spec: SinkSpec) -> tuple[str | None, str, str, dict[str, Any]]:
    """Return name, kind, target and options."""
    if isinstance(spec, str):
        kind, _, target = spec.partition(":")
        if not _is_utf8(target):
            raise ConfigError(f"sink {kind}: {target!a} is not UTF-8, and the state knows a sink by it. Rename it")
        return None, kind, target, {}
    options = dict(spec)
    name, kind, target = options.pop("name", None), str(options.pop("kind", "")), options.pop("target", "")
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
        raise ConfigError(f"sink {kind}: name must be 1 to 200 printable characters")
    if not isinstance(target, str):
        raise ConfigError(f"sink {kind}: target must be text, in quotes")
    return name, kind, target, options


def _is_utf8(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


def _find(spec: SinkSpec, kind: str) -> type[SinkTable] | EntryPoint:
    """Return one of our kinds or the entry point of a package. A kind that two of them define is refused."""
    theirs = _of_packages(tuple((folder, _changed_at(folder)) for folder in sys.path))
    own, others = KINDS.get(kind), [point for point in theirs if point.name == kind]
    if len(others) + (own is not None) > 1:
        sources = ["poller itself"] * (own is not None) + sorted(_package(point) for point in others)
        raise ConfigError(f"sink {kind} is defined by {' and by '.join(sources)}; uninstall all packages but one")
    if own is None and not others:
        known = sorted(KINDS.keys() | {point.name for point in theirs})
        meant = OTHER_NAMES.get(kind) or next(iter(get_close_matches(kind, known, n=1)), None)
        hint = f"; did you mean {meant}{':…' if ':' in spec else ''}?" if meant else "."
        raise ConfigError(f"there is no sink {kind!r}{hint} Known kinds: {', '.join(known)}")
    return own or others[0]


@lru_cache(maxsize=1)
def _of_packages(_folders: tuple[tuple[str, float], ...]) -> tuple[EntryPoint, ...]:
    """Return what the packages of these folders define. That reads a file of each package, 10 ms for a hundred of them:
    again only once a folder has changed, as by an installation."""
    return tuple(entry_points(group=GROUP))


def _changed_at(folder: str) -> float:
    try:
        return Path(folder).stat().st_mtime
    except OSError:
        return 0.0


def _settings(table: type[SinkTable], target: str, options: Mapping[str, Any]) -> SinkTable:
    if target and table.TARGET is None:
        raise ConfigError(f"sink {table.KIND} takes no target; write just: {table.KIND}")
    if not target and not options and table.TARGET is not None:
        raise ConfigError(f"sink {table.KIND} needs a target, such as {table.EXAMPLE}")
    return table.read({table.TARGET: target, **options} if target and table.TARGET else options)


def _make_plugin(point: EntryPoint, target: str, options: Mapping[str, Any]) -> Sink:
    """Import the package's code, only now that it is needed. Its errors are reported as the package's."""
    origin = f"sink {point.name} of the package {_package(point)}"
    try:
        factory: SinkFactory = point.load()
        sink = factory(target, options)
    except PollerError:
        raise
    except Exception as error:
        raise ConfigError(f"{origin} cannot be made: {type(error).__name__}: {error}") from error
    if missing := [each for each in ("name", "open", "write", "close") if not hasattr(sink, each)]:
        raise ConfigError(f"{origin} is no sink: it has no {', '.join(missing)}; see poller.sinks.plugin")
    return sink


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
