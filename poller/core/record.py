"""Render a finished task as the one JSON object that every sink gets. Pure.

HubSpot's `errors` and `result`, and the person's `ref`, are spliced in as the bytes they came as: parsing and writing
them again would change integers beyond 64 bits, floats and doubled keys.
"""

import orjson

from poller.core.columns import source_file
from poller.core.model import Finished, Kind, Missing, Outcome, Record, Running, Task
from poller.core.reason import reason_of
from poller.core.text import KIND_TEXT
from poller.core.timestamps import iso

TIMED_OUT_NOTE = "no final status within our deadline; HubSpot may still finish this import"


def render(task: Task, outcome: Outcome, kind: Kind, *, seen_at: float) -> Record:
    """Return the record of `task`, finished as `kind` by `outcome`, the poll made at `seen_at`."""
    final = outcome if isinstance(outcome, Finished) else None
    fields: dict[str, object] = {
        "task_id": task.task_id,
        "account": task.account,
        "kind": kind.value,
        "status": _status(task, outcome),
        "num_errors": final.num_errors if final else None,
        "errors": _spliced(final.errors) if final else None,
        "result": _spliced(final.result) if final else None,
        "requested_at": final.requested_at if final else None,
        "started_at": final.started_at if final else None,
        "completed_at": final.completed_at if final else None,
        "seen_at": iso(seen_at),
        "polls": task.polls + 1,
        "ref": _spliced(task.ref),
        "correlation_id": outcome.correlation_id,
    }
    if kind is Kind.TIMED_OUT:
        fields["note"] = TIMED_OUT_NOTE
    return Record(body=orjson.dumps(fields), kind=kind, reason=_reason(task, outcome, kind), seen_at=seen_at)


def _spliced(json: bytes | None) -> orjson.Fragment | None:
    return None if json is None else orjson.Fragment(json)


def _status(task: Task, outcome: Outcome) -> str | None:
    """HubSpot's last word on the task: this poll's, or the one before where this poll brought none."""
    match outcome:
        case Finished():
            return outcome.status
        case Running():
            return outcome.status or task.status
        case _:
            return task.status


def _reason(task: Task, outcome: Outcome, kind: Kind) -> str | None:
    if kind is Kind.COMPLETE:
        return None
    if isinstance(outcome, Missing):
        return f"HTTP {outcome.code}: {KIND_TEXT[Kind.NOT_FOUND]}"
    errors = _decoded(outcome.errors) if isinstance(outcome, Finished) else None
    reason = reason_of(kind, errors, source_file(_decoded(task.ref)))
    return reason and reason.text


def _decoded(json: bytes | None) -> object:
    try:
        return None if json is None else orjson.loads(json)
    except ValueError:  # a number that no float can hold
        return None
