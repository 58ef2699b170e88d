"""Imports: URLs in, files out. The simulated HubSpot counts what was started, how often, and what landed."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.reports.ledger import imbalances
from poller.sandbox import Outage, Scenario, parse_durations
from tests.support.simulation import Simulation, named

OPTIONS = {"access": "PRIVATE", "folderPath": "/p"}
QUICK: dict[str, Any] = {"durations": parse_durations("uniform:1,5"), "fates": {}, "latency_s": (0.02, 0.08)}


def scenario(**more: Any) -> Scenario:
    return Scenario(**(QUICK | more))


def flags(**imports: Any) -> dict[str, Any]:
    return {"input": {"feeds": "imports"}, "imports": {"options": OPTIONS, **imports}}


def write_rows(folder: Path, count: int, host: str = "cdn.example.com") -> Path:
    file = folder / "rows.csv"
    lines = [f"https://{host}/{number}.png,{number}" for number in range(count)]
    file.write_text("\n".join(["url,sku", *lines]) + "\n")
    return file


def assert_each_row_has_one_outcome(simulation: Simulation, count: int, kinds: Mapping[str, int] | None = None) -> None:
    records = simulation.records()
    assert Counter(record["ref"]["sku"] for record in records) == Counter(str(number) for number in range(count))
    found = Counter(record["kind"] for record in records)
    assert found == (kinds or {"complete": count})


async def assert_the_ledger_balances(simulation: Simulation) -> None:
    sums = await simulation.sums()
    assert imbalances(sums) == []
    assert sums.starts is not None
    stats = simulation.api.stats()
    assert sums.starts.accepted <= stats.starts_accepted
    assert sums.starts.starts >= stats.starts_total


def posts_by_url(simulation: Simulation) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for at, url in simulation.api.starts.posts:
        found.setdefault(url, []).append(at)
    return found


async def test_rows_become_files_once_each_within_the_limit(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, scenario())
    assert await simulation.run(write_rows(tmp_path, 300), flags()) is Exit.ALL_COMPLETE
    stats = simulation.api.stats()
    assert_each_row_has_one_outcome(simulation, 300)
    assert (stats.starts_total, stats.starts_max, stats.files, stats.files_twice) == (300, 1, 300, 0)
    assert (stats.throttled_total, stats.max_in_window <= 100) == (0, True)
    await assert_the_ledger_balances(simulation)
    record = simulation.records()[0]
    assert (record["starts"], record["existing"], record["earlier"]) == (1, False, [])
    assert record["result"]["path"].startswith("/p/")
