"""Runs a program with input, within a time, and keeps what it said within bounds. Kills it with all its children."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

MOST_SAID = 4096  # bytes of output that are kept
GRACE_S = 0.5  # for output that is still in the pipe when the program has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: `status` as the shell counts, negative for a signal, None when it was out of time."""

    status: int | None
    said: str  # the beginning of its stdout and stderr, together
    unsaid: int  # bytes of output beyond


class _Program(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.silent = asyncio.Event()
        self.said = bytearray()
        self.unsaid = 0
        self._speaking = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        room = MOST_SAID - len(self.said)
        self.said += data[:room]
        self.unsaid += max(0, len(data) - room)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._speaking.discard(fd)
        if not self._speaking:
            self.silent.set()

    def process_exited(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def run(command: Sequence[str], data: bytes, *, environ: Mapping[str, str], timeout_s: float) -> Ended:
    """Run `command` with `data` on its standard input. Raises `OSError` where it cannot be started."""
    loop = asyncio.get_running_loop()
    transport, program = await loop.subprocess_exec(
        _Program, *command, env=dict(environ), start_new_session=True, close_fds=True
    )
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                _feed(transport, data)
                await program.ended
        status = transport.get_returncode()
        if status is not None:
            await _hear_out(program)
    finally:
        if transport.get_returncode() is None:
            _kill_all(transport.get_pid())
        transport.close()
    return Ended(status=status, said=program.said.decode("utf-8", "replace"), unsaid=program.unsaid)


def _feed(transport: asyncio.SubprocessTransport, data: bytes) -> None:
    """Hand over all of the input; a program that does not read it all may still end well."""
    stdin = cast("asyncio.WriteTransport | None", transport.get_pipe_transport(0))
    if stdin is not None:
        stdin.write(data)
        stdin.write_eof()


async def _hear_out(program: _Program) -> None:
    """Wait for the last output; a child that lives on with the pipe open is not waited for."""
    with suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await program.silent.wait()


def _kill_all(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # it leads its own group
