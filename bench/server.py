"""A status server that costs next to nothing: nginx where it is installed, else a protocol with ready-made answers.

A third of the polls find their task finished, by chance; the answers have the shape and the headers of HubSpot's, and
name instants near now, so that a poller learns from them as in life: its imports were requested shortly before the
server's start, one a millisecond (nginx: all at once), and those that are finished were completed just now.
"""

import asyncio
import os
import shutil
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, Popen

from poller.core.timestamps import iso

PATH = "/files/v3/files/import-from-url/async/tasks/"
FINISHED_SHARE = 33.3  # percent of the polls
REQUESTED_BEFORE_S = 120.0  # before the server's start: all imports, the latest of which is 100 s after the first
COMPLETED_BEFORE_S = 0.003  # before the answer: since the poll before

RUNNING = '{"status":"PROCESSING","taskId":"@TASK","requestedAt":"@REQUESTED","startedAt":"@STARTED"}'
FINISHED = (
    '{"status":"COMPLETE","taskId":"@TASK","requestedAt":"@REQUESTED","startedAt":"@STARTED","completedAt":"@COMPLETED",'
    '"result":{"id":"174205681245","createdAt":"@COMPLETED","updatedAt":"@COMPLETED",'
    '"archived":false,"parentFolderId":"171211511233","name":"photo-@TASK",'
    '"path":"/imports/photo.png","size":48211,"height":480,"width":640,"encoding":"png","type":"IMG","extension":"png",'
    '"defaultHostingUrl":"https://files.example/hubfs/123/imports/photo.png","url":"https://files.example/hubfs/123/'
    'imports/photo.png","isUsableInContent":true,"access":"PUBLIC_INDEXABLE","fileMd5":"d41d8cd98f00b204e9800998ecf8427e",'
    '"sourceGroup":"CONTENT"},"numErrors":0,"errors":[]}'
)
HEADERS = {
    "X-HubSpot-RateLimit-Max": "1000000",
    "X-HubSpot-RateLimit-Remaining": "999999",
    "X-HubSpot-RateLimit-Interval-Milliseconds": "1000",
    "X-HubSpot-Correlation-Id": "0197a5c1-8f2e-7c3a-9d61-3f2b8c4d5e6f",
}


@contextmanager
def serving(core: int | None, *, cookies: bool = False, finishing: bool = False) -> Iterator[str]:
    """Serve on a free loopback port, on the given core; yield the base URL. `finishing`: every poll finds its task
    finished, instead of a third."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-server-") as folder:
        command = _nginx(Path(folder), port, cookies, finishing)
        command = command or [sys.executable, "-m", "bench.server", str(port), *(["finishing"] if finishing else [])]
        process = Popen(command, stderr=DEVNULL, preexec_fn=pinned(core))
        try:
            yield _ready(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            process.wait()


def pinned(core: int | None):
    """Return what to call in a child process so that it stays on one core."""
    return (lambda: os.sched_setaffinity(0, {core})) if core is not None else None


def cores() -> tuple[int | None, int | None]:
    """Return the server's core and the contender's; None where there is only one to share."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[-1]) if len(usable) > 1 else (None, None)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _ready(base_url: str) -> str:
    until = time.monotonic() + 10
    while True:
        try:
            with urllib.request.urlopen(f"{base_url}{PATH}a/status") as answer:  # noqa: S310 - loopback
                answer.read()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return base_url


def _nginx(folder: Path, port: int, cookies: bool, finishing: bool) -> list[str] | None:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        return None
    headers = "".join(f'add_header {name} "{value}";' for name, value in HEADERS.items())
    if cookies:
        headers += 'add_header Set-Cookie "__cf_bm=s8Zt0w.example; path=/; domain=.hubapi.com; HttpOnly; Secure";'
    words = f'split_clients "$request_id" $word {{ {FINISHED_SHARE}% COMPLETE; * PROCESSING; }}'
    if finishing:
        words = "map $request_id $word { default COMPLETE; }"
    finished, running = (_filled(body, "$task", time.time(), "$time_iso8601") for body in (FINISHED, RUNNING))
    bodies = f"map $word $body {{ COMPLETE '{finished}'; default '{running}'; }}"
    config = folder / "nginx.conf"
    config.write_text(
        f"worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;"
        f"events {{ worker_connections 4096; }} http {{ access_log off; keepalive_requests 1000000000;"
        f"client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;"
        f"uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e; default_type application/json;"
        f"{words} {bodies}"
        f"server {{ listen 127.0.0.1:{port}; location ~ ^{PATH}(?<task>[^/]+)/status$"
        f" {{ {headers} return 200 $body; }} }} }}"
    )
    return [program, "-p", str(folder), "-e", f"{folder}/error.log", "-c", str(config)]


class _Answers(asyncio.Protocol):
    """Answers every request, reading only the id."""

    requests = 0
    finished_each = 3  # one of so many polls finds its task finished

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what a server on TCP is given
        self._transport = transport
        self._held = b""

    def data_received(self, data: bytes) -> None:
        *heads, self._held = (self._held + data).split(b"\r\n\r\n")
        for request in heads:
            task_id = request.partition(b"/tasks/")[2].partition(b"/")[0].decode("latin-1")
            _Answers.requests += 1
            self._transport.write(_answer(task_id, _Answers.requests))


_STARTED_AT = time.time()  # of this server


def _filled(body: str, task_id: str, now: float, completed_at: str) -> str:
    """Return an answer of a task that was requested `REQUESTED_BEFORE_S` before `now` and started a second later."""
    requested_at = now - REQUESTED_BEFORE_S
    body = body.replace("@TASK", task_id).replace("@REQUESTED", iso(requested_at))
    return body.replace("@STARTED", iso(requested_at + 1)).replace("@COMPLETED", completed_at)


def _answer(task_id: str, number: int) -> bytes:
    is_finished = number % _Answers.finished_each == 0
    place = int(task_id[-5:]) if task_id[-5:].isdecimal() else 0  # in the order of requests
    completed_at = iso(time.time() - COMPLETED_BEFORE_S) if is_finished else ""
    body = _filled(FINISHED if is_finished else RUNNING, task_id, _STARTED_AT + place / 1000, completed_at)
    headers = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return (head + body).encode()


async def _serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Answers, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    if "finishing" in sys.argv:
        _Answers.finished_each = 1
    asyncio.run(_serve(int(sys.argv[1])))
