"""Spoil a good answer in every way of `scenario.FAULTS`. Pure: a reply in, a worse reply out."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import orjson

from poller.sandbox.reply import SimulatedReply, Transmission, error, html, scope_missing, token_refused, wrong_path
from poller.sandbox.truth import Family

HUGE_BYTES = 4 << 20
BOMB_BYTES = 64 << 20  # unpacked
NESTING = 200_000
HEADER_BYTES = 64 << 10
MIGRATION_S = 30
ELSEWHERE = "https://elsewhere.invalid/files/v3/files/import-from-url/async/tasks/AAAAE/status"

_LIES = {"status": "CANCELED", "taskId": "AAAAE", "errors": [{}], "numErrors": 9, "result": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoilt:
    """What a fault has at hand."""

    family: Family
    correlation_id: str
    variant: float  # in [0, 1): which of a fault's forms
    fields: Mapping[str, Any] | None  # the status answer, None where the reply is another one
    foreign: Mapping[str, Any]  # another task's finished answer


def spoil(good: SimulatedReply, fault: str, at_hand: Spoilt) -> SimulatedReply:
    """Return what the client gets instead of `good`. A fault of the status answer leaves any other reply as it is."""
    if (stand_in := _STAND_INS.get(fault)) is not None:
        return stand_in(at_hand)
    match fault:
        case "reset":
            return replace(good, wire=Transmission.RESET)
        case "truncated":
            return replace(good, wire=Transmission.CUT_LENGTH if at_hand.variant < 0.5 else Transmission.CUT_BARE)
        case "drip":
            return replace(good, wire=Transmission.DRIP)
        case "hang":
            return replace(good, wire=Transmission.HANG)
        case "big_headers":
            return replace(good, headers={**good.headers, "X-Padding": "x" * HEADER_BYTES})
        case "stray":
            return replace(good, wire=Transmission.STRAY, stray=orjson.dumps(at_hand.foreign))
        case _ if at_hand.fields is not None:
            return _spoil_body(good, fault, dict(at_hand.fields), at_hand)
        case _:
            return good


@cache
def _padding() -> bytes:
    return b"x" * HUGE_BYTES


@cache
def _gzip_bomb() -> bytes:
    packer = zlib.compressobj(level=9, wbits=31)
    packed = [packer.compress(b'{"status":"PROCESSING","padding":"')]
    packed += [packer.compress(b"0" * (1 << 20)) for _ in range(BOMB_BYTES >> 20)]
    return b"".join((*packed, packer.compress(b'"}'), packer.flush()))


def _moving(at_hand: Spoilt) -> SimulatedReply:
    moving = error(477, "MIGRATION_IN_PROGRESS", "This account is being moved.", at_hand.correlation_id)
    return replace(moving, headers={"Retry-After": str(MIGRATION_S)})


# What stands in for any answer, whatever was asked.
_STAND_INS: Mapping[str, Callable[[Spoilt], SimulatedReply]] = {
    "500": lambda at_hand: error(500, "INTERNAL_ERROR", "internal error", at_hand.correlation_id),
    "502": lambda _: html(502, "502 Bad Gateway"),
    "503": lambda _: html(503, "503 Service Unavailable"),
    "504": lambda _: html(504, "504 Gateway Time-out"),
    "401": lambda at_hand: token_refused(at_hand.correlation_id),
    "403": lambda at_hand: scope_missing(at_hand.family.value, at_hand.correlation_id),
    "423": lambda at_hand: error(423, "LOCKED", "The resource is locked.", at_hand.correlation_id),
    "477": _moving,
    "530": lambda _: html(530, "Error 1016 Origin DNS error"),
    "redirect": lambda _: SimulatedReply(code=302, headers={"Location": ELSEWHERE}),
    "html404": lambda _: wrong_path(),
    "html200": lambda _: html(200, "We will be right back"),
    "empty": lambda _: SimulatedReply(),
    "null": lambda _: SimulatedReply(body=b"null"),
    "gzip_bomb": lambda _: SimulatedReply(body=_gzip_bomb(), headers={"Content-Encoding": "gzip"}),
}


def _spoil_body(good: SimulatedReply, fault: str, fields: dict[str, Any], at_hand: Spoilt) -> SimulatedReply:
    match fault:
        case "array":
            body = b"[" + good.body + b"]"
        case "wrong_types":
            body = orjson.dumps(_wrong_types(fields, at_hand.variant))
        case "unknown_status":
            words = ("FAILED", "ARCHIVING", "")
            body = orjson.dumps(fields | {"status": words[int(at_hand.variant * len(words))]})
        case "foreign_id" if at_hand.family.tells_id:
            body = orjson.dumps(at_hand.foreign)
        case "huge":
            body = _with_field(good.body, b'"padding":"%s"' % _padding())
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
    """A status of a wrong type, or a running task's, or right where it decides and wrong where it does not."""
    harmless = {"requestedAt": 1767571200, "startedAt": {"at": []}, "completedAt": False, "links": [{"next": 1}]}
    if variant < 1 / 3:
        return fields | {"status": [fields["status"]] if variant < 1 / 6 else 7}
    if variant < 2 / 3:
        return fields | harmless | {"status": "PROCESSING", "numErrors": "3", "errors": "none", "result": [[]]}
    return fields | harmless


def _with_field(body: bytes, field: bytes) -> bytes:
    return body[:-1] + b"," + field + b"}"
