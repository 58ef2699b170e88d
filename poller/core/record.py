"""Render a finished task as the one JSON object that every sink gets, and read one back. Pure.

HubSpot's `errors` and `result`, and the person's `ref`, are spliced in as the received bytes: parsing and writing them
would change integers beyond 64 bits, floats and doubled keys.
"""

import msgspec
import orjson

from poller.core.columns import source_file
from poller.core.model import REPORTING, Finished, Kind, Missing, Outcome, Record, Refused, Task
from poller.core.reason import reason_of
from poller.core.starts import NO_TASK, Declined, Row, StartFacts, StartOutcome
from poller.core.timestamps import epoch, iso

CLOCKS_DIFFER_S = 60.0  # HubSpot's from ours, at most
START_UNKNOWN_NOTE = "the answers to its starts were lost; the file may be there. Check before you import it again"
TIMED_OUT_NOTE = "no final status within our deadline; HubSpot may still finish this import"


def render(task: Task, outcome: Outcome, kind: Kind, *, seen_at: float) -> Record:
    """Return the record of `task`, finished as `kind` by `outcome`, the poll made at `seen_at`."""
    final = outcome if isinstance(outcome, Finished) else None
    status = outcome.status if isinstance(outcome, REPORTING) else None
    landed = names_file(final.result) if final else False
    fields: dict[str, object] = {
        "task_id": task.task_id,
        "account": task.account,
        "kind": str(kind),
        "landed": landed,
        "status": status or task.status,
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
    if isinstance(outcome, Missing):
        fields |= {"http_status": outcome.code} | ({} if outcome.message is None else {"message": outcome.message})
    if kind is Kind.TIMED_OUT:
        fields["note"] = TIMED_OUT_NOTE
    if task.start is not None:
        facts = msgspec.json.decode(task.start, type=StartFacts)
        fields |= _start_fields(facts, existing=final is not None and _is_older(task, facts, final))
    return Record(
        body=_on_one_line(orjson.dumps(fields)),
        kind=kind,
        landed=landed,
        reason=_reason(task, outcome, kind),
        seen_at=seen_at,
        account=task.account,
        task_id=task.task_id,
        ref=task.ref,
        requested_at=final.requested_at if final else None,
        completed_at=final.completed_at if final else None,
        correlation_id=outcome.correlation_id,
    )


def render_row(row: Row, outcome: StartOutcome | None, kind: Kind, *, seen_at: float) -> Record:
    """Return the record of a row that ends without a task: `outcome` is that of its last start, None where it is not
    sent again."""
    declined = outcome if isinstance(outcome, Declined) else None
    errors = b"[" + declined.body + b"]" if declined and declined.body else None
    message = declined.message if declined else outcome.detail if isinstance(outcome, Refused) else None
    correlation_id = outcome.correlation_id if isinstance(outcome, Declined | Refused) else None
    facts = StartFacts(row=row.row, starts=row.starts, first_sent_at=row.first_sent_at or seen_at, earlier=row.earlier)
    fields: dict[str, object] = {
        "task_id": NO_TASK + row.row,
        "account": row.account,
        "kind": kind.value,
        "landed": False,
        "status": None,
        "num_errors": 1 if errors else None,
        "errors": _spliced(errors),
        "result": None,
        "requested_at": None,
        "started_at": None,
        "completed_at": None,
        "seen_at": iso(seen_at),
        "polls": 0,
        "ref": _spliced(row.ref),
        "correlation_id": correlation_id,
        **({} if message is None else {"message": message}),
        **({"note": START_UNKNOWN_NOTE} if kind is Kind.START_UNKNOWN else {}),
        **_start_fields(facts, existing=False),
    }
    reason = reason_of(kind, _decoded(errors) or message, source_file(_decoded(row.ref)))
    return Record(
        body=_on_one_line(orjson.dumps(fields)),
        kind=kind,
        landed=False,
        reason=reason and reason.text,
        seen_at=seen_at,
        account=row.account,
        task_id=NO_TASK + row.row,
        ref=row.ref,
        correlation_id=correlation_id,
    )


def _start_fields(facts: StartFacts, *, existing: bool) -> dict[str, object]:
    return {"row": facts.row, "starts": facts.starts, "existing": existing, "earlier": list(facts.earlier)}


def _is_older(task: Task, facts: StartFacts, final: Finished) -> bool:
    """Whether the file was there before the row was first sent: HubSpot's duplicate check returned it.

    Judged by HubSpot's clock alone where the answer has the instant of the latest request: ours may be wrong by more
    than a duplicate is old.
    """
    file = _decoded(final.result)
    created_at = epoch(file.get("createdAt")) if isinstance(file, dict) else None
    first_sent_at = facts.first_sent_at
    if (requested_at := epoch(final.requested_at)) is not None:
        accepted_at = task.fed_at if facts.accepted_at is None else facts.accepted_at
        first_sent_at = requested_at - max(0.0, accepted_at - first_sent_at)
    return created_at is not None and created_at < first_sent_at - CLOCKS_DIFFER_S


def _on_one_line(body: bytes) -> bytes:
    """Return the record with U+2028, U+2029 and U+0085 escaped: some readers of lines end one there."""
    if body.isascii():
        return body
    for sign, escape in _LINE_ENDS:
        if sign in body:
            body = body.replace(sign, escape)
    return body


def _spliced(json: bytes | None) -> orjson.Fragment | None:
    return None if json is None else orjson.Fragment(json)


def _reason(task: Task, outcome: Outcome, kind: Kind) -> str | None:
    if kind is Kind.COMPLETE:
        return None
    source = source_file(_decoded(task.ref))
    if isinstance(outcome, Missing):
        reason = reason_of(kind, outcome.message, source, outcome.code)
    else:
        reason = reason_of(kind, _decoded(outcome.errors) if isinstance(outcome, Finished) else None, source)
    return reason and reason.text


class _Named(msgspec.Struct, frozen=True):
    """What names a file or a folder in HubSpot's `result`."""

    id: msgspec.Raw = msgspec.Raw(b"null")
    url: msgspec.Raw = msgspec.Raw(b"null")


_result_decoder = msgspec.json.Decoder(_Named | str | None)


def names_file(result: bytes | msgspec.Raw | None) -> bool:
    """Return whether HubSpot's `result` names what landed: an object with an id or a URL (a file, a folder), or a text
    with a URL (an export). Null, an empty object and any other value name nothing."""
    if result is None:
        return False
    try:
        found = _result_decoder.decode(result)
    except (msgspec.MsgspecError, RecursionError):
        return False
    if isinstance(found, _Named):
        return _is_name(found.id) or _is_name(found.url)
    return found is not None and "://" in found


def _is_name(value: msgspec.Raw) -> bool:
    """Whether a JSON value is a number, or a text that is not blank."""
    json = bytes(value)
    return json[:1].isdigit() or (json.startswith(b'"') and bool(json.strip(b'" ')))


def _decoded(json: bytes | None) -> object:
    try:
        return None if json is None else orjson.loads(json)
    except ValueError:  # a number that no float can hold
        return None


class RecordFields(msgspec.Struct, frozen=True):
    """The fields of a stored record; JSON that is not ours is kept as bytes. A missing field has its default."""

    task_id: str = ""
    account: str = ""
    kind: str = ""
    landed: bool | None = None  # None: written by a version without this field
    status: str | None = None
    num_errors: int | None = None
    errors: msgspec.Raw = msgspec.Raw(b"null")
    result: msgspec.Raw = msgspec.Raw(b"null")
    requested_at: str | None = None
    completed_at: str | None = None
    seen_at: str = ""
    polls: int | None = None
    ref: msgspec.Raw = msgspec.Raw(b"null")
    correlation_id: str | None = None
    message: str | None = None
    http_status: int | None = None  # only with `not_found`, and not of older versions


_LINE_ENDS = ((b"\xe2\x80\xa8", b"\\u2028"), (b"\xe2\x80\xa9", b"\\u2029"), (b"\xc2\x85", b"\\u0085"))
_decoder = msgspec.json.Decoder(RecordFields)


def decode(body: bytes) -> RecordFields:
    """Return the fields of a stored record, in about 1 µs. Raises `ValueError` for bytes that are no record."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(str(error)) from None


def landed_in(body: bytes) -> bool:
    """Return whether the file of a stored record landed; derived from its `result` where it is from a version
    without the field."""
    try:
        fields = decode(body)
    except ValueError:
        return False
    return names_file(fields.result) if fields.landed is None else fields.landed


def restore(body: bytes, *, kind: Kind, reason: str | None, seen_at: float) -> Record:
    """Return a record as it was stored. Raises `ValueError` for bytes that are no record."""
    fields = decode(body)
    return Record(
        body=body,
        kind=kind,
        landed=names_file(fields.result) if fields.landed is None else fields.landed,
        reason=reason,
        seen_at=seen_at,
        account=fields.account,
        task_id=fields.task_id,
        ref=None if fields.ref == msgspec.Raw(b"null") else bytes(fields.ref),
        requested_at=fields.requested_at,
        completed_at=fields.completed_at,
        correlation_id=fields.correlation_id,
    )
