"""The sandbox's requests and replies as plain data, and HubSpot's error bodies."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import orjson

from poller.sandbox.quota import Policy

JSON, HTML = "application/json;charset=utf-8", "text/html;charset=utf-8"


class Transmission(Enum):
    """How a reply is sent."""

    WHOLE = auto()
    RESET = auto()  # half of the body, then a reset
    CUT_LENGTH = auto()  # half of the body, then a close, though Content-Length is that of the whole
    CUT_BARE = auto()  # half of the body without a Content-Length, so that its end looks regular
    DRIP = auto()  # 5 bytes a second
    HANG = auto()  # silence, then a reset
    LOST = auto()  # a reset without a byte
    STRAY = auto()  # whole, and then `stray` on the idle connection


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """One request."""

    method: str
    path: str  # as sent: still percent-encoded, without the query
    token: str | None = field(default=None, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxReply:
    """One answer, and how to send it."""

    code: int = 200
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    transmission: Transmission = Transmission.WHOLE
    stray: bytes = b""  # a body

    @property
    def http_headers(self) -> dict[str, str]:
        return {"Content-Type": self.content_type, **self.headers}


def json_reply(code: int, content: Any, **headers: str) -> SandboxReply:
    return SandboxReply(code=code, body=orjson.dumps(content), headers=headers)


def error(code: int, category: str, message: str, correlation_id: str, **more: Any) -> SandboxReply:
    """Return a reply in the shape of HubSpot's HTTP errors, which is not that of StandardError."""
    content = {"status": "error", "message": message, "correlationId": correlation_id, "category": category}
    return json_reply(code, content | more)


def html(code: int, title: str) -> SandboxReply:
    page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return SandboxReply(code=code, body=page.encode(), content_type=HTML)


def wrong_path() -> SandboxReply:
    return html(404, "Error 404 Not Found")


def throttled(policy: Policy, correlation_id: str, retry_after_s: int | None) -> SandboxReply:
    content = {
        "status": "error",
        "message": f"You have reached your {policy.lower()} limit.",
        "errorType": "RATE_LIMIT",
        "correlationId": correlation_id,
        "policyName": policy,
        "groupName": "publicapi:private-apps-api-calls-sandbox:1234567:7654321",
    }
    return json_reply(429, content, **({} if retry_after_s is None else {"Retry-After": str(retry_after_s)}))


def token_refused(correlation_id: str) -> SandboxReply:
    message = "Authentication credentials not found. This API supports OAuth 2.0 authentication."
    return error(401, "INVALID_AUTHENTICATION", message, correlation_id)


def token_expired(correlation_id: str) -> SandboxReply:
    message = "The OAuth token used to make this call expired."
    return error(401, "EXPIRED_AUTHENTICATION", message, correlation_id)


def scope_missing(scope: str, correlation_id: str) -> SandboxReply:
    return error(
        403,
        "MISSING_SCOPES",
        "This app hasn't been granted all required scopes to make this call.",
        correlation_id,
        errors=[
            {"message": "One or more of the following scopes are required.", "context": {"requiredScopes": [scope]}}
        ],
        links={"scopes": "https://developers.hubspot.com/scopes"},
    )


def storage_full(correlation_id: str) -> SandboxReply:
    message = "The account has reached its limit of file storage. Delete files, or upgrade the account."
    return error(403, "STORAGE_LIMIT_EXCEEDED", message, correlation_id)


def undecodable_id(correlation_id: str) -> SandboxReply:
    return error(400, "VALIDATION_ERROR", "Provided ID could not be decoded.", correlation_id)


def unknown_id(task_id: str, correlation_id: str) -> SandboxReply:
    return error(404, "OBJECT_NOT_FOUND", f"No task of id {task_id} was found.", correlation_id)


def refresh_refused(correlation_id: str) -> SandboxReply:
    content = {
        "status": "BAD_REFRESH_TOKEN",
        "message": "missing or unknown refresh token",
        "correlationId": correlation_id,
        "error": "invalid_grant",
        "error_description": "missing or unknown refresh token",
    }
    return json_reply(400, content)
