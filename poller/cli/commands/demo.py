"""`poller demo`: starts imports on a simulated HubSpot on loopback, and runs the real service against it."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.options import Settings, run_async
from poller.core.errors import ConfigError, Exit

if TYPE_CHECKING:
    from poller.sandbox import SandboxApi

EXAMPLES = "\b\nExample:\n  poller demo --directory /tmp/poller-demo"
TOKEN = "sandbox-token"  # noqa: S105 - opens only the sandbox
_print = partial(typer.echo, err=True)
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
        f"{imports:,} imports are started, then each is polled until it has its outcome; some fail on purpose."
    )
    code = run_async(_run(api, directory, imports))
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
    import orjson

    from poller.app.messages import Again
    from poller.app.process import run_process
    from poller.sandbox import serve

    ids = directory / FILES[0]
    async with serve(api) as base_url:
        urls = (f"https://assets.example.com/catalogue/{number:05}.png" for number in range(imports))
        ids.write_bytes(b"".join(orjson.dumps({"task_id": api.start(url), "url": url}) + b"\n" for url in urls))
        _print(f"Their ids, with the URL of each: {ids}\n")
        again = Again(otherwise="`poller demo` starts from the beginning each time")
        environ = {"POLLER_DEMO_TOKEN": TOKEN}
        return await run_process(partial(_settings, base_url, directory), [str(ids)], environ, again)


def _settings(base_url: str, directory: Path) -> Settings:
    from poller.config import load

    flags = {
        "base_url": base_url,
        "token_env": "POLLER_DEMO_TOKEN",
        "state": f"sqlite:///{directory / FILES[2]}",
        "sinks": [f"jsonl:{directory / FILES[1]}"],
        "log": {"level": "warning"},
    }
    return load(None, flags, {}, secrets_dir=directory / "no-secrets")
