"""A run as this process: its signals, logs, traces and terminal around the run itself."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import structlog

from poller import __version__
from poller.app.environment import Environment
from poller.app.messages import Again, write
from poller.app.run import run
from poller.app.signals import Signals
from poller.config import Settings, address_of
from poller.core import log as logs
from poller.core import open_files
from poller.core.errors import Exit, PollerError
from poller.core.text import without_controls
from poller.hubspot import tracing as traces
from poller.hubspot.client import Connections
from poller.store import is_new
from poller.web import refuse_taken

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from poller.app.live_block import LiveBlock


log = structlog.get_logger("poller")


async def run_process(
    read_settings: Callable[[], Settings],
    input_specs: Sequence[str],
    environ: Mapping[str, str],
    again: Again = Again(),  # noqa: B008 - frozen
) -> Exit:
    """Run as this process: logs, progress and summary on stderr; the first SIGTERM or SIGINT drains, the second stops
    at once. SIGHUP reloads, but drains where the terminal was closed. Later ones are held back: call it within
    `exit_code_kept`. Raises `PollerError`."""
    signals = Signals()
    open_files.raise_limit()
    signals.handle()  # before the settings are read: a SIGHUP after that must reload them
    try:
        return await _run_with_logs(read_settings, input_specs, environ, signals, again)
    except asyncio.CancelledError:
        write(f"poller: stopped at once; nothing is lost. {again.text()}")
        return Exit.WORK_LEFT
    finally:
        signals.hold()


async def _run_with_logs(
    read_settings: Callable[[], Settings],
    input_specs: Sequence[str],
    environ: Mapping[str, str],
    signals: Signals,
    again: Again,
) -> Exit:
    settings = read_settings()
    terminal = _terminal() if settings.progress else None
    if terminal is not None:
        signals.write, signals.shows_drain = partial(write, stream=terminal), True
        signals.on_continued = terminal.forget

    def apply_to_log(now: Settings) -> None:
        quiet = terminal is not None and "level" not in now.log.model_fields_set
        level = "warning" if quiet else now.log.level
        logs.configure(format=now.log.format, level=level, clock=time.time, stream=terminal)

    apply_to_log(settings)
    async with _tracing(settings, environ) as tracer:
        environment = Environment(
            environ=environ,
            monotonic=time.monotonic,
            since_boot=since_boot,
            connections=lambda now: Connections(proxy=now.proxy, ca_file=now.ca_file),  # not opened yet
            terminal=terminal,
            again=again,
            tracer=tracer,
            on_start=signals.on_start,
            read_settings=read_settings,
            apply_to_log=apply_to_log,
        )
        try:
            if "listen" in settings.model_fields_set and is_new(settings.state):
                await refuse_taken(address_of(settings.listen))  # before the run creates any file
            return await run(settings, input_specs, environment)
        except PollerError as error:
            if logs.is_json():  # a person reads the message of the command
                log.error("run.refused", reason="; ".join(map(without_controls, str(error).splitlines())))  # noqa: TRY400 - an expected end, no traceback
            raise


def since_boot() -> float:
    """Return the seconds since the machine was started, suspends included, where the system counts them."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _terminal() -> "LiveBlock | None":
    """Return the terminal that stderr is; None where it is none, or one that cannot be redrawn."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console  # takes a tenth of a start to import

    from poller.app.live_block import LiveBlock

    console = Console(stderr=True)
    return LiveBlock(console) if console.is_terminal and not console.is_dumb_terminal else None


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
