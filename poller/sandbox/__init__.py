"""A simulated, seeded HubSpot: `scenario` describes it, `api` implements it without I/O, `server` serves it."""

from poller.sandbox.api import SandboxApi
from poller.sandbox.scenario import FAULTS, Fate, Outage, Scenario, parse_outage
from poller.sandbox.server import make_app, serve
from poller.sandbox.tasks import Family
from poller.schedule.durations import parse_durations

__all__ = [
    "FAULTS",
    "Family",
    "Fate",
    "Outage",
    "SandboxApi",
    "Scenario",
    "make_app",
    "parse_durations",
    "parse_outage",
    "serve",
]
