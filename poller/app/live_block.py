"""A few lines at the bottom of a terminal, redrawn in place. All other text goes above them, whole and in order."""

import os
from collections.abc import Sequence
from contextlib import suppress
from io import StringIO
from threading import Lock
from typing import Literal, cast

from rich.console import Console, RenderableType

from poller.core.log import QuietStream

WIDEST = 100  # columns: a block that leaves room is not wrapped again when the window becomes narrower
_WRAP_OFF, _WRAP_ON = "\x1b[?7l", "\x1b[?7h"
_CLEAR_BELOW = "\x1b[J"
_SAVE, _RESTORE = "\x1b7", "\x1b8"


class LiveBlock:
    """The terminal behind `console`, with a block of lines at its end.

    It is the stream for everything else that is written there, such as the log: it writes above the block, at once. A
    terminal that is closed, or too slow, is ignored.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        colors = cast("Literal['standard', '256', 'truecolor'] | None", console.color_system)
        self._renderer = Console(
            file=StringIO(), force_terminal=True, color_system=colors, no_color=console.no_color, width=WIDEST
        )
        self._out = QuietStream(console.file)
        self._lines: Sequence[str] = ()  # of the block that is on the screen
        self._partial = ""  # text after the last line break
        self._size = self.size()
        self._lock = Lock()  # libraries log from threads

    # --- the block

    def draw(self, content: RenderableType) -> None:
        """Put the block on the screen, in place of the one before."""
        columns, rows = self.size()
        with self._renderer.capture() as drawn:
            self._renderer.print(content, width=max(1, columns - 1))
        lines = [line.rstrip() for line in drawn.get().splitlines()][: max(1, rows - 1)]
        with self._lock:
            text = self._erased()
            self._lines = lines
            self._put(text + self._drawn())

    def hide(self) -> None:
        """Take the block off the screen."""
        with self._lock:
            text, self._lines = self._erased(), ()
            self._put(text)

    def leave(self) -> None:
        """Leave the block where it is: what follows is written below it."""
        with self._lock:
            rest = f"{self._erased()}{self._partial}\n{self._drawn()}" if self._partial else ""
            self._put(rest + ("\n" if self._lines else ""))
            self._lines, self._partial = (), ""

    def forget(self) -> None:
        """Another program wrote to the terminal: begin again below it."""
        with self._lock:
            self._lines = ()

    # --- the stream of all other text

    def write(self, text: str) -> int:
        with self._lock:
            whole, end, self._partial = (self._partial + text).rpartition("\n")
            if end:
                self._put(f"{self._erased()}{whole}{end}{self._drawn()}")
        return len(text)

    def flush(self) -> None:
        """Whole lines are written at once."""

    def isatty(self) -> bool:
        return self._console.is_terminal

    def fileno(self) -> int:
        return self._console.file.fileno()

    # --- the screen

    def size(self) -> tuple[int, int]:
        """Return the terminal's columns and rows, as of now. One without a window has 0, such as `docker run -dt`."""
        with suppress(OSError, ValueError, AttributeError):  # not every stream has a descriptor
            columns, rows = os.get_terminal_size(self._console.file.fileno())
            return columns or self._console.width, rows or self._console.height
        return self._console.width, self._console.height

    def _erased(self) -> str:
        """Return what takes the block off the screen and puts the cursor at the start of its first line."""
        if not self._lines:
            return ""
        settled = ""
        if (size := self.size()) != self._size:  # some terminals leave the cursor outside of a smaller screen
            self._size, settled = size, _SAVE + _RESTORE
        up = len(self._lines) - 1
        return settled + "\r" + (f"\x1b[{up}A" if up else "") + _CLEAR_BELOW

    def _drawn(self) -> str:
        return _WRAP_OFF + "\n".join(self._lines) + _WRAP_ON if self._lines else ""

    def _put(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()
