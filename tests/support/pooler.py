"""A PgBouncer in front of the tests' PostgreSQL."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest


@contextmanager
def pooler(server_url: str, *, mode: str, port: int | None = None, size: int = 2) -> Iterator[str]:
    """Yield the URL of a pool of up to `size` connections, once it answers; at the end it is killed. Skips the test
    where PgBouncer is not installed."""
    program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
    if program is None:
        pytest.skip("pgbouncer is not installed")
    server = psycopg.conninfo.conninfo_to_dict(server_url)
    keys = " ".join(f"{key}={value}" for key, value in server.items() if key in ("host", "port", "user", "password"))
    port = port or free_port()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        settings = Path(folder) / "pgbouncer.ini"
        settings.write_text(
            f"[databases]\npooled = {keys} dbname={server['dbname']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            f"default_pool_size = {size}\nserver_idle_timeout = 1\n"
        )
        host = Path(str(server.get("host", "/")))
        as_owner = ["-u", host.owner()] if os.getuid() == 0 and host.is_dir() else []  # it refuses to run as root
        command = [program, "-q", *as_owner, str(settings)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:  # noqa: S603 - our own
            try:
                _wait_until_up(port)
                yield f"postgresql://{server.get('user', 'postgres')}@127.0.0.1:{port}/pooled"
            finally:
                process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_up(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the pooler does not answer")
