"""The command line: flags to settings, errors to messages and exit codes. Imports of weight happen in the commands."""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from poller import __version__
from poller.errors import Exit, PollerError

app = typer.Typer(
    name="poller",
    help="Tells what became of each of your HubSpot import-from-URL tasks, without eating your API quota.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, the token among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


class InputFormat(StrEnum):
    """How input lines are read."""

    AUTO = "auto"
    TEXT = "text"
    JSONL = "jsonl"
    CSV = "csv"


class LogFormat(StrEnum):
    """How log events are written."""

    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


Config = Annotated[
    Path | None, typer.Option("-c", "--config", metavar="FILE", help="TOML settings; see config.example.toml.")
]
State = Annotated[str | None, typer.Option(metavar="URL", help="Where the state is kept. [sqlite:///poller.db]")]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"poller {__version__}")
        raise typer.Exit


@app.command(
    epilog="Examples: poller run ids.txt --sink jsonl:done.jsonl · cat ids.txt | poller run - --sink stdout | jq ."
)
def run(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="[FILE…|-]", help="Ids as text, JSON lines or CSV; - for stdin.")
    ] = None,
    config: Config = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="stdout or jsonl:PATH; repeatable. [jsonl:finished.jsonl]"),
    ] = None,
    state: State = None,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="[https://api.hubapi.com]")] = None,
    status_path: Annotated[str | None, typer.Option(metavar="PATH", help="Path template with {task_id}.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Account of lines that name none.")] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the token. [HUBSPOT_TOKEN]")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the token.")] = None,
    requests: Annotated[int | None, typer.Option(metavar="N", help="At most N requests per window.")] = None,
    window_s: Annotated[float | None, typer.Option(metavar="S", help="The rolling window, in seconds.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Looks at a time per account. [16 or as the limit needs]")
    ] = None,
    deadline_s: Annotated[
        float | None, typer.Option(metavar="S", help="Age at which an unfinished task is timed_out. [86400]")
    ] = None,
    give_up_s: Annotated[
        float | None, typer.Option(metavar="S", help="End with code 69 after S seconds of outage. [never]")
    ] = None,
    format: Annotated[InputFormat | None, typer.Option(help="How lines are read. [auto]")] = None,  # noqa: A002 - the flag's name
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="CSV column or JSON key of the id.")] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress display on a terminal.")] = False,
    log_format: Annotated[LogFormat | None, typer.Option(help="[auto: console on a terminal, else json]")] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]")
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 also when some are not complete.")] = False,
) -> None:
    """Poll every id fed until each has its outcome in every sink.

    Exit codes: 0 every task complete, 1 every task has an outcome but some are not complete, 65 nothing usable in the
    input, 69 gave up on an outage, 75 stopped with work left (run again to go on), 77 token refused, 78 configuration.
    """
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
        "input": _given(format=format, id_column=id_column),
        "progress": False if no_progress else None,
        "log": _given(format=log_format, level=log_level),
    }
    with _errors_for_people():
        from poller.app import run_here
        from poller.config import load

        code = asyncio.run(run_here(load(config, _given(**flags), os.environ), files or [], os.environ))
        raise typer.Exit(Exit.ALL_COMPLETE if exit_zero and code is Exit.NOT_ALL_COMPLETE else code)


@app.command(epilog="Example: poller check-config -c config.toml")
def check_config(config: Config = None) -> None:
    """Read the settings as `run` would, say what is in force, and exit 78 where something is wrong."""
    with _errors_for_people():
        from poller.config import describe, load, unknown_variables

        typer.echo(describe(load(config, {}, os.environ)))
        for name, nearest in unknown_variables(os.environ).items():
            hint = f"; did you mean {nearest}?" if nearest else ""
            typer.echo(f"warning: {name} is not a setting and is ignored{hint}", err=True)


@app.command(epilog="Example: poller status --state sqlite:///poller.db --rejected")
def status(
    config: Config = None,
    state: State = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="List the rejected input lines as JSON lines.")] = False,
) -> None:
    """Print the ledger: what was fed, what has its outcome, what is delivered; also while a run is at work."""
    with _errors_for_people():
        from poller.app import print_rejected, print_status
        from poller.config import load

        settings = load(config, _given(state=state), os.environ)
        asyncio.run(print_rejected(settings) if rejected else print_status(settings))


@app.command(epilog="Example: poller healthcheck --state sqlite:////data/poller.db")
def healthcheck(
    config: Config = None,
    state: State = None,
    max_age_s: Annotated[float, typer.Option(metavar="S", help="Oldest acceptable sign of life.")] = 30.0,
) -> None:
    """Exit 0 when a run is at work on the state and showed life lately, else 1. For the container's health check."""
    with _errors_for_people():
        from poller.app import sign_of_life
        from poller.config import load

        said, healthy = sign_of_life(load(config, _given(state=state), os.environ), max_age_s)
        typer.echo(said)
        raise typer.Exit(0 if healthy else 1)


@app.command(epilog="Example: poller demo --directory /tmp/poller-demo")
def demo(
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where the ids, the state and the result go.")] = Path(
        "poller-demo"
    ),
    imports: Annotated[int, typer.Option(min=1, max=20_000, metavar="N", help="How many imports to start.")] = 600,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same imports.")] = 1,
) -> None:
    """Watch the real service poll a simulated HubSpot: under a minute, no token, nothing leaves this machine."""
    with _errors_for_people():
        from poller.demo import run_demo

        raise typer.Exit(run_demo(directory, imports=imports, seed=seed))


@app.command(epilog="Example: poller sandbox --port 8080 --tasks 5000 --ids-file ids.txt --fault 503=0.05")
def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")] = 8080,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same tasks.")] = 1,
    tasks: Annotated[int, typer.Option(min=0, metavar="N", help="Imports to start at once.")] = 0,
    ids_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Where their ids go.")] = None,
    durations: Annotated[
        str, typer.Option(metavar="SPEC", help="fixed:S, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA, mix:SHARE@…,…")
    ] = "lognormal:30,1.2",
    requests: Annotated[int, typer.Option(min=1, metavar="N", help="Allowed per window.")] = 100,
    window_s: Annotated[float, typer.Option(metavar="S", help="The rolling window.")] = 10.0,
    latency_ms: Annotated[str, typer.Option(metavar="MIN-MAX", help="How long answers take.")] = "20-80",
    fate: Annotated[list[str] | None, typer.Option(metavar="NAME=SHARE", help="Share of tasks; repeatable.")] = None,
    fault: Annotated[list[str] | None, typer.Option(metavar="NAME=SHARE", help="Share of looks; repeatable.")] = None,
    outage: Annotated[list[str] | None, typer.Option(metavar="FROM-TO=FAULT", help="In seconds; repeatable.")] = None,
    daily: Annotated[int | None, typer.Option(min=1, metavar="N", help="Allowed per day.")] = None,
    token: Annotated[list[str] | None, typer.Option(metavar="TOKEN", help="Accepted ones. [any]")] = None,
) -> None:
    """Serve a simulated HubSpot on loopback, with faults on demand; counters at /_sandbox/stats. Ends with Ctrl-C."""
    with _errors_for_people():
        from poller.sandbox import command

        command.serve_here(
            port=port,
            ids_file=ids_file,
            tasks=tasks,
            scenario=command.scenario(
                seed=seed,
                durations=durations,
                requests=requests,
                window_s=window_s,
                latency_ms=latency_ms,
                fates=fate or [],
                faults=fault or [],
                outages=outage or [],
                daily=daily,
                tokens=token or [],
            ),
        )


def _given(**flags: Any) -> dict[str, Any]:
    """Return the flags that were given; only these outrank the environment and the file."""
    return {name: value for name, value in flags.items() if value not in (None, {}, [])}


@contextmanager
def _errors_for_people() -> Iterator[None]:
    """Turn expected errors into one message on stderr and their exit code."""
    try:
        yield
    except PollerError as error:
        _fail(error)


def _fail(error: PollerError) -> NoReturn:
    lines = str(error).splitlines() or [type(error).__name__]
    typer.echo("\n".join([f"poller: {lines[0]}", *(f"  {line}" for line in lines[1:])]), err=True)
    raise typer.Exit(error.exit_code) from None


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    app()
