"""Finished tasks as lines on standard output: at least once, in order, never a torn line while the process lives.

Waits until the reader takes more instead of blocking the loop. Never sets O_NONBLOCK: a terminal or pipe may be shared
with other programs, which do not expect it.
"""

import asyncio
import errno
import os
import select
import stat
from collections.abc import Sequence
from typing import ClassVar

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.disk import FULL
from poller.core.errors import OutputClosed, SinkError
from poller.sinks.backoff import Backoff
from poller.sinks.table import SinkEnvironment, SinkTable

GONE = {errno.EPIPE, errno.ECONNRESET, errno.EIO}  # EIO: the terminal was closed


class StdoutTable(SinkTable):
    """A `stdout` sink has no settings."""

    KIND: ClassVar[str] = "stdout"
    EXAMPLE: ClassVar[str] = "stdout"

    def make(self, environment: SinkEnvironment) -> "StdoutSink":  # noqa: ARG002 - the class's
        return StdoutSink()


class StdoutSink:
    """Writes records to a file descriptor that others opened, and so never closes it."""

    def __init__(self, fd: int = 1) -> None:
        self.name = "stdout"
        self._fd = fd
        self._backoff = Backoff()  # for a full disk behind a redirection
        self._is_pollable = True  # false for files and devices, which are always ready
        self._sent: dict[int, int] = {}  # bytes written of each record of a batch that was interrupted

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError as error:
            raise SinkError(
                f"standard output is closed ({error.strerror}); give it a reader, or use --sink jsonl:PATH"
            ) from None
        self._is_pollable = not stat.S_ISREG(mode) and self._can_wait()
        return None

    def _can_wait(self) -> bool:
        """Return whether the loop can wait for it; epoll refuses /dev/null, for example."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_writer(self._fd, lambda: None)
        except PermissionError:
            return False
        loop.remove_writer(self._fd)
        return True

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        try:
            for delivery in batch:
                await self._send(delivery)
        except OSError as error:
            if error.errno in FULL:
                return self._backoff.retry(f"standard output: {error.strerror}")
            if self._is_pollable and error.errno in GONE:
                raise OutputClosed(
                    "the reader of standard output went away; undelivered records stay in the state: run again"
                ) from None
            raise SinkError(f"standard output cannot be written to: {error.strerror}") from None
        self._sent.clear()
        self._backoff.reset()
        return Written()

    async def _send(self, delivery: Delivery) -> None:
        """Write the rest of a record: a batch that comes again continues in the middle of its line."""
        line = delivery.body + b"\n"
        while (done := self._sent.get(delivery.number, 0)) < len(line):
            if self._is_pollable:
                await self._ready()
            try:
                # a pipe that is ready takes this much without blocking
                self._sent[delivery.number] = done + os.write(self._fd, line[done : done + select.PIPE_BUF])
            except BlockingIOError:
                await asyncio.sleep(0)  # another program that shares it set O_NONBLOCK

    async def _ready(self) -> None:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_writer(self._fd, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_writer(self._fd)

    async def close(self) -> None:
        """Nothing to close."""
