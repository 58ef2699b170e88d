"""The command line: flags to settings, errors to messages and exit codes. Imports of weight happen in the commands."""

import asyncio
import errno
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
import typer.core

from poller import __version__
from poller.cli import completion
from poller.core.errors import ConfigError, Exit, PollerError


class Commands(typer.core.TyperGroup):
    """The commands; knows what a person meant who left `run` out."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        if command is None and not ctx.resilient_parsing and (cmd_name == "-" or Path(cmd_name).is_file()):
            ctx.fail(f"{cmd_name} is input, not a command: poller run {cmd_name}")
        return command


app = typer.Typer(
    name="poller",
    cls=Commands,
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
    str | None,
    typer.Option(
        metavar="URL",
        help="sqlite:///PATH or postgresql://USER@HOST/NAME. [sqlite:///poller.db]",
        autocompletion=completion.states,
    ),
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
            help="jsonl:PATH, csv:PATH, stdout, webhook:URL, sql:URL, command:LINE; repeatable. [jsonl:finished.jsonl]",
            autocompletion=completion.sinks,
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
        int | None, typer.Option(metavar="N", help="Polls at a time. [16, or as the limit needs]")
    ] = None,
    deadline_s: Annotated[
        float | None, typer.Option(metavar="S", help="Age at which an unfinished task is timed_out. [86400]")
    ] = None,
    give_up_s: Annotated[
        float | None, typer.Option(metavar="S", help="End with code 69 after S seconds of outage. [never]")
    ] = None,
    stop_on_failures: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Stop with code 75 when so many outcomes are not complete, such as 20%."),
    ] = None,
    format: Annotated[InputFormat | None, typer.Option(help="How lines are read. [auto]")] = None,  # noqa: A002 - the flag's name
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="CSV column or JSON key of the id.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running; read on in files that grow or are rotated, like tail -F.")
    ] = False,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve the live page, metrics and feeding; or off. [127.0.0.1:8321]"),
    ] = None,
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress display on a terminal.")] = False,
    log_format: Annotated[
        LogFormat | None, typer.Option(help="How logs are written. [auto: console on a terminal, else json]")
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]", autocompletion=completion.levels),
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
        "stop_on_failures": stop_on_failures,
        "input": _given(format=format, id_column=id_column),
        "follow": follow or None,
        "listen": listen,
        "progress": False if no_progress else None,
        "log": _given(format=log_format, level=log_level),
    }
    with _errors_for_people():
        from poller.app.event_loop import run_event_loop
        from poller.app.run import run_here
        from poller.config import load

        if "-" in (files or []) and sys.stdin.isatty():
            typer.echo("poller: reading ids from the terminal, one a line; Ctrl-D ends them", err=True)
        read = partial(load, config, _given(**flags), os.environ)
        code = run_event_loop(run_here(read(), files or [], os.environ, read))
        raise typer.Exit(Exit.ALL_COMPLETE if exit_zero and code is Exit.NOT_ALL_COMPLETE else code)


@app.command(epilog="\b\nExample:\n  poller check-config -c config.toml")
def check_config(config: Config = None) -> None:
    """Say which settings are in force, or what is wrong with them.

    Reads them as `run` would. Exit code 78 where something is wrong.
    """
    with _errors_for_people():
        from poller.app.build import missing_places
        from poller.config import describe, load, unknown_variables
        from poller.sinks import check_sinks

        settings = load(config, {}, os.environ)
        check_sinks(settings.sinks)
        typer.echo(describe(settings))
        for missing in missing_places(settings):
            typer.echo(f"warning: {missing}", err=True)
        for name, nearest in unknown_variables(os.environ).items():
            hint = f"; did you mean {nearest}?" if nearest else ""
            typer.echo(f"warning: {name} is not a setting and is ignored{hint}", err=True)


@app.command(epilog="\b\nExample:\n  poller plan ids.txt --requests 100 --window-s 10 --daily 250000")
def plan(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Ids as for `run`; - for stdin.")],
    config: Config = None,
    state: State = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Account of lines that name none.")] = None,
    requests: Annotated[int | None, typer.Option(metavar="N", help="At most N requests per window. [100]")] = None,
    window_s: Annotated[float | None, typer.Option(metavar="S", help="The rolling window, in seconds. [10]")] = None,
    daily: Annotated[int | None, typer.Option(metavar="N", help="The account's requests per day.")] = None,
    deadline_s: Annotated[float | None, typer.Option(metavar="S", help="As for `run`. [86400]")] = None,
    durations: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="How long imports take: fixed:S, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA, mix:SHARE@…,…",
        ),
    ] = None,
    format: Annotated[InputFormat | None, typer.Option(help="How lines are read. [auto]")] = None,  # noqa: A002 - the flag's name
    id_column: Annotated[str | None, typer.Option(metavar="NAME", help="CSV column or JSON key of the id.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False,
) -> None:
    """Tell what a run would take, before it begins.

    It tells polls, time, and how much of the day's quota, from what the state has learned of the account, or from
    --durations. Nothing is asked and nothing stored.

    Exit code 1 where it does not fit into what is left of the day's quota.
    """
    flags = {
        "state": state,
        "account": account,
        "requests": requests,
        "window_s": window_s,
        "daily_limit": daily,
        "deadline_s": deadline_s,
        "input": _given(format=format, id_column=id_column),
    }
    with _errors_for_people():
        from poller.cli.commands.plan import print_plan
        from poller.config import load

        settings = load(config, _given(**flags), os.environ)
        raise typer.Exit(asyncio.run(print_plan(settings, files, durations=durations, as_json=as_json)))


@app.command(
    epilog="\b\nExamples:\n  poller status --state sqlite:///poller.db --rejected\n  poller status --json | jq .waiting"
)
def status(
    config: Config = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print it again every few seconds, until Ctrl-C.")] = False,
    rejected: Annotated[bool, typer.Option("--rejected", help="List the rejected input lines as JSON lines.")] = False,
    dead: Annotated[bool, typer.Option("--dead", help="List what sinks refused for good, as JSON lines.")] = False,
) -> None:
    """Print the ledger, also while a run is at work.

    It says what was fed, what has its outcome, what is delivered, and why an account is paused.

    Exit code 70 where the ledger does not balance.
    """
    with _errors_for_people():
        from poller.config import load

        settings = load(config, _given(state=state), os.environ)
        if rejected or dead:
            from poller.cli.commands.replay import print_dead, print_rejected

            show = (print_rejected if rejected else print_dead)(settings)
        elif watch or as_json:
            from poller.cli.commands import status as standing

            show = standing.watch(settings, as_json=as_json) if watch else standing.status_json(settings)
        else:
            from poller.cli.commands.replay import print_status

            show = print_status(settings)
        raise typer.Exit(_until_interrupted(show) if watch else asyncio.run(show))


@app.command(epilog="\b\nExamples:\n  poller why AAAAEZ6whGI\n  poller why AAAAEZ6whGI --json | jq .poll_log")
def why(
    task: Annotated[str, typer.Argument(metavar="TASK", help="An id, a locator, or a status URL.")],
    config: Config = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as a JSON object for each account's task.")] = False,
) -> None:
    """Tell all about one task, also while a run is at work.

    When it was fed, every poll of it and what HubSpot said, what comes next or became of it, and which sinks have it.

    Exit code 1 where the state does not know it.
    """
    with _errors_for_people():
        from poller.cli.commands.why import why as tell
        from poller.config import load

        settings = load(config, _given(state=state), os.environ)
        raise typer.Exit(asyncio.run(tell(settings, task, as_json=as_json)))


@app.command(
    epilog="\b\nExamples:\n  poller report --html report.html\n"
    "  poller report --resubmit again.jsonl --set access=PRIVATE\n"
    "  poller report finished.jsonl --json | jq '.reasons[0]'"
)
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="JSONL files of finished tasks. [all the state holds]")
    ] = None,
    config: Config = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as one JSON object.")] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one page that needs no other file.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a row for each task not complete.")] = None,
    resubmit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write ready start call bodies for what is worth another try."),
    ] = None,
    rest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the others go, with the reason. [FILE.rest]")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="MEANING=NAME", help="Your column for url, md5, size or an option; repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="For bodies whose row does not say it; repeatable."),
    ] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Only tasks of this account.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Only tasks finished at or after this instant (UTC).")] = None,
) -> None:
    """Say why tasks are not complete.

    It lists reasons with counts, hosts, samples, and what is worth another try; also while a run is at work. With md5
    or size columns in your input, the finished files are compared.
    """
    with _errors_for_people():
        from poller.cli.commands.report import ReportOptions
        from poller.cli.commands.report import report as answer
        from poller.config import load
        from poller.core.columns import COLUMN_NAMES, Columns
        from poller.reports.resubmit import OPTIONS

        options = ReportOptions(
            files=tuple(files or ()),
            account=account,
            since=_instant(since),
            columns=Columns(named=_pairs(column or [], "--column", tuple(COLUMN_NAMES))),
            as_json=as_json,
            html=html,
            csv=csv,
            resubmit=resubmit,
            rest=rest,
            defaults=_pairs(set_ or [], "--set", OPTIONS),
        )
        raise typer.Exit(asyncio.run(answer(load(config, _given(state=state), os.environ), options)))


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
        from poller.cli.commands.replay import verify as prove
        from poller.config import load

        raise typer.Exit(asyncio.run(prove(load(config, _given(state=state), os.environ), files)))


@app.command(epilog="\b\nExample:\n  poller replay --sink jsonl:failed.jsonl --kind canceled --kind not_found")
def replay(
    sink: Annotated[
        str, typer.Option(metavar="SPEC", help="Where to bring the records.", autocompletion=completion.sinks)
    ],
    since: Annotated[datetime | None, typer.Option(help="Finished at or after this instant (UTC).")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="Of this kind; repeatable.", autocompletion=completion.kinds),
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="Only what this sink had refused for good.")] = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Bring finished tasks to a sink once more, or to a new one. Not while a run is at work on the state.

    A known sink gets them again. A new one gets everything and is known from then on; with --since or --kind it gets
    just that, once.
    """
    with _errors_for_people():
        from poller.cli.commands.replay import replay as bring
        from poller.config import load
        from poller.core.model import Selection

        selection = Selection(
            since=_instant(since),
            kinds=_known_kinds(kind or []),
            dead=dead,
        )
        raise typer.Exit(asyncio.run(bring(load(config, _given(state=state), os.environ), sink, selection)))


@app.command(epilog="\b\nExample:\n  poller reload --state sqlite:////data/poller.db")
def reload(config: Config = None, state: State = None) -> None:
    """Let the run at work read its settings anew.

    It sends SIGHUP and tells what came of it: what changed, and what only a restart changes. Settings that are wrong
    change nothing. Exit code 78 where they are; 1 where no run is at work.
    """
    with _errors_for_people():
        from poller.cli.commands.reload import ask_to_reload
        from poller.config import load

        said, code = asyncio.run(ask_to_reload(load(config, _given(state=state), os.environ)))
        typer.echo(said, err=code != 0)
        raise typer.Exit(code)


@app.command(epilog="\b\nExample:\n  poller healthcheck --state sqlite:////data/poller.db")
def healthcheck(
    config: Config = None,
    state: State = None,
    max_age_s: Annotated[float, typer.Option(metavar="S", help="Oldest acceptable sign of life.")] = 30.0,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask this server, such as http://127.0.0.1:8321, and no state.")
    ] = None,
) -> None:
    """Exit 0 while a run is at work and alive, else 1.

    Asks its server, where it listens; else its latest sign of life must be young. For the container's health check.
    """
    with _errors_for_people():
        from poller.cli.commands.replay import sign_of_life
        from poller.config import load

        said, healthy = sign_of_life(load(config, _given(state=state), os.environ), max_age_s, url)
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
        from poller.cli.commands.demo import run_demo

        raise typer.Exit(run_demo(directory, imports=imports, seed=seed))


@app.command(epilog="\b\nExample:\n  poller sandbox --port 8080 --tasks 5000 --ids-file ids.txt --fault 503=0.05")
def sandbox(
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")] = 8080,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same tasks.")] = 1,
    tasks: Annotated[int, typer.Option(min=0, metavar="N", help="Imports to start at once.")] = 0,
    ids_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Where their ids go.")] = None,
    durations: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="fixed:S, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA, mix:SHARE@…,…",
            autocompletion=completion.durations,
        ),
    ] = "lognormal:30,1.2",
    requests: Annotated[int, typer.Option(min=1, metavar="N", help="Allowed per window.")] = 100,
    window_s: Annotated[float, typer.Option(metavar="S", help="The rolling window.")] = 10.0,
    latency_ms: Annotated[str, typer.Option(metavar="MIN-MAX", help="How long answers take.")] = "20-80",
    fate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", help="Share of tasks; repeatable.", autocompletion=completion.fates),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", help="Share of polls; repeatable.", autocompletion=completion.faults),
    ] = None,
    outage: Annotated[list[str] | None, typer.Option(metavar="FROM-TO=FAULT", help="In seconds; repeatable.")] = None,
    daily: Annotated[int | None, typer.Option(min=1, metavar="N", help="Allowed per day.")] = None,
    token: Annotated[list[str] | None, typer.Option(metavar="TOKEN", help="Accepted ones. [any]")] = None,
) -> None:
    """Serve a simulated HubSpot on loopback.

    With faults on demand. Its counters stand at /_sandbox/stats. Ctrl-C ends it.
    """
    with _errors_for_people():
        from poller.cli.commands import sandbox as command

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


def _until_interrupted(watching: Coroutine[Any, Any, Exit]) -> Exit:
    try:
        return asyncio.run(watching)
    except KeyboardInterrupt:
        return Exit.ALL_COMPLETE


def _pairs(specs: list[str], flag: str, known: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=VALUE, names in any case. Raises `ConfigError`."""
    pairs = {}
    for spec in specs:
        name, equals, value = spec.partition("=")
        right = next((each for each in known if each.casefold() == name.strip().casefold()), None)
        if right is None or not equals or not value.strip():
            raise ConfigError(f"{flag} {spec}: write NAME=VALUE with one of the names {', '.join(known)}")
        pairs[right] = value.strip()
    return pairs


def _instant(moment: datetime | None) -> float | None:
    return None if moment is None else moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


def _known_kinds(names: list[str]) -> frozenset[str]:
    from poller.core.model import Kind

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
