"""The signals of this process: SIGTERM or SIGINT drains the run, a second one stops it at once; SIGHUP reloads."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from poller.app.event_loop import tune_garbage_collector
from poller.app.messages import awaited, write
from poller.engine import Service

REPORT_EVERY_S = 5.0
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextmanager
def exit_code_kept() -> Iterator[None]:
    """Drop the signals that come once the run within has ended: its exit code is settled. `Signals.hold` keeps them
    back until then, since the event loop resets its handlers as it closes."""
    try:
        yield
    finally:
        for number in STOPPING:
            signal.signal(number, lambda _number, _frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


class Signals:
    """Stops or reloads the run of this process on signals, also on those that came before it began."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._service: Service | None = None
        self._was_asked = False  # to stop
        self._had_terminal = sys.stderr.isatty()
        self._is_reload_asked = False  # before the service began
        self.write: Callable[[str], None] = write  # to the person
        self.shows_drain = False  # whether a display shows what is awaited
        self.on_continued: Callable[[], None] = lambda: None  # a shell stopped this process, and let it continue

    def handle(self) -> None:
        """Handle the signals from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        loop.add_signal_handler(signal.SIGCONT, lambda: self.on_continued())

    def hold(self) -> None:
        """Hold back the signals that come from now on: the run has ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)

    def on_start(self, service: Service) -> None:
        self._service = service
        if self._is_reload_asked:
            service.reload_asked.set()
        tune_garbage_collector()

    def _stop(self) -> None:
        if self._service is not None and not self._was_asked:
            self._was_asked = True
            self._service.drain()  # which it may do already, for an error
            waiting_for = awaited(self._service)
            self.write(
                f"poller: stopping{f': waiting for {waiting_for}' if waiting_for else ''}. Nothing is lost; "
                "Ctrl-C or a second signal stops at once"
            )
            if not self.shows_drain:
                asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)
        elif self._task is not None:
            self._task.cancel()

    def _report(self) -> None:
        """Write every few seconds what the drain waits for."""
        if self._service is not None and self._service.drain_left_s is not None:
            if waiting_for := awaited(self._service):
                self.write(f"poller: stopping: waiting for {waiting_for}")
            asyncio.get_running_loop().call_later(REPORT_EVERY_S, self._report)

    def _hang_up(self) -> None:
        if self._had_terminal and not sys.stderr.isatty():
            self._stop()
        elif self._service is not None:
            self._service.reload_asked.set()
        else:
            self._is_reload_asked = True
