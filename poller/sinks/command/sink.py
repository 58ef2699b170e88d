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
from poller.core.errors import SinkError
from poller.core.log import Folded
from poller.core.model import Delivery, Retry, Written
from poller.core.protocols import Clock
from poller.sinks.backoff import DOUBLING_S, jittered_s
from poller.sinks.batches import Portion, Portions, RecordRefused
from poller.sinks.command.process import Ended, run
from poller.sinks.table import SinkTable

log = structlog.get_logger()

REFUSED, NOT_NOW = 65, 75  # EX_DATAERR and EX_TEMPFAIL of BSD's sysexits.h
LONGEST_SAID = 1000  # characters of output in an event


def _words(value: object) -> object:
    """Split a line as a shell would; no shell runs it."""
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


class CommandSink:
    """Runs a program once a batch. `environ` is all the environment that it gets."""

    def __init__(self, table: CommandTable, *, environ: Mapping[str, str], clock: Clock, rng: Random) -> None:
        self.name = _name_of(table.command)
        self._table = table
        self._environ = environ
        self._rng = rng
        self._portions = Portions(self._send, size=table.batch)
        self._failures = 0
        self._tell = Folded(log.info, clock=clock)

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        program = self._table.command[0]
        if shutil.which(program, path=self._environ.get("PATH")) is None:
            raise SinkError(f"sink {self.name}: there is no program {program!r} that can be run; check path and mode")
        return None

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        return await self._portions.write(batch)

    async def close(self) -> None:
        """Nothing to let go of: each program has ended with its write."""

    async def _send(self, portion: Portion) -> Retry | RecordRefused | None:
        lines = b"".join(delivery.body + b"\n" for delivery in portion)
        try:
            ended = await run(self._table.command, lines, environ=self._environ, timeout_s=self._table.timeout_s)
        except OSError as error:
            return self._retry(f"{self._table.command[0]} cannot be started: {error.strerror}")
        self._tell_said(ended)
        match ended.status:
            case 0:
                self._failures = 0
                return None
            case int(status) if status == REFUSED:
                self._failures = 0
                return RecordRefused(reason=f"exit status {REFUSED}{_first_line(ended.said)}")
            case None:
                return self._retry(f"no end within {self._table.timeout_s:g} s")
            case int(status) if status < 0:
                return self._retry(f"ended by signal {-status}")
            case status:
                return self._retry(f"exit status {status}")

    def _retry(self, reason: str) -> Retry:
        self._failures += 1
        return Retry(reason=reason, wait_s=jittered_s(DOUBLING_S, self._failures, self._rng))

    def _tell_said(self, ended: Ended) -> None:
        """Log what a failed run said, and now and then what a good one said."""
        if not ended.said:
            return
        said = ended.said[:LONGEST_SAID].rstrip("\n")
        more_bytes = max(0, len(ended.said) - LONGEST_SAID) + ended.unsaid
        if ended.status == 0:
            self._tell("command.spoke", sink=self.name, said=said, more_bytes=more_bytes)
        else:
            log.warning("command.complained", sink=self.name, status=ended.status, said=said, more_bytes=more_bytes)


def _name_of(command: Sequence[str]) -> str:
    """Return a name that tells different commands apart and shows no argument: one may be a password."""
    program = Path(command[0]).name
    if len(command) == 1:
        return f"command:{program}"
    digest = hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()
    return f"command:{program}#{digest[:12]}"


def _first_line(said: str) -> str:
    lines = said.strip().splitlines()
    return f": {lines[0][:200]}" if lines else ""
