"""From settings to sources: how lines are read, which sources a run has, whether it ends. Pure, but for file checks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, assert_never

from poller.config import Settings, SourceTable
from poller.core.columns import Columns
from poller.sources import STDIN, ReadOptions, Source, stat_of
from poller.sources.imports import RowOptions

Feeds = Literal["ids", "imports"]


def feeding(settings: Settings, feeds: Feeds | None = None) -> ReadOptions:
    """Return how lines are read where their source has no options of its own. `feeds`: what they are; None: as set."""
    return ReadOptions(
        format=settings.input.format,
        id_column=settings.input.id_column,
        accounts=frozenset(settings.account_settings()),
        default_account=settings.account,
        max_line_bytes=settings.input.max_line_bytes,
        rows=row_options(settings) if (feeds or settings.input.feeds) == "imports" else None,
    )


def importing(settings: Settings) -> ReadOptions | None:
    """Return how rows to import are read that do not come from a source; None where the run starts none."""
    return feeding(settings, "imports") if settings.feeds_imports else None


def row_options(settings: Settings) -> RowOptions:
    """Return how rows to import are read. An empty option counts as not set."""
    imports = settings.imports
    defaults = {name: text for name, text in imports.options.items() if text}
    return RowOptions(columns=Columns(named=imports.columns), defaults=defaults, key=imports.key)


def sources(settings: Settings, inputs: Sequence[str]) -> list[Source]:
    """Return the sources on the command line, then those of the settings; each file is one."""
    defaults = feeding(settings)
    named = [_file(path, follow=settings.follow, read=defaults) for path in inputs]
    rows = row_options(settings)
    tables = [_sources_of(table, settings.follow, defaults, rows) for table in settings.sources]
    return [*named, *(source for found in tables for source in found)]


def is_endless(settings: Settings, named: Sequence[Source]) -> bool:
    """Whether the run continues when its work is done. A member of a fleet does: others may have more."""
    return settings.follow or settings.fleet or any(source.follow for source in named)


def missing_sources(settings: Settings) -> list[str]:
    """Return a message for each source of the settings that does not exist now."""
    named = [source for source in sources(settings, []) if source.kind in ("file", "folder")]
    absent = [source for source in named if stat_of(source.location) is None]
    return [f"{source} does not exist{' yet; a run waits for it' if source.follow else ''}" for source in absent]


def _sources_of(table: SourceTable, run_follows: bool, defaults: ReadOptions, rows: RowOptions) -> list[Source]:
    read = replace(
        defaults,
        format=table.format or defaults.format,
        id_column=table.id_column or defaults.id_column,
        default_account=table.account or defaults.default_account,
        rows=defaults.rows if table.feeds is None else rows if table.feeds == "imports" else None,
    )
    follow = run_follows if table.follow is None else table.follow
    match table.found_kind:
        case "file":
            return [_file(path, follow=follow, read=read) for path in table.paths]
        case "stdin":
            return [_file(STDIN, follow=False, read=read)]
        case "glob":
            return [Source(kind="glob", location=table.glob or "", follow=follow, options=read)]
        case "folder":
            folder, settle_s = table.folder or "", table.settle_s
            return [Source(kind="folder", location=folder, follow=follow, options=read, settle_s=settle_s)]
        case _:
            assert_never(table.found_kind)


def _file(path: str, *, follow: bool, read: ReadOptions) -> Source:
    is_stdin = path == STDIN
    return Source(kind="stdin" if is_stdin else "file", location=path, follow=follow and not is_stdin, options=read)
