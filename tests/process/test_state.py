"""A state that goes away under a run: a server that is frozen, whose connections stay open, and deleted files."""

import http.client
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.fair_time import within
from tests.support.processes import Running, counted, environ, hubspot, running, wait_until

pytestmark = pytest.mark.real_time

SHUTDOWN_S = 3


@contextmanager
def frozen(server_url: str) -> Iterator[None]:
    """Stop every process of the server."""
    with psycopg.connect(server_url) as connection:
        backends = connection.execute("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()").fetchall()
        folder = connection.execute("SHOW data_directory").fetchone()
    try:
        postmaster = int((Path(folder[0] if folder else "") / "postmaster.pid").read_text().split()[0])
        os.kill(postmaster, 0)
    except OSError:
        pytest.skip("the processes of this server are not ours")
    pids = [postmaster, *(pid for (pid,) in backends)]
    signal_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_all(pids, signal.SIGCONT)


def signal_all(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def status(service: Running, method: str, path: str) -> int:
    port = next(event["port"] for event in service.events() if event["event"] == "web.started")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, b"a-new-id\n" if method == "POST" else None, {"Content-Type": "text/plain"})
    try:
        return connection.getresponse().status
    finally:
        connection.close()


def test_a_frozen_server_is_reported_in_seconds_and_the_run_ends_in_time(
    tmp_path: Path, postgres_server: str, postgres_url: str
) -> None:
    common = ("--state", postgres_url, "--log-format", "json")
    with hubspot("--durations", "uniform:1,5", imports=60) as api:
        env = environ(POLLER_BASE_URL=api.url, POLLER_SHUTDOWN_S=str(SHUTDOWN_S))
        ids = api.ids_file(tmp_path, 60)
        site = ("--follow", "--listen", "127.0.0.1:0")
        with running("run", str(ids), *common, *site, folder=tmp_path, env=env) as service:
            wait_until(service.logged("task.finished"), "the first outcome")
            with frozen(postgres_server):
                with within(10, service.pid):
                    wait_until(lambda: status(service, "GET", "/readyz") == 503, "/readyz")
                with within(2, service.pid):
                    assert status(service, "POST", "/v1/tasks") == 503
                for path, answer in (("/v1/overview", 200), ("/metrics", 200), ("/v1/tasks/a-new-id", 503)):
                    with within(10, service.pid):
                        assert status(service, "GET", path) == answer
                service.signal(signal.SIGTERM)
                assert service.ended_within(SHUTDOWN_S + 2) == 75
            assert service.logged("store.unwritable")()
            assert "does not answer" in service.log()
            finished = Counter(event["task_id"] for event in service.events() if event["event"] == "task.finished")
        with running("run", *common, folder=tmp_path, env=env) as service:
            assert service.ended() in (0, 1)
        both = finished + Counter(e["task_id"] for e in service.events() if e["event"] == "task.finished")
    assert set(both.values()) == {1}
    assert counted(tmp_path / "finished.jsonl") == Counter(ids.read_text().split())


def test_a_run_whose_state_is_deleted_ends_with_73_within_seconds(tmp_path: Path) -> None:
    with hubspot("--durations", "fixed:600", imports=20) as api:
        ids = api.ids_file(tmp_path, 20)
        with running(
            "run", str(ids), "--log-format", "json", folder=tmp_path, env=environ(POLLER_BASE_URL=api.url)
        ) as run:
            wait_until(run.logged("run.started"), "the start")
            time.sleep(1)
            for file in tmp_path.glob("poller.db*"):
                file.unlink()
            assert run.ended_within(10) == 73
        assert "was moved or deleted while it was in use" in run.events()[-1]["reason"]


def test_why_a_run_could_not_begin_or_has_work_left_is_an_event_too(tmp_path: Path) -> None:
    """A restart loop must be explained by the events alone: a log shipper has no use for other lines."""
    (tmp_path / "finished.jsonl").write_text("{}\n")
    with hubspot("--durations", "fixed:600", imports=5) as api:
        ids, env = api.ids_file(tmp_path, 5), environ(POLLER_BASE_URL=api.url, POLLER_SHUTDOWN_S="5")
        with running("run", str(ids), folder=tmp_path, env=env) as refused:
            assert refused.ended() == 73
        last = refused.events()[-1]
        assert (last["event"], last["level"]) == ("run.refused", "error")
        assert "already contains 3 bytes that this state did not write" in last["reason"]
        (tmp_path / "finished.jsonl").unlink()
        with running("run", str(ids), folder=tmp_path, env=env) as stopped:
            wait_until(stopped.logged("run.started"), "the start")
            stopped.signal(signal.SIGTERM)
            assert stopped.ended() == 75
        assert (stopped.events()[-1]["event"], stopped.events()[-1]["exit_code"]) == ("run.ended", 75)
        assert "stopped with work left" in stopped.events()[-1]["reason"]
