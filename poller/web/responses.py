"""Responses: JSON from typed values, security headers, and each refusal as an `ErrorBody`."""

import asyncio
from collections.abc import AsyncIterator
from difflib import get_close_matches
from typing import TypeVar

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from msgspec import DecodeError, Struct, ValidationError, convert
from msgspec.json import decode, encode
from msgspec.structs import fields

from poller.core.errors import PollerError
from poller.core.text import printable

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
MAX_SEND_S = 120.0  # for a client to receive a page, or a part of a file

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
    """Return the query parameters. Raises `RequestRefused` for one that cannot be used: a mistyped `account` would feed
    another one."""
    known = [each.encode_name for each in fields(shape)]
    if unknown := next((name for name in request.query if name not in known), None):
        near = get_close_matches(unknown, known, n=1)
        hint = f"the nearest is {near[0]}" if near else f"known are {', '.join(known)}"
        raise RequestRefused(400, "bad_query", f"There is no query parameter {printable(unknown[:40])!r}; {hint}")
    try:
        several = {each.encode_name for each in fields(shape) if each.default_factory is list}
        given = {name: request.query.getall(name) if name in several else request.query[name] for name in request.query}
        return convert(given, shape, strict=False)
    except ValidationError as error:
        expected, _, name = str(error).partition(" - at `$.")
        message = f"The query parameter {name.rstrip('`')} cannot be used: {expected}. See GET /v1/openapi.json"
        raise RequestRefused(400, "bad_query", message) from None


async def body_of(request: web.Request, shape: type[Query]) -> Query:
    """Return the JSON body. Raises `RequestRefused` for one that cannot be used."""
    try:
        return decode(await request.read(), type=shape)
    except ValidationError as error:
        raise RequestRefused(400, "bad_body", f"The body cannot be used: {error}. See GET /v1/openapi.json") from None
    except (DecodeError, RecursionError):
        raise RequestRefused(400, "bad_body", "The body is not JSON. See GET /v1/openapi.json") from None


def json_response(document: object, *, status: int = 200) -> web.Response:
    """Return one line of JSON with its line break, because people ask with curl."""
    return web.Response(body=encode(document) + b"\n", status=status, content_type="application/json")


async def send_file(
    request: web.Request, name: str, content_type: str, parts: AsyncIterator[str]
) -> web.StreamResponse:
    """Send a file for download. Where its source fails, the connection is cut: half a file must not look whole."""
    response = web.StreamResponse(headers={hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"'})
    response.content_type, response.charset = content_type, "utf-8"
    try:
        await response.prepare(request)
        if request.method != hdrs.METH_HEAD:
            async for part in parts:
                async with asyncio.timeout(MAX_SEND_S):
                    await response.write(part.encode("utf-8", "replace"))
        await response.write_eof()
    except (PollerError, RequestRefused, TimeoutError) as error:
        log.warning("web.failed", method=request.method, path=_pattern(request), reason=str(error) or "slow client")
        if request.transport is not None:
            request.transport.abort()
    return response


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
