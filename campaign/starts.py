"""Kill `poller import` at random instants and before system calls, and count each start where it counts: at HubSpot.

Each trial kills one import several times, lets it continue until only unsure rows are left, sets their settle time to
over, and runs it to its end. Nothing may be lost, and no start repeated that its record does not name. The state is a
file in SQLite or, with `--postgres`, a schema of that database.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import orjson

import poller
from campaign import trace
from campaign.forked import Forked
from campaign.trace import Point
from poller.core.sums import Sums
from poller.reports.ledger import imbalances
from poller.sandbox import SandboxApi, Scenario, parse_durations, serve
from poller.store import read_store

WORKERS = 8
ROWS = 40
STUCK_S = 120.0
SCENARIO = Scenario(
    durations=parse_durations("uniform:0.05,0.4"), fates={}, requests=30, window_s=0.5, latency_s=(0.005, 0.06)
)
ON_STATE = ("pwrite64", "fdatasync")  # the others: on any file or socket
CALLS_OF_A_RUN = {"pwrite64": 1280, "fdatasync": 48, "write": 160}  # about; a request is one `write`
CALLS_ON_POSTGRES = {"write": 160, "sendto": 600}  # a statement is one `sendto`


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """A moment of a run: so many seconds after its next `requests` have reached HubSpot."""

    requests: int
    after_s: float


Blow = Instant | Point
Process = asyncio.subprocess.Process | Forked


@dataclass(slots=True)
class Counts:
    """What the trials did, and what must not have happened."""

    kills: int = 0
    unsure: int = 0
    repeated: int = 0
    violations: list[str] = field(default_factory=list)


class ImportTrial:
    """One folder with rows, a state and an output, and a simulated HubSpot of this process."""

    def __init__(self, folder: Path, counts: Counts, state: str | None = None, *, forks: bool = False) -> None:
        """`state`: its URL; None for a file in SQLite. `forks`: fork the processes from one that has imported all."""
        self.folder = folder
        self.forks = forks
        self.counts = counts
        self.state = state or f"sqlite:///{folder / 'poller.db'}"
        self.api = SandboxApi(SCENARIO, _now)
        self.kills = 0
        self._process: Process | None = None  # the latest
        (folder / "rows.csv").write_text(
            "url,sku\n" + "".join(f"https://cdn.example.com/{n}.png,{n}\n" for n in range(ROWS))
        )

    async def run(self, blows: Sequence[Blow]) -> None:
        try:
            async with serve(self.api) as url:
                await self._run(url, blows)
        finally:
            if self._process is not None and self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _run(self, url: str, blows: Sequence[Blow]) -> None:
        for blow in blows:
            if not await self._killed(url, blow):
                break
        await self._until_only_unsure(url)
        unsure = await self._check_before_settling()
        self._let_settle()
        process = await self._start(url)
        code = await asyncio.wait_for(process.wait(), STUCK_S)
        await self._check_at_the_end(code, unsure)

    async def _start(self, url: str, prefix: Sequence[str] = ()) -> Process:
        self._process = await self._begin(url, prefix)
        return self._process

    async def _begin(self, url: str, prefix: Sequence[str]) -> Process:
        words = ["import", "rows.csv", "--set", "access=PRIVATE", "--no-progress"]
        words += ["--set", "folderPath=/p", "--base-url", url, "--trial", "0", "--workers", str(WORKERS)]
        words += ["--requests", str(SCENARIO.requests), "--window-s", str(SCENARIO.window_s), "--state", self.state]
        environ = {
            "PATH": os.environ["PATH"],
            "HUBSPOT_TOKEN": "sandbox-token",
            "POLLER_LISTEN": "off",
            "POLLER_POLLING__POLICY": "backoff",
            "POLLER_POLLING__FIRST_GAP_S": "0.1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(Path(poller.__file__).parent.parent),
        }
        if self.forks:
            return Forked(words, self.folder, environ, prefix)
        command = [*prefix, sys.executable, "-m", "poller", *words]
        with (self.folder / "stderr.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command, cwd=self.folder, env=environ, stdout=log, stderr=log, start_new_session=True
            )

    async def _killed(self, url: str, blow: Blow) -> bool:
        """Run until the blow; return False where only unsure rows were left before it."""
        prefix: list[str] = []
        if isinstance(blow, Point):
            paths = [str(self.folder / name) for name in ("poller.db", "poller.db-wal")]
            watched = paths if blow.call in ON_STATE else []
            prefix = trace.injecting(self.folder / "strace.log", watched, blow, "signal=SIGKILL")
        process = await self._start(url, prefix)
        if isinstance(blow, Instant):
            await self._reached(process, blow)
        else:
            await self._until(process, self._has_other_work)
        was_reached = isinstance(blow, Instant) or process.returncode is not None
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # strace and what it traces
        self.kills += await process.wait() == -signal.SIGKILL
        return was_reached

    async def _until(self, process: Process, has_work: Callable[[], Awaitable[bool]]) -> None:
        """Wait until the process has ended or its work is done."""
        try:
            async with asyncio.timeout(STUCK_S):
                while process.returncode is None and await has_work():  # noqa: ASYNC110 - another process
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._violated("stuck")

    async def _reached(self, process: Process, instant: Instant) -> None:
        wanted = self.api.stats().requests_total + instant.requests
        async with asyncio.timeout(STUCK_S):
            while self.api.stats().requests_total < wanted and process.returncode is None:  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.002)
        await asyncio.sleep(instant.after_s)

    async def _until_only_unsure(self, url: str) -> None:
        process = await self._start(url)
        await self._until(process, self._has_other_work)
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()

    async def _has_other_work(self) -> bool:
        try:
            sums = await self._sums()
        except Exception:  # noqa: BLE001 - the state is just being opened
            return True
        unsure = sums.starts.unsure if sums.starts else 0
        return sums.waiting + sums.finished < ROWS or sums.waiting > unsure

    async def _sums(self) -> Sums:
        reader = await read_store(self.state)
        try:
            return await reader.sums()
        finally:
            await reader.close()

    async def _check_before_settling(self) -> int:
        sums = await self._sums()
        unsure = sums.starts.unsure if sums.starts else 0
        posts = Counter(url for _, url in self.api.starts.posts)
        if doubled := [url for url, count in posts.items() if count > 1]:
            self._violated(f"started twice before the settle time: {doubled[:3]}")
        if unsure > self.kills * WORKERS:
            self._violated(f"{unsure} unsure after {self.kills} kills")
        self._check_ledger(sums)
        self.counts.kills += self.kills
        self.counts.unsure += unsure
        return unsure

    def _let_settle(self) -> None:
        settle = "UPDATE import_row SET due_at = 0 WHERE task IS NULL"
        if self.state.startswith("sqlite:"):
            with sqlite3.connect(self.folder / "poller.db") as file:
                file.execute(settle)
            file.close()
            return
        import psycopg

        from poller.store.postgres.dsn import begin_session, parse

        dsn = parse(self.state)
        with psycopg.connect(dsn.conninfo) as database:
            database.execute(begin_session(dsn).encode())
            database.execute(settle)

    async def _check_at_the_end(self, code: int, unsure: int) -> None:
        records = [orjson.loads(line) for line in (self.folder / "finished.jsonl").read_bytes().splitlines()]
        rows = Counter(record["ref"]["sku"] for record in records)
        if rows != Counter(str(number) for number in range(ROWS)) or code != 0:
            self._violated(f"exit {code}; rows lost or doubled: {rows.most_common(3)}, {len(rows)} of {ROWS}")
        posts = Counter(url for _, url in self.api.starts.posts)
        flagged = {record["ref"]["url"] for record in records if record["starts"] > 1}
        if silent := [url for url, count in posts.items() if count > 1 and url not in flagged]:
            self._violated(f"started twice, and no record says so: {silent[:3]}")
        if len(flagged) > unsure:
            self._violated(f"{len(flagged)} rows repeated, but {unsure} were unsure")
        if self.api.stats().files_twice:
            self._violated(f"{self.api.stats().files_twice} files twice")
        self.counts.repeated += len(flagged)
        self._check_ledger(await self._sums())

    def _check_ledger(self, sums: Sums) -> None:
        for imbalance in imbalances(sums):
            self._violated(str(imbalance))

    def _violated(self, what: str) -> None:
        self.counts.violations.append(f"{self.folder.name}: {what}")


def _now() -> float:
    import time

    return time.time()


def blows_for(rng: Random, kills: int, calls: Mapping[str, int] | None) -> list[Blow]:
    """Return the kills of one trial: before system calls, of which a run makes about so many, or at any instant."""
    if calls is None:
        return [Instant(requests=rng.randrange(1, 12), after_s=rng.uniform(0.0, 0.06)) for _ in range(kills)]
    furthest = {call: max(2, count * 3 // (2 * kills)) for call, count in calls.items()}
    names = [rng.choice(tuple(furthest)) for _ in range(kills)]
    return [Point(call=call, number=rng.randrange(1, furthest[call])) for call in names]


async def campaign(
    random_kills: int,
    calls: int,
    *,
    seed: int,
    a_trial: int = 5,
    into: Path | None = None,
    postgres: str | None = None,
) -> Counts:
    """Carry out trials with so many kills of each sort. `postgres`: the URL of a database for their states."""
    counts, rng = Counts(), Random(seed)  # noqa: S311 - chooses instants
    of_a_run = CALLS_OF_A_RUN if postgres is None else CALLS_ON_POSTGRES
    plans = [blows_for(rng, a_trial, None) for _ in range(-(-random_kills // a_trial))]
    plans += [blows_for(rng, a_trial, of_a_run) for _ in range(-(-calls // a_trial))]
    with tempfile.TemporaryDirectory() as temporary:
        for number, blows in enumerate(plans):
            folder = (into or Path(temporary)) / f"trial-{number}"
            folder.mkdir()
            schema = f"starts_{os.getpid()}_{seed}_{number}"
            state = None if postgres is None else f"{postgres}{'&' if '?' in postgres else '?'}schema={schema}"
            await ImportTrial(folder, counts, state, forks=True).run(blows)
            shutil.rmtree(folder)
    return counts


def main() -> None:
    """Run the campaign and print its counts; exit 1 where something was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--random-kills", type=int, default=0)
    parser.add_argument("--calls", type=int, default=0, help="kills before a system call; needs strace")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--postgres", metavar="URL", help="keep the states in this database, not in files")
    args = parser.parse_args()
    counts = asyncio.run(campaign(args.random_kills, args.calls, seed=args.seed, postgres=args.postgres))
    print(f"{counts.kills} kills: {counts.unsure} rows unsure, {counts.repeated} repeated")  # noqa: T201 - a command
    for violation in counts.violations:
        print(violation)  # noqa: T201
    sys.exit(bool(counts.violations) or not counts.kills)  # what killed nothing has shown nothing


if __name__ == "__main__":
    main()
