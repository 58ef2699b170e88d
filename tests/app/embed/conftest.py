"""A simulated HubSpot, and where the state is."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from poller.core.protocols import Clock
from tests.app.embed.pollers import QUICK
from tests.support.simulation import Simulation


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> AsyncIterator[Simulation]:
    simulated = Simulation(tmp_path, clock, QUICK)
    async with simulated.serving():
        yield simulated


@pytest.fixture
def state(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/poller.db"
