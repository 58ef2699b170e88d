"""A simulated, seeded HubSpot: `scenario` describes it, `api` implements it without I/O, `server` serves it."""

from poller.sandbox.api import SandboxApi, Stats
from poller.sandbox.scenario import (
    DEFAULT_DURATIONS,
    FAULTS,
    Durations,
    Fate,
    Outage,
    Scenario,
    parse_durations,
    parse_fate,
    parse_fault,
    parse_latency_ms,
    parse_outage,
)
from poller.sandbox.server import make_app, serve
from poller.sandbox.tasks import ExpectedOutcome, Family

__all__ = [
    "DEFAULT_DURATIONS",
    "FAULTS",
    "Durations",
    "ExpectedOutcome",
    "Family",
    "Fate",
    "Outage",
    "SandboxApi",
    "Scenario",
    "Stats",
    "make_app",
    "parse_durations",
    "parse_fate",
    "parse_fault",
    "parse_latency_ms",
    "parse_outage",
    "serve",
]
