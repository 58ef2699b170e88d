"""A PostgreSQL server of its own for a trial, which can be restarted in mid-transaction and stalled."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

from campaign.fleet.evidence import AUDIT
from campaign.postgres_wheel import wheel_server


class PostgresServer:
    """The server, by the wheel that the tests use. Without fsync: no trial cuts its machine's power."""

    def __init__(self, installed: Any, folder: Path) -> None:
        self._programs = Path(installed.bin_path)
        self._user = installed.system_user
        self._folder = folder
        self._standby: Path | None = None
        information = installed.get_postmaster_info()
        self._sockets = information.socket_dir
        self._port = information.port

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._sockets}&port={self._port}"

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        return f"{self._sockets}/.s.PGSQL.{self._port}"

    def restart(self) -> None:
        """Kill every session, as a crash does, recover and accept connections again."""
        self._control("restart", "-m", "immediate")

    def add_standby(self) -> None:
        """Start a streaming standby, asynchronous, unless there is one."""
        if self._standby is not None:
            return
        self._standby = self._folder.with_name(f"standby-{self._port}")
        self._standby.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(self._standby, self._user)
        source = ["-h", self._sockets, "-p", str(self._port), "-U", "postgres"]
        self._run("pg_basebackup", *source, "-D", self._standby, "-R", "-X", "stream", "-c", "fast")
        options = f'-h "" -k {self._sockets} -p {self._port + 1}'
        self._run("pg_ctl", "-w", "-D", self._standby, "-l", self._standby / "log", "-o", options, "start")

    def fail_over(self, lag_s: float) -> float:
        """Let the standby fall behind for `lag_s`, lose the primary and promote the standby; return the instant from
        which on commits are lost. `url` and `socket` are the new primary's then. Raises `ValueError` without one."""
        if (standby := self._standby) is None:
            raise ValueError("there is no standby: call add_standby first")
        self._standby = None
        with (standby / "postgresql.auto.conf").open("a") as settings:
            settings.write("primary_conninfo = ''\n")
        self._run("pg_ctl", "-D", standby, "reload")
        lost_from = time.time()
        time.sleep(lag_s)
        self.stop()
        self._run("pg_ctl", "-w", "-D", standby, "promote")
        self._folder, self._port = standby, self._port + 1
        return lost_from

    def processor_s(self) -> float:
        """Return the processor time of the server's processes that are there."""
        used_ns = 0
        for pid in self._processes():
            with suppress(OSError):  # it ended just now
                used_ns += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        return used_ns / 1e9

    def stall(self) -> None:
        """Stop every process of the server until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def audit(self, schema: str) -> None:
        """Note in tables, by triggers, each change of an account's owner and each write of one that is no member."""
        self.execute(AUDIT.format(schema=schema))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query returns."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def execute(self, statement: str) -> None:
        """Run a statement that returns nothing."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _control(self, *words: str) -> None:
        self._run("pg_ctl", "-w", "-D", self._folder, "-l", self._folder / "log", *words)

    def _run(self, program: str, *words: str | Path) -> None:
        command = [self._programs / program, *words]
        subprocess.run(  # noqa: S603 - the wheel's own programs
            command, check=True, user=self._user, cwd=self._folder, stdout=subprocess.DEVNULL
        )

    def _processes(self) -> list[int]:
        postmaster = int((self._folder / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        return [postmaster, *map(int, children)]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._processes():
            os.kill(pid, number)


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Yield a server that is stopped afterwards."""
    with wheel_server(prefix="poller-fleet-", stops=False) as (installed, folder):
        server = PostgresServer(installed, folder)
        try:
            yield server
        finally:
            server.resume()
            server.stop()
