"""`python -m bench fleet`: what a fleet costs its PostgreSQL, without engines: processes that only record polls.

`rest`: the members beat and see each other, and poll nothing: the protocol alone. `work`: each records polls of the
accounts that it owns, 200 in a commit, as fast as it can.
"""

import argparse
import asyncio
import logging
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import structlog

from bench.postgres import Server, growth, new_state, started_server, watching
from poller.core.model import Chunk, Fed, PollAgain, Position, Settled
from poller.store import open_store

BEAT_S = 1.0
AT_ONCE = 25  # polls of one account in a commit
ACCOUNTS_AT_ONCE = 8
WARM_S = 3.0
CORES = 2  # of the machine that the goals are for


def fleet(args: argparse.Namespace) -> None:
    """Members of a fleet on one PostgreSQL, without engines: the protocol's cost, and how many polls they record."""
    with started_server() as server:
        for part in args.parts:
            state = new_state(server)
            asyncio.run(_prepare(state, args))
            with _members(state, args, does_record=part == "work") as (polls, busy_s), watching(server) as used:
                time.sleep(WARM_S)
                began, first, calls, busy = time.time(), sum(polls), _transactions(server), sum(busy_s)
                time.sleep(args.seconds)
                ended, last, busy = time.time(), sum(polls), sum(busy_s) - busy
                transactions = (_transactions(server) - calls) / (ended - began)
            busy_ms = growth(used.processor_s, began, ended) / (ended - began) * 1e3
            written = growth(used.wal_bytes, began, ended)
            polled = last - first
            print(f"{part}: {args.members} members, {args.accounts} accounts: {polled / (ended - began):,.0f} polls/s")
            print(f"    server {busy_ms:.1f} ms and {transactions:.0f} transactions a second")
            if polled:
                each_s = busy / polled, growth(used.processor_s, began, ended) / polled
                print(
                    f"    processor time of a poll: members {each_s[0] * 1e6:.0f} µs, server {each_s[1] * 1e6:.0f} µs"
                )
                print(f"    which two cores have for {CORES / sum(each_s):,.0f} polls/s")
            a_poll, a_second = written / max(1, polled), written / (ended - began) / 1e3
            print(f"    WAL: {a_poll:,.0f} bytes a poll, {a_second:.0f} kB a second")


def _transactions(server: Server) -> int:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute("SELECT sum(xact_commit) FROM pg_stat_database").fetchone()
    return int(row[0]) if row else 0


async def _prepare(state: str, args: argparse.Namespace) -> None:
    """Store the tasks, as one process."""
    store = await open_store(state, clock=time.time)
    try:
        source = await store.new_source("bench")
        fed = tuple(
            Fed(account=f"a{number % args.accounts}", task_id=f"AAAA{number:010d}")
            for number in range(args.accounts * 2 * AT_ONCE * ACCOUNTS_AT_ONCE)
        )
        await store.add(source, Chunk(fed=fed, rejected=(), blank=0, position=Position(offset=1, line=len(fed))))
    finally:
        await store.close()


@contextmanager
def _members(state: str, args: argparse.Namespace, *, does_record: bool) -> Iterator[tuple[Any, Any]]:
    """Run the members until the block ends; yields the counts of their polls, and their processor seconds."""
    polls = multiprocessing.Array("q", args.members, lock=False)
    busy_s = multiprocessing.Array("d", args.members, lock=False)
    ended = multiprocessing.Event()
    processes = [
        multiprocessing.Process(target=_run_member, args=(state, args, number, does_record, polls, busy_s, ended))
        for number in range(args.members)
    ]
    for process in processes:
        process.start()
    try:
        yield polls, busy_s
    finally:
        ended.set()
        for process in processes:
            process.join()


def _run_member(state: str, args: argparse.Namespace, number: int, does_record: bool, *shared: Any) -> None:
    asyncio.run(_work(state, args, number, does_record, *shared))


async def _work(
    state: str, args: argparse.Namespace, number: int, does_record: bool, polls: Any, busy_s: Any, ended: Any
) -> None:
    accounts = [f"a{each}" for each in range(args.accounts)]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    store = await open_store(state, clock=time.time, replica=f"b{number}")
    member = store.fleet
    if member is None:
        raise SystemExit("the store is not one of a fleet")
    await member.join(serves=accounts, settings={})
    mine = accounts[number :: args.members]
    for taken in [await member.take(mine[at : at + 10], 10) for at in range(0, len(mine), 10)]:
        if not taken:
            raise SystemExit(f"b{number} owns nothing")

    async def record(own: list[str]) -> None:
        while not ended.is_set():
            now = time.time()
            for account in own:
                tasks = await store.claim(account, AT_ONCE)
                settled = [Settled(task=task, again=PollAgain(at=now, errors=0, status="PROCESSING")) for task in tasks]
                recorded = await store.record(settled)
                polls[number] += len(recorded)
                busy_s[number] = time.process_time()

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(record(mine[at::ACCOUNTS_AT_ONCE])) for at in range(ACCOUNTS_AT_ONCE)]
        if not does_record:
            for worker in workers:
                worker.cancel()
        while not ended.is_set():
            began = time.monotonic()
            await member.beat()
            await member.seen()
            await asyncio.sleep(max(0.0, BEAT_S - (time.monotonic() - began)))
    await store.close()
