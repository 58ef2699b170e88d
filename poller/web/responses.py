"""Responses: JSON from typed values, security headers, and each refusal as an `ErrorBody`."""

from typing import TypeVar

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import Struct, ValidationError, convert
from msgspec.json import encode

from poller.core.errors import PollerError

log = structlog.get_logger("poller")

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
Query = TypeVar("Query", bound=Struct)

ERRORS = {
    404: ("not_found", "There is nothing at this path. GET /v1/openapi.json lists the paths."),
    405: ("method_not_allowed", "{method} is not allowed here. Allowed: {allowed}."),
}


class ErrorBody(Struct, kw_only=True):
    """Every response that is not a success: one word for programs, one or two sentences for people."""

    error: str
    message: str


class RequestRefused(Exception):
    """The request cannot be accepted: its HTTP status, a word for programs, a sentence for people."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error = error


def query_of(request: web.Request, shape: type[Query]) -> Query:
    """Return the query parameters. Raises `RequestRefused` for one that cannot be used."""
    try:
        return convert({name: request.query[name] for name in request.query}, shape, strict=False)
    except ValidationError as error:
        expected, _, name = str(error).partition(" - at `$.")
        message = f"The query parameter {name.rstrip('`')} cannot be used: {expected}. See GET /v1/openapi.json"
        raise RequestRefused(400, "bad_query", message) from None


def json_response(document: object, *, status: int = 200) -> web.Response:
    """Return one line of JSON with its line break, because people ask with curl."""
    return web.Response(body=encode(document) + b"\n", status=status, content_type="application/json")


def error_response(status: int, error: str, message: str) -> web.Response:
    """Return a response that is not a success, as JSON."""
    return json_response(ErrorBody(error=error, message=message), status=status)


async def add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Add the default security headers unless the handler set them."""
    response.headers[hdrs.SERVER] = "poller"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every refusal into JSON. Only exceptions that are written for people show their text."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            raise
        error, message = ERRORS.get(refusal.status, ("refused", "{reason}"))
        allowed = refusal.headers.get(hdrs.ALLOW)
        text = message.format(method=request.method, allowed=allowed, reason=refusal.reason)
        response = error_response(refusal.status, error, text)
        if allowed is not None:
            response.headers[hdrs.ALLOW] = allowed
        return response
    except RequestRefused as refusal:
        return error_response(refusal.status, refusal.error, f"{refusal}.")
    except PollerError as error:
        log.warning("web.failed", method=request.method, path=_pattern(request), reason=str(error))
        return error_response(503, "unavailable", str(error))
    except ConnectionError:
        raise  # the client is gone
    except Exception:
        log.exception("web.failed", method=request.method, path=_pattern(request), reason="a defect: please report it")
        return error_response(500, "defect", "The server failed at this request. Its log has the details.")


def _pattern(request: web.Request) -> str | None:
    """Return the route's path with the names of its variables: their values may hold anything."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical
