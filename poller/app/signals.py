"""The signals of this process: SIGTERM or SIGINT drains the run, a second one stops it at once; SIGHUP reloads."""

import asyncio
import signal
import sys

from poller.app.event_loop import tune_garbage_collector
from poller.app.messages import write
from poller.engine import Service


class Signals:
    """Stops or reloads the run of this process on signals, also on those that came before it began."""

    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._service: Service | None = None
        self._had_terminal = sys.stderr.isatty()
        self._is_reload_asked = False  # before the service began
        self.has_display = False  # which shows that the run is stopping

    def handle(self) -> None:
        """Handle the signals from now on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def on_start(self, service: Service) -> None:
        self._service = service
        if self._is_reload_asked:
            service.reload_asked.set()
        tune_garbage_collector()

    def _stop(self) -> None:
        if self._service is not None and not self._service.draining:
            self._service.drain()
            if not self.has_display:
                write("poller: stopping: polls in flight are finished and delivered. A second signal stops at once")
        elif self._task is not None:
            self._task.cancel()

    def _hang_up(self) -> None:
        if self._had_terminal and not sys.stderr.isatty():
            self._stop()
        elif self._service is not None:
            self._service.reload_asked.set()
        else:
            self._is_reload_asked = True
