"""The command line: flags to settings, errors to messages and exit codes. Imports of weight happen in the commands."""

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer

from poller import __version__
from poller.errors import ConfigError, Exit, PollerError

app = typer.Typer(
    name="poller",
    help="Tells what became of each of your HubSpot import-from-URL tasks, without eating your API quota.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich takes "[default]" for markup, and 0.1 s to import
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
State = Annotated[
    str | None, typer.Option(metavar="URL", help="sqlite:///PATH or postgresql://USER@HOST/NAME. [sqlite:///poller.db]")
]


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"poller {__version__}")
        raise typer.Exit


@app.command(
    epilog="\b\nExamples:\n  poller run ids.txt --sink jsonl:done.jsonl\n"
    "  cat ids.txt | poller run - --sink stdout | jq .\n  poller run -c config.toml ids.csv"
)
def run(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Ids as text, JSON lines or CSV; - for stdin.")
    ] = None,
    config: Config = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="jsonl:PATH, stdout, webhook:URL, sql:URL or command:COMMAND; repeatable. [jsonl:finished.jsonl]",
        ),
    ] = None,
    state: State = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Scheme and host. [https://api.hubapi.com]")
    ] = None,
    status_path: Annotated[str | None, typer.Option(metavar="PATH", help="Path template with {task_id}.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Account of lines that name none.")] = None,
    token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with the token. [HUBSPOT_TOKEN]")
    ] = None,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the token.")] = None,
    requests: Annotated[int | None, typer.Option(metavar="N", help="At most N requests per window.")] = None,
    window_s: Annotated[float | None, typer.Option(metavar="S", help="The rolling window, in seconds.")] = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Looks at a time. [16, or as the limit needs]")
    ] = None,
    deadline_s: Annotated[
        float | None, typer.Option(metavar="S", help="Age at which an unfinished task is timed_out. [86400]")
    ] = None,
    give_up_s: Annotated[
        float | None, typer.Option(metavar="S", help="End with code 69 after S seconds of outage. [never]")
    ] = None,
    format: Annotated[InputFormat | None, typer.Option(help="How lines are read. [auto]")] = None,  # noqa: A002 - the flag's name
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="CSV column or JSON key of the id.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running; read on in files that grow or are rotated, like tail -F.")
    ] = False,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress display on a terminal.")] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="How logs are written. [auto: console on a terminal, else json]")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]")
    ] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 also when some are not complete.")] = False,
) -> None:
    """Poll every id fed until each has its outcome in every sink.

    The same command goes on where it stopped. Without FILE it finishes what the state holds.

    \b
    Exit codes:
       0  every task is complete
       1  every task has its outcome, some are not complete
       2  the command line is wrong
      65  nothing usable in the input
      69  an outage or a dead sink lasted longer than --give-up-s
      70  the ledger does not balance: a defect
      73  the state or an output file cannot be used
      75  stopped with work left: run the same command again
      77  HubSpot refuses the token
      78  a setting is wrong
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
        "follow": follow or None,
        "progress": False if no_progress else None,
        "log": _given(format=log_format, level=log_level),
    }
    with _errors_for_people():
        from poller.app import run_here
        from poller.config import load

        if "-" in (files or []) and sys.stdin.isatty():
            typer.echo("poller: reading ids from the terminal, one a line; Ctrl-D ends them", err=True)
        code = asyncio.run(run_here(load(config, _given(**flags), os.environ), files or [], os.environ))
        raise typer.Exit(Exit.ALL_COMPLETE if exit_zero and code is Exit.NOT_ALL_COMPLETE else code)


@app.command(epilog="\b\nExample:\n  poller check-config -c config.toml")
def check_config(config: Config = None) -> None:
    """Say which settings are in force, or what is wrong with them.

    Reads them as `run` would. Exit code 78 where something is wrong.
    """
    with _errors_for_people():
        from poller.config import describe, load, unknown_variables
        from poller.sinks import check_sinks

        settings = load(config, {}, os.environ)
        check_sinks(settings.sinks)
        typer.echo(describe(settings))
        for name, nearest in unknown_variables(os.environ).items():
            hint = f"; did you mean {nearest}?" if nearest else ""
            typer.echo(f"warning: {name} is not a setting and is ignored{hint}", err=True)


@app.command(epilog="\b\nExample:\n  poller status --state sqlite:///poller.db --rejected")
def status(
    config: Config = None,
    state: State = None,
    rejected: Annotated[bool, typer.Option("--rejected", help="List the rejected input lines as JSON lines.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="List what sinks refused for good, as JSON lines.")] = False,
) -> None:
    """Print the ledger, also while a run is at work.

    It says what was fed, what has its outcome, what is delivered, and why an account is paused.

    Exit code 70 where the ledger does not balance.
    """
    with _errors_for_people():
        from poller.commands import print_dead, print_rejected, print_status
        from poller.config import load

        show = print_rejected if rejected else print_dead if dead else print_status
        raise typer.Exit(asyncio.run(show(load(config, _given(state=state), os.environ))))


@app.command(epilog="\b\nExample:\n  poller verify finished.jsonl --state sqlite:///poller.db")
def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="JSONL files, in the order of their writing.")],
    config: Config = None,
    state: State = None,
) -> None:
    """Prove a JSONL file against the state.

    Each finished task must stand in it exactly once, byte for byte, and nothing else. Exit code 0 where they are
    equal; 1 with the differences listed.
    """
    with _errors_for_people():
        from poller.commands import verify as prove
        from poller.config import load

        raise typer.Exit(asyncio.run(prove(load(config, _given(state=state), os.environ), files)))


@app.command(epilog="\b\nExample:\n  poller replay --sink jsonl:failed.jsonl --kind canceled --kind not_found")
def replay(
    sink: Annotated[str, typer.Option(metavar="SPEC", help="Where to bring the records.")],
    since: Annotated[datetime | None, typer.Option(help="Finished at or after this instant (UTC).")] = None,
    kind: Annotated[list[str] | None, typer.Option(metavar="KIND", help="Of this kind; repeatable.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only what this sink had refused for good.")] = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Bring finished tasks to a sink once more, or to a new one. Not while a run is at work on the state.

    A known sink gets them again. A new one gets everything and is known from then on; with --since or --kind it gets
    just that, once.
    """
    with _errors_for_people():
        from poller.commands import replay as bring
        from poller.config import load
        from poller.model import Selection

        selection = Selection(
            since=None if since is None else since.replace(tzinfo=since.tzinfo or UTC).timestamp(),
            kinds=_known_kinds(kind or []),
            dead=dead,
        )
        raise typer.Exit(asyncio.run(bring(load(config, _given(state=state), os.environ), sink, selection)))


@app.command(epilog="\b\nExample:\n  poller healthcheck --state sqlite:////data/poller.db")
def healthcheck(
    config: Config = None,
    state: State = None,
    max_age_s: Annotated[float, typer.Option(metavar="S", help="Oldest acceptable sign of life.")] = 30.0,
) -> None:
    """Exit 0 while a run is at work and alive, else 1.

    For the container's health check.
    """
    with _errors_for_people():
        from poller.commands import sign_of_life
        from poller.config import load

        said, healthy = sign_of_life(load(config, _given(state=state), os.environ), max_age_s)
        typer.echo(said)
        raise typer.Exit(0 if healthy else 1)


@app.command(epilog="\b\nExample:\n  poller demo --directory /tmp/poller-demo")
def demo(
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where the ids, the state and the result go.")] = Path(
        "poller-demo"
    ),
    imports: Annotated[int, typer.Option(min=1, max=20_000, metavar="N", help="How many imports to start.")] = 600,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same imports.")] = 1,
) -> None:
    """Watch it poll a simulated HubSpot; no token needed.

    The service is the real one, and so are the sockets; HubSpot is a server on loopback. Nothing leaves this machine.
    It takes half a minute.
    """
    with _errors_for_people():
        from poller.demo import run_demo

        raise typer.Exit(run_demo(directory, imports=imports, seed=seed))


@app.command(epilog="\b\nExample:\n  poller sandbox --port 8080 --tasks 5000 --ids-file ids.txt --fault 503=0.05")
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
    """Serve a simulated HubSpot on loopback.

    With faults on demand. Its counters stand at /_sandbox/stats. Ctrl-C ends it.
    """
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


def _known_kinds(names: list[str]) -> frozenset[str]:
    from poller.model import Kind

    known = [kind.value for kind in Kind]
    for name in names:
        if name not in known:
            raise ConfigError(f"--kind {name}: there is no such kind; known are {', '.join(known)}")
    return frozenset(names)


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
    except KeyboardInterrupt:  # before or after the run, which has its own way with signals
        raise typer.Exit(Exit.WORK_LEFT) from None


def _fail(error: PollerError) -> NoReturn:
    lines = str(error).splitlines() or [type(error).__name__]
    typer.echo("\n".join([f"poller: {lines[0]}", *(f"  {line}" for line in lines[1:])]), err=True)
    raise typer.Exit(error.exit_code) from None


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    _fill_closed_streams()
    try:
        app()
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush_or_drop(stream)


def _fill_closed_streams() -> None:
    """The number of a closed standard stream must not go to a file of ours. Its stand-in refuses all data, so that
    nothing counts as delivered; but that of stderr swallows it."""
    for fd, (name, mode) in enumerate((("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        if getattr(sys, name) is None:
            stand_in = os.open(os.devnull, mode)
            if stand_in != fd:
                os.dup2(stand_in, fd)
                os.close(stand_in)
            setattr(sys, name, open(os.devnull, "r" if fd == 0 else "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - it stays open


def _flush_or_drop(stream: TextIO) -> None:
    """What nobody reads any more must not turn the exit code into Python's 120."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if stream is sys.stdout and error.errno != errno.EPIPE:
            typer.echo(f"poller: standard output cannot be written to: {error.strerror}", err=True)
            raise SystemExit(Exit.CANNOT_CREATE) from None
