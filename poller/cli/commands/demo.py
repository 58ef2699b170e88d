"""`poller demo`: starts imports on a simulated HubSpot on loopback, and runs the real service against it."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poller.core.errors import ConfigError, Exit

if TYPE_CHECKING:
    import aiohttp

    from poller.config import Settings
    from poller.sandbox import SandboxApi

EXAMPLES = "\b\nExample:\n  poller demo --directory /tmp/poller-demo"
START_PATH = "/files/v3/files/import-from-url/async"
TOKEN = "sandbox-token"  # noqa: S105 - opens only the sandbox
FILES = ("ids.jsonl", "finished.jsonl", "poller.db", "poller.db-wal", "poller.db-shm", "poller.db.lock")


def demo(
    directory: Annotated[Path, typer.Option(metavar="DIR", help="Where the ids, the state and the result go.")] = Path(
        "poller-demo"
    ),
    imports: Annotated[int, typer.Option(min=1, max=20_000, metavar="N", help="How many imports to start.")] = 600,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed gives the same imports.")] = 1,
) -> Exit:
    """Watch it poll a simulated HubSpot; no token needed.

    The service and the sockets are real; HubSpot is a server on loopback. Nothing leaves this machine. It takes half a
    minute.
    """
    from poller.sandbox import SandboxApi, Scenario, parse_durations

    _prepare(directory)
    api = SandboxApi(
        Scenario(seed=seed, requests=200, window_s=2.0, durations=parse_durations("lognormal:5,0.5")), time.time
    )
    _print(
        "HubSpot is simulated here: a server on this machine's loopback that allows 200 requests per 2 s.\n"
        f"Starting {imports:,} imports, then polling each until it has its outcome; some fail on purpose."
    )
    code = asyncio.run(_run(api, directory, imports))
    if code not in (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE):
        return code
    stats, ids, finished = api.stats(), directory / FILES[0], directory / FILES[1]
    _print(
        f"\nThe simulated HubSpot counted {stats.requests_total:,} requests, at most {stats.max_in_window} in any 2 s "
        f"(200 allowed), and answered {stats.throttled_total:,} with 429.\n"
        f"The finished tasks, one JSON object a line: {finished}\n"
        f"With your own token and ids: HUBSPOT_TOKEN=… poller run {ids.name} --sink jsonl:{finished.name}"
    )
    return Exit.ALL_COMPLETE


def _prepare(directory: Path) -> None:
    """Empty the folder of an earlier demo. Refuses any other folder that has files."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in directory.iterdir() if path.name not in FILES)
        if strangers:
            raise ConfigError(f"{directory} has {strangers[0]}, which is not the demo's. Choose another --directory")
        for name in FILES:
            (directory / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}. Choose another --directory") from None


async def _run(api: "SandboxApi", directory: Path, imports: int) -> Exit:
    from poller.app.run import run_process
    from poller.sandbox import serve

    async with serve(api) as base_url:
        urls = [f"https://assets.example.com/catalogue/{number:05}.png" for number in range(imports)]
        lines = await _start_imports(base_url, urls, api.scenario.window_s)
        ids = directory / FILES[0]
        ids.write_bytes(b"".join(line + b"\n" for line in lines))
        _print(f"Their ids, with the URL that each came from: {ids}\n")
        return await run_process(_settings(base_url, directory), [str(ids)], {"POLLER_DEMO_TOKEN": TOKEN})


def _settings(base_url: str, directory: Path) -> "Settings":
    from poller.config import load

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
    import aiohttp

    async with aiohttp.ClientSession(base_url, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        lines = []
        for at in range(0, len(urls), 100):
            async with asyncio.TaskGroup() as starting:
                started = [starting.create_task(_start(session, url)) for url in urls[at : at + 100]]
                starting.create_task(asyncio.sleep(1.05))
            lines += [task.result() for task in started]
    await asyncio.sleep(api_window_s)  # the start calls count in the same window as the polls
    return lines


async def _start(session: "aiohttp.ClientSession", url: str) -> bytes:
    import orjson

    body = {"url": url, "access": "PRIVATE", "folderPath": "/catalogue"}
    async with session.post(START_PATH, json=body) as response:
        response.raise_for_status()
        return orjson.dumps({"task_id": (await response.json())["id"], "url": url})


def _print(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
