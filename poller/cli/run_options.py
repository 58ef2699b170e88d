"""What `poller run` and `poller import` share: their options, the settings these set, and the way into a run."""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from poller.cli import completion
from poller.cli.options import Config, DefaultAccount, Format, LogFormat, Settings, State, command_line
from poller.core.errors import Exit

OUTPUT = ("sink", "state")
ACCOUNT = ("token_env", "token_file", "base_url", "status_path")
LIMITS = ("requests", "window_s", "workers")
WHEN_TO_STOP = ("deadline_s", "give_up_s", "stop_on_failures", "exit_zero")
PAGE_AND_LOGS = ("listen", "listen_token_file", "listen_token_env", "no_progress", "log_format", "log_level")

NAMED_AS_SETTINGS = (
    *("state", "base_url", "status_path", "account", "token_env", "token_file", "requests", "window_s", "workers"),
    *("deadline_s", "give_up_s", "listen", "listen_token_file", "listen_token_env"),
)
VARIABLES = {name: f"POLLER_{name.upper()}" for name in (*NAMED_AS_SETTINGS, "stop_on_failures", "follow")} | {
    "format": "POLLER_INPUT__FORMAT",
    "sink": "POLLER_SINKS",
    "no_progress": "POLLER_PROGRESS=false",
    "log_format": "POLLER_LOG__FORMAT",
    "log_level": "POLLER_LOG__LEVEL",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of a run, whatever it is fed. None: the setting comes from elsewhere."""

    config: Config = None
    state: State = None
    account: DefaultAccount = None
    format: Format = None
    sink: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="jsonl:PATH, csv:PATH, stdout, webhook:URL, sql:URL, command:LINE; repeatable. [jsonl:finished.jsonl]",
            autocompletion=completion.sinks,
        ),
    ] = None
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="Scheme and host. [https://api.hubapi.com]")] = (
        None
    )
    status_path: Annotated[
        str | None, typer.Option(metavar="PATH", help="Path template with {task_id}. [that of HubSpot's v3]")
    ] = None
    token_env: Annotated[str | None, typer.Option(metavar="NAME", help="Variable with the token. [HUBSPOT_TOKEN]")] = (
        None
    )
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the token.")] = None
    requests: Annotated[
        int | None,
        typer.Option(metavar="N", help="At most N requests per window. [as HubSpot's answers show; 100 before]"),
    ] = None
    window_s: Annotated[float | None, typer.Option(metavar="S", help="The rolling window, in seconds. [10]")] = None
    workers: Annotated[int | None, typer.Option(metavar="N", help="Polls at a time. [16, or as the limit needs]")] = (
        None
    )
    deadline_s: Annotated[
        float | None, typer.Option(metavar="S", help="Age at which an unfinished task is timed_out. [86400]")
    ] = None
    give_up_s: Annotated[
        float | None,
        typer.Option(metavar="S", help="End with code 69 after S s of outage, or of 429s alone. [never]"),
    ] = None
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running; read files on as they grow or are rotated, like tail -F.")
    ] = False
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Serve the live page, metrics and feeding; or off. [127.0.0.1:8321]"),
    ] = None
    listen_token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File with the page's token, which other machines need.")
    ] = None
    listen_token_env: Annotated[
        str | None, typer.Option(metavar="NAME", help="Variable with that token, in place of a file.")
    ] = None
    no_progress: Annotated[bool, typer.Option("--no-progress", help="No progress display on a terminal.")] = False
    log_format: Annotated[
        LogFormat | None, typer.Option(help="How logs are written. [auto: console on a terminal, else json]")
    ] = None
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]", autocompletion=completion.levels),
    ] = None
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit 0 also when some are not complete.")] = False

    def flags(self) -> dict[str, Any]:
        """Return what these options set, as `config.load` takes it."""
        return {name: getattr(self, name) for name in NAMED_AS_SETTINGS} | {
            "sinks": self.sink,
            "follow": self.follow or None,
            "input": {"format": self.format},
            "progress": False if self.no_progress else None,
            "log": {"format": self.log_format, "level": self.log_level},
        }

    def run(self, files: Sequence[str], fed: str, read_settings: Callable[[], Settings]) -> Exit:
        """Run to the end and return the exit code. `fed` names what the files have, for people."""
        _survive_early_sighup()
        from poller.app.event_loop import run_event_loop
        from poller.app.messages import Again
        from poller.app.process import run_process
        from poller.app.signals import exit_code_kept

        if "-" in files and sys.stdin.isatty():
            typer.echo(f"poller: reading {fed} from the terminal, one a line; Ctrl-D ends them", err=True)
        again = Again(command=command_line())
        with exit_code_kept():
            code = run_event_loop(run_process(read_settings, files, os.environ, again))
        return Exit.ALL_COMPLETE if self.exit_zero and code is Exit.NOT_ALL_COMPLETE else code


def _survive_early_sighup() -> None:
    """Until the run handles it, SIGHUP ends the process only where the terminal was closed. The settings are not read
    yet, so a reload has nothing to do."""
    had_terminal = sys.stderr.isatty()

    def handle(_number: int, _frame: object) -> None:
        if had_terminal and not sys.stderr.isatty():
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, handle)
