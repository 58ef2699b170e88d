"""The admin server over real sockets: its promises to clients, slow clients, under kills, and to a second run."""

import http.client
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from poller.store import last_beat
from tests.support.processes import Running, environ, run_here, running, wait_until

pytestmark = pytest.mark.default_ports

SITE = ("--listen", "127.0.0.1:0", "--log-format", "json")


@contextmanager
def served(folder: Path, *flags: str, **env: str) -> Iterator[tuple[Running, int]]:
    """Run a service that never ends and polls no one; yield it with its port."""
    quiet = environ(POLLER_BASE_URL="http://127.0.0.1:9", **env)
    with running("run", "--follow", *SITE, *flags, folder=folder, env=quiet) as service:
        yield service, port_of(service)


def port_of(service: Running) -> int:
    wait_until(service.logged("web.started"), "the server")
    return int(next(event["port"] for event in service.events() if event["event"] == "web.started"))


def request(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def feed(port: int, ids: list[str]) -> dict[str, int] | None:
    """Post ids; None where the server was gone before it answered."""
    try:
        status, body = request(port, "POST", "/v1/tasks", "\n".join(ids).encode(), Content_Type="text/plain")
    except (OSError, http.client.HTTPException):
        return None
    assert status == 200, body
    answer: dict[str, int] = orjson.loads(body)
    return answer


def test_every_id_that_was_answered_as_accepted_is_in_the_ledger_after_a_kill(tmp_path: Path) -> None:
    accepted: list[str] = []

    def client(number: int, port: int) -> None:
        for part in range(1000):
            ids = [f"id-{port}-{number}-{part}-{line}" for line in range(20)]
            if (answer := feed(port, ids)) is None:
                return
            assert answer["accepted"] == 20
            accepted.extend(ids)

    for _ in range(2):
        with served(tmp_path) as (service, port):
            threads = [threading.Thread(target=client, args=(number, port)) for number in range(10)]
            for thread in threads:
                thread.start()
            time.sleep(0.7)  # the kill comes at any moment
            service.signal(signal.SIGKILL)
            for thread in threads:
                thread.join()
    assert len(accepted) > 200
    with served(tmp_path) as (_, port):
        found = Counter(
            request(port, "GET", f"/v1/tasks/{task_id}")[0] for task_id in accepted[:: max(1, len(accepted) // 300)]
        )
        assert found.keys() == {200}
        resent = [feed(port, accepted[at : at + 5000]) for at in range(0, len(accepted), 5000)]
    assert sum(answer["duplicate"] for answer in resent if answer) == len(accepted)
    status = run_here("status", folder=tmp_path)
    assert status.returncode == 0
    assert "ledger (balanced)" in status.stdout


def test_the_description_holds_against_the_running_server(tmp_path: Path) -> None:
    import schemathesis  # takes a second, in each worker if it were imported above
    from schemathesis.core.result import Ok

    with served(tmp_path) as (_, port):
        feed(port, ["0", "known"])
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/v1/openapi.json")
        tried = []
        for operation in (result.ok() for result in schema.get_all_operations() if isinstance(result, Ok)):
            if operation.path != "/v1/overview/stream":  # does not end
                tried.append(operation.label)
                probe(operation)
    assert {"POST /v1/tasks", "GET /v1/tasks/{task_id}", "GET /v1/finished", "GET /readyz", "GET /"} <= set(tried)


def probe(operation: Any) -> None:
    @settings(
        max_examples=12,
        database=None,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def holds(case: Any) -> None:
        if case.query:
            case.query.pop("id_column", None)  # any name is valid, but a CSV must have it
            case.query.pop("wait_s", None)
        case.call_and_validate()

    holds()


def test_of_two_runs_at_once_the_second_takes_the_next_port_and_can_be_paused(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = run_here("run", "--follow", "--listen", f"127.0.0.1:{port}", folder=tmp_path / "one")
        assert refused.returncode == 78
        assert f"cannot listen on 127.0.0.1:{port}: another process listens there" in refused.stderr
        assert list((tmp_path / "one").iterdir()) == []
    quiet = environ(POLLER_BASE_URL="http://127.0.0.1:9")
    env = {name: value for name, value in quiet.items() if name != "POLLER_LISTEN"}
    with default_port_taken(), running("run", "--follow", "--log-format", "json", folder=tmp_path, env=env) as second:
        wait_until(second.logged("web.started"), "the second run's page")
        (moved,) = [event for event in second.events() if event["event"] == "web.moved"]
        assert moved["address"] == "127.0.0.1:8321"
        assert re.fullmatch(r"http://127\.0\.0\.1:83[2-4][0-9]/", moved["url"])
        healthy = run_here("healthcheck", folder=tmp_path, env=env)
        assert f"process {second.pid} answered at {moved['url'].rstrip('/')} within" in healthy.stdout
        paused = run_here("pause", "default", folder=tmp_path, env=env)
        assert (paused.returncode, paused.stderr) == (0, "")


@contextmanager
def default_port_taken() -> Iterator[None]:
    """Hold the default port, unless another process holds it for long."""
    for _ in range(50):
        try:
            holder = socket.create_server(("127.0.0.1", 8321))
        except OSError:
            time.sleep(0.1)
            continue
        with holder:
            yield
        return
    yield


def test_healthcheck_asks_the_run_of_its_own_state(tmp_path: Path) -> None:
    with served(tmp_path) as (service, port):
        at = f"http://127.0.0.1:{port}"
        listening = environ(POLLER_LISTEN=f"127.0.0.1:{port}")
        answered = run_here("healthcheck", folder=tmp_path, env=listening)
        assert (answered.returncode, f"process {service.pid} answered" in answered.stdout) == (0, True)
        assert run_here("healthcheck", "--url", at, folder=tmp_path).returncode == 0
        by_note = run_here("healthcheck", folder=tmp_path)
        assert (by_note.returncode, f"process {service.pid} answered at {at}" in by_note.stdout) == (0, True)
        (tmp_path / "other").mkdir()
        assert run_here("healthcheck", folder=tmp_path / "other", env=listening).returncode == 1
        beat = last_beat(f"sqlite:///{tmp_path}/poller.db")
        assert beat is not None
        assert beat[0] == service.pid
    quiet = environ(POLLER_BASE_URL="http://127.0.0.1:9")
    with running("run", "--follow", "--listen", "off", folder=tmp_path, env=quiet) as silent:
        wait_until(lambda: (last_beat(f"sqlite:///{tmp_path}/poller.db") or (0, 0.0))[0] == silent.pid, "its lock")
        by_beat = run_here("healthcheck", folder=tmp_path)
        assert (by_beat.returncode, "last heartbeat" in by_beat.stdout) == (0, True)
    gone = run_here("healthcheck", "--url", at, folder=tmp_path)
    assert gone.returncode == 1
    assert "refused" in gone.stdout


def test_the_token_of_the_site_is_in_no_log(tmp_path: Path) -> None:
    token = "a-token-of-the-admin-server-0123456789"
    flags = ("--listen", "0.0.0.0:0", "--log-level", "debug")
    with served(tmp_path, *flags, POLLER_LISTEN_TOKEN_ENV="SITE_TOKEN", SITE_TOKEN=token) as (service, port):
        assert request(port, "GET", "/v1/finished")[0] == 401
        assert request(port, "GET", "/v1/finished", Authorization=f"Bearer {token}")[0] == 200
        assert request(port, "GET", f"/{token}", Authorization=f"Bearer {token}")[0] == 404
        service.signal(signal.SIGTERM)
        service.process.wait(20)
        assert token not in service.log()


def test_bytes_that_are_not_http_harm_no_other_client(tmp_path: Path) -> None:
    odd = [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET /" + b"a" * 20_000, b"PUT\r\n\r\n"]
    with served(tmp_path) as (service, port):
        for raw in odd:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(4096):
                    pass
            assert request(port, "GET", "/healthz")[0] == 200, raw
            assert "Traceback" not in service.log(), raw


def test_a_command_pauses_and_resumes_an_account_of_the_running_poller(tmp_path: Path) -> None:
    """It asks the server of the process that owns the state, with its token, and none other."""
    (tmp_path / "token").write_text("s3cret-of-the-server\n")
    token = {"POLLER_LISTEN_TOKEN_FILE": "token"}
    with served(tmp_path, **token) as (service, port):
        env = environ(POLLER_LISTEN=f"127.0.0.1:{port}")
        refused = run_here("pause", "default", folder=tmp_path, env=env)
        assert (refused.returncode, "requires a token" in refused.stderr) == (78, True)
        for command, pause in (("pause", "paused_by_person"), ("resume", None)):
            done = run_here(command, "default", folder=tmp_path, env=env | token)
            assert done.returncode == 0, done.stderr
            shown = run_here("status", "--json", folder=tmp_path)
            assert orjson.loads(shown.stdout)["accounts"]["default"]["pause"] == pause
        unknown = run_here("pause", "other", folder=tmp_path, env=env | token)
        assert (unknown.returncode, "known: default" in unknown.stderr) == (2, True)
        by_its_state = run_here("pause", "default", folder=tmp_path, env=environ(POLLER_LISTEN="off") | token)
        assert (by_its_state.returncode, by_its_state.stderr) == (0, "")
        assert service.logged("lane.resumed")()
