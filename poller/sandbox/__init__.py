"""A simulated, seeded HubSpot: `scenario` describes it, `api` behaves so without I/O, `server` serves it."""

from poller.sandbox.api import SandboxApi, Stats
from poller.sandbox.scenario import (
    FAULTS,
    Fate,
    Outage,
    Scenario,
    parse_fate,
    parse_fault,
    parse_latency_ms,
    parse_outage,
)
from poller.sandbox.server import make_app, serve
from poller.sandbox.truth import Family, Truth
from poller.schedule.durations import parse_durations

__all__ = [
    "FAULTS",
    "Family",
    "Fate",
    "Outage",
    "SandboxApi",
    "Scenario",
    "Stats",
    "Truth",
    "make_app",
    "parse_durations",
    "parse_fate",
    "parse_fault",
    "parse_latency_ms",
    "parse_outage",
    "serve",
]
