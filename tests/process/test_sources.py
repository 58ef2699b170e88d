"""Sources of the real process: rotated, truncated, dropped and killed in real time, every line counts exactly once."""

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from poller.core.errors import StoreUnusable
from poller.core.sums import Sums
from poller.store import read_store
from tests.support.processes import Running, run_here, running, wait_until

pytestmark = pytest.mark.real_time

NOWHERE = ("--base-url", "http://127.0.0.1:9", "--listen", "off")  # a port without a server: only feeding counts here


def sums(folder: Path) -> Sums | None:
    """Return the state's sums, None while there is no state yet."""

    async def read() -> Sums:
        reader = await read_store(f"sqlite:///{folder}/poller.db")
        try:
            return await reader.sums()
        finally:
            await reader.close()

    try:
        return asyncio.run(read())
    except StoreUnusable:
        return None


def lines(folder: Path) -> int:
    found = sums(folder)
    return 0 if found is None else sum(source.lines for source in found.sources)


class Writer:
    """Appends unique ids to a file, which it rotates and truncates."""

    def __init__(self, path: Path, rng: Random) -> None:
        self.path = path
        self.count = 0
        self._rng = rng

    def append(self) -> None:
        with self.path.open("ab", buffering=0) as file:
            for _ in range(self._rng.choice([1, 2, 40])):
                self.count += 1
                line = b"AAAA%d\n" % self.count
                cut = self._rng.randrange(len(line))
                file.write(line[:cut])
                file.write(line[cut:])

    def rotate(self) -> None:
        for number in range(300, 0, -1):
            old = Path(f"{self.path}.{number}")
            if old.exists():
                old.rename(f"{self.path}.{number + 1}")
        self.path.rename(f"{self.path}.1")
        self.append()


def read_all(folder: Path, writer: Writer) -> None:
    """Wait until every line written is stored; a rotated file is still read for some seconds."""
    while (before := lines(folder)) < writer.count:
        wait_until(lambda before=before: lines(folder) > before, "it reads on")  # type: ignore[misc]


def test_a_file_appended_rotated_and_truncated_under_a_process_that_is_killed_counts_every_line_once(
    tmp_path: Path,
) -> None:
    """FOLLOW_DISRUPTIONS sets how many; a rotation takes six seconds."""
    rng, path = Random(2), tmp_path / "ids.txt"
    writer = Writer(path, rng)
    writer.append()
    done = {"rotate": 0, "truncate": 0, "kill": 0}
    with ExitStack() as stack:

        def start() -> Running:
            return stack.enter_context(running("run", "ids.txt", "--follow", *NOWHERE, folder=tmp_path))

        service = start()
        wait_until(lambda: lines(tmp_path) > 0, "the reader has begun")  # it does not read what was rotated before
        for _ in range(int(os.environ.get("FOLLOW_DISRUPTIONS", "3"))):
            writer.append()
            what = rng.choice(sorted(done))
            if what == "kill":
                service.signal(signal.SIGKILL)
                service.ended()
                writer.append()
                if rng.random() < 0.5:
                    writer.rotate()
                service = start()
            elif what == "rotate":
                writer.rotate()
            else:
                read_all(tmp_path, writer)
                os.truncate(path, 0)
                writer.append()
            done[what] += 1
        read_all(tmp_path, writer)
        time.sleep(2)  # and nothing more comes
    found = sums(tmp_path)
    assert found is not None
    assert (lines(tmp_path), found.waiting) == (writer.count, writer.count), done
    assert sum(source.duplicates + source.rejected for source in found.sources) == 0


def test_a_drop_folder_under_a_process_that_is_killed_counts_every_line_once(tmp_path: Path) -> None:
    rng, folder, dropped = Random(4), tmp_path / "in", 0
    folder.mkdir()
    (tmp_path / "config.toml").write_text('[[sources]]\nfolder = "in"\nfollow = true\nsettle_s = 0.2\n')
    for _ in range(3):
        for number in range(rng.randrange(1, 5)):
            count = rng.choice([1, 50, 5000])
            ids = "".join(f"AAAA{at}\n" for at in range(dropped, dropped + count))
            (tmp_path / "new").write_text(ids)
            (tmp_path / "new").rename(folder / f"{dropped}-{number}.txt")
            dropped += count
        with running("run", "-c", "config.toml", *NOWHERE, folder=tmp_path) as service:
            wait_until(service.logged("source.opened"), "reading has begun")
            time.sleep(rng.uniform(0, 0.4))
            service.signal(signal.SIGKILL)
            service.ended()
    with running("run", "-c", "config.toml", *NOWHERE, folder=tmp_path) as service:
        wait_until(lambda: [path.name for path in folder.iterdir()] == ["done"], "the folder is empty")
        service.signal(signal.SIGTERM)
        service.ended()
    found = sums(tmp_path)
    assert found is not None
    assert (lines(tmp_path), found.waiting) == (dropped, dropped)
    assert "(balanced)" in run_here("status", folder=tmp_path).stdout


def test_check_config_lists_the_sources_and_which_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[[sources]]\nfolder = "none"\nfollow = true\n')
    done = run_here("check-config", "-c", "config.toml", folder=tmp_path)
    assert done.returncode == 0
    assert 'sources = [{"folder": "none", "follow": true}]' in done.stdout
    assert "warning: folder none does not exist yet; a run waits for it" in done.stderr
