"""Finished tasks as NDJSON on the standard input of a program, acknowledged by its exit status: at least once."""

import hashlib
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, ClassVar

import structlog
from pydantic import BeforeValidator, Field

from poller.config.value_types import Count, Seconds
from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import SinkError
from poller.core.log import Folded
from poller.core.protocols import Clock
from poller.sinks.backoff import Backoff
from poller.sinks.batches import Batch, BatchRefused, BatchSender
from poller.sinks.command.process import Ended, run
from poller.sinks.table import SinkEnvironment, SinkTable

log = structlog.get_logger("poller")

REFUSED = 65  # EX_DATAERR of BSD's sysexits.h
LONGEST_OUTPUT = 1000  # characters in an event


def _words(value: object) -> object:
    """Split a line into words as a shell would; no shell runs it."""
    if not isinstance(value, str):
        return value
    try:
        return shlex.split(value)
    except ValueError as error:
        raise ValueError(f"cannot be split into words: {error}") from None


class CommandTable(SinkTable):
    """Settings of a `command` sink."""

    KIND: ClassVar[str] = "command"
    TARGET: ClassVar[str | None] = "command"
    EXAMPLE: ClassVar[str] = "command:./load-records --table imports"

    command: Annotated[tuple[str, ...], BeforeValidator(_words), Field(min_length=1)]
    batch: Annotated[Count, Field(le=500)] = 500  # records a run, at most
    timeout_s: Annotated[Seconds, Field(le=86_400)] = 60.0

    def make(self, environment: SinkEnvironment) -> "CommandSink":
        environ = {name: value for name, value in environment.environ.items() if name not in environment.hidden}
        return CommandSink(self, environ=environ, clock=environment.clock, rng=environment.rng)


class CommandSink:
    """Runs a program once a batch. `environ` is the whole environment of the program."""

    def __init__(self, table: CommandTable, *, environ: Mapping[str, str], clock: Clock, rng: Random) -> None:
        self.name = _name_of(table.command)
        self._table = table
        self._environ = environ
        self._backoff = Backoff(rng)
        self._batches = BatchSender(self._send, size=table.batch)
        self._log_folded = Folded(log.info, clock=clock)

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        program = self._table.command[0]
        if shutil.which(program, path=self._environ.get("PATH")) is None:
            raise SinkError(f"sink {self.name}: there is no executable {program!r}; check its path and mode")
        return None

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        return await self._batches.write(batch)

    async def close(self) -> None:
        """Nothing to close: each program has ended with its write."""

    async def _send(self, batch: Batch) -> Retry | BatchRefused | None:
        lines = b"".join(delivery.body + b"\n" for delivery in batch)
        try:
            ended = await run(self._table.command, lines, environ=self._environ, timeout_s=self._table.timeout_s)
        except OSError as error:
            return self._backoff.retry(f"{self._table.command[0]} cannot be started: {error.strerror}")
        self._log_output(ended)
        match ended.status:
            case 0:
                self._backoff.reset()
                return None
            case int(status) if status == REFUSED:
                self._backoff.reset()
                return BatchRefused(reason=f"exit status {REFUSED}{_first_line(ended.output)}")
            case None:
                return self._backoff.retry(f"no end within {self._table.timeout_s:g} s")
            case int(status) if status < 0:
                return self._backoff.retry(f"ended by signal {-status}")
            case status:
                return self._backoff.retry(f"exit status {status}")

    def _log_output(self, ended: Ended) -> None:
        """Log the output of each failed run, and of successful ones at most once a minute."""
        if not ended.output:
            return
        output = ended.output[:LONGEST_OUTPUT].rstrip("\n")
        more_bytes = max(0, len(ended.output) - LONGEST_OUTPUT) + ended.more_bytes
        if ended.status == 0:
            self._log_folded("command.wrote", sink=self.name, output=output, more_bytes=more_bytes)
        else:
            log.warning("command.failed", sink=self.name, status=ended.status, output=output, more_bytes=more_bytes)


def _name_of(command: Sequence[str]) -> str:
    """Return a name that differs between commands and shows no argument: one may be a password."""
    program = Path(command[0]).name
    if len(command) == 1:
        return f"command:{program}"
    digest = hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()
    return f"command:{program}#{digest[:12]}"


def _first_line(output: str) -> str:
    lines = output.strip().splitlines()
    return f": {lines[0][:200]}" if lines else ""
