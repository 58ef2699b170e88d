"""A whole run on a terminal, through an outage and a throttle: what a person sees of it at the end, line by line."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import TextIO, cast

import pytest
from rich.console import Console

from poller.app.live_block import LiveBlock
from poller.core import log as logs
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.scenario import Outage
from tests.support.simulation import Simulation
from tests.support.terminal import Terminal


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (200, 50)])
async def test_no_log_line_is_lost_and_no_progress_block_is_left_behind(
    tmp_path: Path, clock: Clock, columns: int, rows: int
) -> None:
    outage = Outage(from_s=5, to_s=25, fault="503")
    scenario = Scenario(durations=parse_durations("uniform:0,60"), outages=(outage,), requests=60)
    simulation, terminal = Simulation(tmp_path, clock, scenario), Terminal(columns, rows)
    console = Console(file=cast("TextIO", terminal), force_terminal=True, width=columns, height=rows)
    simulation.terminal = LiveBlock(console)
    written: list[str] = []

    class Log(LiveBlock):
        def write(self, text: str) -> int:
            written.append(text)
            return block.write(text)

    block = simulation.terminal
    logs.configure(format="json", level="info", clock=clock, stream=Log(console))
    ids = simulation.write_ids(80)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids))
        await asyncio.sleep(40)
        while not running.done():  # another program takes the account's whole window
            while simulation.ask_as_another() != 429:
                pass
            await asyncio.sleep(30)
    lines = "".join(written).splitlines()
    events = Counter((event["event"], event.get("pause")) for event in map(json.loads, lines))
    assert events["lane.paused", "outage"]
    assert events["lane.paused", "throttled"]
    shown = terminal.shown()
    rows_of_log = [line[at : at + columns].rstrip() for line in lines for at in range(0, len(line), columns)]
    assert [row for row in shown if row in set(rows_of_log)] == rows_of_log
    others = [row for row in shown if row not in set(rows_of_log)]
    assert [" done" in row for row in others] == [True, False, False, False]
