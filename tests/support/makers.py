"""Makers of the plain data that many tests start from."""

from typing import Any

from poller.core.model import Task


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
