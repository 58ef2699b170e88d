"""The progress display on a terminal's stderr. It reads counters and draws; it changes nothing."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from poller.metrics import Metrics
from poller.model import Kind
from poller.protocols import Clock

REDRAW_S = 0.25
MEMORY_S = 60.0  # rates are taken over this long

STYLES = {Kind.COMPLETE: "green", Kind.CANCELED: "red", Kind.NOT_FOUND: "red", Kind.TIMED_OUT: "red"}


class Progress:
    """Draws until cancelled: done of known, kinds, looks, rates, pauses, and when it may be finished."""

    def __init__(
        self, metrics: Metrics, *, clock: Clock, pauses: Callable[[], Mapping[str, str]], ended: Callable[[], bool]
    ) -> None:
        self._metrics = metrics
        self._clock = clock
        self._pauses = pauses  # account → why it is paused
        self._ended = ended  # whether the input has ended, so that "known" is all
        self._samples: deque[tuple[float, int, int]] = deque()  # instant, looks, finished

    async def show(self, console: Console) -> None:
        """Redraw four times a second. Cancel it to leave the last picture on the screen."""
        with Live(self.draw(), console=console, auto_refresh=False, redirect_stdout=False) as live:
            try:
                while True:
                    await asyncio.sleep(REDRAW_S)
                    live.update(self.draw(), refresh=True)
            finally:
                live.update(self.draw(), refresh=True)

    def draw(self) -> RenderableType:
        """Return the display as of now."""
        metrics, (looks_per_s, finished_per_s) = self._metrics, self._rates()
        table = Table.grid(padding=(0, 2))
        table.add_row(
            ProgressBar(total=max(metrics.known, 1), completed=metrics.finished, width=32),
            Text(f"{metrics.finished:,} of {metrics.known:,}{'' if self._ended() else '+'} done", style="bold"),
            Text(f"{metrics.looks:,} looks"),
            Text(f"{looks_per_s:.1f} requests/s"),
            Text(self._eta(finished_per_s)),
        )
        lines: list[RenderableType] = [table]
        if metrics.finished:
            lines.append(self._kinds())
        if metrics.rejected:
            lines.append(Text(f"{metrics.rejected:,} input lines rejected", style="yellow"))
        lines += [Text(f"{account} paused: {why}", style="yellow") for account, why in self._pauses().items()]
        return Group(*lines)

    def _kinds(self) -> Text:
        counts = [(kind, self._metrics.kinds[kind]) for kind in Kind if self._metrics.kinds[kind]]
        return Text("  ").join(Text(f"{kind} {count:,}", style=STYLES.get(kind, "yellow")) for kind, count in counts)

    def _rates(self) -> tuple[float, float]:
        now = self._clock()
        self._samples.append((now, self._metrics.looks, self._metrics.finished))
        while now - self._samples[0][0] > MEMORY_S:
            self._samples.popleft()
        then, looks, finished = self._samples[0]
        elapsed_s = now - then
        if elapsed_s <= 0:
            return 0.0, 0.0
        return (self._metrics.looks - looks) / elapsed_s, (self._metrics.finished - finished) / elapsed_s

    def _eta(self, finished_per_s: float) -> str:
        if not self._metrics.waiting:
            return "" if self._ended() else "waiting for input"
        if finished_per_s <= 0:
            return "time left unknown"
        return f"about {human(self._metrics.waiting / finished_per_s)} left"


def human(seconds: float) -> str:
    """Return a duration as a person would say it, such as `3 min` or `5.6 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
