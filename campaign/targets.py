"""Where a rig's records go: how each sink is named, which files it touches, and what must hold of it in the end."""

import atexit
import contextlib
import csv
import functools
import io
import itertools
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Protocol

import orjson
import psycopg
from aiohttp import web

from tests.support.postgres import fresh_schema, running_server

Spec = str | Mapping[str, str | int]  # as in the setting `sinks`


class Target(Protocol):
    """One sink of the campaign, in one rig. A class of this shape adds another sink to the campaign."""

    @property
    def files(self) -> Sequence[str]:
        """The names in the rig's folder whose system calls are enumerated."""
        ...

    def __init__(self, folder: Path) -> None: ...

    def serving(self) -> AbstractAsyncContextManager[Spec]:
        """Serve the process while the context lasts; yields the sink's setting."""
        ...

    def read(self) -> bytes:
        """Return what a reader can see now."""
        ...

    def continues(self, final: bytes, seen: bytes) -> bool:
        """Whether `final` still holds all that a reader saw in `seen`."""
        ...

    def violations(self, records: Sequence[bytes]) -> list[str]:
        """Return what does not hold when all `records` of the store are delivered."""
        ...


class JsonlFile:
    """Byte for byte what the store holds, in its order, and nothing else."""

    kind = "jsonl"
    files: Sequence[str] = ("finished.jsonl",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        yield f"{self.kind}:{self.files[0]}"

    def read(self) -> bytes:
        path = self._folder / self.files[0]
        return path.read_bytes() if path.exists() else b""

    def continues(self, final: bytes, seen: bytes) -> bool:
        return final.startswith(seen)

    def violations(self, records: Sequence[bytes]) -> list[str]:
        found, due = self.read(), b"".join(record + b"\n" for record in records)
        wrong = [f"{path.name} was set aside" for path in self._folder.glob(f"{self.files[0]}.*")]
        if found != due:
            wrong.append(
                f"jsonl: {len(found):,} bytes, {len(found.splitlines())} lines; "
                f"the store holds {len(due):,} bytes in {len(records)} records"
            )
        return wrong


class CsvFile(JsonlFile):
    """One header, then a row a record in the store's order, and nothing else."""

    kind = "csv"
    files: Sequence[str] = ("finished.csv",)

    def violations(self, records: Sequence[bytes]) -> list[str]:
        wrong = [f"{path.name} was set aside" for path in self._folder.glob(f"{self.files[0]}.*")]
        rows = csv.DictReader(io.StringIO(self.read().decode(), newline=""), strict=True)
        found = [(row["account"], row["task_id"], row["seen_at"]) for row in rows]
        due = [(record["account"], record["task_id"], record["seen_at"]) for record in map(orjson.loads, records)]
        return wrong if found == due else [*wrong, f"csv: {len(found)} rows; the store holds {len(due)} records"]


class RotatedFiles:
    """The same over several files, by year and by size."""

    BYTES = 4096
    files: Sequence[str] = tuple(
        time.strftime(f"rotated-%Y{number}.jsonl", time.gmtime()) for number in ("", ".1", ".2", ".3", ".4", ".5")
    )

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        yield {"kind": "jsonl", "path": "rotated-%Y.jsonl", "rotate_bytes": self.BYTES}

    def _written(self) -> list[Path]:
        """Return the files in order; not by the code under test."""
        found = [(re.findall(r"\d+", path.name), path) for path in self._folder.glob("rotated-*.jsonl")]
        return [path for _, path in sorted((list(map(int, numbers)), path) for numbers, path in found)]

    def read(self) -> bytes:
        return b"".join(path.read_bytes() for path in self._written())

    def continues(self, final: bytes, seen: bytes) -> bool:
        return final.startswith(seen)

    def violations(self, records: Sequence[bytes]) -> list[str]:
        found, due = self.read(), b"".join(record + b"\n" for record in records)
        wrong = [f"{path.name} was set aside" for path in self._folder.glob("rotated-*.foreign-*")]
        wrong += [
            f"{path.name} is larger than asked for" for path in self._written() if path.stat().st_size > self.BYTES
        ]
        if found != due:
            wrong.append(f"rotated: {len(found):,} bytes in {len(self._written())} files; the store holds {len(due):,}")
        return wrong


class SqlFile:
    """A table with one row a task, and no other."""

    files: Sequence[str] = ("table.db", "table.db-journal")

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        yield f"sql:sqlite:///{self.files[0]}"

    def read(self) -> bytes:
        """Read a copy: SQLite would repair the file itself on opening it after a crash."""
        with tempfile.TemporaryDirectory() as base:
            for name in self.files:
                if (self._folder / name).exists():
                    shutil.copy(self._folder / name, base)
            with contextlib.closing(sqlite3.connect(Path(base) / self.files[0])) as connection:
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'poller_finished'").fetchone():
                    return b""
                rows = connection.execute("SELECT record FROM poller_finished ORDER BY account, task_id")
                return b"".join(record.encode() + b"\n" for (record,) in rows)

    def continues(self, final: bytes, seen: bytes) -> bool:
        return set(seen.splitlines()) <= set(final.splitlines())

    def violations(self, records: Sequence[bytes]) -> list[str]:
        return _differences("sql", sorted(self.read().splitlines()), sorted(records))


@functools.cache
def _server() -> str:
    """Return the URL of a server for all rigs."""
    held = contextlib.ExitStack()
    atexit.register(held.close)
    return held.enter_context(running_server())


def postgres_state() -> AbstractContextManager[str]:
    """Return a context that yields the URL of a new state in PostgreSQL."""
    return fresh_schema(_server())


class PostgresTable:
    """The same in PostgreSQL."""

    files: Sequence[str] = ()
    _numbers = itertools.count(1)

    def __init__(self, folder: Path) -> None:  # noqa: ARG002 - as each target is made
        self._table = f"finished_{next(self._numbers)}"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        yield {"kind": "sql", "url": _server(), "table": self._table}

    def read(self) -> bytes:
        with psycopg.connect(_server()) as connection:
            if connection.execute("SELECT to_regclass(%s)", (self._table,)).fetchone() == (None,):
                return b""
            rows = connection.execute(f"SELECT record::text FROM {self._table} ORDER BY account, task_id".encode())  # noqa: S608 - our own name
            return b"".join(record.encode() + b"\n" for (record,) in rows)

    def continues(self, final: bytes, seen: bytes) -> bool:
        return set(seen.splitlines()) <= set(final.splitlines())

    def violations(self, records: Sequence[bytes]) -> list[str]:
        return _differences("postgres", sorted(self.read().splitlines()), sorted(records))


class StandardOutput:
    """Every record at least once, as a whole line."""

    files: Sequence[str] = ("stdout.ndjson",)

    def __init__(self, folder: Path) -> None:
        self._path = folder / self.files[0]

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        yield "stdout"

    def read(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""

    def continues(self, final: bytes, seen: bytes) -> bool:
        return final.startswith(seen)

    def violations(self, records: Sequence[bytes]) -> list[str]:
        return _differences("stdout", sorted(set(self.read().splitlines())), sorted(records))


class Program:
    """A program that appends its input to a file: every record at least once. A run that loses its poller may tear."""

    files: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:
        self._path = folder / "taken.ndjson"

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        script = self._path.with_name("take.sh")
        script.write_text(f"#!/bin/sh\n(cat; echo) >> {self._path.name}\n")
        script.chmod(0o755)
        yield f"command:./{script.name}"

    def read(self) -> bytes:
        return self._path.read_bytes() if self._path.exists() else b""

    def continues(self, final: bytes, seen: bytes) -> bool:
        return final.startswith(seen)

    def violations(self, records: Sequence[bytes]) -> list[str]:
        whole = {line for line in self.read().splitlines() if _is_json(line)}
        return _differences("command", sorted(whole), sorted(records))


class Receiver:
    """A webhook's receiver: every record at least once, doubles under the same id."""

    files: Sequence[str] = ()

    def __init__(self, folder: Path) -> None:  # noqa: ARG002 - as each target is made
        self.taken: list[tuple[str, bytes]] = []  # webhook-id, body
        self.on_arrival: Callable[[], None] = lambda: None  # called before a request is answered

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Spec]:
        app = web.Application()
        app.router.add_post("/finished", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"webhook:http://127.0.0.1:{runner.addresses[0][1]}/finished"
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        self.taken.append((request.headers["webhook-id"], await request.read()))
        self.on_arrival()
        return web.Response()

    def read(self) -> bytes:
        return b"".join(body + b"\n" for _, body in self.taken)

    def continues(self, final: bytes, seen: bytes) -> bool:
        return final.startswith(seen)

    def violations(self, records: Sequence[bytes]) -> list[str]:
        wrong = _differences("webhook", sorted({body for _, body in self.taken}), sorted(records))
        pairs = set(self.taken)
        if len(pairs) != len({message for message, _ in pairs}) or len(pairs) != len({body for _, body in pairs}):
            wrong.append("webhook: one id came with two bodies, or one body under two ids")
        return wrong


TARGETS: dict[str, type[Target]] = {
    "jsonl": JsonlFile,
    "csv": CsvFile,
    "rotated": RotatedFiles,
    "sql": SqlFile,
    "stdout": StandardOutput,
    "command": Program,
    "webhook": Receiver,
}
SLOW_TARGETS: dict[str, type[Target]] = {"postgres": PostgresTable}


def _differences(name: str, found: Sequence[bytes], due: Sequence[bytes]) -> list[str]:
    if found == due:
        return []
    missing, extra = set(due) - set(found), set(found) - set(due)
    return [
        f"{name}: {len(found)} records, due {len(due)}; {len(missing)} are missing, {len(extra)} are not the store's"
    ]


def _is_json(line: bytes) -> bool:
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True
