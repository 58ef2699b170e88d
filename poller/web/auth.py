"""Who may ask: the bearer token where one is set; without one, only this machine's own pages and programs."""

import hmac
from urllib.parse import urlsplit

import orjson
import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from poller.config import is_loopback_host
from poller.core.errors import ConfigError, PollerError
from poller.core.log import Folded
from poller.core.protocols import Clock, TokenSource
from poller.web.context import told

log = structlog.get_logger()

OPEN = frozenset({"/healthz", "/readyz"})  # for probes, which have no token
ASSETS = "/page/"  # the page's own code: no data, and a browser sends no token for it
SAFE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
MAY_SEE: web.RequestKey[bool] = web.RequestKey("may_see", bool)  # the asker may see everything, not only health

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


async def add_headers(_request: web.BaseRequest, response: web.StreamResponse) -> None:
    """Give every answer the headers that keep browsers out of mischief, but for those it has already."""
    response.headers[hdrs.SERVER] = "poller"
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def answer(status: int, error: str, message: str, **more: object) -> web.Response:
    """Return an answer that is not a success, as JSON."""
    return as_json(told(error, message, **more), status=status)


def as_json(document: object, *, status: int = 200) -> web.Response:
    """Return an answer that is one line of JSON, its line break included: people ask with curl."""
    return web.Response(body=orjson.dumps(document) + b"\n", status=status, content_type="application/json")


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Make every refusal JSON, and let no exception's text out but those that were written for people."""
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        if refusal.status < 400:
            raise
        response = answer(refusal.status, _word(refusal), _sentence(refusal, request))
        if hdrs.ALLOW in refusal.headers:
            response.headers[hdrs.ALLOW] = refusal.headers[hdrs.ALLOW]
        return response
    except PollerError as error:
        log.warning("web.failed", method=request.method, path=_pattern(request), reason=str(error))
        return answer(503, "unavailable", str(error))
    except ConnectionError:
        raise  # whoever asked is gone
    except Exception:
        log.exception("web.failed", method=request.method, path=_pattern(request), reason="a defect: please report it")
        return answer(500, "defect", "the server failed at this request; its log tells more")


def _word(refusal: web.HTTPException) -> str:
    return {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(refusal.status, "refused")


def _sentence(refusal: web.HTTPException, request: web.Request) -> str:
    match refusal.status:
        case 404:
            return "there is nothing at this path; GET /v1/openapi.json tells what there is"
        case 405:
            return f"{request.method} is not possible here; allowed: {refusal.headers.get(hdrs.ALLOW, 'nothing')}"
        case _:
            return refusal.reason


def _pattern(request: web.Request) -> str | None:
    """Return the route's path with its variables' names, not what was asked for: that may hold anything."""
    resource = request.match_info.route.resource
    return None if resource is None else resource.canonical


class Guard:
    """The middleware that lets requests in. With a token, whoever has it; without, whoever is on this machine."""

    def __init__(self, tokens: TokenSource | None, *, clock: Clock) -> None:
        self._tokens = tokens
        self._say = Folded(log.warning, clock=clock)

    def middleware(self) -> Middleware:
        @web.middleware
        async def let_in(request: web.Request, handler: Handler) -> web.StreamResponse:
            if self._tokens is None:
                if (refused := self._refuse_strangers(request)) is not None:
                    return refused
                request[MAY_SEE] = True
                return await handler(request)
            request[MAY_SEE] = await self._has_token(request)
            if request[MAY_SEE] or request.path in OPEN or request.path.startswith(ASSETS):
                return await handler(request)
            return await self._ask_for_token(request, handler)

        return let_in

    def _refuse_strangers(self, request: web.Request) -> web.Response | None:
        """Without a token, a browser on this machine must not be made to ask on behalf of some other site's page."""
        if not _names_this_machine(request.headers.get(hdrs.HOST)):
            return self._refuse(
                "host",
                "ask this server as localhost, 127.0.0.1 or [::1]; to be reached by another name it needs a token: "
                "set listen_token_file or listen_token_env",
            )
        if request.method not in SAFE and _is_from_another_site(request):
            return self._refuse("origin", "requests from other sites' pages are refused")
        return None

    async def _has_token(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if self._tokens is None or scheme.lower() != "bearer":
            return False
        try:
            right = await self._tokens.token()
        except ConfigError as fault:
            self._say("web.token_unreadable", reason=str(fault))
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), right.encode())

    async def _ask_for_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 401. At `/` it comes with the page, which holds nothing of the run and asks a person for the token."""
        self._say("web.refused", by=("token",), reason="token")
        if request.path == "/" and request.method in SAFE:
            response = await handler(request)
            response.set_status(401)
        else:
            response = answer(401, "unauthorized", "needs the header Authorization: Bearer with this server's token")
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="poller"'
        return response

    def _refuse(self, reason: str, message: str) -> web.Response:
        self._say("web.refused", by=(reason,), reason=reason)
        return answer(403, "forbidden", message)


def _names_this_machine(host: str | None) -> bool:
    """Tell whether a Host header is this machine's own name. A page elsewhere whose name was made to lead here (DNS
    rebinding) sends its own. Programs may leave it out; browsers cannot."""
    if host is None:
        return True
    try:
        return is_loopback_host(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_from_another_site(request: web.Request) -> bool:
    """Tell whether a page of another origin makes a browser send this."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        return origin.lower().partition("://")[2] != request.headers.get(hdrs.HOST, "").lower()
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
