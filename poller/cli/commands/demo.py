"""The demo: starts imports on a simulated HubSpot on loopback, and runs the real service against it, real sockets."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import orjson

from poller.app.run import run_here
from poller.config import Settings, load
from poller.core.errors import ConfigError, Exit
from poller.sandbox import SandboxApi, Scenario, parse_durations, serve

START_PATH = "/files/v3/files/import-from-url/async"
TOKEN = "sandbox-token"  # noqa: S105 - opens nothing but the sandbox
FILES = ("ids.jsonl", "finished.jsonl", "poller.db", "poller.db-wal", "poller.db-shm", "poller.db.lock")


def run_demo(directory: Path, *, imports: int, seed: int) -> Exit:
    """Run the demo; its files go to `directory`, which must be the demo's own."""
    _make_ready(directory)
    api = SandboxApi(
        Scenario(seed=seed, requests=200, window_s=2.0, durations=parse_durations("lognormal:5,0.5")), time.time
    )
    _say(
        "HubSpot is simulated here: a server on this machine's loopback that allows 200 requests per 2 s.\n"
        f"Starting {imports:,} imports, then polling each until it has its outcome; some fail on purpose."
    )
    code = asyncio.run(_run(api, directory, imports))
    if code not in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE):
        return code
    stats, ids, finished = api.stats(), directory / FILES[0], directory / FILES[1]
    _say(
        f"\nThe simulated HubSpot counted {stats.requests_total:,} requests, at most {stats.max_in_window} in any 2 s "
        f"(200 allowed), and answered {stats.throttled_total:,} with 429.\n"
        f"The finished tasks, one JSON object a line: {finished}\n"
        f"With your own token and ids it is: HUBSPOT_TOKEN=… poller run {ids.name} --sink jsonl:{finished.name}"
    )
    return Exit.ALL_COMPLETE


def _make_ready(directory: Path) -> None:
    """Empty the folder of an earlier demo, and touch no folder that is not one."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in directory.iterdir() if path.name not in FILES)
        if strangers:
            raise ConfigError(f"{directory} holds {strangers[0]}, which is not the demo's: choose another --directory")
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}; choose another --directory") from None


async def _run(api: SandboxApi, directory: Path, imports: int) -> Exit:
    async with serve(api) as base_url:
        urls = [f"https://assets.example.com/catalogue/{number:05}.png" for number in range(imports)]
        lines = await _start_imports(base_url, urls, api.scenario.window_s)
        ids = directory / FILES[0]
        ids.write_bytes(b"".join(line + b"\n" for line in lines))
        _say(f"Their ids, with the URL that each came from: {ids}\n")
        return await run_here(_settings(base_url, directory), [str(ids)], {"POLLER_DEMO_TOKEN": TOKEN})


def _settings(base_url: str, directory: Path) -> Settings:
    flags = {
        "base_url": base_url,
        "token_env": "POLLER_DEMO_TOKEN",
        "state": f"sqlite:///{directory / FILES[2]}",
        "sinks": [f"jsonl:{directory / FILES[1]}"],
        "log": {"level": "warning"},
    }
    return load(None, flags, {}, secrets_dir=directory / "no-secrets")


async def _start_imports(base_url: str, urls: Sequence[str], api_window_s: float) -> list[bytes]:
    """Start an import for each URL, a hundred a second; return lines with the task id and the URL."""
    async with aiohttp.ClientSession(base_url, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        lines = []
        for at in range(0, len(urls), 100):
            async with asyncio.TaskGroup() as starting:
                started = [starting.create_task(_start(session, url)) for url in urls[at : at + 100]]
                starting.create_task(asyncio.sleep(1.05))
            lines += [task.result() for task in started]
    await asyncio.sleep(api_window_s)  # the start calls stand in the same window as the polls
    return lines


async def _start(session: aiohttp.ClientSession, url: str) -> bytes:
    body = {"url": url, "access": "PRIVATE", "folderPath": "/catalogue"}
    async with session.post(START_PATH, json=body) as response:
        response.raise_for_status()
        return orjson.dumps({"task_id": (await response.json())["id"], "url": url})


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
