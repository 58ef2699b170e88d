"""Real processes for tests: the command line as a person starts it, and a simulated HubSpot for it to poll."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import orjson
import typer
from typer.testing import CliRunner

from poller.cli.app import app
from poller.cli.commands.sandbox import ScenarioOptions
from poller.sandbox import SandboxApi
from poller.sandbox.server import serve
from tests.support.fair_time import FairClock
from tests.support.log import log_restored

TOKEN = "pat-na1-0123456789abcdef"
COMMANDS = Path(sys.executable).parent  # where `poller` is installed
NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull}  # importing aiohttp reads all that the machine has, twice
PATIENCE_S = 30.0  # of a test with a process; a loaded machine is slow
SCRIPT_PATIENCE_S = 240.0  # of a script of a dozen commands: only one that hangs ends here


def environ(**more: str) -> dict[str, str]:
    """Return a bare environment: of the developer's own shell it keeps only PATH."""
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HUBSPOT_TOKEN": TOKEN, "POLLER_LISTEN": "off", **NO_CERTIFICATES, **more}


def words_of(args: Sequence[str], first: str) -> list[str]:
    """Return the words that start the command line in a process that runs the statement `first` before. A `preexec_fn`
    would do the same, but must not be called where there are threads."""
    if not first:
        return [sys.executable, "-m", "poller", *args]
    then = "os.execv(sys.executable, [sys.executable, '-m', 'poller', *sys.argv[1:]])"
    return [sys.executable, "-c", f"import ctypes, os, resource, sys; {first}; {then}", *args]


def run(
    *args: str, folder: Path, env: dict[str, str] | None = None, first: str = "", **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        words_of(args, first),
        cwd=folder,
        env=env or environ(),
        text=True,
        check=False,
        timeout=PATIENCE_S,
        **({"capture_output": True, "stdin": subprocess.DEVNULL} | more),
    )


STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_here(*args: str, folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end within this process: most of a second of processor less. For what leads up to a
    test, and for what it reads afterwards; not for what is to be true of a process."""
    handlers, thresholds = {number: signal.getsignal(number) for number in STOPPING}, gc.get_threshold()
    suspended = asyncio._get_running_loop()  # playwright's
    asyncio._set_running_loop(None)
    try:
        with (
            log_restored(),
            chdir(folder),
            patch.dict(os.environ, env or environ(), clear=True),
            patch("sys.argv", ["poller", *args]),
        ):
            done = CliRunner().invoke(app, args, prog_name="poller")
    finally:
        asyncio._set_running_loop(suspended)
        gc.set_threshold(*thresholds)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout, done.stderr)


class Running:
    """A running command. Its stderr goes to a file, so that it never waits for the test to read."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log

    def log(self) -> str:
        return self._log.read_text("utf-8")

    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.log().splitlines() if line.startswith("{")]

    def logged(self, event: str) -> Callable[[], bool]:
        return lambda: any(each["event"] == event for each in self.events())

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Wait for the end; return the exit code."""
        return self.process.wait(PATIENCE_S)

    def ended_within(self, bound_s: float) -> int:
        """Check that it ends within `bound_s`, not counting its waits for a processor; return the exit code."""
        clock = FairClock(self.pid)
        while (code := self.process.poll()) is None:
            assert clock() < bound_s, f"still at work after {bound_s:g} s"
            time.sleep(0.02)
        return code

    @property
    def stdin(self) -> IO[bytes]:
        assert self.process.stdin is not None
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        assert self.process.stdout is not None
        return self.process.stdout


@contextmanager
def running(
    *args: str, folder: Path, env: dict[str, str] | None = None, first: str = "", **more: Any
) -> Iterator[Running]:
    """Start the command line; it ends with the test."""
    log = folder / f"stderr-{time.monotonic_ns()}.log"
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("wb"))
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": stderr}
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603 - our own program
                words_of(args, first), cwd=folder, env=env or environ(), **(options | more)
            )
        )
        try:
            yield Running(process, log)
        finally:
            process.kill()


def wait_until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that another process does."""
    ends_at = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < ends_at, f"timed out waiting for {what}"
        time.sleep(0.02)


class Hubspot:
    """A sandbox, and the ids of the imports it was started with; each is handed out once."""

    def __init__(self, url: str, ids: list[str]) -> None:
        self.url = url
        self._ids = ids

    def take(self, count: int) -> list[str]:
        taken, self._ids = self._ids[:count], self._ids[count:]
        assert len(taken) == count
        return taken

    def ids_file(self, folder: Path, count: int) -> Path:
        """Write `count` fresh ids to a file of `folder`."""
        file = folder / "ids.txt"
        file.write_text("".join(f"{task_id}\n" for task_id in self.take(count)))
        return file


QUICK = ("--durations", "fixed:0", "--latency-ms", "1-5", "--requests", "1000000")


@contextmanager
def hubspot(*flags: str, imports: int) -> Iterator[Hubspot]:
    """Serve a simulated HubSpot whose imports are done at once, without limits that matter; the flags are those of
    `poller sandbox`. It is a thread: a process would take most of a second of processor to start."""
    command = typer.main.get_command(app).commands["sandbox"]  # type: ignore[attr-defined]  # a group
    given = command.make_context("sandbox", [*QUICK, *flags]).params
    options = ScenarioOptions(**{each.name: given[each.name] for each in fields(ScenarioOptions)})
    api = SandboxApi(options.scenario(), time.time)
    started: Future[tuple[str, asyncio.AbstractEventLoop]] = Future()
    ended = asyncio.Event()

    async def serve_until_ended() -> None:
        async with serve(api) as url:
            started.set_result((url, asyncio.get_running_loop()))
            await ended.wait()

    def on_thread() -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(serve_until_ended())

    with ThreadPoolExecutor(1) as pool:
        serving = pool.submit(on_thread)
        url, loop = started.result(PATIENCE_S)
        try:
            yield Hubspot(url, api.preload(imports))
        finally:
            loop.call_soon_threadsafe(ended.set)
            serving.result()


def records(file: Path) -> list[dict[str, Any]]:
    """Return the finished tasks in a JSONL file."""
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def whole_lines(file: Path) -> int:
    """Return the number of whole lines in a file that may be missing yet, and that a process may just be writing."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def counted(file: Path) -> Counter[str]:
    """Return how often each id is in a JSONL file."""
    return Counter(record["task_id"] for record in records(file))


def fed(file: Path) -> Counter[str]:
    return Counter(file.read_text().split())
