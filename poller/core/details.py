"""One task with everything that the store knows about it, its latest polls included. No I/O."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec import Struct

from poller.core.model import Kind, Record


class Poll(Struct, frozen=True, kw_only=True):
    """One status request for a task, as kept in the task's poll log."""

    at: float  # when the request was sent
    gate_s: float  # waited for the right to send it
    took_s: float  # until its answer was read
    outcome: str  # the outcome's class, lower case
    detail: str | int | None  # its status, code or reason
    again_in_s: float | None  # until the next poll was due; None: it was the last


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails:
    """Everything the store knows about one task."""

    account: str
    task_id: str
    ref: bytes | None
    fed_at: float
    requested_at: float | None
    due_at: float  # of its next poll; without meaning once the task is finished
    polls: int
    errors: int
    status: str | None
    poll_log: tuple[Poll, ...]  # the latest polls, oldest first
    kind: Kind | None = None  # None: waiting
    record: Record | None = None
    deliveries: Mapping[str, str] = field(default_factory=dict)  # sink → "delivered", "undelivered" or "dead: REASON"
