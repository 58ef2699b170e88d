"""The log: one line an event, no secret in any of them, and it works without a reader."""

import asyncio
import io
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp.client_reqrep import RequestInfo
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from poller.core import log as logs
from tests.support.calls import calls_of

AT = 1_767_571_200.25
TOKEN = "pat-na1-11111111-2222-3333-4444-555555555555"
OPAQUE = "CKvPzY3oMRICAAEY0oKfBiD5"


@pytest.fixture
def written() -> io.StringIO:
    stream = io.StringIO()
    logs.configure(format="json", level="debug", clock=lambda: AT, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]


def test_an_event_is_one_json_line_with_time_level_and_name_first(written: io.StringIO) -> None:
    structlog.get_logger().info("task.finished", task_id="A\nB", polls=3)
    assert written.getvalue() == (
        '{"timestamp":"2026-01-05T00:00:00.250Z","level":"info","event":"task.finished","task_id":"A\\nB","polls":3}\n'
    )


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.configure(format="json", level="warning", clock=lambda: AT, stream=stream)
    structlog.get_logger().info("task.finished")
    structlog.get_logger().warning("lane.paused")
    assert [line["event"] for line in lines(stream)] == ["lane.paused"]


def test_auto_is_json_in_a_pipe_and_console_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        logs.configure(format="auto", level="info", clock=lambda: AT, stream=stream)
        structlog.get_logger().info("run.started")
    assert lines(pipe)[0]["event"] == "run.started"
    assert "run.started" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_received_text_does_not_steer_the_terminal() -> None:
    stream = io.StringIO()
    logs.configure(format="console", level="info", clock=lambda: AT, stream=stream)
    structlog.get_logger().info("status.unknown", word="\x1b]0;gotcha\x07")
    assert "\x1b]" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()


def test_warnings_of_libraries_are_events(written: io.StringIO) -> None:
    logging.getLogger("asyncio").error("lost %s", "something")
    logging.getLogger("aiohttp.access").info("GET /")
    assert lines(written) == [
        {
            "timestamp": "2026-01-05T00:00:00.250Z",
            "level": "error",
            "event": "library.logged",
            "logger": "asyncio",
            "message": "lost something",
        }
    ]


def test_an_exception_is_class_message_and_lines_without_locals(written: io.StringIO) -> None:
    def fail(_local: str) -> None:
        raise ExceptionGroup("two", [ValueError("one"), OSError(2, "gone")])

    try:
        fail(OPAQUE)
    except ExceptionGroup:
        structlog.get_logger().exception("run.crashed")
        logging.getLogger("asyncio").exception("crashed")
    for line in lines(written):
        assert line["exception"] == "ExceptionGroup: two (2 sub-exceptions)"
        assert "from ValueError: one" in line["traceback"]
        assert "from FileNotFoundError: [Errno 2] gone" in line["traceback"]
    assert OPAQUE not in written.getvalue()
    assert len(lines(written)) == 2


# --- secrets ---------------------------------------------------------------------------------------------------------


def _aiohttp_error() -> aiohttp.ClientResponseError:
    headers = CIMultiDictProxy(CIMultiDict({"Authorization": f"Bearer {OPAQUE}"}))
    url = URL("https://api.hubapi.com/x?token=" + OPAQUE)
    return aiohttp.ClientResponseError(RequestInfo(url, "GET", headers, url), (), status=500, headers=headers)


def _raised(error: Exception) -> Exception:
    with pytest.raises(type(error)) as caught:
        raise error
    return caught.value


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_token_is_written_in_none_of_the_ways_to_log_one(format: Any) -> None:  # noqa: A002 - the setting's name
    stream = io.StringIO()
    logs.configure(format=format, level="debug", clock=lambda: AT, stream=stream)
    log, library = structlog.get_logger(), logging.getLogger("aiohttp.client")
    unregistered = _raised(_aiohttp_error())
    log.error("x", error=unregistered)
    log.error("x", exc_info=unregistered)
    log.error("x", authorization=f"Bearer {OPAQUE}", headers={"Authorization": f"bearer {OPAQUE}"})
    log.error("x", token=TOKEN, **{TOKEN: 1}, nested=[{"a": (TOKEN,)}, {TOKEN}, TOKEN.encode()])
    logs.keep_secret(OPAQUE)
    log.error(OPAQUE, text=f"a{OPAQUE}b", error=repr(unregistered), request=unregistered.request_info)  # type: ignore[attr-defined]
    log.error("x", exc_info=_raised(ValueError(f"bad {OPAQUE}")))
    library.warning("answer %r to %s", unregistered, OPAQUE, exc_info=unregistered)
    structlog.contextvars.bind_contextvars(token=OPAQUE)
    log.error("x")
    structlog.contextvars.clear_contextvars()
    assert OPAQUE not in stream.getvalue()
    assert TOKEN not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_a_short_secret_does_not_blank_ordinary_words(written: io.StringIO) -> None:
    logs.keep_secret("task")
    logs.keep_secret("")
    structlog.get_logger().info("task.finished")
    assert lines(written)[0]["event"] == "task.finished"


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.text().map(ValueError),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.frozensets(st.text()),
)


@settings(max_examples=25)
@given(st.dictionaries(st.text().filter(lambda key: key not in {"event", "exc_info"}), JSON_LIKE))
def test_any_values_give_one_line(values: Mapping[str, Any]) -> None:
    stream = io.StringIO()
    logs.configure(format="json", level="debug", clock=lambda: AT, stream=stream)
    structlog.get_logger().bind(**{k: v for k, v in values.items() if k.isidentifier()}).info("x.happened")
    assert len(lines(stream)) == 1


PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["Bearer abcdefghi", TOKEN])
)


@settings(max_examples=50)
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,9}", fullmatch=True) | st.sampled_from(["level", "timestamp"]), PLAIN),
    st.sampled_from(["debug", "info", "warning", "error", "exception", "critical"]),
)
def test_the_short_way_of_plain_events_writes_what_the_long_one_does(values: Mapping[str, Any], level: str) -> None:
    values = {key: value for key, value in values.items() if key not in {"event", "self"}}
    written = []
    for is_plain in (logs._is_plain, lambda _event: False):
        stream = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(logs, "_is_plain", is_plain)
            logs.configure(format="json", level="debug", clock=lambda: AT, stream=stream)
            getattr(structlog.get_logger(), level)("x.happened", **values)
        written.append(stream.getvalue())
    assert written[0] == written[1]


def test_a_line_of_a_finished_task_makes_few_calls(written: io.StringIO) -> None:
    log = structlog.get_logger().bind()
    calls = calls_of(lambda: log.info("task.finished", task_id="A", kind="complete", landed=True, waited_s=1.25))
    assert (len(lines(written)), calls <= 42) == (1, True), calls  # 56 by one processor after the other


def test_gathered_lines_are_written_in_one_piece_also_after_an_error() -> None:
    class Counting(io.StringIO):
        pieces = 0

        def write(self, text: str) -> int:
            self.pieces += 1
            return super().write(text)

    stream, log = Counting(), structlog.get_logger()
    logs.configure(format="json", level="info", clock=lambda: AT, stream=stream)
    with pytest.raises(ValueError, match="x"), logs.gathered():  # noqa: PT012 - the lines before the error count
        log.info("task.finished", task_id="A")
        log.info("task.finished", task_id="B")
        assert stream.getvalue() == ""
        raise ValueError("x")
    log.info("run.ended")
    assert [line.get("task_id") for line in lines(stream)] == ["A", "B", None]
    assert stream.pieces == 2


# --- a stderr without a reader ---------------------------------------------------------------------------------------


class Broken(io.StringIO):
    def write(self, _text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


def test_a_broken_stderr_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(format="json", level="debug", clock=lambda: AT, stream=Broken())
    structlog.get_logger().info("run.started")
    logging.getLogger("asyncio").error("lost")
    assert capsys.readouterr() == ("", "")


def test_a_process_survives_the_end_of_its_stderr_s_reader() -> None:
    program = (
        "import structlog, time; from poller.core import log\n"
        "log.configure(format='json', level='info', clock=time.time)\n"
        "for number in range(1000): structlog.get_logger().info('x.happened', text='x' * 1000)\n"
        "print('alive')"
    )
    reading, writing = os.pipe()
    os.close(reading)
    try:
        process = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writing, check=False)  # noqa: S603 - our own interpreter
    finally:
        os.close(writing)
    assert process.stdout == b"alive\n"
    assert process.returncode == 0


# --- folding ---------------------------------------------------------------------------------------------------------


async def test_a_repeated_event_is_written_once_a_while_with_its_count(written: io.StringIO, clock: Any) -> None:
    folded = logs.Folded(structlog.get_logger().warning, clock=clock, every_s=60)
    for _ in range(130):
        folded("poll.failed", by=("eu", "http_503"), reason="http_503")
        await asyncio.sleep(1)
    folded("poll.failed", by=("us", "http_503"), reason="http_503")
    assert [line.get("repeated", 0) for line in lines(written)] == [0, 59, 59, 0]


async def test_a_forgotten_event_is_logged_at_once(written: io.StringIO, clock: Any) -> None:
    folded = logs.Folded(structlog.get_logger().warning, clock=clock, every_s=60)
    assert [folded("sink.failed"), folded("sink.failed")] == [True, False]
    folded.forget("sink.failed")
    assert folded("sink.failed")
    assert len(lines(written)) == 2


# --- within another program ------------------------------------------------------------------------------------------


def test_within_another_program_events_go_to_the_standard_library_s_logger(caplog: pytest.LogCaptureFixture) -> None:
    structlog.reset_defaults()
    logs.use_stdlib_unless_configured()
    logs.keep_secret("a-secret-of-the-program")
    log = structlog.get_logger("poller")
    with caplog.at_level(logging.INFO, logger="poller"):
        log.debug("poll.answered", detail="below the level")
        log.warning("lane.paused", account="eu", token="a-secret-of-the-program")
        try:
            raise ValueError("a-secret-of-the-program")  # noqa: TRY301 - to be logged
        except ValueError:
            log.exception("run.failed")
    warning, error = caplog.records
    assert (warning.name, warning.levelname) == ("poller", "WARNING")
    assert warning.getMessage() == "lane.paused account='eu' token='***'"
    assert error.levelname == "ERROR"
    assert "ValueError: ***" in error.getMessage()


def test_what_the_program_itself_logs_with_structlog_stays_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    structlog.get_logger().info("the program's", number=1)
    before = capsys.readouterr().out
    logs.use_stdlib_unless_configured()
    structlog.get_logger().info("the program's", number=1)
    structlog.get_logger("poller").info("run.started")
    after = capsys.readouterr().out
    assert "the program's" in before
    assert re.sub(r"[\d:. -]+", "", before) == re.sub(r"[\d:. -]+", "", after)


def test_a_program_that_configured_structlog_gets_the_events_there() -> None:
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as captured:
        logs.use_stdlib_unless_configured()
        structlog.get_logger("poller").info("run.started", accounts=1)
    assert captured == [{"event": "run.started", "accounts": 1, "log_level": "info"}]


def test_every_module_has_its_logger_by_our_name() -> None:
    package = Path(logs.__file__).parents[1]
    assert [str(file) for file in package.rglob("*.py") if "structlog.get_logger()" in file.read_text("utf-8")] == []
