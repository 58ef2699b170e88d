"""How long the first page of found tasks takes in a large state, for each kind of filter, and what the index of the
rows costs beside feeding.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import orjson
import psycopg

from bench.postgres import new_state, started_server
from poller.core.model import Chunk, Fed, Position
from poller.core.search import TaskFilter
from poller.store import open_store, read_store

CHUNK = 2000
AT_ONCE = 256  # rows indexed in one step, as a run does
SEARCH_S = 0.15  # after which a page over HTTP is sent as it is
ROUNDS = 5

QUERIES: dict[str, dict[str, Any]] = {
    "no condition": {},
    "waiting": {"state": "waiting"},
    "of a rare kind": {"kinds": frozenset({"timed_out"})},
    "not landed": {"landed": False},
    "a rare reason": {"reason": "once in a while"},
    "a common host": {"host": "cdn0.example.com"},
    "a rare host": {"host": "rare.example.org"},
    "a rare host, not landed": {"host": "rare.example.org", "landed": False},
    "a common host, a rare kind": {"host": "cdn0.example.com", "kinds": frozenset({"timed_out"})},
    "a whole URL": {"text": "/photo-0777777.jpg"},
    "a piece of a hash": {"text": "3f9a7c1e"},
    "an id in lower case": {"text": "aaaa0777777x"},
    "three letters": {"text": "jpg"},
    "three letters that are nowhere": {"text": "qzx"},
    "a text that is nowhere": {"text": "no-such-file-anywhere.png"},
    "finished in the last minute": {"since": 2_000_000_000.0 - 60},
    "an account with ten tasks": {"account": "few"},
}


def finding(args: argparse.Namespace) -> None:
    """Build a state, index it, and time each filter on a connection that has just been opened."""
    if args.postgres:
        with started_server() as server:
            asyncio.run(_measure(new_state(server), args.tasks))
        return
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(args.state or f"{folder}/poller.db")
        asyncio.run(_measure(f"sqlite:///{path}", args.tasks, is_built=path.exists()))


async def _measure(url: str, tasks: int, *, is_built: bool = False) -> None:
    if not is_built:
        await _build(url, tasks)
    print(f"{'first page of 100':32} {'ms':>7} {'worst':>7} {'processor':>9}  tasks")
    for name, conditions in QUERIES.items():
        took_s, processor_s, found, is_whole = [], [], 0, True
        for _ in range(ROUNDS):
            reader = await read_store(url)
            began, worked = time.perf_counter(), time.process_time()
            page = await reader.find_tasks(TaskFilter(**conditions), limit=100, is_late=_late(began + SEARCH_S))
            took_s.append(time.perf_counter() - began)
            processor_s.append(time.process_time() - worked)
            found, is_whole = len(page.tasks), page.after is None or len(page.tasks) == 100
            await reader.close()
        ms = f"{median(took_s) * 1e3:7.1f} {max(took_s) * 1e3:7.1f} {median(processor_s) * 1e3:9.1f}"
        print(f"{name:32} {ms}  {found}{'' if is_whole else ', cut'}")


def _late(ends_at: float) -> Any:
    return lambda: time.perf_counter() >= ends_at


async def _build(url: str, tasks: int) -> None:
    later_s = 0.0
    store = await open_store(url, clock=lambda: time.time() + later_s)
    source, rows, began = await store.new_source("bench"), _rows(tasks), time.perf_counter()
    for begin in range(0, tasks, CHUNK):
        fed = tuple(next(rows) for _ in range(min(CHUNK, tasks - begin)))
        await store.add(source, Chunk(fed=fed, rejected=(), blank=0, position=Position()))
    later_s = 3600.0  # PostgreSQL indexes what was not fed just now
    fed_s, began = time.perf_counter() - began, time.process_time()
    while await store.index_rows(AT_ONCE * 16):
        pass
    indexed_s = time.process_time() - began
    await store.close()
    bits, size = _finish_postgres(url) if url.startswith("postgres") else _finish(Path(url.removeprefix("sqlite:///")))
    share, a_task = bits / size, indexed_s / tasks * 1e6
    print(f"fed {tasks:,} in {fed_s:.1f} s; indexed in {a_task:.1f} µs of processor a task, {share:.1%} of the state")


def _rows(tasks: int) -> Iterator[Fed]:
    rng = Random(1)  # noqa: S311 - urls, no secret
    for number in range(tasks):
        host = "rare.example.org" if number % 200_003 == 77 else f"cdn{number % 7}.example.com"
        url = f"https://{host}/assets/{rng.getrandbits(64):016x}/photo-{number:07}.jpg"
        account = "few" if number % 99_991 == 5 else "main"
        yield Fed(account=account, task_id=f"AAAA{number:07}x", ref=orjson.dumps({"url": url, "folder": "/migrated"}))


# nine tasks in ten have an outcome; the last ones are the latest
_OUTCOMES = (
    "UPDATE task SET polls = 3, poll_log = {poll_log},"
    " kind = CASE WHEN key % 10 = 0 THEN NULL WHEN key % 166667 = 1 THEN 'timed_out'"
    " WHEN key % 5 = 1 THEN 'canceled' ELSE 'complete' END;"
    " UPDATE task SET landed = (kind = 'complete') WHERE kind IS NOT NULL;"
    " INSERT INTO record (task, reason, seen_at, body)"
    " SELECT key, CASE WHEN kind = 'complete' THEN NULL WHEN key % 100003 = 1 THEN 'once in a while: a reason'"
    " ELSE 'HTTP ' || (400 + key % 40) || ': the server of the file' END,"
    " 2000000000.0 - 86400.0 + 86400.0 * key / (SELECT max(key) FROM task), {body}"
    " FROM task WHERE kind IS NOT NULL ORDER BY key;"
)


def _finish(path: Path) -> tuple[int, int]:
    """Give the tasks their outcomes; return the bytes of the index and of the state."""
    with closing(sqlite3.connect(path)) as connection:
        body = "CAST(printf('%0700d', key) AS BLOB)"
        connection.executescript(_OUTCOMES.format(poll_log="printf('%0400d', key)", body=body))
        (bits,) = connection.execute("SELECT count(*) * 2000 FROM grams").fetchone()
    return bits, path.stat().st_size


def _finish_postgres(url: str) -> tuple[int, int]:
    """The same, of a state in PostgreSQL."""
    server, _, schema = url.replace("?schema=", "&schema=").partition("&schema=")
    with psycopg.connect(server, autocommit=True, options=f"-c search_path={schema}") as connection:
        body = "convert_to(lpad(key::text, 700, '0'), 'UTF8')"
        connection.execute(_OUTCOMES.format(poll_log="lpad(key::text, 400, '0')", body=body).encode())
        connection.execute("VACUUM ANALYZE")
        sizes = "SELECT pg_total_relation_size('grams'), pg_database_size(current_database())"
        bits, size = connection.execute(sizes.encode()).fetchone() or (0, 1)
    return bits, size
