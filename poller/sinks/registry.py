"""From what a person wrote to a sink: the kinds there are, and those that other packages bring."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from random import Random
from typing import Any

from poller.core.credentials import secret_in_env, secret_in_file
from poller.core.errors import ConfigError, PollerError
from poller.core.log import keep_secret
from poller.core.protocols import Clock, Sink
from poller.sinks.command.sink import CommandSink, CommandTable
from poller.sinks.files.jsonl import JsonlSink, JsonlTable
from poller.sinks.sql.sink import POSTGRES, SQLITE, Database, SqlSink, SqlTable, refuse_unknown
from poller.sinks.sql.sqlite import SqliteTable
from poller.sinks.stdout import StdoutSink, StdoutTable
from poller.sinks.table import SinkTable
from poller.sinks.webhook.signature import key_of
from poller.sinks.webhook.sink import WebhookSink, WebhookTable, web_url

GROUP = "poller.sinks"  # of entry points: a function of a target and of options that returns a `Sink`

SinkSpec = (
    str | Mapping[str, Any]
)  # `KIND`, `KIND:TARGET`, or a table with `kind`, maybe `name`, and the kind's own keys


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkEnvironment:
    """What sinks take from outside themselves."""

    clock: Clock
    rng: Random
    environ: Mapping[str, str]
    hidden: frozenset[str] = frozenset()  # variables that hold tokens: commands do not get them


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """A kind of sink: its settings, and how it is made of them."""

    table: type[SinkTable]
    make: Callable[[Any, Any], Sink]


def _make_jsonl(table: JsonlTable, _: SinkEnvironment) -> Sink:
    return JsonlSink(table.path, rotate_bytes=table.rotate_bytes)


def _make_stdout(_table: StdoutTable, _: SinkEnvironment) -> Sink:
    return StdoutSink()


def _make_command(table: CommandTable, around: SinkEnvironment) -> Sink:
    environ = {name: value for name, value in around.environ.items() if name not in around.hidden}
    return CommandSink(table, environ=environ, clock=around.clock, rng=around.rng)


def _make_webhook(table: WebhookTable, around: SinkEnvironment) -> Sink:
    url = table.find_url(around.environ)
    try:
        web_url(url)
    except ValueError as error:
        raise ConfigError(f"sink webhook: url {error}") from None
    return WebhookSink(table, url=url, key=_webhook_key(table, around.environ), clock=around.clock, rng=around.rng)


def _webhook_key(table: WebhookTable, environ: Mapping[str, str]) -> bytes | None:
    """Return the key to sign with; none only where the usual variable is not set, and no other place was named."""
    named = "secret_env" in table.model_fields_set
    if table.secret_file is not None:
        secret, place = secret_in_file(table.secret_file), str(table.secret_file)
    elif named or environ.get(table.secret_env):
        secret, place = secret_in_env(table.secret_env, environ), table.secret_env
    else:
        return None
    keep_secret(secret)
    try:
        return key_of(secret)
    except ValueError as error:
        raise ConfigError(f"sink webhook: the secret in {place} {error}") from None


def _make_sql(table: SqlTable, around: SinkEnvironment) -> Sink:
    url = table.find_url(around.environ)
    try:
        refuse_unknown(url)
    except ValueError as error:
        raise ConfigError(f"sink sql: {error}") from None
    name = table.name_for(url)
    return SqlSink(name, _database(table, url, name), rng=around.rng)


def _database(table: SqlTable, url: str, name: str) -> Database:
    if not url.startswith(POSTGRES):
        if "." in table.table:
            raise ConfigError("sink sql: table: SQLite knows no schemas; name just the table")
        return SqliteTable(Path(url.removeprefix(SQLITE)), table.table, sink=name)
    try:
        from poller.sinks.sql.postgres import PostgresTable
    except ImportError:
        raise ConfigError(
            "sink sql: PostgreSQL needs its driver: pip install 'hubspot-import-poller[postgres]'"
        ) from None
    return PostgresTable(url, table.table, sink=name, timeout_s=table.timeout_s)


KINDS: dict[str, SinkKind] = {
    kind.table.KIND: kind
    for kind in (
        SinkKind(table=CommandTable, make=_make_command),
        SinkKind(table=JsonlTable, make=_make_jsonl),
        SinkKind(table=SqlTable, make=_make_sql),
        SinkKind(table=StdoutTable, make=_make_stdout),
        SinkKind(table=WebhookTable, make=_make_webhook),
    )
}


def make_sinks(specs: Sequence[SinkSpec], around: SinkEnvironment) -> list[Sink]:
    """Return the sinks that `specs` mean, each with a name of its own. Raises `ConfigError`."""
    sinks = [make_sink(spec, around) for spec in specs]
    names = [sink.name for sink in sinks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"sinks: two have the name {twice[0]}; give one another, in its [[sinks]] table: name = …")
    return sinks


def make_sink(spec: SinkSpec, around: SinkEnvironment | None = None) -> Sink:
    """Return the sink that `spec` means. Raises `ConfigError` where there is none such, naming the remedy.

    Only `jsonl`, `stdout` and other packages' sinks can be made of nothing.
    """
    name, kind, target, options = _read(spec)
    found = _find(spec, kind)
    if isinstance(found, SinkKind):
        sink = found.make(found.table.read(_values(found, target, options)), around)
    else:
        sink = _made_by_plugin(found, target, options)
    if name is not None:
        sink.name = name
    return sink


def check_sinks(specs: Sequence[SinkSpec]) -> None:
    """Raise `ConfigError` where a spec cannot be used as it is written. Reads no secret, opens nothing."""
    for spec in specs:
        _, kind, target, options = _read(spec)
        found = _find(spec, kind)
        if isinstance(found, SinkKind):
            found.table.read(_values(found, target, options))


def _read(spec: SinkSpec) -> tuple[str | None, str, str, dict[str, Any]]:
    """Return name, kind, target and options."""
    if isinstance(spec, str):
        kind, _, target = spec.partition(":")
        return None, kind, target, {}
    options = dict(spec)
    name, kind, target = options.pop("name", None), str(options.pop("kind", "")), options.pop("target", "")
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()):
        raise ConfigError(f"sink {kind}: name must be 1 to 200 printable characters")
    if not isinstance(target, str):
        raise ConfigError(f"sink {kind}: target must be text, in quotes")
    return name, kind, target, options


def _find(spec: SinkSpec, kind: str) -> SinkKind | EntryPoint:
    """Return one of our kinds, or what a package brings. Nobody may bring a kind that there is already."""
    own, others = KINDS.get(kind), list(entry_points(group=GROUP, name=kind))
    if len(others) + (own is not None) > 1:
        owners = ["poller itself"] * (own is not None) + sorted(_package(point) for point in others)
        raise ConfigError(f"sink {kind} is brought by {' and by '.join(owners)}; uninstall all packages but one")
    if own is None and not others:
        known = ", ".join(sorted(KINDS.keys() | {point.name for point in entry_points(group=GROUP)}))
        is_path = isinstance(spec, str) and ":" not in spec and "." in spec
        hint = f"; for a file write jsonl:{spec}" if is_path else ""
        raise ConfigError(f"there is no sink {kind!r}; known kinds: {known}{hint}")
    return own or others[0]


def _values(own: SinkKind, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    kind = own.table.KIND
    if not target:
        if not options and own.table.TARGET is not None:
            raise ConfigError(f"sink {kind} needs a target, such as {own.table.EXAMPLE}")
        return dict(options)
    if own.table.TARGET is None:
        raise ConfigError(f"sink {kind} takes nothing behind it; write just: {kind}")
    return {own.table.TARGET: target, **options}


# --- other packages' sinks -------------------------------------------------------------------------------------------


def _made_by_plugin(point: EntryPoint, target: str, options: Mapping[str, Any]) -> Sink:
    """Load the package's code, only now that it is asked for. What it raises is told as its own."""
    origin = f"sink {point.name} of the package {_package(point)}"
    try:
        sink: Sink = point.load()(target, options)
    except PollerError:
        raise
    except Exception as error:
        raise ConfigError(f"{origin} cannot be made: {type(error).__name__}: {error}") from error
    if missing := [each for each in ("name", "open", "write", "close") if not hasattr(sink, each)]:
        raise ConfigError(f"{origin} is no sink: it has no {', '.join(missing)}; see poller.protocols.Sink")
    return sink


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
