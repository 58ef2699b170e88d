"""Pollers of the Python API whose HubSpot is simulated."""

from typing import Any

from poller import Poller
from poller.app.environment import Environment
from poller.sandbox import Scenario, parse_durations
from tests.support.simulation import TOKEN, Simulation

QUICK = Scenario(fates={}, durations=parse_durations("fixed:5"))


class SimulatedPoller(Poller):
    """A Poller whose HubSpot is simulated."""

    def __init__(self, simulation: Simulation, **options: Any) -> None:
        self._simulation = simulation
        super().__init__(**({"token": TOKEN, "base_url": "https://api.hubapi.com"} | options))

    def _environment(self) -> Environment:
        return self._simulation.environment(self._tokens)


async def rest_of(poller: Poller) -> list[str]:
    return [task.task_id async for task in poller.finished()]
