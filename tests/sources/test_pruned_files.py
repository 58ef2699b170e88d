"""The law of retention: while a file is the same, each of its lines is a task once, however it is renamed, copied or
archived, whatever runs end meanwhile, and though its tasks were pruned by then. `POLLER_RETENTION_SEEDS=1000` tries
more."""

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest

from poller.core.protocols import Clock, Store
from poller.sources import ChunkWriter, FileRegistry, Reader, Source
from poller.store import open_store
from tests.sources.test_resumption import READ
from tests.support.store_makers import finished

SEEDS = int(os.environ.get("POLLER_RETENTION_SEEDS", "1"))
STEPS = 25
READ_BY = ["append", "append", "half", "rename", "copy", "truncate", "replace", "archive", "stop", "kill"]


class Log:
    """A file with ids of its own, to which a program appends, and which logrotate or an editor exchanges.

    Files have the time of the virtual clock.
    """

    def __init__(self, path: Path, clock: Clock, rng: Random) -> None:
        self.path = path
        self.lines = 0
        self._clock, self._rng = clock, rng
        self._torn = b""  # what is still to be written of the last line
        self._fd = self._open(path)

    @property
    def ids(self) -> set[str]:
        return {f"{self.path.stem}{number:05}" for number in range(self.lines)}

    def _open(self, path: Path) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._stamp(fd)
        return fd

    def _stamp(self, file: int | Path) -> None:
        os.utime(file, (self._clock(), self._clock()))

    def _write(self, data: bytes) -> None:
        os.write(self._fd, data)
        self._stamp(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def finish_line(self) -> None:
        self._write(self._torn)
        self._torn = b""

    def append(self) -> None:
        self.finish_line()
        count = self._rng.choice([1, 2, 5, 400])  # 400 lines are more than the proof of a file's ends
        names = (f"{self.path.stem}{number:05}\n" for number in range(self.lines, self.lines + count))
        self._write("".join(names).encode())
        self.lines += count

    def half(self) -> None:
        self.finish_line()
        line = f"{self.path.stem}{self.lines:05}\n".encode()
        cut = self._rng.randrange(1, len(line))
        self._write(line[:cut])
        self._torn, self.lines = line[cut:], self.lines + 1

    def rename(self) -> None:
        self.finish_line()
        self._shift()
        self.path.rename(f"{self.path}.1")
        self._reopen(self.path)

    def copy(self) -> None:
        self._shift()
        shutil.copyfile(self.path, copy := Path(f"{self.path}.1"))
        self._stamp(copy)
        self.truncate()

    def truncate(self) -> None:
        os.truncate(self.path, 0)
        self._stamp(self.path)

    def replace(self) -> None:
        other = self.path.with_name(f".{self.path.name}.new")
        self._reopen(other)
        other.rename(self.path)

    def archive(self) -> None:
        """Move a rotated file to where nothing is read."""
        archive = self.path.parent.with_name("archive")
        archive.mkdir(exist_ok=True)
        for rotated in sorted(self.path.parent.glob(f"{self.path.name}.*"))[:1]:
            rotated.rename(archive / f"{rotated.name}-{self._clock()}")

    def _shift(self) -> None:
        for number in range(STEPS, 0, -1):
            with suppress(FileNotFoundError):
                Path(f"{self.path}.{number}").rename(f"{self.path}.{number + 1}")

    def _reopen(self, path: Path) -> None:
        os.close(self._fd)
        self._fd = self._open(path)


class PrunedRun:
    """A run that follows files, and is stopped and killed; tasks are finished and pruned as soon as they are there."""

    def __init__(self, folder: Path, sources: list[Source], clock: Clock) -> None:
        self.polled: Counter[str] = Counter()
        self.store: Store | None = None
        self._folder, self._sources, self._clock = folder, sources, clock
        self._lives = 0
        self._reading: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.store = await open_store(f"sqlite:///{self._state()}/poller.db", clock=self._clock)
        reader = Reader(registry=FileRegistry(), clock=self._clock, stdin=0)
        loop, writer = asyncio.get_running_loop(), ChunkWriter(self.store, lambda *_: None)
        self._reading = [loop.create_task(reader.read(source, writer)) for source in self._sources]

    def _state(self) -> Path:
        (folder := self._folder / f"state-{self._lives}").mkdir(parents=True, exist_ok=True)
        return folder

    async def finish_and_prune(self) -> None:
        if self.store is not None:
            tasks = await self.store.claim("main", 100_000)
            self.polled.update(task.task_id for task in tasks)
            await self.store.record([finished(task, at=self._clock()) for task in tasks])
            await self.store.prune(self._clock() + 1, 100_000)

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self.finish_and_prune()

    async def stop(self) -> None:
        """Drain: what is being stored is stored."""
        for task in self._reading:
            task.cancel()
        await asyncio.gather(*self._reading, return_exceptions=True)
        await self.finish_and_prune()
        if self.store is not None:
            await self.store.close()
        self.store = None

    async def kill(self) -> None:
        """Lose what is not on disk at this instant."""
        await self.finish_and_prune()
        left = self._state()
        self._lives += 1
        shutil.copytree(left, self._state(), dirs_exist_ok=True)
        await self.stop()

    async def has_read(self, log: Log) -> None:
        log.finish_line()
        for _ in range(60):
            await self.wait(1)
            if log.ids <= set(self.polled):
                return
        raise AssertionError(f"it does not read on: {sorted(log.ids - set(self.polled))[:5]}")


async def disrupt(run: PrunedRun, logs: list[Log], rng: Random) -> list[str]:
    """Disrupt writing and reading at random; return what was done."""
    done = []
    for _ in range(STEPS):
        log, what = rng.choice(logs), rng.choice(READ_BY)
        if what in ("stop", "kill"):
            await (run.start() if run.store is None else run.stop() if what == "stop" else run.kill())
        elif what in ("append", "half", "rename"):
            getattr(log, what)()
        elif run.store is None:
            continue  # what is not read yet would be lost
        else:
            await run.has_read(log)
            if what == "archive":
                await run.wait(30)
            getattr(log, what)()
            await run.wait(15)
        done.append(f"{what} {log.path.stem}")
        await run.wait(rng.choice([0, 0.3, 2, 5, 40]))
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (inputs := tmp_path / "in").mkdir()
    return inputs


@pytest.fixture
async def logs(folder: Path, clock: Clock, rng: Random) -> AsyncIterator[list[Log]]:
    made = [Log(folder / f"{name}.txt", clock, rng) for name in ("AAAA", "BBBB")]
    yield made
    for log in made:
        log.close()


@pytest.fixture
async def run(tmp_path: Path, folder: Path, clock: Clock) -> AsyncIterator[PrunedRun]:
    every = Source(kind="glob", location=f"{folder}/*.txt*", options=READ, follow=True)
    begun = PrunedRun(tmp_path, [every], clock)
    await begun.start()
    yield begun
    await begun.stop()


@pytest.mark.parametrize("kind", ["glob", "file"])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_files_disrupted_at_random_give_each_line_once_though_all_tasks_are_pruned(
    tmp_path: Path, clock: Clock, kind: str, seed: int
) -> None:
    rng = Random(seed)
    (inputs := tmp_path / "in").mkdir()
    logs = [Log(inputs / f"{name}.txt", clock, rng) for name in ("AAAA", "BBBB", "CCCC")[: rng.randint(1, 3)]]
    sources = [Source(kind="glob", location=f"{inputs}/*.txt*", options=READ, follow=True)]
    if kind == "file":
        sources = [Source(kind="file", location=str(log.path), options=READ, follow=True) for log in logs]
    run = PrunedRun(tmp_path, sources, clock)
    await run.start()
    await run.wait(3)  # what was rotated away before the first run is not its own
    done = await disrupt(run, logs, rng)
    if run.store is None:
        await run.start()
    for log in logs:
        await run.has_read(log)
        log.close()
    await run.wait(60)
    await run.stop()
    assert run.polled == Counter(set().union(*(log.ids for log in logs))), done


@pytest.mark.parametrize("way", ["rename", "copy"])
async def test_a_file_that_is_rotated_within_a_pattern_is_fed_once_also_where_its_new_name_was_read_before(
    run: PrunedRun, logs: list[Log], way: str
) -> None:
    """Of a rotated file that was empty, or there before the first run."""
    log, _ = logs
    for _ in range(2):
        getattr(log, way)()
        await run.wait(40)
        log.append()
        await run.has_read(log)
    getattr(log, way)()
    await run.wait(40)
    assert set(run.polled.values()) == {1}


async def test_a_rotated_file_waits_for_who_reads_those_that_were_rotated_before_it(
    run: PrunedRun, logs: list[Log]
) -> None:
    log, other = logs
    log.append()
    await run.has_read(log)
    await run.stop()
    for _ in range(4):
        log.append()
        log.rename()
    other.append()
    await run.start()
    await run.has_read(other)
    await run.has_read(log)
    await run.wait(60)
    assert set(run.polled.values()) == {1}


@pytest.mark.parametrize("name", ["AAAA.txt.1", "20261128-AAAA.txt"])
async def test_an_empty_file_that_replaced_another_is_found_where_it_was_rotated_while_no_run_was_there(
    tmp_path: Path, clock: Clock, logs: list[Log], name: str
) -> None:
    log, _ = logs
    run = PrunedRun(tmp_path, [Source(kind="file", location=str(log.path), options=READ, follow=True)], clock)
    await run.start()
    await run.wait(3)
    log.replace()
    await run.wait(15)
    await run.stop()
    log.append()
    log.path.rename(log.path.with_name(name))
    log.path.touch()
    await run.start()
    await run.has_read(log)
    await run.stop()
    assert set(run.polled.values()) == {1}


async def test_a_rotated_file_of_another_name_with_the_inode_of_an_empty_one_is_not_read_for_it(
    tmp_path: Path, clock: Clock, logs: list[Log]
) -> None:
    """A file system gives the inode of a deleted file to the next one."""
    log, other = logs
    sources = [Source(kind="file", location=str(each.path), options=READ, follow=True) for each in logs]
    run = PrunedRun(tmp_path, sources, clock)
    await run.start()
    await run.wait(3)
    other.append()
    await run.has_read(other)
    await run.stop()
    empty = log.path.rename(other.path.with_name(f"{other.path.name}.1"))
    log.replace()
    shutil.copyfile(other.path, empty)
    os.utime(empty, (clock(), clock()))
    await run.start()
    await run.wait(60)
    await run.stop()
    assert set(run.polled.values()) == {1}


async def test_rotated_files_are_read_where_the_current_one_cannot_be(
    run: PrunedRun, logs: list[Log], folder: Path
) -> None:
    log, _ = logs
    log.append()
    log.path.rename(folder / "CCCC.txt.1")
    (folder / "CCCC.txt").write_bytes(b"\x1f\x8b compressed")
    await run.has_read(log)
