"""Runs a command under strace: counts its state-changing system calls, and kills or fails it before a chosen one."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync_file_range,ftruncate,truncate,"
    "fallocate,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlinkat,mkdir,mkdirat,fchmod,fchmodat,"
    "utimensat,copy_file_range,flock"
)
SENDS = "write,pwrite64,writev,pwritev,fsync,fdatasync,ftruncate,rename,unlink,sendto,sendmsg"  # of any file or socket
HEAD = re.compile(r"^(?:\d+ +)?(\w+)\(")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The `number`-th call of this name that touches one of the watched paths."""

    call: str
    number: int

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


def usable() -> str | None:
    """Return why strace cannot be used here; None where it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    with tempfile.TemporaryDirectory() as folder:
        inject = ["-e", "inject=getpid:error=EIO"]
        command = ["strace", "-qq", "-o", f"{folder}/log", "-e", "trace=getpid", *inject, sys.executable, "-c", ""]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    return f"strace may not trace here: {done.stderr.strip()}" if done.returncode else None


def watching(log: Path, paths: Sequence[str], *, whole: bool = False) -> list[str]:
    """Return the strace prefix that logs a command's state-changing calls on `paths`, or without paths all that it
    writes and sends; `whole`: with all their data."""
    calls = CALLS if paths else SENDS
    words = ["strace", "-f", "-y", "-qq", "-o", str(log), "-e", f"trace={calls}", "-e", "signal=none"]
    words += ["-xx", "-s", str(1 << 24)] if whole else []
    return words + [word for path in paths for word in ("-P", path)]


def injecting(log: Path, paths: Sequence[str], point: Point, fault: str, *, times: int = 1) -> list[str]:
    """Return the strace prefix that injects `fault` (`signal=SIGKILL`, `error=ENOSPC`) at the point."""
    when = f"{point.number}" if times == 1 else f"{point.number}..{point.number + times - 1}"
    return [*watching(log, paths), "-e", f"inject={point.call}:{fault}:when={when}"]


def was_injected(log: Path) -> bool:
    """Return whether a command that `injecting` ran reached its point: a call of its log failed for that reason."""
    return b"(INJECTED)" in log.read_bytes()


def points(log: Path) -> list[Point]:
    """Return the calls of a log in their order."""
    counts: Counter[str] = Counter()
    found = []
    for call in _calls(log):
        counts[call] += 1
        found.append(Point(call=call, number=counts[call]))
    return found


def _calls(log: Path) -> Iterator[str]:
    for line in log.read_text(errors="replace").splitlines():
        if head := HEAD.match(line):
            yield head[1]
