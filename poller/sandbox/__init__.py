"""A simulated, seeded HubSpot: `scenario` describes it, `api` behaves so without I/O, `server` serves it."""

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
from poller.sandbox.truth import Family, Truth

__all__ = [
    "DEFAULT_DURATIONS",
    "FAULTS",
    "Durations",
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
