"""A finished task for Python code: the fields of its record, typed and frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from poller.core.columns import source_file
from poller.core.model import Kind
from poller.core.reason import reason_of
from poller.core.record import landed_in
from poller.core.timestamps import epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedImport:
    """One import task with its outcome. `account` and `task_id` identify it, in every sink."""

    task_id: str
    account: str
    kind: Kind
    landed: bool  # a file is there: `result` names it
    reason: str | None  # why it is not plainly complete, as `poller report` groups it
    status: str | None  # the status that HubSpot reported last
    num_errors: int | None
    errors: Any  # HubSpot's own JSON; None where there are none
    result: Any  # HubSpot's own JSON: the file; None where there is none
    message: str | None  # HubSpot's words where it refused the id
    requested_at: datetime | None  # by HubSpot's clock, as the next two; None where it reported no instant
    started_at: datetime | None
    completed_at: datetime | None
    seen_at: datetime  # when the outcome was seen
    polls: int
    ref: Mapping[str, Any]  # what was fed with the id; empty where nothing was
    correlation_id: str | None  # for HubSpot's support
    row: str | None  # the identity of the row that was imported; None, and the next three as here, where an id was fed
    starts: int  # start calls that may have reached HubSpot
    existing: bool  # HubSpot's duplicate check returned a file that was there before
    earlier: tuple[str, ...]  # task ids of earlier attempts at the row
    record: bytes  # the record as other sinks get it: one JSON object

    @classmethod
    def of_record(cls, body: bytes) -> Self:
        """Return a record's task. Raises `ValueError` for JSON that Python cannot read, such as a number beyond any
        float."""
        fields = orjson.loads(body)
        ref, kind = fields["ref"] or {}, Kind(fields["kind"])
        why = reason_of(kind, fields["errors"] or fields.get("message"), source_file(ref), fields.get("http_status"))
        return cls(
            task_id=fields["task_id"],
            account=fields["account"],
            kind=kind,
            landed=landed_in(body),
            reason=why and why.text,
            status=fields["status"],
            num_errors=fields["num_errors"],
            errors=fields["errors"],
            result=fields["result"],
            message=fields.get("message"),
            requested_at=_instant(fields["requested_at"]),
            started_at=_instant(fields["started_at"]),
            completed_at=_instant(fields["completed_at"]),
            seen_at=datetime.fromisoformat(fields["seen_at"]),
            polls=fields["polls"],
            ref=ref,
            correlation_id=fields["correlation_id"],
            row=fields.get("row"),
            starts=fields.get("starts", 0),
            existing=fields.get("existing", False),
            earlier=tuple(fields.get("earlier", ())),
            record=body,
        )


def _instant(text: object) -> datetime | None:
    found = epoch(text)
    return None if found is None else datetime.fromtimestamp(found, UTC)
