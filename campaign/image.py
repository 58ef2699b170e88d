"""Takes the Dockerfile's steps without Docker: the same installs into a fresh environment, and then the entrypoint as a
user without rights, on a file system where it may write to its volume only. `make image` runs it; it needs root.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

HOUSE = Path(__file__).parent.parent
PATIENCE_S = 60.0


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions in order, continuations joined and comments dropped."""
    text = re.sub(r"(?m)^\s*#.*\n", "", dockerfile).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, rest in lines]


def build(root: Path) -> None:
    """Take the build stage's steps below `root`, instead of `/`."""
    stage = 0
    folder = root
    for name, rest in instructions((HOUSE / "Dockerfile").read_text("utf-8")):
        stage += name == "FROM"
        if stage > 1:
            return
        if name == "WORKDIR":
            folder = root / rest.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            *sources, target = rest.split()
            for source in sources:
                copy(HOUSE / source, folder / target)
        elif name == "RUN":
            command = re.sub(r"/opt/(poller|build)\b", rf"{root}/opt/\1", rest).replace("python -m", "python3 -m")
            show(f"RUN {rest}")
            subprocess.run(["bash", "-euc", command], cwd=folder, check=True, env=build_environ())  # noqa: S603, S607 - the Dockerfile's own commands


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def build_environ() -> dict[str, str]:
    """Return the environment of the build: the machine's own Python, nothing of a developer's version manager."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "HTTP", "SSL_", "LANG"))}
    return kept | {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


class Image:
    """What was built, run as its user on a volume, with the rest of the file system read-only."""

    def __init__(self, root: Path) -> None:
        self._bin = root / "opt" / "poller" / "bin"
        self.volume = root / "data"
        dockerfile = instructions((HOUSE / "Dockerfile").read_text("utf-8"))
        self.user, self.group = next(rest for name, rest in reversed(dockerfile) if name == "USER").split(":")
        self._entrypoint: list[str] = json.loads(next(rest for name, rest in dockerfile if name == "ENTRYPOINT"))
        self.health: list[str] = json.loads(
            next(rest for name, rest in dockerfile if name == "HEALTHCHECK").partition("CMD")[2]
        )
        self.volume.mkdir()
        os.chown(self.volume, int(self.user), int(self.group))

    def start(self, *words: str, **variables: str) -> "subprocess.Popen[bytes]":
        return self._start([*self._entrypoint, *words], variables)

    def run(self, command: Sequence[str], **variables: str) -> int:
        return self._start(command, variables).wait(PATIENCE_S)

    def _start(self, command: Sequence[str], variables: dict[str, str]) -> "subprocess.Popen[bytes]":
        confined = ["setpriv", f"--reuid={self.user}", f"--regid={self.group}", "--clear-groups", "--no-new-privs"]
        confined += ["--bounding-set=-all", "--inh-caps=-all"]
        environ = {
            "PATH": f"{self._bin}:/usr/bin:/bin",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.Popen([*confined, *command], cwd=self.volume, env=environ | variables)  # noqa: S603 - our own program


def prove(image: Image) -> None:
    """Run a service on a simulated HubSpot; fail where it does not start, is not healthy, or does not drain."""
    sandbox = image.start(
        "sandbox", "--port", "18790", "--tasks", "50", "--ids-file", "ids.txt", "--durations", "fixed:0"
    )
    service = None
    try:
        wait_for("http://127.0.0.1:18790/_sandbox/stats")
        (image.volume / "config.toml").write_text("follow = true\nrequests = 100\nwindow_s = 0.5\n")
        service = image.start(
            *("run", "-c", "config.toml", "ids.txt"),
            POLLER_BASE_URL="http://127.0.0.1:18790",
            POLLER_LISTEN="127.0.0.1:18791",
            HUBSPOT_TOKEN="any",  # noqa: S106 - the sandbox takes any
        )
        wait_for("http://127.0.0.1:18791/readyz")
        check("the health check passes", true=image.run(image.health) == 0)
        finished = image.volume / "finished.jsonl"
        wait_until(lambda: finished.exists() and len(finished.read_bytes().splitlines()) == 50)
        check("all 50 outcomes are delivered", true=True)
        check("only its user may read its files", true=(mode(finished), owner(finished)) == (0o600, image.user))
        wait_for("http://127.0.0.1:18791/")
        check("the page is part of it", true=True)
        service.send_signal(signal.SIGTERM)
        check("it drains on SIGTERM", true=service.wait(PATIENCE_S) in (0, 1, 75))
        check("then the health check fails", true=image.run(image.health) == 1)
    finally:
        for process in filter(None, (service, sandbox)):
            process.kill()
            process.wait()


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def owner(file: Path) -> str:
    return str(file.stat().st_uid)


def check(what: str, *, true: bool) -> None:
    show(f"{'ok' if true else 'FAILED'}: {what}")
    if not true:
        sys.exit(1)


def wait_until(true: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > ends_at:
            check("in time", true=False)
        time.sleep(0.05)


def wait_for(url: str) -> None:
    def answers() -> bool:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - loopback
                return bool(answer.status == 200)
        except OSError:
            return False

    wait_until(answers)


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("this needs root, to become the image's user: sudo make image")
    with tempfile.TemporaryDirectory(prefix="poller-image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        build(root)
        prove(Image(root))


if __name__ == "__main__":
    main()
