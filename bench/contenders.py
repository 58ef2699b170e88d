"""Other ways to ask for task statuses, each as a person would write it. `python -m bench.contenders NAME URL POLLS`.

Each ends after POLLS polls, 50 at a time, and prints their number and the seconds they took.
"""

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from resource import RUSAGE_SELF, getrusage

from bench.server import PATH

AT_ONCE = 50


def _url(base_url: str, number: int) -> str:
    return f"{base_url}{PATH}AAAA{number:08d}/status"


def bare(base_url: str, polls: int) -> None:
    """A loop around aiohttp with its default settings: polls, reads the JSON, keeps nothing."""

    async def work(session: "aiohttp.ClientSession", numbers: "itertools.count[int]") -> None:
        while (number := next(numbers)) < polls:
            async with session.get(_url(base_url, number), headers={"Authorization": "Bearer x"}) as response:
                await response.json()

    async def main() -> None:
        numbers = itertools.count()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(session, numbers))

    import aiohttp

    _timed(lambda: asyncio.run(main()), polls)


def plain(base_url: str, polls: int) -> None:
    """aiohttp, aiolimiter and a file of JSON lines; nothing durable."""
    import aiohttp
    from aiolimiter import AsyncLimiter

    async def main(file: Path) -> None:
        numbers, limiter = itertools.count(), AsyncLimiter(1_000_000, 1)
        with file.open("w") as out:

            async def work(session: aiohttp.ClientSession) -> None:
                while (number := next(numbers)) < polls:
                    async with limiter, session.get(_url(base_url, number), headers=headers) as response:
                        answer = await response.json()
                    if answer["status"] == "COMPLETE":
                        out.write(json.dumps(answer) + "\n")

            async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work(session))

    headers = {"Authorization": "Bearer x"}
    with tempfile.TemporaryDirectory() as folder:
        _timed(lambda: asyncio.run(main(Path(folder) / "out.jsonl")), polls)


def httpx(base_url: str, polls: int) -> None:
    """A loop around httpx with its default settings."""
    import httpx as library

    async def work(client: library.AsyncClient, numbers: "itertools.count[int]") -> None:
        while (number := next(numbers)) < polls:
            answer = await client.get(_url(base_url, number), headers={"Authorization": "Bearer x"})
            answer.json()

    async def main() -> None:
        numbers = itertools.count()
        async with library.AsyncClient(timeout=60) as client, asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work(client, numbers))

    _timed(lambda: asyncio.run(main()), polls)


def official(base_url: str, polls: int) -> None:
    """HubSpot's own client as its README shows it, one client object, with 50 threads."""
    import hubspot

    client = hubspot.Client.create(access_token="x", host=base_url)  # noqa: S106
    _with_threads(lambda task_id: client.files.files_api.check_import(task_id), polls)


def official_kept(base_url: str, polls: int) -> None:
    """The same, but with one `files_api` kept: each access of that attribute makes new connections."""
    import hubspot

    api = hubspot.Client.create(access_token="x", host=base_url).files.files_api  # noqa: S106
    _with_threads(api.check_import, polls)


def _with_threads(check: Callable[[str], object], polls: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def main() -> None:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(check, [f"AAAA{number:08d}" for number in range(polls)]):
                pass

    _timed(main, polls)


CONTENDERS: dict[str, Callable[[str, int], None]] = {
    "bare": bare,
    "plain": plain,
    "httpx": httpx,
    "official": official,
    "official_kept": official_kept,
}


def _timed(main: Callable[[], None], polls: int) -> None:
    wall, processor = time.perf_counter(), time.process_time()
    main()
    wall_s, processor_s = time.perf_counter() - wall, time.process_time() - processor
    print(polls, wall_s, processor_s, getrusage(RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    CONTENDERS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
