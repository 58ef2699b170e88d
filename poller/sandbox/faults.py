"""Applies the faults of `scenario.FAULTS` to a good answer. Pure: a reply in, a worse reply out."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import orjson

from poller.sandbox.reply import (
    SandboxReply,
    Transmission,
    error,
    html,
    scope_missing,
    storage_full,
    token_refused,
    wrong_path,
)
from poller.sandbox.tasks import Family

HUGE_BYTES = 4 << 20
BOMB_BYTES = 64 << 20  # unpacked
NESTING = 200_000
HEADER_BYTES = 64 << 10
MIGRATION_S = 30
ELSEWHERE = "https://elsewhere.invalid/files/v3/files/import-from-url/async/tasks/AAAAE/status"

_LIES = {"status": "CANCELED", "taskId": "AAAAE", "errors": [{}], "numErrors": 9, "result": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultContext:
    """What a fault is made from."""

    family: Family
    correlation_id: str
    variant: float  # in [0, 1): selects one of a fault's forms
    fields: Mapping[str, Any] | None  # of the status answer; None where the reply is another one
    foreign: Callable[[], Mapping[str, Any]]  # returns another task's finished answer


def spoil(good: SandboxReply, fault: str, context: FaultContext) -> SandboxReply:
    """Return the reply to send instead of `good`. Faults of the status answer leave any other reply unchanged."""
    if (replacement := _REPLACEMENTS.get(fault)) is not None:
        return replacement(context)
    match fault:
        case "reset" | "drip" | "hang":
            return replace(good, transmission=Transmission[fault.upper()])
        case "truncated":
            cut = Transmission.CUT_LENGTH if context.variant < 0.5 else Transmission.CUT_BARE
            return replace(good, transmission=cut)
        case "big_headers":
            return replace(good, headers={**good.headers, "X-Padding": "x" * HEADER_BYTES})
        case "stray":
            return replace(good, transmission=Transmission.STRAY, stray=orjson.dumps(context.foreign()))
        case _ if context.fields is not None:
            return _spoil_body(good, fault, dict(context.fields), context)
        case _:
            return good


UNACCEPTED = frozenset({"start_before", "start_500_undone", "start_403_storage", "start_400"})  # no import begins


def spoil_start(good: SandboxReply, fault: str, correlation_id: str) -> SandboxReply:
    """Return the reply to a start call with a fault; `good` is that of an accepted one."""
    match fault:
        case "start_lost" | "start_before":
            return replace(good, transmission=Transmission.LOST)
        case "start_hang":
            return replace(good, transmission=Transmission.HANG)
        case "start_500_done" | "start_500_undone":
            return error(500, "INTERNAL_ERROR", "internal error", correlation_id)
        case "start_no_id":
            return replace(good, body=b"{}")
        case "start_403_storage":
            return storage_full(correlation_id)
        case "start_400":
            return error(400, "VALIDATION_ERROR", "Files of this type cannot be imported.", correlation_id)
        case _:
            return good


@cache
def _gzip_bomb() -> bytes:
    packer = zlib.compressobj(level=9, wbits=31)
    packed = [packer.compress(b'{"status":"PROCESSING","padding":"')]
    packed += [packer.compress(b"0" * (1 << 20)) for _ in range(BOMB_BYTES >> 20)]
    return b"".join((*packed, packer.compress(b'"}'), packer.flush()))


def _moving(context: FaultContext) -> SandboxReply:
    moving = error(477, "MIGRATION_IN_PROGRESS", "This account is being moved.", context.correlation_id)
    return replace(moving, headers={"Retry-After": str(MIGRATION_S)})


# Faults that replace the answer to any request.
_REPLACEMENTS: Mapping[str, Callable[[FaultContext], SandboxReply]] = {
    "500": lambda context: error(500, "INTERNAL_ERROR", "internal error", context.correlation_id),
    "502": lambda _: html(502, "502 Bad Gateway"),
    "503": lambda _: html(503, "503 Service Unavailable"),
    "504": lambda _: html(504, "504 Gateway Time-out"),
    "401": lambda context: token_refused(context.correlation_id),
    "403": lambda context: scope_missing(context.family.value, context.correlation_id),
    "423": lambda context: error(423, "LOCKED", "The resource is locked.", context.correlation_id),
    "477": _moving,
    "530": lambda _: html(530, "Error 1016 Origin DNS error"),
    "redirect": lambda _: SandboxReply(code=302, headers={"Location": ELSEWHERE}),
    "html404": lambda _: wrong_path(),
    "html200": lambda _: html(200, "We will be right back"),
    "empty": lambda _: SandboxReply(),
    "null": lambda _: SandboxReply(body=b"null"),
    "gzip_bomb": lambda _: SandboxReply(body=_gzip_bomb(), headers={"Content-Encoding": "gzip"}),
}


def _spoil_body(good: SandboxReply, fault: str, fields: dict[str, Any], context: FaultContext) -> SandboxReply:
    match fault:
        case "array":
            body = b"[" + good.body + b"]"
        case "wrong_types":
            body = orjson.dumps(_wrong_types(fields, context.variant))
        case "unknown_status":
            words = ("FAILED", "ARCHIVING", "")
            body = orjson.dumps(fields | {"status": words[int(context.variant * len(words))]})
        case "foreign_id" if context.family.has_task_id:
            body = orjson.dumps(context.foreign())
        case "huge":
            body = _with_field(good.body, b'"padding":"%s"' % (b"x" * HUGE_BYTES))
        case "deep":
            body = _with_field(good.body, b'"context":' + b"[" * NESTING + b"]" * NESTING)
        case "bad_utf8":
            body = _with_field(good.body, b'"note":"caf\xe9 \xff\xfe"')
        case "duplicate_keys":
            lies = orjson.dumps({name: lie for name, lie in _LIES.items() if name in fields})
            body = lies[:-1] + b"," + good.body[1:]
        case "nan":
            body = orjson.dumps(fields | {"numErrors": orjson.Fragment(b"NaN"), "took": orjson.Fragment(b"-Infinity")})
        case _:
            return good
    return replace(good, body=body)


def _wrong_types(fields: dict[str, Any], variant: float) -> dict[str, Any]:
    """Return a status of a wrong type, or a running task's, or fields that are wrong where they do not matter."""
    harmless = {"requestedAt": 1767571200, "startedAt": {"at": []}, "completedAt": False, "links": [{"next": 1}]}
    if variant < 1 / 3:
        return fields | {"status": [fields["status"]] if variant < 1 / 6 else 7}
    if variant < 2 / 3:
        return fields | harmless | {"status": "PROCESSING", "numErrors": "3", "errors": "none", "result": [[]]}
    return fields | harmless


def _with_field(body: bytes, field: bytes) -> bytes:
    return body[:-1] + b"," + field + b"}"
