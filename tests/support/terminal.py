"""A terminal for tests: what a program writes, as the rows that a person sees."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyte

from tests.support.processes import PATIENCE_S, environ


class Terminal(pyte.Screen):
    """An emulated terminal with its scrollback. A stream for what is written to it."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.scrolled: list[Any] = []  # rows that left the screen at the top
        super().__init__(columns, rows)
        self.set_mode(pyte.modes.LNM)  # a line feed begins a line, as a terminal's driver has it
        self._stream = pyte.Stream(self)

    def write(self, text: str, /) -> int:
        self._stream.feed(text)
        return len(text)

    def flush(self) -> None:
        """Everything is on the screen at once."""

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError("an emulated terminal has no file descriptor")

    def index(self) -> None:
        if self.cursor.y == self.lines - 1:
            self.scrolled.append(self.buffer[0])
        super().index()

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size as xterm does: what no longer fits is cut at the right, and scrolls off at the top."""
        rows = lines or self.lines
        excess = self.cursor.y + 1 - rows
        if excess > 0:
            before = self.cursor.y
            self.cursor.y = self.lines - 1
            for _ in range(excess):
                self.index()
            self.cursor.y = before - excess
        kept = self.cursor.y
        for row in range(rows, self.lines):
            self.buffer.pop(row, None)
        self.lines = rows
        width = columns or self.columns
        for line in self.buffer.values():
            for x in [x for x in line if x >= width]:
                del line[x]
        self.columns = width
        self.set_margins()
        self.cursor.y, self.cursor.x = kept, min(self.cursor.x, width - 1)

    def shown(self) -> list[str]:
        """Return every row, scrollback included, without the empty ones at the end."""
        rows = [_text(line, self.columns) for line in self.scrolled]
        rows += [_text(self.buffer[y], self.columns) for y in range(self.lines)]
        while rows and not rows[-1]:
            rows.pop()
        return rows


def _text(line: Any, columns: int) -> str:
    width = max([columns, *(x + 1 for x in line)])
    return "".join(line[x].data for x in range(width)).rstrip()


class OnTerminal:
    """A command that runs on an emulated terminal of its own."""

    def __init__(self, process: "subprocess.Popen[bytes]", fd: int, screen: Terminal) -> None:
        self.process = process
        self.screen = screen
        self._fd = fd

    def read(self, seconds: float) -> bool:
        """Show what the command writes within this time; return whether it can write more."""
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._fd, 65_536)
        except OSError:  # EIO: the command has ended
            return False
        self.screen.write(data.decode("utf-8", "replace"))
        return bool(data)

    def wait_for(self, text: str) -> None:
        """Wait until a row of the screen contains the text."""
        ends_at = time.monotonic() + PATIENCE_S
        while not any(text in row for row in self.screen.shown()):
            assert time.monotonic() < ends_at, "\n".join(self.screen.shown())
            assert self.read(0.1), "\n".join(self.screen.shown())

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def ended(self) -> int:
        """Show the rest; return the exit code."""
        while self.read(PATIENCE_S):
            pass
        return self.process.wait(PATIENCE_S)


@contextmanager
def on_terminal(
    *args: str, folder: Path, columns: int = 80, rows: int = 24, env: Mapping[str, str] | None = None
) -> Iterator[OnTerminal]:
    """Start the command line on a terminal; it ends with the test."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    program = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); sys.argv[0] = 'poller'; "
        "from poller.cli.app import main; main()"
    )
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", program, *args],
        cwd=folder,
        env={"TERM": "xterm-256color", **(env or environ())},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen = Terminal(columns, rows)
    screen.reset_mode(pyte.modes.LNM)  # this driver sends carriage returns
    try:
        yield OnTerminal(process, ours, screen)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
