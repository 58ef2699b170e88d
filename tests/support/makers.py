"""Makers of the plain data that many tests start from."""

import os
from random import Random
from typing import Any

from poller.core.model import Task
from poller.sinks import SinkEnvironment
from tests.support.virtual import EPOCH


def make_task(**changes: Any) -> Task:
    """Return a fresh task of account `default`, with `changes`."""
    fields: dict[str, Any] = {
        "key": 1,
        "account": "default",
        "task_id": "AAAAEZ6whGI",
        "ref": None,
        "fed_at": 10_000.0,
        "due_at": 10_000.0,
        "polls": 0,
        "errors": 0,
        "missing_at": None,
        "status": None,
        "paused_base_s": 0.0,
    }
    return Task(**fields | changes)


def sink_environment(**environ: str) -> SinkEnvironment:
    """Return an environment for sinks with these variables, beside PATH. HUBSPOT_TOKEN is hidden from commands."""
    return SinkEnvironment(
        clock=lambda: EPOCH,
        rng=Random(0),
        environ={"PATH": os.environ["PATH"]} | environ,
        hidden=frozenset({"HUBSPOT_TOKEN"}),
    )
