"""What is on disk before the first request of a run: a crash right after it must not forget the window."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from tests.support.simulation import Simulation

SLOW = Scenario(seed=3, durations=parse_durations("fixed:20"))


async def test_the_account_is_on_disk_as_in_use_before_the_first_request(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, SLOW)
    on_disk: list[tuple[float | None, int]] = []

    def read_disk(_: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        if not on_disk:
            with closing(sqlite3.connect(f"file:{tmp_path}/poller.db?mode=ro", uri=True)) as state:
                on_disk.append(state.execute("SELECT active_at, clean FROM account").fetchone())
        return reply

    simulation.api.stage = read_disk
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(simulation.write_ids(3)))
        await asyncio.sleep(5)
        simulation.drain()
    assert running.result() is Exit.WORK_LEFT  # it ended in order: the account is noted as clean
    on_disk.clear()
    await asyncio.sleep(300)
    began_at = clock()
    assert await simulation.run(None) is Exit.ALL_COMPLETE
    ((active_at, clean),) = on_disk
    assert clean == 0
    assert active_at is not None
    assert active_at >= began_at
