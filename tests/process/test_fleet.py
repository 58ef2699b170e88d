"""A fleet as real processes on a real server. `make demo-fleet` is longer."""

from pathlib import Path

import pytest

from campaign import fleet_demo


@pytest.mark.real_time
async def test_a_fleet_of_which_one_replica_is_killed_finishes_each_task_once_and_its_sums_balance(
    tmp_path: Path, postgres_url: str
) -> None:
    lines: list[str] = []
    how = {"tasks": 120, "accounts": 4}
    wrong = await fleet_demo.run(tmp_path, postgres_url, **how, beat_s=0.3, write=lines.append)
    assert wrong == [], lines
