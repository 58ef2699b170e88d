"""The program as a process: streams, signals, kills, full disks and exit codes, over real sockets."""

import random
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from poller.core.errors import Exit
from tests.support.processes import (
    TOKEN,
    Hubspot,
    Running,
    counted,
    environ,
    fed,
    hubspot,
    records,
    run,
    run_here,
    running,
    wait_until,
    whole_lines,
)

pytestmark = pytest.mark.real_time

WEBHOOK_SECRET = "whsec_c2FuZGJveC1zZWNyZXQtb2YtMjQtYnl0ZXM="
QUICK = ("--requests", "60", "--window-s", "0.3")  # a restart waits that long
STEADY = ("--requests", "60", "--window-s", "0.6")  # too slow to end before the fifth kill
SLOW = ("--requests", "20", "--window-s", "0.5")


@pytest.fixture(scope="module")
def complete() -> Iterator[Hubspot]:
    """A simulated HubSpot where every import is complete; it knows one token."""
    with hubspot("--fate", "complete=1", "--token", TOKEN, imports=3000) as one:
        yield one


@pytest.fixture(scope="module")
def canceled() -> Iterator[Hubspot]:
    with hubspot("--fate", "canceled=1", imports=20) as one:
        yield one


# --- while a run is at work ------------------------------------------------------------------------------------------


class AtWork:
    """A run whose standard input is still open, and what it wrote to standard output so far."""

    def __init__(self, folder: Path, process: Running, complete: Hubspot) -> None:
        self.folder = folder
        self.process = process
        self.hubspot = complete

    def feed(self, count: int) -> list[str]:
        ids = self.hubspot.take(count)
        self.process.stdin.write("".join(f"{task_id}\n" for task_id in ids).encode())
        self.process.stdin.flush()
        return ids

    def read(self, count: int) -> list[str]:
        """Wait for `count` records; return their ids."""
        found = []
        for _ in range(count):
            assert select.select([self.process.stdout], [], [], 20)[0], "no record within 20 s"
            found.append(orjson.loads(self.process.stdout.readline())["task_id"])
        return found


@pytest.fixture(scope="module")
def at_work(tmp_path_factory: pytest.TempPathFactory, complete: Hubspot) -> Iterator[AtWork]:
    folder = tmp_path_factory.mktemp("at-work")
    sinks = ("--sink", "stdout", "--sink", "jsonl:finished.jsonl")
    with running(
        *("run", "-", "--base-url", complete.url, *sinks, *QUICK),
        folder=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        yield AtWork(folder, process, complete)


def test_polls_leave_and_records_arrive_while_the_input_is_still_open(at_work: AtWork) -> None:
    for _ in range(2):
        ids = at_work.feed(10)
        assert Counter(at_work.read(10)) == Counter(ids)
    assert at_work.process.process.poll() is None


def test_status_and_healthcheck_report_a_run_at_work(at_work: AtWork) -> None:
    status = run_here("status", folder=at_work.folder)
    assert status.returncode == 0
    assert "ledger (balanced)" in status.stdout
    health = run_here("healthcheck", folder=at_work.folder)
    assert (health.returncode, str(at_work.process.pid) in health.stdout) == (0, True)


def test_a_second_run_on_the_same_state_is_refused_and_names_the_first(at_work: AtWork) -> None:
    second = run_here("run", "--sink", "jsonl:other.jsonl", folder=at_work.folder)
    assert second.returncode == Exit.CANNOT_CREATE
    assert f"process {at_work.process.pid}" in second.stderr


def test_a_second_run_on_the_same_output_file_is_refused_and_names_the_first(at_work: AtWork) -> None:
    (at_work.folder / "other.txt").write_text("AAAAEZ6whGI\n")
    other = ("run", "other.txt", "--state", "sqlite:///other.db", "--sink", "jsonl:finished.jsonl")
    second = run_here(*other, folder=at_work.folder)
    assert second.returncode == Exit.CANNOT_CREATE
    assert "finished.jsonl" in second.stderr
    assert str(at_work.process.pid) in second.stderr


def test_data_goes_to_stdout_and_logs_as_json_to_stderr_and_nothing_else(tmp_path: Path, complete: Hubspot) -> None:
    ids = complete.ids_file(tmp_path, 20)
    done = run("run", ids.name, "--sink", "stdout", "--base-url", complete.url, *QUICK, folder=tmp_path)
    assert done.returncode == Exit.ALL_COMPLETE, done.stderr
    assert Counter(orjson.loads(line)["task_id"] for line in done.stdout.splitlines()) == fed(ids)
    events, _, summary = done.stderr.partition("20 landed")
    assert {"run.started", "task.finished"} <= {orjson.loads(line)["event"] for line in events.splitlines()}
    assert "20 = 20 finished + 0 waiting" in summary
    assert run_here("healthcheck", folder=tmp_path).returncode == 1


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_same_command_resumes(
    tmp_path: Path, complete: Hubspot, number: signal.Signals
) -> None:
    ids = complete.ids_file(tmp_path, 100)
    command = ("run", ids.name, "--base-url", complete.url)
    with running(*command, *SLOW, folder=tmp_path) as first:
        wait_until(first.logged("task.finished"), "the first outcome")
        first.signal(number)
        assert first.ended() == Exit.WORK_LEFT
        assert first.logged("run.draining")()
        assert "poller: stopping: " in first.log()
        assert "poller: stopped with work left: " in first.log()
        assert f" run {ids.name} " in first.log().partition("Run it again to continue: ")[2]
        assert "Traceback" not in first.log()
    delivered = counted(tmp_path / "finished.jsonl")
    assert 0 < delivered.total() < 100
    assert run_here(*command, *QUICK, folder=tmp_path).returncode == Exit.ALL_COMPLETE
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


def run_program(
    program: str, folder: Path, simulated: Hubspot, tasks: int, *flags: str
) -> subprocess.CompletedProcess[str]:
    """Run the poller to its end within a program that disturbs it."""
    ids = simulated.ids_file(folder, tasks)
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", program, "run", ids.name, "--base-url", simulated.url, *flags],
        cwd=folder,
        env=environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


EARLY = """
import os, signal, sys
import poller.app.event_loop
from poller.cli import app, options

run_event_loop, settings_of = poller.app.event_loop.run_event_loop, options.settings_of
signals = [signal.SIGHUP]

def hang_up_first(main):
    os.kill(os.getpid(), signal.SIGHUP)  # before anything handles it in the event loop
    return run_event_loop(main)

def hang_up_then(*args, **flags):
    read = settings_of(*args, **flags)
    for number in signals:
        os.kill(os.getpid(), number)  # after the settings were read
    signals.clear()
    return read

poller.app.event_loop.run_event_loop = hang_up_first
app.run.settings_of = hang_up_then
app.main()
"""


def test_a_sighup_in_the_first_moments_does_not_end_the_run_and_is_not_forgotten(
    tmp_path: Path, complete: Hubspot
) -> None:
    done = run_program(EARLY, tmp_path, complete, 20, *SLOW)
    assert done.returncode == Exit.ALL_COMPLETE, done.stderr
    assert done.stderr.count("config.reloaded") == 1


LATE = """
import asyncio, atexit, os, signal, sys
sys.modules["uvloop"] = None
from poller.__main__ import main

close = asyncio.BaseEventLoop.close

def send_all(*_):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(os.getpid(), number)

def close_then(loop):
    close(loop)
    send_all()  # the loop has reset its handlers

asyncio.BaseEventLoop.close = close_then
atexit.register(send_all)
main()
"""


def test_signals_that_come_once_the_run_has_ended_do_not_replace_its_exit_code(
    tmp_path: Path, complete: Hubspot
) -> None:
    done = run_program(LATE, tmp_path, complete, 1, *QUICK)
    assert done.returncode == Exit.ALL_COMPLETE, done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_signal_stops_at_once_and_loses_nothing(tmp_path: Path, complete: Hubspot) -> None:
    ids = complete.ids_file(tmp_path, 20)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute_url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        with running("run", ids.name, "--base-url", mute_url, *QUICK, folder=tmp_path) as first:
            mute.settimeout(20)
            connection, _ = mute.accept()
            first.signal(signal.SIGTERM)
            wait_until(first.logged("run.draining"), "the drain")
            first.signal(signal.SIGTERM)
            assert first.ended_within(5) == Exit.WORK_LEFT  # a drain would wait for the polls' time-out
            connection.close()
            assert "nothing is lost" in first.log()
    assert run_here("run", "--base-url", complete.url, *QUICK, folder=tmp_path).returncode == Exit.ALL_COMPLETE
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


@pytest.fixture
def dead_webhook() -> list[str]:
    """Return the flags of a run with a webhook that is not served, beside a file."""
    with socket.create_server(("127.0.0.1", 0)) as once:
        port = once.getsockname()[1]
    return ["--sink", f"webhook:http://127.0.0.1:{port}/", "--sink", "jsonl:finished.jsonl"]


def test_ctrl_c_does_not_wait_for_a_dead_webhook_and_its_records_are_kept(
    tmp_path: Path, complete: Hubspot, dead_webhook: list[str]
) -> None:
    ids = complete.ids_file(tmp_path, 20)
    (tmp_path / "poller.toml").write_text("shutdown_s = 2\n", "utf-8")  # a try that is due in that time is waited for
    env = environ(WEBHOOK_SECRET=WEBHOOK_SECRET)
    flags = ["--config", "poller.toml", "--base-url", complete.url, *dead_webhook, *QUICK]
    with running("run", ids.name, *flags, folder=tmp_path, env=env) as dead:
        file = tmp_path / "finished.jsonl"
        wait_until(lambda: whole_lines(file) == fed(ids).total(), "all records in the file")
        assert counted(file) == fed(ids)
        wait_until(dead.logged("sink.failed"), "the webhook's first failure")
        dead.signal(signal.SIGINT)
        assert dead.ended_within(10) == Exit.WORK_LEFT  # its next try may be minutes away
        assert re.search("poller: stopped with work left: .*20", dead.log()), dead.log()


def test_a_dead_webhook_ends_a_run_after_give_up_s(tmp_path: Path, complete: Hubspot, dead_webhook: list[str]) -> None:
    ids = complete.ids_file(tmp_path, 20)
    flags = ["--base-url", complete.url, "--give-up-s", "2", *dead_webhook, *QUICK]
    began_at = time.monotonic()
    done = run("run", ids.name, *flags, folder=tmp_path, env=environ(WEBHOOK_SECRET=WEBHOOK_SECRET))
    assert done.returncode == Exit.UNREACHABLE, done.stderr
    assert 2 <= time.monotonic() - began_at < 30
    assert re.search("(?m)^poller: .*webhook:", done.stderr), done.stderr
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


def test_after_five_kills_each_id_is_in_the_file_exactly_once(tmp_path: Path, complete: Hubspot) -> None:
    ids = complete.ids_file(tmp_path, 400)
    command = ("run", ids.name, "--base-url", complete.url, *STEADY)
    rng, cut_short = random.Random(20260105), 0
    for _ in range(5):
        with running(*command, folder=tmp_path) as victim:
            time.sleep(rng.uniform(0.4, 1.5))  # any instant: before the state exists, within the window, between polls
            victim.signal(signal.SIGKILL)
            cut_short += victim.ended() == -signal.SIGKILL
    assert cut_short >= 3
    done = run_here(*command, folder=tmp_path)
    assert done.returncode == Exit.ALL_COMPLETE, done.stderr
    assert counted(tmp_path / "finished.jsonl") == fed(ids)
    assert run_here("verify", "finished.jsonl", folder=tmp_path).returncode == 0


# --- readers that go, disks that are full ----------------------------------------------------------------------------


def test_a_reader_that_goes_away_ends_the_run_and_loses_nothing(tmp_path: Path, complete: Hubspot) -> None:
    ids = complete.ids_file(tmp_path, 100)
    command = ("run", ids.name, "--sink", "stdout", "--base-url", complete.url)
    with running(*command, *SLOW, folder=tmp_path, stdout=subprocess.PIPE) as cut:
        cut.stdout.readline()
        cut.stdout.close()
        assert cut.ended() == Exit.WORK_LEFT
        assert "went away" in cut.log()
        assert "Traceback" not in cut.log()
    taken = re.search(
        r"= (\d+) delivered", run_here("status", folder=tmp_path).stdout
    )  # by the pipe, if not by its reader
    resumed = run(*command, *QUICK, folder=tmp_path)
    assert resumed.returncode == Exit.ALL_COMPLETE, resumed.stderr
    assert taken is not None
    assert len({orjson.loads(line)["task_id"] for line in resumed.stdout.splitlines()}) == 100 - int(taken[1])


def allow(size: int) -> str:
    """Return what lets a process write no file beyond `size`: to it, the disk is full."""
    return f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, resource.RLIM_INFINITY))"


def make_room(process: Running) -> None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def test_a_disk_too_full_for_the_output_is_reported_and_the_run_continues_when_there_is_room(
    tmp_path: Path, complete: Hubspot
) -> None:
    ids = complete.ids_file(tmp_path, 300)
    command = ("run", ids.name, "--base-url", complete.url)
    assert run_here(*command, "--requests", "1000", "--window-s", "0.5", folder=tmp_path).returncode == 0
    late = ("--sink", "jsonl:late.jsonl")  # gets all 300 at once; the state is hardly written to
    with running(*command, *late, folder=tmp_path, first=allow(150_000)) as process:
        wait_until(process.logged("sink.failed"), "the message")
        assert "jsonl:late.jsonl" in run_here("status", folder=tmp_path).stdout
        make_room(process)
        assert process.ended() == Exit.ALL_COMPLETE
        assert process.logged("sink.recovered")()
    assert (tmp_path / "late.jsonl").read_bytes() == (tmp_path / "finished.jsonl").read_bytes()


def test_a_disk_too_full_for_the_state_is_reported_and_nothing_is_acknowledged_meanwhile(
    tmp_path: Path, complete: Hubspot
) -> None:
    ids = complete.ids_file(tmp_path, 300)
    command = ("run", ids.name, "--base-url", complete.url, *QUICK)
    with running(*command, folder=tmp_path, first=allow(300_000)) as process:
        wait_until(process.logged("store.unwritable"), "the message")
        stored = (tmp_path / "finished.jsonl").stat().st_size
        make_room(process)
        assert process.ended() == Exit.ALL_COMPLETE
        assert process.logged("store.writable")()
    assert stored < 300_000
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


@pytest.mark.parametrize("stderr", ["closed", "left"])
def test_a_stderr_without_a_reader_stops_nothing(tmp_path: Path, complete: Hubspot, stderr: str) -> None:
    ids = complete.ids_file(tmp_path, 50)
    command = ["run", ids.name, "--base-url", complete.url, *QUICK]
    if stderr == "closed":
        with running(*command, folder=tmp_path, stderr=None, first="os.close(2)") as process:
            assert process.ended() == Exit.ALL_COMPLETE
    else:
        with running(*command, folder=tmp_path, stderr=subprocess.PIPE) as process:
            assert process.process.stderr is not None
            process.process.stderr.close()
            assert process.ended() == Exit.ALL_COMPLETE
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


# --- exit codes ------------------------------------------------------------------------------------------------------


def test_some_not_complete_is_1_and_0_where_that_was_asked_for(tmp_path: Path, canceled: Hubspot) -> None:
    ids = canceled.ids_file(tmp_path, 5)
    command = ("run", ids.name, "--base-url", canceled.url)
    assert run(*command, folder=tmp_path).returncode == Exit.NOT_ALL_COMPLETE
    assert run_here(*command, "--exit-zero", folder=tmp_path).returncode == 0
    assert {record["kind"] for record in records(tmp_path / "finished.jsonl")} == {"canceled"}


REASONS_TO_END: dict[Exit, tuple[str, dict[str, str], str]] = {  # command, environment, message on stderr
    Exit.USAGE: ("run --requets 5", {}, "--requests"),
    Exit.NO_INPUT: ("run bad.txt --base-url {url}", {}, "no usable id"),
    Exit.UNREACHABLE: ("run ids.txt --base-url http://127.0.0.1:9 --give-up-s 1", {}, "nothing is lost"),
    Exit.CANNOT_CREATE: ("run ids.txt --base-url {url} --sink jsonl:no/such/file.jsonl", {}, "no/such"),
    Exit.TOKEN_REFUSED: (
        "run ids.txt --base-url {url}",
        {"HUBSPOT_TOKEN": "pat-na1-another-one"},
        "HubSpot refused the token",
    ),
    Exit.CONFIG: ("run ids.txt -c bad.toml", {}, "did you mean requests?"),
}


def test_each_reason_to_end_early_has_its_exit_code_and_its_message(tmp_path: Path, complete: Hubspot) -> None:
    ids, ended = complete.take(5), {}
    for code, (command, more, _) in REASONS_TO_END.items():
        folder = tmp_path / str(code.value)
        folder.mkdir()
        (folder / "ids.txt").write_text("\n".join(ids))
        (folder / "bad.txt").write_text("../../oauth/v1/access-tokens\n")
        (folder / "bad.toml").write_text("requets = 50\n")
        words = command.format(url=complete.url).split()
        ended[code] = run_here(*words, folder=folder, env=environ(**more))
    assert {code: done.returncode for code, done in ended.items()} == {code: code for code in ended}
    assert [code for code, (_, _, words) in REASONS_TO_END.items() if words not in ended[code].stderr] == []
    assert [code for code, done in ended.items() if "Traceback" in done.stderr] == []


def test_check_config_shows_the_settings_in_force_or_names_the_nearest_right_key(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text("requests = 50\n")
    (tmp_path / "bad.toml").write_text("[polling]\nlongest_gap = 5\n")
    good = run_here("check-config", "-c", "good.toml", folder=tmp_path)
    bad = run("check-config", "-c", "bad.toml", folder=tmp_path)
    assert (good.returncode, "requests = 50  # good.toml: requests" in good.stdout) == (0, True)
    assert (bad.returncode, bad.stdout) == (Exit.CONFIG, "")
    assert "bad.toml: polling.longest_gap: there is no such setting; did you mean longest_gap_s?" in bad.stderr


def test_a_stdout_that_is_closed_or_full_never_counts_as_delivered(tmp_path: Path, complete: Hubspot) -> None:
    ids = complete.ids_file(tmp_path, 20)
    command = ("run", ids.name, "--sink", "stdout", "--base-url", complete.url, *QUICK)
    with running(*command, folder=tmp_path, stdout=None, first="os.close(1)") as closed:
        assert closed.ended() == Exit.CANNOT_CREATE
        assert "Traceback" not in closed.log()
    with Path("/dev/full").open("wb") as full, running(*command, folder=tmp_path, stdout=full) as process:
        wait_until(process.logged("sink.failed"), "the message")
        process.signal(signal.SIGTERM)
        wait_until(process.logged("run.draining"), "the drain")
        process.signal(signal.SIGTERM)
        assert process.ended() == Exit.WORK_LEFT
    resumed = run(*command, folder=tmp_path)
    assert resumed.returncode == Exit.ALL_COMPLETE
    assert Counter(orjson.loads(line)["task_id"] for line in resumed.stdout.splitlines()) == fed(ids)
