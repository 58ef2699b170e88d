"""Who may ask: with a token set, clients that send it; without one, only pages and programs of this machine."""

import hmac
from urllib.parse import urlsplit

import structlog
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from poller.config import is_loopback_host
from poller.core.errors import ConfigError
from poller.core.log import Folded
from poller.core.protocols import Clock
from poller.core.request_protocols import TokenSource
from poller.web.responses import error_response

log = structlog.get_logger("poller")

PROBES = frozenset({"/healthz", "/readyz"})  # have no token
ASSETS = "/page/"  # the page's code: no data, and a browser sends no token for it
SAFE = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
SEES_DETAILS: web.RequestKey[bool] = web.RequestKey("sees_details", bool)  # the client may see more than health


@web.middleware
async def refuse_changes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer only requests that change nothing: the middleware of a server that shows a state."""
    if request.method in SAFE:
        return await handler(request)
    message = "This server only shows the state. To change something, send the request to the poller that works on it."
    return error_response(403, "read_only", message)


class Guard:
    """Lets requests in or refuses them; `check` is the middleware."""

    def __init__(self, tokens: TokenSource | None, *, clock: Clock) -> None:
        self._tokens = tokens
        self._log = Folded(log.warning, clock=clock)

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer with the handler, or with the refusal."""
        if self._tokens is None:
            request[SEES_DETAILS] = True
            return self._refuse_foreign(request) or await handler(request)
        request[SEES_DETAILS] = await self._has_token(request)
        if request[SEES_DETAILS] or request.path in PROBES or request.path.startswith(ASSETS):
            return await handler(request)
        return await self._ask_for_token(request, handler)

    def _refuse_foreign(self, request: web.Request) -> web.Response | None:
        """Without a token, no page of another site may use a browser on this machine to ask."""
        if not _names_this_machine(request.headers.get(hdrs.HOST)):
            return self._refuse(
                "host",
                "Without a token this server answers only as localhost, 127.0.0.1 or [::1]. To reach it by another "
                "name, set listen_token_file or listen_token_env.",
            )
        if request.method not in SAFE and _is_from_another_site(request):
            return self._refuse("origin", "Requests from pages of other sites are refused.")
        return None

    async def _has_token(self, request: web.Request) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if self._tokens is None or scheme.lower() != "bearer":
            return False
        try:
            expected = await self._tokens.token()
        except ConfigError as error:
            self._log("web.token_unreadable", reason=str(error))
            return False
        return hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), expected.encode())

    async def _ask_for_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 401. At `/` the body is the page, which holds no data and asks a person for the token."""
        self._log("web.refused", by=("token",), reason="token")
        if request.path == "/" and request.method in SAFE:
            response = await handler(request)
            response.set_status(401)
        else:
            message = "The token is missing or wrong. Send the header Authorization: Bearer TOKEN."
            response = error_response(401, "unauthorized", message)
        response.headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="poller"'
        return response

    def _refuse(self, reason: str, message: str) -> web.Response:
        self._log("web.refused", by=(reason,), reason=reason)
        return error_response(403, "forbidden", message)


def _names_this_machine(host: str | None) -> bool:
    """Whether a Host header is a name of this machine. A foreign page whose name was made to resolve to this machine
    (DNS rebinding) sends its own name. Programs may omit the header; browsers cannot."""
    if host is None:
        return True
    try:
        return is_loopback_host(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_from_another_site(request: web.Request) -> bool:
    """Whether a page of another origin makes a browser send this."""
    origin = request.headers.get(hdrs.ORIGIN)
    if origin is not None:
        return origin.lower().partition("://")[2] != request.headers.get(hdrs.HOST, "").lower()
    return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
