"""A real process whose machine's clock is set while it runs, or was ahead in the run before (Debian's `faketime`)."""

import time
from pathlib import Path

import orjson
import pytest

from poller.store import last_beat
from tests.support.processes import (
    Hubspot,
    Running,
    counted,
    environ,
    fed,
    hubspot,
    records,
    run,
    running,
    wait_until,
    whole_lines,
)

LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
pytestmark = [
    pytest.mark.real_time,
    pytest.mark.skipif(LIBRARY is None, reason="needs Debian's faketime"),
]
SLOW = ("--durations", "uniform:1,4", "--requests", "1000", "--fate", "never=0.1")
DEADLINE_S = 8


class SetClock:
    """The clock of a process, which a test sets."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.set("+0")
        preload = {"LD_PRELOAD": str(LIBRARY), "FAKETIME_TIMESTAMP_FILE": str(self._file), "FAKETIME_NO_CACHE": "1"}
        settings = {"POLLER_DEADLINE_S": str(DEADLINE_S), "POLLER_DAILY_LIMIT": "5000"}
        self.environ = environ(DONT_FAKE_MONOTONIC="1", FAKETIME_DONT_FAKE_MONOTONIC="1", **preload, **settings)

    def set(self, offset: str) -> None:
        self._file.write_text(f"{offset}\n")


def poll(service: Hubspot, ids: Path) -> tuple[str, ...]:
    return ("run", str(ids), "--base-url", service.url, "--sink", "jsonl:out.jsonl", "--log-format", "json")


def beat_at(folder: Path) -> float:
    """Return the instant of the last heartbeat."""
    _, at = last_beat(f"sqlite:///{folder}/poller.db") or (0, 0.0)
    return at


def jumps(process: Running) -> list[float]:
    return [event["by_s"] for event in process.events() if event["event"] == "clock.jumped"]


@pytest.mark.parametrize(("offset", "by_s"), [("-1h", -3600), ("+2d", 172_800)])
def test_a_clock_that_is_set_ends_no_task_early_stops_no_poll_and_is_reported_once(
    tmp_path: Path, offset: str, by_s: float
) -> None:
    clock = SetClock(tmp_path)
    with hubspot(*SLOW, imports=40) as service:
        ids = service.ids_file(tmp_path, 40)
        began = time.monotonic()
        with running(*poll(service, ids), folder=tmp_path, env=clock.environ) as process:
            wait_until(lambda: "lane.limit_learned" in [event["event"] for event in process.events()], "an answer")
            clock.set(offset)
            wait_until(lambda: bool(jumps(process)), "clock.jumped")
            wait_until(lambda: abs(beat_at(tmp_path) - by_s - time.time()) < 20, "a heartbeat by that clock")
            assert run("healthcheck", folder=tmp_path, env=clock.environ).returncode == 0
            assert process.ended() == 1
            took_s = time.monotonic() - began
    assert jumps(process) == [pytest.approx(by_s, abs=2)]
    assert counted(tmp_path / "out.jsonl") == fed(ids)
    timed_out = [record for record in records(tmp_path / "out.jsonl") if record["kind"] == "timed_out"]
    assert timed_out
    assert took_s >= DEADLINE_S
    assert len(timed_out) < 20


def test_a_state_from_the_future_is_moved_back_and_polled_at_once(tmp_path: Path) -> None:
    clock = SetClock(tmp_path)
    clock.set("+300d")
    with hubspot(*SLOW, imports=40) as service:
        ids = service.ids_file(tmp_path, 40)
        with running(*poll(service, ids), folder=tmp_path, env=clock.environ) as process:
            wait_until(lambda: whole_lines(tmp_path / "out.jsonl") > 0, "a record")
            process.process.kill()
            process.ended()
        clock.set("+0")
        began = time.monotonic()
        ended = run(*poll(service, ids), folder=tmp_path, env=clock.environ)
        assert ended.returncode == 1
        assert time.monotonic() - began < 30
    said = [orjson.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    moved = [event["by_s"] for event in said if event["event"] == "clock.jumped"]
    assert moved == [pytest.approx(-300 * 86_400, abs=30)]
    assert counted(tmp_path / "out.jsonl") == fed(ids)
