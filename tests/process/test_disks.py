"""The program on disks that are full, read-only or damaged: its messages, its exit code, and how it continues."""

import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import orjson
import pytest

from poller.core.errors import Exit
from poller.sinks import written_files
from tests.support.processes import Hubspot, counted, fed, hubspot, run, run_here, running, wait_until

pytestmark = pytest.mark.real_time

STEADY = ("--requests", "60", "--window-s", "0.3")
UNANSWERED = ("run", "ids.txt", "--base-url", "http://127.0.0.1:9", "--give-up-s", "1")
DROP_FROM_BOUNDING_SET, CAP_DAC_OVERRIDE = 24, 1  # of <sys/prctl.h> and <linux/capability.h>


@pytest.fixture(scope="module")
def complete() -> Iterator[Hubspot]:
    with hubspot("--fate", "complete=1", imports=2000) as one:
        yield one


class SmallDisk:
    """A file system of its own that can be filled to its last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            for size in (65_536, 1):
                try:
                    while ballast.write(bytes(size)):
                        pass
                except OSError:
                    continue

    def make_room(self) -> None:
        self._ballast.unlink()


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a file system in memory at `folder`."""
    mount = shutil.which("mount") or "mount"
    words = [mount, "-t", "tmpfs", "-o", options, "none", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S603, S607 - our own command


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "small"
    folder.mkdir()
    with mounted(folder, "size=2m"):
        yield SmallDisk(folder)


def rows(path: Path) -> dict[str, bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return {
            task_id: body.encode()
            for task_id, body in connection.execute("SELECT task_id, record FROM poller_finished")
        }


# --- full ------------------------------------------------------------------------------------------------------------


def test_sinks_on_a_full_disk_report_it_and_have_everything_once_there_is_room(
    tmp_path: Path, complete: Hubspot, small_disk: SmallDisk
) -> None:
    ids = complete.ids_file(tmp_path, 400)
    (tmp_path / "config.toml").write_text(
        'sinks = ["jsonl:near.jsonl", "jsonl:small/finished.jsonl", "sql:sqlite:///small/finished.db", "stdout",'
        ' { kind = "jsonl", path = "small/rotated.jsonl", rotate_bytes = 20000 }]\n'
    )
    on_small = {"jsonl:small/finished.jsonl", "sql:sqlite:///small/finished.db", "stdout", "jsonl:small/rotated.jsonl"}
    command = ("run", ids.name, "-c", "config.toml", "--base-url", complete.url, *STEADY)
    with (
        (small_disk.folder / "stdout").open("wb") as stdout,
        running(*command, folder=tmp_path, stdout=stdout) as process,
    ):
        wait_until(lambda: (small_disk.folder / "rotated.1.jsonl").exists(), "the first records")
        small_disk.fill()
        wait_until(
            lambda: {each.get("sink") for each in process.events() if each["event"] == "sink.failed"} >= on_small,
            "the messages",
        )
        wait_until(lambda: (tmp_path / "near.jsonl").read_bytes().count(b"\n") == 400, "the sink that has room")
        wait_until(
            lambda: run_here("status", folder=tmp_path).stdout.count(" 0 undelivered") == 1,
            "its note that it wrote them",
        )
        small_disk.make_room()
        assert process.ended() == Exit.ALL_COMPLETE
        reasons = {each["sink"]: each["reason"] for each in process.events() if each["event"] == "sink.failed"}
    assert {sink for sink, reason in reasons.items() if "No space left" in reason or "is full" in reason} == on_small
    near = (tmp_path / "near.jsonl").read_bytes()
    assert counted(tmp_path / "near.jsonl") == fed(ids)
    assert (small_disk.folder / "finished.jsonl").read_bytes() == near
    assert b"".join(path.read_bytes() for path in written_files(small_disk.folder / "rotated.jsonl")) == near
    assert sorted(rows(small_disk.folder / "finished.db").values()) == sorted(near.splitlines())
    assert (small_disk.folder / "stdout").read_bytes() == near


def test_a_state_on_a_full_disk_acknowledges_nothing_and_continues_when_there_is_room(
    tmp_path: Path, complete: Hubspot, small_disk: SmallDisk
) -> None:
    ids = complete.ids_file(tmp_path, 400)
    command = ("run", ids.name, "--state", "sqlite:///small/poller.db", "--sink", "jsonl:finished.jsonl")
    with running(*command, "--base-url", complete.url, *STEADY, folder=tmp_path) as process:
        wait_until(process.logged("task.finished"), "the first outcome")
        small_disk.fill()
        wait_until(process.logged("store.unwritable"), "the message")
        known = run_here("status", "--state", "sqlite:///small/poller.db", folder=tmp_path).stdout
        written = counted(tmp_path / "finished.jsonl").total()
        small_disk.make_room()
        assert process.ended() == Exit.ALL_COMPLETE
        assert process.logged("store.writable")()
    assert "ledger (balanced)" in known
    assert written < 400
    assert counted(tmp_path / "finished.jsonl") == fed(ids)


def test_a_start_on_a_full_disk_is_refused_with_the_remedy(tmp_path: Path, small_disk: SmallDisk) -> None:
    (tmp_path / "ids.txt").write_text("AAAAEZ6whGI\n")
    small_disk.fill()
    state = ("--state", "sqlite:///small/poller.db")
    nothing_left = run_here("run", "ids.txt", *state, folder=tmp_path)
    os.truncate(small_disk.folder / "ballast", 2**21 - 12_000)
    hardly_any = run_here("run", "ids.txt", *state, folder=tmp_path)
    for refused in (nothing_left, hardly_any):
        assert (refused.returncode, "Traceback" in refused.stderr) == (Exit.CANNOT_CREATE, False)
        assert "cannot write the state small/poller.db" in refused.stderr
        assert "room" in refused.stderr


# --- read-only -------------------------------------------------------------------------------------------------------


# lets a file's mode stop a process even where it is root's
OBEY_MODES = f"ctypes.CDLL(None).prctl({DROP_FROM_BOUNDING_SET}, {CAP_DAC_OVERRIDE}, 0, 0, 0)"


@pytest.mark.parametrize("begun", [False, True], ids=["new state", "state there"])
def test_a_state_folder_that_may_not_be_written_to_is_refused_with_the_remedy(tmp_path: Path, begun: bool) -> None:
    (tmp_path / "ids.txt").write_text("AAAAEZ6whGI\n")
    if begun:
        assert run_here(*UNANSWERED, folder=tmp_path).returncode == Exit.UNREACHABLE
    before = {path.name for path in tmp_path.iterdir()}
    tmp_path.chmod(0o555)
    refused = run(*UNANSWERED, folder=tmp_path, first=OBEY_MODES)
    tmp_path.chmod(0o755)
    assert (refused.returncode, "Traceback" in refused.stderr) == (Exit.CANNOT_CREATE, False)
    assert "cannot write the state poller.db" in refused.stderr
    assert "must be writable for this user" in refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_disk_that_is_read_only_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("AAAAEZ6whGI\n")
    disk = tmp_path / "disk"
    disk.mkdir()
    with mounted(disk, "ro"):
        state = run_here(*UNANSWERED, "--state", "sqlite:///disk/poller.db", folder=tmp_path)
        output = run_here(*UNANSWERED, "--sink", "jsonl:disk/finished.jsonl", folder=tmp_path)
    assert (state.returncode, output.returncode) == (Exit.CANNOT_CREATE, Exit.CANNOT_CREATE)
    assert "disk/poller.db: Read-only file system. The file and its folder must be writable" in state.stderr
    assert "disk/finished.jsonl cannot be used: Read-only file system" in output.stderr


# --- damaged, of another version -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, complete: Hubspot) -> Path:
    """Return the folder of a run that ended, with its state and file."""
    folder = tmp_path_factory.mktemp("finished")
    ids = complete.ids_file(folder, 300)
    done = run_here(
        "run", ids.name, "--base-url", complete.url, "--requests", "1000", "--window-s", "0.3", folder=folder
    )
    assert done.returncode == Exit.ALL_COMPLETE
    return folder


def test_a_page_of_noise_anywhere_in_the_state_is_recognised_before_anything_is_written(
    tmp_path: Path, finished: Path
) -> None:
    whole, rng = (finished / "poller.db").read_bytes(), random.Random(20261123)
    pages = [1, *rng.sample(range(2, len(whole) // 4096), 3)]
    for page in pages:
        folder = tmp_path / str(page)
        folder.mkdir()
        at = page * 4096
        (folder / "poller.db").write_bytes(whole[:at] + rng.randbytes(4096) + whole[at + 4096 :])
        refused = run_here("run", folder=folder)
        assert refused.returncode == Exit.CANNOT_CREATE, folder
        assert "poller.db is damaged" in refused.stderr
        assert "Restore a backup" in refused.stderr
        assert not (folder / "finished.jsonl").exists()


def test_a_state_that_lost_its_end_or_is_of_a_newer_version_is_refused_by_name(tmp_path: Path, finished: Path) -> None:
    whole = (finished / "poller.db").read_bytes()
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "newer.db").write_bytes(whole)
    with closing(sqlite3.connect(tmp_path / "newer.db")) as connection:
        connection.execute("PRAGMA user_version = 999")
    cut, newer = (run_here("run", "--state", f"sqlite:///{name}.db", folder=tmp_path) for name in ("cut", "newer"))
    assert (cut.returncode, newer.returncode) == (Exit.CANNOT_CREATE, Exit.CANNOT_CREATE)
    assert "cut.db is damaged" in cut.stderr
    assert "newer.db is of version 999" in newer.stderr
    assert "Use the newer poller" in newer.stderr


def test_a_state_of_the_first_version_resumes_where_it_stopped(tmp_path: Path, complete: Hubspot) -> None:
    (waiting,) = complete.take(1)
    older = (Path(__file__).parents[1] / "store" / "states" / "sqlite_version_1.sql").read_text("utf-8")
    with closing(sqlite3.connect(tmp_path / "poller.db")) as connection:
        connection.executescript(older)
        connection.execute("UPDATE task SET task_id = ?, due_at = 0 WHERE kind IS NULL", (waiting,))
        connection.execute("UPDATE account SET pause = NULL, resume_at = NULL")
        connection.commit()
    sinks = ("--account", "main", "--sink", "jsonl:finished.jsonl")
    done = run_here("run", *sinks, "--base-url", complete.url, *STEADY, folder=tmp_path)
    assert done.returncode == Exit.NOT_ALL_COMPLETE, done.stderr
    events = [orjson.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [event["migrated_from"] for event in events if event["event"] == "store.opened"] == [1]
    assert len((tmp_path / "finished.jsonl").read_bytes().splitlines()) == 4
    assert "\nledger (balanced)\n" in run_here("status", folder=tmp_path).stdout  # below how many landed
