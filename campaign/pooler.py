"""A PgBouncer in front of a server of PostgreSQL."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

UP_WITHIN_S = 10.0


class Pooler:
    """A pool on a free port of the loopback, which can be killed and started again. Raises `FileNotFoundError` where
    PgBouncer is not installed."""

    def __init__(self, folder: Path, server: Mapping[str, object], *, mode: str, size: int) -> None:
        """`server`: host, port, user and dbname, as of libpq. `folder` keeps the settings."""
        self._program = shutil.which("pgbouncer") or shutil.which("/usr/sbin/pgbouncer")
        if self._program is None:
            raise FileNotFoundError("pgbouncer is not installed")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        keys = " ".join(f"{key}={server[key]}" for key in ("host", "port", "user", "password") if key in server)
        folder.chmod(0o755)
        self._settings = folder / "pgbouncer.ini"
        self._settings.write_text(
            f"[databases]\npooled = {keys} dbname={server['dbname']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            f"default_pool_size = {size}\nmax_client_conn = 1000\nserver_idle_timeout = 1\n"
        )
        host = Path(str(server.get("host", "/")))
        self._owner = ["-u", host.owner()] if os.getuid() == 0 and host.is_dir() else []  # it refuses to run as root
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        command = [str(self._program), "-q", *self._owner, str(self._settings)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - our own
        ends_at = time.monotonic() + UP_WITHIN_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except OSError:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.02)
            else:
                return

    def kill(self) -> None:
        """End it, and with it all connections, as the end of its machine does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
