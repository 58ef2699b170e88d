"""Files of the real program that are tampered with, and receivers that are away: reported, survived, nothing lost."""

import itertools
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import orjson
import pytest

from poller.core.errors import Exit
from tests.support.processes import Hubspot, counted, fed, hubspot, run_here, running, wait_until

pytestmark = pytest.mark.real_time

QUICK = ("--requests", "1000", "--window-s", "0.3")
SLOW = ("--requests", "15", "--window-s", "0.3")


@pytest.fixture(scope="module")
def complete() -> Iterator[Hubspot]:
    with hubspot("--fate", "complete=1", imports=3000) as one:
        yield one


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A run that was stopped in its middle, and the command that resumes it."""

    folder: Path
    fed: Counter[str]
    command: tuple[str, ...]

    @property
    def file(self) -> Path:
        return self.folder / "finished.jsonl"


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory, complete: Hubspot) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped")
    ids = complete.ids_file(folder, 100)
    with running("run", ids.name, "--base-url", complete.url, *SLOW, folder=folder) as first:
        wait_until(lambda: len(lines(folder / "finished.jsonl")) >= 10, "the first records")
        first.signal(signal.SIGTERM)
        assert first.ended() == Exit.WORK_LEFT
    assert run_here("status", folder=folder).stdout.count("100 lines = 100 tasks") == 1
    return Stopped(folder=folder, fed=fed(ids), command=("run", "--base-url", complete.url, *QUICK))


@pytest.fixture
def stopped(tmp_path: Path, stopped_once: Stopped) -> Stopped:
    """Return a copy of the one stopped run, to be tampered with."""
    shutil.copytree(stopped_once.folder, tmp_path, dirs_exist_ok=True)
    return replace(stopped_once, folder=tmp_path)


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


# --- a JSONL file that was touched between two runs -------------------------------------------------------------------


def test_a_torn_line_at_the_end_is_cut_off(stopped: Stopped) -> None:
    with stopped.file.open("ab") as file:
        file.write(b'{"task_id":"AAAAE')
    assert run_here(*stopped.command, folder=stopped.folder).returncode == Exit.ALL_COMPLETE
    assert counted(stopped.file) == stopped.fed
    assert run_here("verify", "finished.jsonl", folder=stopped.folder).returncode == 0
    assert list(stopped.folder.glob("*.foreign-*")) == []


def test_lines_that_a_person_appended_are_kept_in_a_file_of_their_own(stopped: Stopped) -> None:
    theirs = b'{"note":"mine"}\n{"note":"and mine"}\n'
    with stopped.file.open("ab") as file:
        file.write(theirs)
    done = run_here(*stopped.command, folder=stopped.folder)
    assert done.returncode == Exit.ALL_COMPLETE
    (aside,) = stopped.folder.glob("*.foreign-*")
    assert aside.read_bytes() == theirs
    event = next(orjson.loads(line) for line in done.stderr.splitlines() if "sink.foreign_tail" in line)
    assert (event["level"], event["kept_in"]) == ("warning", aside.name)
    assert counted(stopped.file) == stopped.fed
    assert run_here("verify", "finished.jsonl", folder=stopped.folder).returncode == 0


def delete(file: Path) -> None:
    file.unlink()


def replace_by_a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def replace_by_another(file: Path) -> None:
    file.write_bytes(b"x" * (file.stat().st_size + 100))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (delete, "written again (with the same --state): poller replay --sink jsonl:finished.jsonl"),
        (replace_by_a_folder, "finished.jsonl is not a regular file"),
        (cut_short, "finished.jsonl holds 100 bytes, but"),
        (replace_by_another, "finished.jsonl was changed"),
    ],
)
def test_a_file_that_is_not_ours_any_more_is_refused_and_works_again_once_restored(
    stopped: Stopped, spoil: Callable[[Path], None], words: str
) -> None:
    before = stopped.file.read_bytes()
    spoil(stopped.file)
    refused = run_here(*stopped.command, folder=stopped.folder)
    assert refused.returncode == Exit.CANNOT_CREATE
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    if spoil is replace_by_a_folder:
        stopped.file.rmdir()
    stopped.file.write_bytes(before)
    assert run_here(*stopped.command, folder=stopped.folder).returncode == Exit.ALL_COMPLETE
    assert counted(stopped.file) == stopped.fed


def test_a_lost_file_is_written_again_by_the_command_that_the_message_names(stopped: Stopped) -> None:
    stopped.file.unlink()
    refused = run_here(*stopped.command, folder=stopped.folder)
    command = refused.stderr.splitlines()[-1].partition(": poller ")[2]
    assert run_here(*command.split(), folder=stopped.folder).returncode == 0
    assert run_here(*stopped.command, folder=stopped.folder).returncode == Exit.ALL_COMPLETE
    assert counted(stopped.file) == stopped.fed


def test_a_new_file_that_replaces_a_lost_one_gets_every_record(stopped: Stopped) -> None:
    stopped.file.unlink()
    done = run_here(*stopped.command, "--sink", "jsonl:new.jsonl", folder=stopped.folder)
    assert done.returncode == Exit.ALL_COMPLETE
    assert counted(stopped.folder / "new.jsonl") == stopped.fed


# --- and during the run -----------------------------------------------------------------------------------------------


def test_a_file_moved_or_deleted_during_the_run_is_reported_and_a_new_one_continues_where_it_ended(
    tmp_path: Path, complete: Hubspot
) -> None:
    ids = complete.ids_file(tmp_path, 200)
    file, moved = tmp_path / "finished.jsonl", tmp_path / "moved.jsonl"
    with running("run", ids.name, "--base-url", complete.url, *SLOW, folder=tmp_path) as process:
        wait_until(lambda: len(lines(file)) >= 10, "the first records")
        file.rename(moved)
        wait_until(lambda: len(lines(file)) >= 10, "the new file")
        second = file.read_bytes()
        file.unlink()
        assert process.ended() == Exit.ALL_COMPLETE
        moves = [each for each in process.events() if each["event"] == "sink.file_moved"]
    assert len(moves) == 2
    written = [orjson.loads(line)["task_id"] for line in (*lines(moved), *second.splitlines(), *lines(file))]
    assert len(written) == len(set(written)) >= 190  # what came between the reading and the deletion is gone with it
    if len(written) == 200:
        assert set(written) == set(fed(ids))
    verified = run_here("verify", "moved.jsonl", folder=tmp_path)
    assert (verified.returncode, "DIFFERENT" in verified.stdout) == (1, True)
    replayed = run_here("replay", "--sink", "jsonl:all.jsonl", "--kind", "complete", folder=tmp_path)
    assert replayed.returncode == 0, replayed.stderr
    assert counted(tmp_path / "all.jsonl") == fed(ids)


def test_a_folder_instead_of_the_file_stops_that_sink_alone_until_the_file_is_back(
    tmp_path: Path, complete: Hubspot
) -> None:
    ids = complete.ids_file(tmp_path, 150)
    file, kept = tmp_path / "finished.jsonl", tmp_path / "kept.jsonl"
    sinks = ("--sink", "jsonl:finished.jsonl", "--sink", "jsonl:other.jsonl")
    command = ("run", ids.name, "--base-url", complete.url, *sinks)
    with running(*command, *SLOW, folder=tmp_path) as process:
        wait_until(lambda: len(lines(file)) >= 10, "the first records")
        file.rename(kept)
        file.mkdir()
        assert process.ended() == Exit.CANNOT_CREATE
        assert process.logged("sink.stopped")()
        assert "finished.jsonl is not a regular file" in process.log()
        assert "Traceback" not in process.log()
    assert counted(tmp_path / "other.jsonl") == fed(ids)
    file.rmdir()
    file.touch()
    resumed = run_here(*command, *QUICK, folder=tmp_path)
    assert resumed.returncode == Exit.ALL_COMPLETE, resumed.stderr
    assert lines(kept) + lines(file) == lines(tmp_path / "other.jsonl")


# --- receivers that are away -----------------------------------------------------------------------------------------


class Receiver:
    """A webhook receiver in a thread of this process, only reachable while `listening`."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port: int = found.getsockname()[1]
        self.taken: list[bytes] = []

    @property
    def sink(self) -> str:
        return f'{{ kind = "webhook", url = "http://127.0.0.1:{self.port}/", retries_s = [0.2] }}'

    @contextmanager
    def listening(self) -> Iterator[None]:
        taken = self.taken

        class Taking(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                taken.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                """Log nothing."""

        with HTTPServer(("127.0.0.1", self.port), Taking) as server:
            serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            serving.start()
            try:
                yield
            finally:
                server.shutdown()
                serving.join()


def test_a_receiver_that_is_away_for_the_whole_run_delays_no_other_sink_and_catches_up_in_order(
    tmp_path: Path, complete: Hubspot
) -> None:
    receiver, ids = Receiver(), complete.ids_file(tmp_path, 60)
    sinks = f'"jsonl:finished.jsonl", "sql:sqlite:///finished.db", "stdout", {receiver.sink}'
    (tmp_path / "config.toml").write_text(f"sinks = [{sinks}]\ngive_up_s = 3\n")
    command = ("run", ids.name, "-c", "config.toml", "--base-url", complete.url, *QUICK)
    with running(*command, folder=tmp_path) as process:
        wait_until(lambda: len(lines(tmp_path / "finished.jsonl")) == 60, "the other sinks")
        with closing(sqlite3.connect(tmp_path / "finished.db", timeout=5)) as connection:
            count = itertools.count()
            while connection.execute("SELECT count(*) FROM poller_finished").fetchone() != (60,):
                assert next(count) < 50
                time.sleep(0.02)
        assert process.process.poll() is None
        assert process.ended() == Exit.UNREACHABLE
        assert "nothing is lost" in process.log()
    assert receiver.taken == []
    assert "60 undelivered" in run_here("status", "-c", "config.toml", folder=tmp_path).stdout
    with receiver.listening():
        assert run_here(*command, folder=tmp_path).returncode == Exit.ALL_COMPLETE
    assert receiver.taken == lines(tmp_path / "finished.jsonl")
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


def test_a_receiver_that_comes_back_during_the_run_catches_up_in_order(tmp_path: Path, complete: Hubspot) -> None:
    receiver, ids = Receiver(), complete.ids_file(tmp_path, 60)
    (tmp_path / "config.toml").write_text(f'sinks = ["jsonl:finished.jsonl", {receiver.sink}]\n')
    command = ("run", ids.name, "-c", "config.toml", "--base-url", complete.url, *QUICK)
    with running(*command, folder=tmp_path) as process:
        wait_until(lambda: len(lines(tmp_path / "finished.jsonl")) == 60, "the other sink")
        wait_until(process.logged("sink.failed"), "the message")
        with receiver.listening():
            assert process.ended() == Exit.ALL_COMPLETE
        assert process.logged("sink.recovered")()
    assert receiver.taken == lines(tmp_path / "finished.jsonl")


# --- one writer ------------------------------------------------------------------------------------------------------


def test_a_second_process_on_a_rotated_file_or_a_state_is_refused_and_names_the_first(
    tmp_path: Path, complete: Hubspot
) -> None:
    ids = complete.ids_file(tmp_path, 20)
    sink = ("--sink", "jsonl:finished-%Y%m%d.jsonl")
    with running("run", ids.name, "--follow", "--base-url", complete.url, *QUICK, *sink, folder=tmp_path) as first:
        wait_until(lambda: any(lines(path) for path in tmp_path.glob("finished-*.jsonl")), "the first records")
        same_state = run_here("run", "--sink", "jsonl:other.jsonl", folder=tmp_path)
        same_file = run_here("run", ids.name, "--state", "sqlite:///other.db", *sink, folder=tmp_path)
    for refused in (same_state, same_file):
        assert refused.returncode == Exit.CANNOT_CREATE
        assert f"process {first.pid}" in refused.stderr
