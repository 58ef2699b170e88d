"""`poller run`: polls every id until its outcome is in every sink."""

import os
import signal
import sys
from functools import partial
from typing import Annotated

import typer

from poller.cli.options import (
    Config,
    DefaultAccount,
    Format,
    IdColumn,
    State,
    command_line,
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
from poller.core.errors import Exit

EXAMPLES = (
    "\b\nExamples:\n  poller run ids.txt --sink jsonl:done.jsonl\n"
    "  cat ids.txt | poller run - --sink stdout | jq .\n  poller run -c config.toml ids.csv"
)

GROUPS = {
    "Input": ("files", "format", "id_column", "account", "follow"),
    "Output": ("sink", "state"),
    "HubSpot account": ("token_env", "token_file", "base_url", "status_path"),
    "Limits": ("requests", "window_s", "workers"),
    "When to stop": ("deadline_s", "give_up_s", "stop_on_failures", "exit_zero"),
    "Page and logs": ("listen", "listen_token_file", "listen_token_env", "no_progress", "log_format", "log_level"),
}
VARIABLES = {
    "format": "POLLER_INPUT__FORMAT",
    "id_column": "POLLER_INPUT__ID_COLUMN",
    "account": "POLLER_ACCOUNT",
    "follow": "POLLER_FOLLOW",
    "sink": "POLLER_SINKS",
    "token_env": "POLLER_TOKEN_ENV",
    "token_file": "POLLER_TOKEN_FILE",
    "base_url": "POLLER_BASE_URL",
    "status_path": "POLLER_STATUS_PATH",
    "requests": "POLLER_REQUESTS",
    "window_s": "POLLER_WINDOW_S",
    "workers": "POLLER_WORKERS",
    "deadline_s": "POLLER_DEADLINE_S",
    "give_up_s": "POLLER_GIVE_UP_S",
    "stop_on_failures": "POLLER_STOP_ON_FAILURES",
    "listen": "POLLER_LISTEN",
    "listen_token_file": "POLLER_LISTEN_TOKEN_FILE",
    "listen_token_env": "POLLER_LISTEN_TOKEN_ENV",
    "no_progress": "POLLER_PROGRESS=false",
    "log_format": "POLLER_LOG__FORMAT",
    "log_level": "POLLER_LOG__LEVEL",
}


def run(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Ids as text, JSON lines or CSV; - for stdin.")
    ] = None,
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
        typer.Option(
            metavar="20%|N",
            help="Stop with code 75 when this share, or this number, of the outcomes is not complete. [never]",
        ),
    ] = None,
    format: Format = None,  # noqa: A002 - the flag's name
    id_column: IdColumn = None,
    follow: Follow = False,
    listen: Listen = None,
    listen_token_file: ListenTokenFile = None,
    listen_token_env: ListenTokenEnv = None,
    no_progress: NoProgress = False,
    log_format: LogFormatOption = None,
    log_level: LogLevel = None,
    exit_zero: ExitZero = False,
) -> Exit:
    """Poll every id until its outcome is in every sink.

    Run the same command again to continue where it stopped. Without FILE it finishes the tasks in the state.

    \b
    Exit codes:
       0  every task is complete, and no line of the input was rejected
       1  every task has its outcome, some are not complete, or lines were rejected
       2  the command line is wrong
      65  the input has no usable id
      69  no good answer, or a failing sink, lasted longer than --give-up-s
      70  a defect: the ledger does not balance, or the code failed
      73  the state or an output file cannot be used
      75  stopped with work left: run the same command again
      77  HubSpot refuses the token
      78  a setting is wrong, also a host, path or account that the first answers refuse
    """
    survive_early_sighup()
    from poller.app.event_loop import run_event_loop
    from poller.app.messages import Again
    from poller.app.process import run_process

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
        "input": {"format": format, "id_column": id_column},
        "follow": follow or None,
        "listen": listen,
        "listen_token_file": listen_token_file,
        "listen_token_env": listen_token_env,
        "progress": False if no_progress else None,
        "log": {"format": log_format, "level": log_level},
    }
    if "-" in (files or []) and sys.stdin.isatty():
        typer.echo("poller: reading ids from the terminal, one a line; Ctrl-D ends them", err=True)
    again = Again(command=command_line())
    code = run_event_loop(run_process(partial(settings_of, config, **flags), files or [], os.environ, again))
    return Exit.ALL_COMPLETE if exit_zero and code is Exit.NOT_ALL_COMPLETE else code


def survive_early_sighup() -> None:
    """Until the run handles it, SIGHUP ends the process only where the terminal was closed. The settings are not read
    yet, so a reload has nothing to do."""
    had_terminal = sys.stderr.isatty()

    def handle(_number: int, _frame: object) -> None:
        if had_terminal and not sys.stderr.isatty():
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` ignores it
        signal.signal(signal.SIGHUP, handle)
