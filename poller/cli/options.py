"""What several commands share: their options, and the step from flags to settings."""

import os
import shutil
import sys
from collections.abc import Coroutine, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from poller.cli import completion

if TYPE_CHECKING:
    from poller.config import Settings as Settings
else:
    Settings = Any  # for annotations: pydantic takes long to import

T = TypeVar("T")


class ListFormat(StrEnum):
    """How a list of tasks is written."""

    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    IDS = "ids"


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
DefaultAccount = Annotated[str | None, typer.Option(metavar="NAME", help="Account of lines that name none.")]
Format = Annotated[InputFormat | None, typer.Option(help="How lines are read. [auto]")]
IdColumn = Annotated[str | None, typer.Option(metavar="NAME", help="CSV column or JSON key of the id.")]
Since = Annotated[
    str | None,
    typer.Option(metavar="WHEN", help="Finished since then: yesterday, 2h, 09:30, 2026-11-27 (this machine's zone)."),
]
Landed = Annotated[
    bool | None,
    typer.Option(
        "--landed/--not-landed",
        help="Whether a file is there; only finished tasks. Rows count by their latest attempt.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end on an event loop of its own."""
    import asyncio

    return asyncio.run(work)


def settings_of(config: Path | None, **flags: Any) -> Settings:
    """Return the settings in force. Raises `ConfigError`."""
    from poller.config import load

    return load(config, flags, os.environ)


def instant_of(written: str | None, flag: str = "--since") -> float | None:
    """Return a flag's instant in seconds since the epoch, and show on stderr which one was understood."""
    import time

    from poller.core.moments import moment, moment_text

    if written is None:
        return None
    try:
        at = moment(written, now=time.time())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None
    sys.stderr.write(f"since {moment_text(at)}\n")
    return at


def command_line() -> tuple[str, ...]:
    """Return the words that began this process, as a person types them; empty where a program began it."""
    program = sys.argv[0]
    if program in ("", "-c"):
        return ()
    if Path(program).name == "__main__.py":
        return (sys.executable, "-m", "poller", *sys.argv[1:])
    name = Path(program).name
    found = shutil.which(name)
    is_found = found is not None and Path(found).absolute() == Path(program).absolute()
    return (name if is_found else program, *sys.argv[1:])


def named_values(specs: Sequence[str], flag: str, known: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=VALUE, names in any case. A wrong one is a wrong command line: exit code 2."""
    from poller.core.columns import named_pairs

    try:
        return named_pairs(specs, known)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=flag) from None
