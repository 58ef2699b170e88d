"""One replica of a trial: a real `poller run` with a name, tokens of its own and a relay to PostgreSQL."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from campaign.fleet.relay import Relay

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


class Replica:
    """A process that may be killed, frozen, cut off and started again under the same name."""

    def __init__(
        self, name: str, folder: Path, *, relay: Relay, settings: str, accounts: Sequence[str], tree: Path
    ) -> None:
        self.name = name
        self.relay = relay
        self.tree = tree  # from the next start on
        self._folder = folder
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._must_end = False  # it got a signal to end
        self.wrong_ends: list[str] = []  # it ended by itself, or did not where it had to
        self._read = 0  # bytes of the log before the latest start
        (folder / f"{name}.toml").write_text(settings)
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "SSL_CERT_FILE": os.devnull,  # importing aiohttp reads all certificates that the machine has, twice
            **{token_variable(account): f"{account}.{name}" for account in accounts},
        }

    def set_clock(self, offset: str) -> None:
        """Set the process's wall clock, in the words of `faketime`, also while it runs if it was before."""
        file = self._folder / f"{self.name}.clock"
        file.write_text(f"{offset}\n")
        self._environ |= {
            "LD_PRELOAD": str(next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def url(self) -> str | None:
        """Where it serves; None while it does not."""
        started = [event for event in self.events() if event["event"] == "web.started"]
        return str(started[-1]["url"]).rstrip("/") if started and self.is_running else None

    def events(self) -> list[Mapping[str, object]]:
        """Return what it has logged since its latest start."""
        if not self._log.exists():
            return []
        lines = self._log.read_bytes()[self._read :].splitlines()
        return [orjson.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]

    async def start(self) -> None:
        """Start the process; does nothing while it runs."""
        if self.is_running:
            return
        self._note_end()
        self._must_end = False
        self._read = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "poller", "run", "--config", f"{self.name}.toml", "--log-format", "json"),
                cwd=self._folder,
                env=self._environ | {"PYTHONPATH": str(self.tree)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, where it runs."""
        self._note_end()
        self._must_end |= number in (signal.SIGKILL, signal.SIGTERM)
        if self._process is not None and self._process.returncode is None:
            os.kill(self._process.pid, number)

    def _note_end(self) -> None:
        """A replica ends only on a signal: whatever happens to its server, it continues or joins again."""
        if self._process is not None and self._process.returncode is not None and not self._must_end:
            self._must_end = True  # noted once
            self.wrong_ends.append(f"{self.name} ended by itself with {self._process.returncode}")

    async def ended(self, within_s: float) -> int | None:
        """Return its exit code; kill it where it does not end in time, and return None."""
        if self._process is None:
            return None
        try:
            return await asyncio.wait_for(self._process.wait(), within_s)
        except TimeoutError:
            self.wrong_ends.append(f"{self.name} did not end within {within_s:.0f} s")
            self.send(signal.SIGCONT)
            self.send(signal.SIGKILL)
            await self._process.wait()
            return None


def token_variable(account: str) -> str:
    """Return the name of the environment variable with an account's token."""
    return f"TOKEN_{account.upper()}"
