"""`poller sandbox`: serves a simulated HubSpot until a signal ends it."""

import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli import completion
from poller.cli.option_groups import with_options
from poller.cli.options import run_async
from poller.core.errors import ConfigError
from poller.core.text import counted

if TYPE_CHECKING:
    from poller.sandbox import SandboxApi
    from poller.sandbox.scenario import Scenario

EXAMPLES = "\b\nExample:\n  poller sandbox --port 8080 --tasks 5000 --ids-file ids.txt --fault 503=0.05"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioOptions:
    """What the simulated HubSpot does."""

    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same tasks.")] = 1
    durations: Annotated[
        str,
        typer.Option(
            metavar="SPEC",
            help="fixed:S, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA, mix:SHARE@…,…",
            autocompletion=completion.durations,
        ),
    ] = "lognormal:30,1.2"
    requests: Annotated[int, typer.Option(min=1, metavar="N", help="Allowed per window.")] = 100
    window_s: Annotated[float, typer.Option(metavar="S", help="The rolling window.")] = 10.0
    latency_ms: Annotated[str, typer.Option(metavar="MIN-MAX", help="How long answers take.")] = "20-80"
    fate: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SHARE", help="Share of tasks; repeatable.", autocompletion=completion.fates),
    ] = None
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SHARE", help="Share of polls, or of starts; repeatable.", autocompletion=completion.faults
        ),
    ] = None
    duplicates_by: Annotated[
        str, typer.Option(metavar="WORD", help="What a duplicate check compares: content, name or never.")
    ] = "content"
    dead_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="No file of it can be downloaded; repeatable.")
    ] = None
    outage: Annotated[list[str] | None, typer.Option(metavar="FROM-TO=FAULT", help="In seconds; repeatable.")] = None
    daily: Annotated[int | None, typer.Option(min=1, metavar="N", help="Allowed per day.")] = None
    token: Annotated[list[str] | None, typer.Option(metavar="TOKEN", help="Accepted ones. [any]")] = None

    def scenario(self) -> "Scenario":
        """Return the scenario. Raises `ConfigError` for a value that cannot be read."""
        from poller.sandbox.scenario import Scenario, parse_fate, parse_fault, parse_latency_ms, parse_outage
        from poller.schedule.durations import parse_durations

        try:
            scenario = Scenario(
                seed=self.seed,
                durations=parse_durations(self.durations),
                requests=self.requests,
                window_s=self.window_s,
                latency_s=parse_latency_ms(self.latency_ms),
                faults=dict(map(parse_fault, self.fault or [])),
                duplicates_by=self.duplicates_by,  # type: ignore[arg-type]  # checked there
                dead_hosts=frozenset(self.dead_host or []),
                outages=tuple(map(parse_outage, self.outage or [])),
                daily=self.daily,
                tokens=frozenset(self.token or []) or None,
            )
            return replace(scenario, fates=dict(map(parse_fate, self.fate))) if self.fate else scenario
        except ValueError as error:
            raise ConfigError(f"sandbox: {error}") from None


@with_options(ScenarioOptions)
def sandbox(
    options: ScenarioOptions,
    *,
    port: Annotated[int, typer.Option(min=0, max=65_535, metavar="N", help="0 takes a free one.")] = 8080,
    tasks: Annotated[int, typer.Option(min=0, metavar="N", help="Imports to start at once.")] = 0,
    ids_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Where their ids go.")] = None,
) -> None:
    """Serve a simulated HubSpot on loopback.

    With faults on demand. Its counters are at /_sandbox/stats. Ctrl-C ends it.
    """
    from poller.sandbox.api import SandboxApi

    scenario = options.scenario()
    if bool(tasks) != bool(ids_file):
        raise ConfigError("sandbox: --tasks N needs --ids-file FILE for the started ids. Give both or neither")
    api = SandboxApi(scenario, time.time)
    if ids_file is not None:
        _write_ids(ids_file, api.preload(tasks))
    run_async(_serve(api, port, ids_file, token=min(scenario.tokens or ["any"])))


def _write_ids(ids_file: Path, ids: Sequence[str]) -> None:
    try:
        ids_file.write_text("".join(f"{task_id}\n" for task_id in ids))
    except OSError as error:
        raise ConfigError(f"sandbox: cannot write {ids_file}: {error.strerror}") from None


async def _serve(api: "SandboxApi", port: int, ids_file: Path | None, *, token: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    import asyncio

    from poller.sandbox.server import serve

    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve(api, port=port) as base_url:
        use = (
            "import urls.csv --set access=PRIVATE --set folderPath=/imports" if ids_file is None else f"run {ids_file}"
        )
        typer.echo(
            f"simulated HubSpot at {base_url} (Ctrl-C ends it)\n"
            f"use it: HUBSPOT_TOKEN={shlex.quote(token)} poller {use} --base-url {base_url}",
            err=True,
        )
        await ended.wait()
    typer.echo(_summary(api), err=True)


def _summary(api: "SandboxApi") -> str:
    """Return the closing lines: the requests and the answers."""
    stats = api.stats()
    codes = ", ".join(f"{count:,} × {code}" for code, count in sorted(stats.codes.items())) or "none"
    faults = ", ".join(f"{name} {count:,}" for name, count in sorted(stats.faults.items())) or "none"
    return (
        f"{counted(stats.requests_total, 'request')}, at most {stats.max_in_window:,} in any {stats.window_s:g} s "
        f"({stats.requests:,} allowed)\nanswers: {codes}\nfaults: {faults}"
        + (
            f"\nstarts: {stats.starts_accepted:,} accepted, at most {stats.starts_max:,} for one URL; "
            f"{counted(stats.files, 'file')}, {stats.files_twice:,} of them twice"
            if stats.starts_total
            else ""
        )
    )
