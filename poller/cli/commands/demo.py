"""`poller demo`: imports URLs into a simulated HubSpot on loopback, with the real service: URLs in, files out."""

import shlex
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.options import Settings, run_async
from poller.core.errors import ConfigError, Exit, StoreLocked
from poller.core.text import counted

if TYPE_CHECKING:
    from poller.sandbox import SandboxApi

EXAMPLES = "\b\nExample:\n  poller demo --directory /tmp/poller-demo"
TOKEN = "sandbox-token"  # noqa: S105 - opens only the sandbox
_print = partial(typer.echo, err=True)
FILES = ("urls.csv", "finished.jsonl", "poller.db", "poller.db-wal", "poller.db-shm", "poller.db.lock")
OPTIONS = {"access": "PRIVATE", "folderPath": "/catalogue/{brand}", "name": "{sku}"}
BRANDS = ("acorn", "birch", "cedar")


def demo(
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where the rows, the state and the result go.")] = Path(
        "poller-demo"
    ),
    imports: Annotated[int, typer.Option(min=1, max=20_000, metavar="N", help="How many files to import.")] = 600,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same imports.")] = 1,
) -> Exit:
    """Import URLs into a simulated HubSpot; no token needed.

    The service and the sockets are real; HubSpot is a server on loopback. Nothing leaves this machine. It takes half a
    minute.
    """
    from poller.app.signals import exit_code_kept
    from poller.sandbox import SandboxApi, Scenario, parse_durations

    _prepare(directory)
    api = SandboxApi(
        Scenario(seed=seed, requests=200, window_s=2.0, durations=parse_durations("lognormal:5,0.5")), time.time
    )
    _print(
        "HubSpot is simulated here: a server on this machine's loopback that allows 200 requests per 2 s.\n"
        f"{counted(imports, 'row of a CSV is', 'rows of a CSV are')} imported: 20 as a trial, the others once ten have "
        "landed. Each is followed to its outcome; some fail on purpose."
    )
    with exit_code_kept():
        code = run_async(_run(api, directory, imports))
    if code not in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE):
        return code
    stats, rows, finished = api.stats(), directory / FILES[0], directory / FILES[1]
    most = "once" if stats.starts_max == 1 else f"{stats.starts_max} times"
    _print(
        f"\nThe simulated HubSpot counted {counted(stats.starts_total, 'start')}, no URL more often than {most}, and "
        f"{counted(stats.requests_total, 'request')} in all: at most {stats.max_in_window} in any 2 s (200 allowed), "
        f"{stats.throttled_total:,} answered with 429.\n"
        f"One outcome a row, as a JSON object a line: {finished}\n"
        f"With your own token and URLs: HUBSPOT_TOKEN=… poller import {rows.name} {_flags()}"
    )
    return Exit.ALL_COMPLETE


def _prepare(directory: Path) -> None:
    """Empty the folder of an earlier demo. Refuses any other folder that has files, and that of a running demo."""
    from poller.store import last_beat

    try:
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in directory.iterdir() if path.name not in FILES)
        if strangers:
            raise ConfigError(f"{directory} has {strangers[0]}, which is not the demo's. Choose another --directory")
        if (beat := last_beat(f"sqlite:///{directory / FILES[2]}")) is not None:
            raise StoreLocked(
                f"{directory / FILES[2]} is in use by another poller: process {beat[0]}. "
                "Stop it first, or choose another --directory."
            )
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}. Choose another --directory") from None


async def _run(api: "SandboxApi", directory: Path, imports: int) -> Exit:
    from poller.app.messages import Again
    from poller.app.process import run_process
    from poller.sandbox import serve

    rows = directory / FILES[0]
    async with serve(api) as base_url:
        lines = (
            f"https://assets.example.com/catalogue/{number:05}.png,{BRANDS[number % 3]},{number:05}"
            for number in range(imports)
        )
        rows.write_text("\n".join(["url,brand,sku", *lines]) + "\n")
        _print(f"The rows: {rows}\n\n    poller import {rows} {_flags()}\n")
        again = Again(otherwise="`poller demo` starts from the beginning each time")
        environ = {"POLLER_DEMO_TOKEN": TOKEN}
        return await run_process(partial(_settings, base_url, directory), [str(rows)], environ, again)


def _flags() -> str:
    """Return `OPTIONS` as a person writes them on the command line."""
    return " ".join(f"--set {shlex.quote(f'{name}={text}')}" for name, text in OPTIONS.items())


def _settings(base_url: str, directory: Path) -> Settings:
    from poller.config import load

    flags = {
        "base_url": base_url,
        "token_env": "POLLER_DEMO_TOKEN",
        "state": f"sqlite:///{directory / FILES[2]}",
        "sinks": [f"jsonl:{directory / FILES[1]}"],
        "log": {"level": "warning", "format": "console"},
        "input": {"feeds": "imports"},
        "imports": {"options": OPTIONS},
    }
    return load(None, flags, {}, secrets_dir=directory / "no-secrets")
