"""A followed file that is disrupted at random, and so is who follows it: every line counts exactly once."""

import asyncio
import os
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from poller.core.protocols import Clock, Store
from poller.sources.files.follow import follow
from poller.store import open_store
from tests.sources.test_follow import fed_ids, options, sums


class Writer:
    """Appends unique ids to a file that it rotates and truncates itself, as a program and logrotate do.

    Files carry the time of the virtual clock.
    """

    def __init__(self, path: Path, clock: Clock, rng: Random) -> None:
        self.path = path
        self.lines = 0  # whole ones
        self.lines_before = 0  # those in files before this one
        self._clock = clock
        self._rng = rng
        self._torn = b""  # what is still to be written of the last line
        self._fd = self._open()

    def _open(self) -> int:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._stamp(fd)
        return fd

    def _stamp(self, file: int | Path) -> None:
        os.utime(file, (self._clock(), self._clock()))

    def _write(self, data: bytes) -> None:
        os.write(self._fd, data)
        self._stamp(self._fd)

    def finish_line(self) -> None:
        if self._torn:
            self._write(self._torn)
            self.lines += 1
        self._torn = b""

    def append(self) -> None:
        self.finish_line()
        count = self._rng.choice([1, 1, 2, 3, 50])
        data = b"".join(b"AAAA%d\n" % number for number in range(self.lines + 1, self.lines + count + 1))
        cut = self._rng.randrange(1, len(data)) if self._rng.random() < 0.5 else len(data)
        cut = max(cut, data.rfind(b"\n", 0, -1) + 2)  # within the last line
        self._write(data[:cut])
        self._torn = data[cut:]
        self.lines += count - bool(self._torn)

    async def rename(self) -> None:
        """Rotate; a line begun before is finished in the renamed file, a moment later."""
        self._shift()
        self.path.rename(f"{self.path}.1")
        following = self._open()
        if self._torn:
            await asyncio.sleep(self._rng.uniform(0, 2))
            self.finish_line()
        os.close(self._fd)
        self._fd, self.lines_before = following, self.lines

    def copy_and_truncate(self) -> None:
        self._shift()
        shutil.copyfile(self.path, f"{self.path}.1")
        self._stamp(Path(f"{self.path}.1"))
        self.truncate()

    def truncate(self) -> None:
        assert not self._torn
        os.truncate(self.path, 0)
        self._stamp(self.path)
        self.lines_before = self.lines

    def _shift(self) -> None:
        for number in range(40, 0, -1):
            with suppress(FileNotFoundError):
                Path(f"{self.path}.{number}").rename(f"{self.path}.{number + 1}")

    def close(self) -> None:
        os.close(self._fd)


class Life:
    """A follower that is killed or stopped, and started again on what is on disk then."""

    def __init__(self, folder: Path, path: Path, clock: Clock, group: asyncio.TaskGroup) -> None:
        self._folder = folder
        self._path = path
        self._clock = clock
        self._group = group
        self._lives = 0
        self.store: Store | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        (self._folder / str(self._lives)).mkdir(parents=True, exist_ok=True)
        store = await open_store(f"sqlite:///{self._folder}/{self._lives}/poller.db", clock=self._clock)
        self.store = store
        following = follow(str(self._path), store, options())
        self._task = self._group.create_task(following)

    async def stop(self) -> None:
        """Drain: what is being stored is stored."""
        assert self.store is not None
        assert self._task is not None
        self._task.cancel()
        await self.store.close()
        self.store = None

    async def kill(self) -> None:
        """Lose what is not on disk at this instant."""
        left = self._folder / str(self._lives + 1)
        shutil.copytree(self._folder / str(self._lives), left)
        await self.stop()
        shutil.rmtree(self._folder / str(self._lives))
        self._lives += 1

    async def lines(self) -> int:
        """Return how many lines are in the ledger; only while it runs."""
        assert self.store is not None
        return sum(source.lines for source in (await self.store.sums()).sources)

    async def has_read(self, lines: int) -> None:
        for _ in range(2000):
            if await self.lines() >= lines:
                return
            await asyncio.sleep(0.5)
        raise AssertionError("it does not read on")


async def live_through(disruptions: int, writer: Writer, life: Life, rng: Random) -> Counter[str]:
    """Disrupt writing and reading at random; return how often each thing was done."""
    done: Counter[str] = Counter()
    while done.total() < disruptions:
        for _ in range(rng.randrange(3)):
            writer.append()
            await asyncio.sleep(rng.choice([0, rng.uniform(0, 0.1), rng.uniform(0, 3)]))
        what = rng.choice(["rename", "copy", "truncate", "kill", "stop"])
        if what in ("kill", "stop"):
            if life.store is None:
                await life.start()
                continue
            await (life.kill() if what == "kill" else life.stop())
        elif what == "rename":
            await writer.rename()
        else:
            writer.finish_line()
            if life.store is None or writer.lines == writer.lines_before:
                continue
            await life.has_read(writer.lines if what == "truncate" else writer.lines_before + 1)
            if what == "copy" and rng.random() < 0.3:
                writer.append()
                writer.finish_line()
                await life.kill()
            (writer.truncate if what == "truncate" else writer.copy_and_truncate)()
        done[what] += 1
    return done


@pytest.mark.parametrize("seed", range(int(os.environ.get("FOLLOW_SEEDS", "1"))))
async def test_a_file_disrupted_200_times_at_random_gives_every_line_once(
    tmp_path: Path, clock: Clock, seed: int
) -> None:
    rng = Random(seed)
    path = tmp_path / "ids" / "ids.txt"
    path.parent.mkdir()
    async with asyncio.TaskGroup() as group:
        writer, life = Writer(path, clock, rng), Life(tmp_path / "state", path, clock, group)
        await life.start()
        await asyncio.sleep(3)  # what was rotated away before the first run is not its own
        done = await live_through(200, writer, life, rng)
        writer.finish_line()
        if life.store is None:
            await life.start()
        assert life.store is not None
        await life.has_read(writer.lines)
        await asyncio.sleep(60)
        fed, rows = await fed_ids(life.store), await sums(life.store)
        await life.stop()
        writer.close()
    assert Counter(fed) == Counter(f"AAAA{number}" for number in range(1, writer.lines + 1))
    assert sum(row[0] for row in rows) == sum(row[1] for row in rows) == writer.lines
    assert min(done.values()) >= 10, done
