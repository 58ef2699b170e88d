"""`poller status --json` and `--watch`: how the state stands, for programs, and again and again for those who wait."""

import asyncio
import sys
import time
from contextlib import suppress

from msgspec.json import encode

from poller.cli.commands.replay import reading
from poller.config import Settings
from poller.core.errors import Exit
from poller.core.model import Sums
from poller.core.protocols import Clock
from poller.reports.ledger import imbalances, summary
from poller.reports.status import ledger_view, status_line
from poller.store import last_beat

EVERY_S = 2.0
REST = 4  # counting a large state takes a while: so many times as long is left alone after it
HOME, CLEAR_LINE, CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


async def status_json(settings: Settings, clock: Clock = time.time) -> Exit:
    """Print how the state stands as one JSON object. Exit code 70 where the ledger does not balance."""
    sums = await _sums(settings)
    _write(_json_line(settings, sums, clock()))
    return Exit.INTERNAL if imbalances(sums) else Exit.ALL_COMPLETE


async def watch(settings: Settings, *, as_json: bool, clock: Clock = time.time, every_s: float = EVERY_S) -> Exit:
    """Show how the state stands every few seconds until interrupted: in place on a terminal, else a line each time."""
    in_place = sys.stdout.isatty() and not as_json
    began: tuple[float, int] | None = None
    with suppress(BrokenPipeError):  # whoever read it went away: that is the end of it
        while True:
            started_at = clock()
            sums = await _sums(settings)
            if as_json:
                _write(_json_line(settings, sums, clock()))
            else:
                at_work = last_beat(settings.state) is not None
                line = status_line(sums, now=clock(), before=began, is_running=at_work)
                _write(_in_place(f"{line}\n{summary(sums)}") if in_place else f"{line}\n")
            began = began or (clock(), sums.finished)
            await asyncio.sleep(max(every_s, REST * (clock() - started_at)))
    return Exit.ALL_COMPLETE


async def _sums(settings: Settings) -> Sums:
    async with reading(settings) as store:
        return await store.sums()


def _json_line(settings: Settings, sums: Sums, now: float) -> str:
    differences = [str(imbalance) for imbalance in imbalances(sums)]
    told = ledger_view(sums, differences=differences, heartbeat=last_beat(settings.state), now=now)
    return encode(told).decode() + "\n"


def _in_place(text: str) -> str:
    """Return what draws `text` over what stood there, without a flicker."""
    return HOME + "".join(f"{line}{CLEAR_LINE}\n" for line in text.splitlines()) + CLEAR_BELOW


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
