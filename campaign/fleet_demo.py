"""A fleet at work: three replicas on one PostgreSQL, one is killed on the way, and the sums balance.

`make demo-fleet` shows it; needs nothing but the development environment, which brings PostgreSQL in a wheel. The
simulated HubSpot counts each account's requests, so a window that two replicas used together would show.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import orjson

import poller
from campaign.postgres_wheel import wheel_server
from poller.core.errors import Exit
from poller.reports.ledger import imbalances
from poller.sandbox import Fate, SandboxApi, Scenario, parse_durations, serve
from poller.store import read_store

REPLICAS = ("r1", "r2", "r3")
STUCK_S = 120.0  # and a second for 20 tasks
ENDED = (Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE, Exit.WORK_LEFT)  # the others may still deliver
SINK = "finished.jsonl"  # its home is the first replica that names it


@dataclass(slots=True, kw_only=True)
class Demo:
    """One fleet in one folder."""

    folder: Path
    state: str
    api: SandboxApi
    base_url: str
    accounts: Sequence[str]
    beat_s: float
    write: Callable[[str], None]
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    def settings(self, replica: str) -> str:
        source = f'sources = ["{self.folder}/ids-{replica}.csv"]'
        lines = [
            f'state = "{self.state}"',
            "fleet = true",
            f'replica = "{replica}"',
            f"beat_s = {self.beat_s}",
            f'base_url = "{self.base_url}"',
            f'sinks = ["jsonl:{self.folder}/{SINK}"]',
            source,
            'listen = "off"',
            f'account = "{self.accounts[0]}"',
            'log.format = "json"',
            "window_s = 1",
            "requests = 20",
            'polling.policy = "backoff"',
            "polling.first_gap_s = 0.2",
        ]
        for account in self.accounts:
            lines += [f"[accounts.{account}]", f'token_env = "TOKEN_{account.upper()}"']
        return "\n".join(lines) + "\n"

    async def start(self, replica: str) -> None:
        config = self.folder / f"{replica}.toml"
        config.write_text(self.settings(replica))
        tokens = {f"TOKEN_{account.upper()}": f"token-of-{account}" for account in self.accounts}
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(poller.__file__).parent.parent), **tokens}
        with (self.folder / f"{replica}.log").open("ab") as log:
            self.processes[replica] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "poller", "run", "-c", str(config), "--no-progress"),
                cwd=self.folder,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )
        self.write(f"{replica} started, process {self.processes[replica].pid}")

    async def kill(self, replica: str) -> None:
        process = self.processes.pop(replica)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        self.write(f"{replica} killed")

    async def stop(self) -> list[int]:
        """Drain all replicas at once; return their exit codes."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        return [await process.wait() for process in self.processes.values()]

    def finished(self) -> Counter[str]:
        path = self.folder / SINK
        lines = path.read_bytes().splitlines() if path.exists() else []
        return Counter(orjson.loads(line)["task_id"] for line in lines)

    def count_finished(self) -> int:
        path = self.folder / SINK
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def events(self, name: str) -> list[dict[str, object]]:
        """Return all log events of this name, of all replicas."""
        logs = [self.folder / f"{replica}.log" for replica in REPLICAS]
        lines = [line for log in logs if log.exists() for line in log.read_text().splitlines()]
        logged = [orjson.loads(line) for line in lines if line.startswith("{")]
        return [event for event in logged if event["event"] == name]

    async def until(self, true: Callable[[], bool], what: str, *, within_s: float) -> None:
        ends_at = time.monotonic() + within_s
        while not true():
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{what} took longer than {within_s:.0f} s")
            if ended := [name for name, process in self.processes.items() if process.returncode is not None]:
                raise RuntimeError(f"{', '.join(ended)} ended by itself: {self.folder}")
            await asyncio.sleep(0.1)

    async def balance(self) -> list[str]:
        """Return what does not hold of the state."""
        store = await read_store(self.state)
        try:
            sums = await store.sums()
        finally:
            await store.close()
        self.write(f"{sums.finished} of {sums.finished + sums.waiting} tasks finished, {sums.polls} polls")
        return [*map(str, imbalances(sums)), *([f"{sums.waiting} tasks wait"] if sums.waiting else [])]


async def show(demo: Demo, tasks: int) -> list[str]:
    """Run the fleet through a kill and a restart to the end; return what does not hold then."""
    fed = demo.api.preload(tasks)
    for number, replica in enumerate(REPLICAS):
        rows = [f"{task_id},{demo.accounts[index % len(demo.accounts)]}" for index, task_id in enumerate(fed)]
        text = "\n".join(["task_id,account", *rows[number :: len(REPLICAS)]])
        (demo.folder / f"ids-{replica}.csv").write_text(text + "\n")
        await demo.start(replica)
    within_s = STUCK_S + tasks / 20
    await demo.until(lambda: demo.count_finished() > tasks // 3, "the first third", within_s=within_s)
    demo.write(f"{demo.count_finished()} finished")
    await demo.kill("r2")
    killed_at = time.monotonic()
    await demo.until(lambda: bool(demo.events("member.buried")), "the burial", within_s=within_s)
    demo.write(f"the others took over from r2 after {time.monotonic() - killed_at:.1f} s")
    await demo.start("r2")
    joined = len(REPLICAS) + 1
    await demo.until(lambda: len(demo.events("run.started")) == joined, "the return of r2", within_s=within_s)
    await demo.until(lambda: demo.count_finished() >= tasks, "the rest", within_s=within_s)
    codes = await demo.stop()
    wrong = await demo.balance()
    counted = demo.finished()
    wrong += [f"{task_id} is {counted[task_id]} times in {SINK}" for task_id in fed if counted[task_id] != 1]
    if refused := demo.api.stats().throttled_total:
        wrong.append(f"HubSpot refused {refused} requests: a window was exceeded")
    if any(code not in ENDED for code in codes):
        wrong.append(f"exit codes {codes}")
    return wrong


@contextlib.asynccontextmanager
async def open_demo(
    folder: Path, state: str, *, accounts: int, beat_s: float, write: Callable[[str], None]
) -> AsyncIterator[Demo]:
    """Yield a fleet that is not started yet; kill what is left of it."""
    scenario = Scenario(
        durations=parse_durations("uniform:1,8"),
        fates={Fate.COMPLETE_WITH_ERRORS: 0.1, Fate.CANCELED: 0.1},
        requests=20,
        window_s=1.0,
        window_per_token=True,
        latency_s=(0.0, 0.01),
    )
    api = SandboxApi(scenario, time.time)
    async with serve(api) as base_url:
        names = [f"a{number}" for number in range(accounts)]
        demo = Demo(folder=folder, state=state, api=api, base_url=base_url, accounts=names, beat_s=beat_s, write=write)
        try:
            yield demo
        finally:
            for replica in [name for name, process in demo.processes.items() if process.returncode is None]:
                await demo.kill(replica)


async def run(
    folder: Path, state: str, *, tasks: int, accounts: int, beat_s: float, write: Callable[[str], None]
) -> list[str]:
    """Show the whole run; return what does not hold."""
    async with open_demo(folder, state, accounts=accounts, beat_s=beat_s, write=write) as demo:
        return await show(demo, tasks)


def main() -> int:
    """Show a fleet on a server of its own; exit code 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1500)
    parser.add_argument("--accounts", type=int, default=6)
    parser.add_argument("--beat-s", type=float, default=1.0)
    own = parser.parse_args()
    how = {"tasks": own.tasks, "accounts": own.accounts}
    with wheel_server(prefix="poller-fleet-") as (server, data):
        wrong = asyncio.run(run(data.parent, str(server.get_uri()), **how, beat_s=own.beat_s, write=write))
    for each in wrong[:20]:
        write(f"wrong: {each}")
    write("each task finished once, and the sums balance" if not wrong else f"{len(wrong)} things do not hold")
    return int(bool(wrong))


def write(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
