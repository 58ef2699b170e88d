"""Real processes for tests: the command line as a person starts it, and a simulated HubSpot for it to poll."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from tests.support.fair_time import FairClock

TOKEN = "pat-na1-0123456789abcdef"
COMMANDS = Path(sys.executable).parent  # where `poller` is installed
NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull}  # importing aiohttp reads all that the machine has, twice
PATIENCE_S = 30.0  # of a test with a process; a loaded machine is slow
SCRIPT_PATIENCE_S = 240.0  # of a script of a dozen commands: only one that hangs ends here


def environ(**more: str) -> dict[str, str]:
    """Return a bare environment: of the developer's own shell it keeps only PATH."""
    path = f"{COMMANDS}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "HUBSPOT_TOKEN": TOKEN, "POLLER_LISTEN": "off", **NO_CERTIFICATES, **more}


def run(*args: str, folder: Path, env: dict[str, str] | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "poller", *args],
        cwd=folder,
        env=env or environ(),
        text=True,
        check=False,
        timeout=PATIENCE_S,
        **({"capture_output": True, "stdin": subprocess.DEVNULL} | more),
    )


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
def running(*args: str, folder: Path, env: dict[str, str] | None = None, **more: Any) -> Iterator[Running]:
    """Start the command line; it ends with the test."""
    log = folder / f"stderr-{time.monotonic_ns()}.log"
    with ExitStack() as stack:
        stderr = stack.enter_context(log.open("wb"))
        options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": stderr}
        process = stack.enter_context(
            subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "poller", *args], cwd=folder, env=env or environ(), **(options | more)
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
    """A sandbox process, and the ids of the imports it was started with; each is handed out once."""

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


@contextmanager
def hubspot(folder: Path, *flags: str, imports: int) -> Iterator[Hubspot]:
    """Serve a simulated HubSpot whose imports are done at once, without limits that matter."""
    folder.mkdir(exist_ok=True)
    ids, many = folder / "ids.txt", ["--tasks", str(imports), "--ids-file", "ids.txt"]
    quick = ["--port", "0", "--durations", "fixed:0", "--latency-ms", "1-5", "--requests", "1000000"]
    with running("sandbox", *quick, *many, *flags, folder=folder) as sandbox:
        address = re.compile(r"http://127\.0\.0\.1:\d+")
        wait_until(lambda: bool(address.search(sandbox.log())), "the sandbox's address")
        match = address.search(sandbox.log())
        assert match is not None
        yield Hubspot(match[0], ids.read_text().split())


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
