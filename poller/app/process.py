"""A run as this process: its signals, logs, traces and terminal around the run itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from poller import __version__
from poller.app.environment import Environment
from poller.app.messages import write
from poller.app.run import run
from poller.app.signals import Signals
from poller.config import Settings
from poller.core import log as logs
from poller.core.errors import Exit
from poller.hubspot import tracing as traces
from poller.hubspot.client import Connections

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


async def run_process(
    read_settings: Callable[[], Settings], input_specs: Sequence[str], environ: Mapping[str, str]
) -> Exit:
    """Run as this process: logs, progress and summary on stderr; the first SIGTERM or SIGINT drains, the second stops
    at once. SIGHUP reloads, but drains where the terminal was closed. Raises `PollerError`."""
    signals = Signals()
    signals.handle()  # before the settings are read: a SIGHUP after that must reload them
    try:
        return await _run_with_logs(read_settings, input_specs, environ, signals)
    except asyncio.CancelledError:
        write("poller: stopped at once; nothing is lost. Run the same command again to continue")
        return Exit.WORK_LEFT


async def _run_with_logs(
    read_settings: Callable[[], Settings],
    input_specs: Sequence[str],
    environ: Mapping[str, str],
    signals: Signals,
) -> Exit:
    settings = read_settings()
    console = Console(stderr=True)
    display = console if settings.progress and console.is_terminal else None
    signals.has_display = display is not None

    def apply_to_log(now: Settings) -> None:
        quiet = display is not None and "level" not in now.log.model_fields_set
        logs.configure(format=now.log.format, level="warning" if quiet else now.log.level, clock=time.time)

    apply_to_log(settings)
    async with _tracing(settings, environ) as tracer:
        environment = Environment(
            environ=environ,
            monotonic=time.monotonic,
            connections=lambda now: Connections(proxy=now.proxy, ca_file=now.ca_file),  # not opened yet
            console=display,
            tracer=tracer,
            on_start=signals.on_start,
            read_settings=read_settings,
            apply_to_log=apply_to_log,
        )
        return await run(settings, input_specs, environment)


@asynccontextmanager
async def _tracing(settings: Settings, environ: Mapping[str, str]) -> AsyncIterator["Tracer | None"]:
    if not traces.is_enabled(settings.traces, environ):
        yield None
        return
    provider = traces.open_provider(environ)
    try:
        yield provider.get_tracer("poller", __version__)
    finally:
        await asyncio.to_thread(provider.shutdown)  # sends the last spans; may take seconds where the collector is down
