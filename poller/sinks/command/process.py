"""Runs a program with input and a time-out and keeps a bounded part of its output. Kills it with all its children."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

KEPT_BYTES = 4096  # of output
GRACE_S = 0.5  # for output that is still in the pipe when the program has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a program ended: its exit status, negative for a signal, None where it was out of time."""

    status: int | None
    output: str  # the beginning of its stdout and stderr, together
    more_bytes: int  # of output after that


class _Program(asyncio.SubprocessProtocol):
    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.output_ended = asyncio.Event()
        self.output = bytearray()
        self.more_bytes = 0
        self._open_pipes = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: ARG002 - asyncio's signature
        room = KEPT_BYTES - len(self.output)
        self.output += data[:room]
        self.more_bytes += max(0, len(data) - room)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._open_pipes.discard(fd)
        if not self._open_pipes:
            self.output_ended.set()

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
                _write_all(transport, data)
                await program.ended
        status = transport.get_returncode()
        if status is not None:
            with suppress(TimeoutError):  # a child that survives with the pipe open is not waited for
                async with asyncio.timeout(GRACE_S):
                    await program.output_ended.wait()
    finally:
        if transport.get_returncode() is None:
            with suppress(ProcessLookupError):
                os.killpg(transport.get_pid(), signal.SIGKILL)  # it leads its own group
        transport.close()
    return Ended(status=status, output=program.output.decode("utf-8", "replace"), more_bytes=program.more_bytes)


def _write_all(transport: asyncio.SubprocessTransport, data: bytes) -> None:
    """Write all of the input; a program that does not read it all may still succeed."""
    stdin = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
    with suppress(RuntimeError):  # uvloop's, where the program has ended already
        stdin.write(data)
        stdin.write_eof()
