"""Runs the sandbox for a person: flags to a scenario, ids to a file, until a signal ends it."""

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from poller.core.errors import ConfigError
from poller.sandbox.api import SandboxApi
from poller.sandbox.scenario import Scenario, parse_durations, parse_fate, parse_fault, parse_latency_ms, parse_outage
from poller.sandbox.server import serve


def scenario(
    *,
    seed: int,
    durations: str,
    requests: int,
    window_s: float,
    latency_ms: str,
    fates: Sequence[str],
    faults: Sequence[str],
    outages: Sequence[str],
    daily: int | None,
    tokens: Sequence[str],
) -> Scenario:
    """Return the scenario that the flags describe. Raises `ConfigError` saying which is wrong, and what is right."""
    try:
        plain = Scenario(
            seed=seed,
            durations=parse_durations(durations),
            requests=requests,
            window_s=window_s,
            latency_s=parse_latency_ms(latency_ms),
            faults=dict(map(parse_fault, faults)),
            outages=tuple(map(parse_outage, outages)),
            daily=daily,
            tokens=frozenset(tokens) or None,
        )
        return replace(plain, fates=dict(map(parse_fate, fates))) if fates else plain
    except ValueError as error:
        raise ConfigError(f"sandbox: {error}") from None


def serve_here(*, port: int, scenario: Scenario, tasks: int, ids_file: Path | None) -> None:
    """Serve until SIGINT or SIGTERM. Raises `ConfigError` where the port or the file cannot be had."""
    if bool(tasks) != bool(ids_file):
        raise ConfigError("sandbox: --tasks N and --ids-file FILE go together: started ids must go somewhere")
    api = SandboxApi(scenario, time.time)
    if ids_file is not None:
        _write_ids(ids_file, api.preload(tasks))
    asyncio.run(_serve(api, port, ids_file or Path("ids.txt")))


def _write_ids(ids_file: Path, ids: Sequence[str]) -> None:
    try:
        ids_file.write_text("".join(f"{task_id}\n" for task_id in ids))
    except OSError as error:
        raise ConfigError(f"sandbox: cannot write {ids_file}: {error.strerror}") from None


async def _serve(api: SandboxApi, port: int, ids_file: Path) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with serve(api, port=port) as base_url:
        sys.stderr.write(
            f"simulated HubSpot at {base_url} (Ctrl-C ends it)\n"
            f"poll it: HUBSPOT_TOKEN=any poller run {ids_file} --base-url {base_url}\n"
        )
        sys.stderr.flush()
        await ended.wait()
    sys.stderr.write(_counted(api))


def _counted(api: SandboxApi) -> str:
    """Return the closing lines: what was asked, and how it was answered."""
    stats = api.stats()
    codes = ", ".join(f"{count:,} × {code}" for code, count in sorted(stats.codes.items())) or "none"
    faults = ", ".join(f"{name} {count:,}" for name, count in sorted(stats.faults.items())) or "none"
    return (
        f"{stats.requests_total:,} requests, at most {stats.max_in_window:,} in any {stats.window_s:g} s "
        f"({stats.requests:,} allowed)\nanswers: {codes}\nfaults: {faults}\n"
    )
