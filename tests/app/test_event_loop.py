"""What makes a poll cheap changes none of its promises."""

import asyncio
import gc
import logging
from collections.abc import Iterator

import pytest
import structlog

from poller.app.event_loop import run_event_loop, tune_garbage_collector
from poller.app.signals import Signals
from poller.core.log import is_debug
from poller.core.protocols import Clock
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.sources import ReadOptions
from poller.sources.parsing.line import ParsedLines, PlainLines
from poller.sources.parsing.lines import Line, OverlongLine
from poller.store import open_store


@pytest.fixture
def usual_collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


async def _loop_name() -> str:
    return type(asyncio.get_running_loop()).__module__


def test_a_run_takes_uvloop_where_it_is_installed() -> None:
    pytest.importorskip("uvloop")
    assert run_event_loop(_loop_name()).startswith("uvloop")


def test_a_run_needs_no_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    assert run_event_loop(_loop_name()).startswith("asyncio")


@pytest.mark.usefixtures("usual_collector")
def test_objects_of_the_start_are_not_collected_again() -> None:
    tune_garbage_collector()
    assert gc.get_freeze_count() > 0


@pytest.mark.usefixtures("usual_collector")
async def test_a_sighup_before_the_run_began_is_a_reload_once_it_has_begun(clock: Clock) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    signals = Signals()
    signals._hang_up()
    service = Service(store=store, metrics=Metrics(), clock=clock, endless=True, shutdown_s=5)
    signals.on_start(service)
    assert service.reload_asked.is_set()
    await store.close()


@pytest.mark.parametrize(("level", "written"), [(logging.DEBUG, True), (logging.INFO, False), (logging.ERROR, False)])
def test_debug_events_are_not_built_where_they_are_not_written(level: int, written: bool) -> None:
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    try:
        assert is_debug() is written
    finally:
        structlog.configure(wrapper_class=before)


@pytest.mark.parametrize(
    "lines",
    [
        [b"AAAA", b"b-._~=+"],
        [b"AAAA\r", b"BBBB\r"],
        [b".AAAA", b"BBBB"],
        [b"AAAA", b"", b"# note", b"BBBB"],
        [b"AAAA", b"..", b"BBBB"],
        [b"AAAA", b"a" * 256, b"b" * 257],
        [b"AAAA", b" BBBB "],
        [b"AAAA", b"a/b", b'{"id": "CCCC"}'],
        [b"AAAA", b"\xff", "ä".encode()],
        [b"AA\rAA", b"\0"],
        [b"AAAA", OverlongLine(b"AAAA", 100_000)],
    ],
)
def test_lines_read_together_mean_what_each_means_alone(lines: list[Line]) -> None:
    reading = PlainLines(options=ReadOptions(accounts=frozenset({"default"}), default_account="default"))
    together, alone = ParsedLines(), ParsedLines()
    assert reading.read(lines, len(lines), 1, True, together) == len(lines)
    for number, line in enumerate(lines, 1):
        reading.read([line], 1, number, True, alone)
    assert (together.fed, together.rejected, together.blank) == (alone.fed, alone.rejected, alone.blank)
