"""`python -m bench postgres`: what a state in PostgreSQL costs, on both sides of its connection.

Each round runs every tree in turn (`--trees`, other checkouts), so that a busy machine is unfair to none of them.
"""

import argparse
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psycopg

from bench.server import cores, serving
from bench.service import CLOCK_HZ, Run, instant, run_service, value_at
from campaign.postgres_wheel import wheel_server

NO_API = "http://127.0.0.1:9"
STATEMENTS_OF = 8_000  # polls of the short run that counts statements: every one of them is logged


@dataclass(frozen=True, slots=True, kw_only=True)
class Used:
    """What the server had used at several instants of a run."""

    processor_s: list[tuple[float, float]] = field(default_factory=list)  # of all its processes
    wal_bytes: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A PostgreSQL server of our own."""

    url: str
    pid: int
    log: Path


def postgres(args: argparse.Namespace) -> None:
    """Polls and feeding with a state in PostgreSQL: both sides' processor time, statements, write-ahead log."""
    server_core, core = cores()
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    with started_server() as server, serving(server_core) as base_url:
        for _ in range(args.rounds):
            for tree in args.trees:
                for name, value in _measure(args, tree, server, base_url, core):
                    figures[tree, name].append(value)
    for (tree, name), values in figures.items():
        print(f"{tree:16} {name:36} {median(values):10.4g}   of {', '.join(f'{value:.4g}' for value in values)}")


def _measure(
    args: argparse.Namespace, tree: str, server: Server, base_url: str, core: int | None
) -> Iterator[tuple[str, float]]:
    if "polls" in args.parts:
        for state in ("sqlite", "postgres"):
            with _run(tree, server if state == "postgres" else None, base_url, args, core) as (run, used):
                (began, first), (ended, last) = run.steady()
                polls = last - first
                yield f"{state}: polls/s", polls / (ended - began)
                yield f"{state}: client µs a poll", run.polls()[1] * 1e6
                if used is not None:
                    yield f"{state}: server µs a poll", growth(used.processor_s, began, ended) / polls * 1e6
                    yield f"{state}: WAL bytes a poll", growth(used.wal_bytes, began, ended) / polls
        yield "postgres: statements a poll", _statements_a_poll(args, tree, server, base_url, core)
    if "feeding" in args.parts:
        yield from _feed(args, tree, server, core)
    if "waiting" in args.parts:
        yield from _poll_of_many(args, tree, server, base_url, core)


@contextmanager
def _run(
    tree: str, server: Server | None, base_url: str, args: argparse.Namespace, core: int | None
) -> Iterator[tuple[Run, Used | None]]:
    """Poll to the end: a third of the polls finishes a task."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        ids = _lines(folder, args.polls // 3, args.accounts)
        environ = _environ(tree, args.accounts) | ({"POLLER_STATE": new_state(server)} if server else {})
        if server is None:
            yield run_service(folder, base_url, [ids], core=core, **environ), None
            return
        with watching(server) as used:
            run = run_service(folder, base_url, [ids], core=core, **environ)
        yield run, used


def _statements_a_poll(args: argparse.Namespace, tree: str, server: Server, base_url: str, core: int | None) -> float:
    """Count the server's log lines of a short run. Its polls are few, so its opening is left out by a second run."""
    counted = []
    for polls in (STATEMENTS_OF, 3 * STATEMENTS_OF):
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
            connection.execute("SELECT pg_reload_conf()")
            at = server.log.stat().st_size
            short = argparse.Namespace(**vars(args) | {"polls": polls})
            with _run(tree, server, base_url, short, core) as (run, _):
                pass
            connection.execute("ALTER SYSTEM RESET log_statement")
            connection.execute("SELECT pg_reload_conf()")
        with server.log.open("rb") as log:
            log.seek(at)
            text = log.read()
        counted.append((text.count(b" statement: ") + text.count(b" execute "), run.total_polls()))
    (few, few_polls), (many, many_polls) = counted
    return (many - few) / (many_polls - few_polls)


def _feed(args: argparse.Namespace, tree: str, server: Server, core: int | None) -> Iterator[tuple[str, float]]:
    """Feed ids alone, and ids with a reference each, from a file."""
    for what, accounts, refs in (("ids", 1, False), ("lines with a reference", 1, True), ("accounts", 200, False)):
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            folder = Path(name)
            ids = _lines(folder, args.fed, accounts, refs=refs)
            environ = _environ(tree, accounts) | {"POLLER_STATE": new_state(server), "POLLER_WORKERS": "1"}
            run = run_service(folder, NO_API, [ids], core=core, until="source.ended", **environ)
            began, ended = (_event(run, event) for event in ("source.opened", "source.ended"))
            yield f"feeding {what}: per second", args.fed / (ended - began)


def _poll_of_many(
    args: argparse.Namespace, tree: str, server: Server, base_url: str, core: int | None
) -> Iterator[tuple[str, float]]:
    """A state of many waiting tasks: time to the first poll, polls a second."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        ids = _lines(folder, args.waiting, 1)
        environ = _environ(tree, 1) | {"POLLER_STATE": new_state(server)}
        run_service(folder, NO_API, [ids], core=core, until="source.ended", **environ, POLLER_WORKERS="1")
        time.sleep(2.1)  # the window of the run that fed
        first = run_service(
            folder, base_url, [], core=core, until="poll.answered", **environ, POLLER_LOG__LEVEL="debug"
        )
        yield f"{args.waiting} waiting: first poll after s", _event(first, "poll.answered") - first.began_at
        time.sleep(2.1)
        run = run_service(folder, base_url, [], core=core, seconds=args.seconds, **environ)
        yield f"{args.waiting} waiting: polls/s", run.polls()[0]
        yield f"{args.waiting} waiting: client µs a poll", run.polls()[1] * 1e6


@contextmanager
def started_server() -> Iterator[Server]:
    """A server as its wheel configures it: on disk, with fsync."""
    with wheel_server(prefix="bench-postgres-", syncs=True) as (server, _):
        yield Server(url=server.get_uri(), pid=server.get_pid(), log=server.log)


def new_state(server: Server) -> str:
    """Return the URL of an empty state; the one before is dropped."""
    with psycopg.connect(server.url, autocommit=True, options="-c client_min_messages=warning") as connection:
        connection.execute("DROP SCHEMA IF EXISTS bench CASCADE")
        connection.execute("CHECKPOINT")
    return f"{server.url}{'&' if '?' in server.url else '?'}schema=bench"


def _environ(tree: str, accounts: int) -> dict[str, str]:
    environ = {"PYTHONPATH": tree}
    if accounts > 1:
        environ["POLLER_ACCOUNT"] = "a0"
        for number in range(accounts):
            environ[f"POLLER_ACCOUNTS__a{number}__WORKERS"] = "4"
    return environ


def _lines(folder: Path, tasks: int, accounts: int, *, refs: bool = False) -> Path:
    path = folder / ("ids.txt" if accounts == 1 and not refs else "ids.jsonl")
    with path.open("w") as file:
        for number in range(tasks):
            task_id = f"AAAA{number:010d}"
            if path.suffix == ".txt":
                file.write(f"{task_id}\n")
                continue
            account = f'"account": "a{number % accounts}", ' if accounts > 1 else ""
            ref = f', "row": {number}, "url": "https://files.example/{number}.png"' if refs else ""
            file.write(f'{{{account}"task_id": "{task_id}"{ref}}}\n')
    return path


def _event(run: Run, name: str) -> float:
    for event in run.events:
        if event["event"] == name:
            return instant(event)
    raise SystemExit(f"no {name}; the run ended with {run.exit_code}: {run.events[-1:]}")


def growth(samples: Sequence[tuple[float, float]], began: float, ended: float) -> float:
    return value_at(ended, samples) - value_at(began, samples)


@contextmanager
def watching(server: Server) -> Iterator[Used]:
    """Sample what the server uses until the block ends."""
    used, ended = Used(), threading.Event()

    def watch() -> None:
        with psycopg.connect(server.url, autocommit=True) as connection:
            while not ended.wait(0.1):
                written = connection.execute("SELECT pg_current_wal_lsn() - '0/0'").fetchone()
                used.wal_bytes.append((time.time(), float(written[0]) if written else 0.0))
                used.processor_s.append((time.time(), _processor_s(server.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield used
    finally:
        ended.set()
        watcher.join()


def _processor_s(postmaster: int) -> float:
    """Return the processor seconds of a server and all its processes, also of those that have ended."""
    ticks = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(entry.name) == postmaster:
            ticks += sum(map(int, fields[11:15]))
        elif int(fields[1]) == postmaster:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / CLOCK_HZ
