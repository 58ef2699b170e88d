"""The options that `poller run` and `poller import` share."""

from pathlib import Path
from typing import Annotated

import typer

from poller.cli import completion
from poller.cli.options import LogFormat

Sink = Annotated[
    list[str] | None,
    typer.Option(
        metavar="SPEC",
        help="jsonl:PATH, csv:PATH, stdout, webhook:URL, sql:URL, command:LINE; repeatable. [jsonl:finished.jsonl]",
        autocompletion=completion.sinks,
    ),
]
BaseUrl = Annotated[str | None, typer.Option(metavar="URL", help="Scheme and host. [https://api.hubapi.com]")]
StatusPath = Annotated[
    str | None, typer.Option(metavar="PATH", help="Path template with {task_id}. [that of HubSpot's v3]")
]
TokenEnv = Annotated[str | None, typer.Option(metavar="NAME", help="Variable with the token. [HUBSPOT_TOKEN]")]
TokenFile = Annotated[Path | None, typer.Option(metavar="FILE", help="File with the token.")]
Requests = Annotated[
    int | None, typer.Option(metavar="N", help="At most N requests per window. [as HubSpot's answers show; 100 before]")
]
WindowS = Annotated[float | None, typer.Option(metavar="S", help="The rolling window, in seconds. [10]")]
Workers = Annotated[int | None, typer.Option(metavar="N", help="Polls at a time. [16, or as the limit needs]")]
DeadlineS = Annotated[
    float | None, typer.Option(metavar="S", help="Age at which an unfinished task is timed_out. [86400]")
]
GiveUpS = Annotated[float | None, typer.Option(metavar="S", help="End with code 69 after S seconds of outage. [never]")]
Follow = Annotated[
    bool, typer.Option("--follow", help="Keep running; read files on as they grow or are rotated, like tail -F.")
]
Listen = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Serve the live page, metrics and feeding; or off. [127.0.0.1:8321]"),
]
ListenTokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File with the page's token, which other machines need.")
]
ListenTokenEnv = Annotated[
    str | None, typer.Option(metavar="NAME", help="Variable with that token, in place of a file.")
]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="No progress display on a terminal.")]
LogFormatOption = Annotated[
    LogFormat | None, typer.Option(help="How logs are written. [auto: console on a terminal, else json]")
]
LogLevel = Annotated[
    str | None,
    typer.Option(metavar="LEVEL", help="debug, info, warning or error. [info]", autocompletion=completion.levels),
]
ExitZero = Annotated[bool, typer.Option("--exit-zero", help="Exit 0 also when some are not complete.")]
