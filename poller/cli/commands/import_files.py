"""`poller import`: starts an import for each row, and polls each until its outcome is in every sink."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poller.cli import run_options
from poller.cli.option_groups import with_options
from poller.cli.options import AsJson, Settings, named_values, run_async, settings_of
from poller.cli.run_options import RunOptions
from poller.cli.start_options import start_options
from poller.core.columns import COLUMN_NAMES, Columns
from poller.core.errors import Exit, InputError

if TYPE_CHECKING:
    from poller.reports.import_check import ImportCheck
    from poller.sources import ReadOptions

NAME = "import"
STOP_ON_FAILURES = 0.5  # where the person set none: started imports cannot be undone
EXAMPLES = (
    "\b\nExamples:\n  poller import urls.csv --set access=PRIVATE --set folderPath='/products/{brand}' --check\n"
    "  poller import urls.csv --set access=PRIVATE --set folderPath='/products/{brand}'\n"
    "  poller report --resubmit again.jsonl && poller import again.jsonl"
)

GROUPS = {
    "Rows": ("files", "set_", "column", "key", "format", "account", "follow"),
    "Check": ("check", "as_json"),
    "Output": run_options.OUTPUT,
    "HubSpot account": run_options.ACCOUNT,
    "Limits": (*run_options.LIMITS, "underway", "trial", "retries"),
    "When to stop": run_options.WHEN_TO_STOP,
    "Page and logs": run_options.PAGE_AND_LOGS,
}
VARIABLES = run_options.VARIABLES | {
    "key": "POLLER_IMPORTS__KEY",
    "underway": "POLLER_IMPORTS__UNDERWAY",
    "trial": "POLLER_IMPORTS__TRIAL",
    "retries": "POLLER_IMPORTS__RETRIES",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions(RunOptions):
    """The options of an import: those of a run, and how its rows are started."""

    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=TEXT",
            help="For rows without such a column; {column}, {url.file} and {url.folder} are the row's. Repeatable.",
        ),
    ] = None
    column: Annotated[
        list[str] | None, typer.Option(metavar="MEANING=NAME", help="Your column for url or an option; repeatable.")
    ] = None
    key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What identifies a row. [url and all its options]")
    ] = None
    stop_on_failures: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Stop with code 75 when this share of the outcomes is not complete. [50%]"),
    ] = None
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Start N rows first, the others once ten landed; 0: none. [20]")
    ] = None
    retries: Annotated[
        int | None,
        typer.Option(metavar="N", help="Start a row whose failure may pass again, after 2, then 20 minutes. [0]"),
    ] = None
    underway: Annotated[int | None, typer.Option(metavar="N", help="At most N imports at HubSpot at once. [5000]")] = (
        None
    )

    def flags(self) -> dict[str, Any]:
        """Return what these options set, as `config.load` takes it."""
        flags = RunOptions.flags(self)
        return flags | {
            "stop_on_failures": self.stop_on_failures,
            "input": flags["input"] | {"feeds": "imports"},
            "imports": {
                "options": start_options(self.set_ or []),
                "columns": named_values(self.column or [], "--column", tuple(COLUMN_NAMES)),
                "key": self.key,
                "trial": self.trial,
                "underway": self.underway,
                "retries": self.retries,
            },
        }


@with_options(ImportOptions)
def import_files(
    options: ImportOptions,
    *,
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Rows as CSV, JSON lines or URLs; - for stdin.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every row, send nothing.")] = False,
    as_json: AsJson = False,
) -> Exit:
    """Start an import for each row, and follow it.

    Run the same command again to continue where it stopped: no row is started twice, except one whose first answer was
    lost, and that only after its file has had time to land and with HubSpot's duplicate check. --check reads
    everything and sends nothing. The exit codes are those of `poller run`; --check exits 0 or, where rows were
    rejected or warned of, 1.
    """
    flags = options.flags()
    if check:
        return _check(files or [], import_settings(options.config, flags), as_json=as_json)
    return options.run(files or [], "rows", partial(import_settings, options.config, flags))


def import_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """Return the settings of an import: those of a run, but it stops when half of its outcomes are not complete. A
    member of a fleet does not: others would go on with its accounts."""
    settings = settings_of(config, **flags)
    if settings.fleet or "stop_on_failures" in settings.model_fields_set:
        return settings
    return settings.model_copy(update={"stop_on_failures": STOP_ON_FAILURES})


def _check(files: Sequence[str], settings: Settings, *, as_json: bool) -> Exit:
    from poller.app.inputs import feeding

    if not files:
        raise InputError("no input was given: poller import FILE --check")
    found = run_async(check_rows(files, feeding(settings), Columns(named=settings.imports.columns)))
    if as_json:
        import orjson

        sys.stdout.write(orjson.dumps(found.to_json()).decode() + "\n")
    else:
        sys.stdout.write(found.to_text() + "\n")
    if not found.rows:
        raise InputError("no usable row in the input" + ("" if found.lines else ": it is empty"))
    return Exit.ALL_COMPLETE if found.is_clean else Exit.NOT_ALL_COMPLETE


async def check_rows(files: Sequence[str], options: "ReadOptions", columns: Columns) -> "ImportCheck":
    """Read the files as a run would. Raises `InputError` and `ConfigError` as it would, too."""
    from poller.reports.import_check import ImportCheck
    from poller.sources import STDIN, Parser
    from poller.sources.files.open_file import check_readable, open_file

    check_readable(files)
    found = ImportCheck(columns, now=time.time())
    for spec in files:
        name = "standard input" if spec == STDIN else Path(spec).name
        with open_file(spec) as file:
            parser = Parser(options, file.name)
            while block := await file.block():
                for chunk in parser.push(block):
                    found.add(chunk, name)
            for chunk in parser.end():
                found.add(chunk, name)
    return found
