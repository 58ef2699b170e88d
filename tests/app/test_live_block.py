"""The lines at the bottom of a terminal: what is written meanwhile is above them, whole, once and in order."""

import logging
import os
import pty
import termios
from random import Random
from typing import TextIO, cast

import pytest
import structlog
from rich.console import Console, Group
from rich.text import Text

from poller.app.live_block import LiveBlock
from poller.core import log as logs
from tests.support.terminal import Terminal

SIZES = [(80, 24), (200, 50)]


def block_on(terminal: Terminal) -> tuple[LiveBlock, Console]:
    console = Console(file=cast("TextIO", terminal), force_terminal=True, width=terminal.columns, height=terminal.lines)
    return LiveBlock(console), console


def rows_of(line: str, columns: int) -> list[str]:
    """Return the rows that a line takes on the screen."""
    return [line[at : at + columns].rstrip() for at in range(0, max(1, len(line)), columns)]


def test_on_a_terminal_that_says_it_has_no_size_the_block_is_as_on_the_usual_one() -> None:
    """Such as that of `docker run -dt`."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (0, 0))
    with os.fdopen(theirs, "w") as stream:
        LiveBlock(Console(file=stream, force_terminal=True)).draw(Text("three words here"))
        shown = os.read(ours, 1000)
    os.close(ours)
    assert b"three words here" in shown


class Schedule:
    """Random log lines, redraws, pauses of the block and changes of the window's size."""

    def __init__(self, seed: int, size: tuple[int, int], *, resizes: bool) -> None:
        self.rng = Random(seed)
        self.terminal = Terminal(*size)
        self.block, self.console = block_on(self.terminal)
        self.resizes = resizes
        self.written: list[str] = []  # rows of the log
        self.drawn: list[str] = []  # the block that is on the screen

    def run(self, steps: int) -> None:
        for number in range(steps):
            act = self.rng.choices([self.log, self.draw, self.hide, self.resize], [6, 6, 1, self.resizes])[0]
            act(number)

    def log(self, number: int) -> None:
        longest = 38 if self.resizes else self.terminal.columns + 40
        for each in range(self.rng.randint(1, 3)):
            line = f"log {number}.{each} " + "x" * self.rng.randint(0, longest - 12)
            self.block.write(line + "\n")
            self.written += rows_of(line, self.terminal.columns)

    def draw(self, number: int) -> None:
        lines = [
            f"BLOCK {number}.{row} " + "=" * self.rng.choice([1, 40, 70, 95, 250])
            for row in range(self.rng.randint(1, 6))
        ]
        self.block.draw(Group(*(Text(line, no_wrap=True, overflow="crop") for line in lines)))
        width = min(self.terminal.columns - 1, 100)
        self.drawn = [line[:width] for line in lines][: self.terminal.lines - 1]

    def hide(self, _number: int) -> None:
        self.block.hide()
        self.drawn = []

    def resize(self, number: int) -> None:
        columns, rows = self.rng.randint(40, 220), self.rng.randint(12, 60)
        self.terminal.resize(rows, columns)
        self.console.size = columns, rows
        self.block.write(f"resized {number}\n")
        self.written.append(f"resized {number}")
        self.draw(number)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seeds", [range(25), range(25, 50)], ids=["a", "b"])
def test_no_line_is_lost_and_no_earlier_block_stays(size: tuple[int, int], seeds: range) -> None:
    for seed in seeds:
        schedule = Schedule(seed, size, resizes=False)
        schedule.run(14)
        assert schedule.terminal.shown() == schedule.written + schedule.drawn, seed


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("seeds", [range(100, 125), range(125, 150)], ids=["a", "b"])
def test_the_same_holds_while_the_window_changes_its_size(size: tuple[int, int], seeds: range) -> None:
    for seed in seeds:
        schedule = Schedule(seed, size, resizes=True)
        schedule.run(14)
        assert schedule.terminal.shown() == schedule.written + schedule.drawn, seed


def test_the_block_that_is_left_stays_and_what_follows_is_below_it() -> None:
    terminal = Terminal()
    block, _ = block_on(terminal)
    block.write("before\n")
    block.draw(Text("a\nb"))
    block.write("no line break")
    block.leave()
    block.write("after\n")
    assert terminal.shown() == ["before", "no line break", "a", "b", "after"]


def test_what_another_program_wrote_is_not_erased() -> None:
    terminal = Terminal()
    block, _ = block_on(terminal)
    block.draw(Text("a\nb"))
    terminal.write("\n[1]+  Stopped\n$ fg\n")
    block.forget()
    block.draw(Text("a\nb"))
    assert terminal.shown() == ["a", "b", "[1]+  Stopped", "$ fg", "a", "b"]


def test_a_typed_ctrl_c_is_erased_with_the_block() -> None:
    terminal = Terminal()
    block, _ = block_on(terminal)
    block.draw(Text("a\nb"))
    terminal.write("^C")
    block.write("stopping\n")
    assert terminal.shown() == ["stopping", "a", "b"]


def test_events_of_the_log_and_of_libraries_are_above_the_block() -> None:
    terminal = Terminal(120, 24)
    block, _ = block_on(terminal)
    logs.configure(format="auto", level="info", clock=lambda: 0.0, stream=block)
    block.draw(Text("BLOCK"))
    structlog.get_logger().warning("lane.paused", account="default")
    logging.getLogger("aiohttp").warning("a library's words")
    shown = terminal.shown()
    assert [("lane.paused" in row, "library.logged" in row, row == "BLOCK") for row in shown] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


class ClosedTerminal(Terminal):
    def write(self, text: str, /) -> int:  # noqa: ARG002 - as it is called
        raise OSError("closed")


def test_a_terminal_that_is_gone_is_ignored() -> None:
    block, _ = block_on(ClosedTerminal())
    block.draw(Text("a"))
    assert block.write("line\n") == 5
    block.leave()
