"""Runs the `poller` command in processes forked from one that has imported the program: a start costs a few
milliseconds of processor time, not a second and a half. Everything after the imports is what `python -m poller` does.
None outlives the campaign, however that ends.
"""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

PRELOADED = (
    "uvloop",
    "poller.cli.app",
    "poller.app.run",
    "poller.app.process",
    "poller.app.event_loop",
    "poller.store.sqlite.store",
    "poller.store.postgres.store",
)


class Forked:
    """One process; its output goes to `stderr.log` in its folder. The part of `asyncio.subprocess.Process` that a
    campaign uses."""

    def __init__(
        self,
        words: Sequence[str],
        folder: Path,
        environ: Mapping[str, str],
        prefix: Sequence[str],
        stdout: str = "stderr.log",
    ) -> None:
        """`words`: of the command line, without the program. `prefix`: an strace command that is attached first.
        `stdout`: where its standard output goes instead."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self._at_work, theirs = context.Pipe(duplex=False)  # ends once it and what traces it have ended
        args = (words, folder, environ, prefix, stdout, theirs)
        self._process = context.Process(target=_run, args=args, daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, where it runs."""
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        """Return the exit code, negative for a signal, once the process has ended and its trace is written."""
        while (code := self.returncode) is None or not self._at_work.poll():  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.005)
        return code


def _run(
    words: Sequence[str],
    folder: Path,
    environ: Mapping[str, str],
    prefix: Sequence[str],
    stdout: str,
    at_work: Connection,
) -> None:
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environ)
    with Path("stderr.log").open("ab") as log, Path(stdout).open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if prefix:
        _attach(prefix, at_work)
    sys.argv = ["poller", *words]
    from poller.cli.app import main

    main()


def _end_with_parent() -> None:
    """Kill this process and what traces it once the campaign's process is gone: a signal may have ended that."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.killpg(0, signal.SIGKILL)


def _attach(prefix: Sequence[str], at_work: Connection) -> None:
    """Let strace trace this process from now on."""
    subprocess.Popen([*prefix, "-p", str(os.getpid())], pass_fds=[at_work.fileno()])  # noqa: S603 - our own command
    status = Path("/proc/self/status")
    while "TracerPid:\t0\n" in status.read_text():
        time.sleep(0.002)
