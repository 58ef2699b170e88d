"""`poller import`: starts an import for each row, and polls each until its outcome is in every sink."""

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poller.cli.commands import run
from poller.cli.options import (
    AsJson,
    Config,
    DefaultAccount,
    Format,
    Settings,
    State,
    command_line,
    named_values,
    run_async,
    settings_of,
)
from poller.cli.run_options import (
    BaseUrl,
    DeadlineS,
    ExitZero,
    Follow,
    GiveUpS,
    Listen,
    ListenTokenEnv,
    ListenTokenFile,
    LogFormatOption,
    LogLevel,
    NoProgress,
    Requests,
    Sink,
    StatusPath,
    TokenEnv,
    TokenFile,
    WindowS,
    Workers,
)
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
    "Output": run.GROUPS["Output"],
    "HubSpot account": run.GROUPS["HubSpot account"],
    "Limits": (*run.GROUPS["Limits"], "underway", "trial", "retries"),
    "When to stop": run.GROUPS["When to stop"],
    "Page and logs": run.GROUPS["Page and logs"],
}
VARIABLES = {name: variable for name, variable in run.VARIABLES.items() if name != "id_column"} | {
    "key": "POLLER_IMPORTS__KEY",
    "underway": "POLLER_IMPORTS__UNDERWAY",
    "trial": "POLLER_IMPORTS__TRIAL",
    "retries": "POLLER_IMPORTS__RETRIES",
}


def import_files(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Rows as CSV, JSON lines or URLs; - for stdin.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=TEXT",
            help="For rows without such a column; {column}, {url.file} and {url.folder} are the row's. Repeatable.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="MEANING=NAME", help="Your column for url or an option; repeatable.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What identifies a row. [url and all its options]")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every row, send nothing.")] = False,
    as_json: AsJson = False,
    config: Config = None,
    sink: Sink = None,
    state: State = None,
    base_url: BaseUrl = None,
    status_path: StatusPath = None,
    account: DefaultAccount = None,
    token_env: TokenEnv = None,
    token_file: TokenFile = None,
    requests: Requests = None,
    window_s: WindowS = None,
    workers: Workers = None,
    deadline_s: DeadlineS = None,
    give_up_s: GiveUpS = None,
    stop_on_failures: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Stop with code 75 when this share of the outcomes is not complete. [50%]"),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(metavar="N", help="Start N rows first, the others once ten landed; 0: none. [20]")
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(metavar="N", help="Start a row whose failure may pass again, after 2, then 20 minutes. [0]"),
    ] = None,
    underway: Annotated[
        int | None, typer.Option(metavar="N", help="At most N imports at HubSpot at once. [5000]")
    ] = None,
    format: Format = None,  # noqa: A002 - the flag's name
    follow: Follow = False,
    listen: Listen = None,
    listen_token_file: ListenTokenFile = None,
    listen_token_env: ListenTokenEnv = None,
    no_progress: NoProgress = False,
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
    exit_zero: ExitZero = False,
) -> Exit:
    """Start an import for each row, and follow it.

    Run the same command again to continue where it stopped: no row is started twice, except one whose first answer was
    lost, and that only after its file has had time to land and with HubSpot's duplicate check. --check reads
    everything and sends nothing. The exit codes are those of `poller run`; --check exits 0 or, where rows were
    rejected or warned of, 1.
    """
    from poller.core.start_options import FOLDERS, OPTIONS

    options = named_values(set_ or [], "--set", OPTIONS)
    given = [name for name in FOLDERS if name in options]
    if len(given) == 1:  # it replaces either folder of the config
        options |= {name: "" for name in FOLDERS if name not in options}
    flags = {
        "sinks": sink,
        "state": state,
        "base_url": base_url,
        "status_path": status_path,
        "account": account,
        "token_env": token_env,
        "token_file": token_file,
        "requests": requests,
        "window_s": window_s,
        "workers": workers,
        "deadline_s": deadline_s,
        "give_up_s": give_up_s,
        "stop_on_failures": stop_on_failures,
        "input": {"format": format, "feeds": "imports"},
        "imports": {
            "options": options,
            "columns": named_values(column or [], "--column", tuple(COLUMN_NAMES)),
            "key": key,
            "trial": trial,
            "underway": underway,
            "retries": retries,
        },
        "follow": follow or None,
        "listen": listen,
        "listen_token_file": listen_token_file,
        "listen_token_env": listen_token_env,
        "progress": False if no_progress else None,
        "log": {"format": log_format, "level": log_level},
    }
    if check:
        return _check(files or [], import_settings(config, flags), as_json=as_json)
    run.survive_early_sighup()
    from poller.app.event_loop import run_event_loop
    from poller.app.messages import Again
    from poller.app.process import run_process

    if "-" in (files or []) and sys.stdin.isatty():
        typer.echo("poller: reading rows from the terminal, one a line; Ctrl-D ends them", err=True)
    again = Again(command=command_line())
    code = run_event_loop(run_process(partial(import_settings, config, flags), files or [], os.environ, again))
    return Exit.ALL_COMPLETE if exit_zero and code is Exit.NOT_ALL_COMPLETE else code


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
        raise InputError("no usable row in the input")
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
