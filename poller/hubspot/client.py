"""Poll a task: one HTTP request over shared connections, whose result is always an `Answer`. Never raises.

aiohttp's exceptions hold the token, so they end here: callers get a word of `Trouble`.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import structlog
from yarl import URL

from poller import __version__
from poller.core.credentials import trusted_by
from poller.core.errors import ConfigError
from poller.core.http_errors import http_error
from poller.core.model import REPORTING, Answer, Outcome, Refused, Running, Task, Unreachable
from poller.core.request_protocols import RightLost, TokenSource
from poller.core.shared_timeout import SharedTimeout
from poller.core.task_id import in_path
from poller.hubspot.body import BodyTooLarge, read_body
from poller.hubspot.classify import classify
from poller.hubspot.connection import HostPool, Reply, open_pool
from poller.hubspot.headers import read_limits
from poller.hubspot.timeouts import RequestTimeouts
from poller.hubspot.tokens import TokenUnavailable
from poller.hubspot.unanswered import refusal_of

log = structlog.get_logger("poller")

USER_AGENT = f"hubspot-import-poller/{__version__}"
LARGEST_PROBLEM = 65_536  # bytes of an error answer that are read
POST_TIMEOUT_S = 10.0


class Trouble(StrEnum):
    """Why no usable answer came. Reasons of `Unreachable`, beside `BadBody` and `http_NNN`."""

    TIMEOUT = "timeout"
    DNS = "dns"
    REFUSED = "connection_refused"  # or no route: no connection could be made
    TLS = "tls"
    CERTIFICATE = "tls_certificate"
    PROXY = "proxy"
    LOST = "connection_lost"  # closed before an answer; the request may have reached HubSpot
    RESET = "connection_reset"
    CUT = "body_cut"  # the connection ended, or the encoding broke, inside the body
    TOO_LARGE = "body_too_large"  # decoded
    BAD_HTTP = "bad_http"  # not HTTP as we know it
    BAD_URL = "bad_url"  # the URL cannot be asked for: a setting, or an id that no source lets through
    FOREIGN = "foreign_answer"  # another task's id in the body
    UNNAMED = "unnamed_answer"  # no id in the body, over a connection that may hold a stray answer
    NO_TOKEN = "token_unavailable"  # noqa: S105 - a reason, not a token
    CLIENT = "client_error"  # something else inside the HTTP client


NO_CONNECTION = (Trouble.REFUSED, Trouble.TIMEOUT, Trouble.TLS, Trouble.CERTIFICATE)  # the host may have moved


def trouble_of(error: BaseException) -> Trouble:
    """Return what an exception of the HTTP client means. Logs the class name, and no more, of one that is not known."""
    if isinstance(error, BodyTooLarge):
        return Trouble.TOO_LARGE
    if (word := http_error(error)) is not None:
        return Trouble(word)
    log.warning("poll.broken", error=type(error).__name__)
    return Trouble.CLIENT


class Connections:
    """All connections of the process to HubSpot, shared by all accounts: two sessions, of which one keeps connections,
    and a `HostPool` for each host. No cookies, no netrc, no proxy but the one given. Use with `async with`."""

    def __init__(
        self,
        *,
        proxy: str | None = None,
        ca_file: Path | None = None,
        connector: Callable[[bool], aiohttp.BaseConnector] | None = None,
    ) -> None:
        """`connector` builds a connector without a limit; its argument is whether to close each connection after its
        first answer."""
        self._proxy = proxy
        self._ca_file = ca_file
        self._make_connector = connector or self._tcp_connector
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by `fresh`; empty: not open
        self._pools: dict[tuple[URL, bool], HostPool] = {}  # by origin and `fresh`
        self._carried_out: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Raises `ConfigError` where the CA file cannot be used."""
        for fresh in (False, True):
            self._sessions[fresh] = self._session(self._make_connector(fresh))
        self._post_timeout = SharedTimeout(POST_TIMEOUT_S)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._carried_out:
                await asyncio.wait(self._carried_out)
        finally:
            for pool in self._pools.values():
                pool.close()
            for session in self._sessions.values():
                await session.close()

    def carry_out(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` to its end, whatever becomes of those that wait for it; the connections stay open until then.

        In no group: it outlives the poll that began it, and a run that fails must not cancel it.
        """
        self._carried_out = {task for task in self._carried_out if not task.done()}
        task = asyncio.get_running_loop().create_task(work)
        self._carried_out.add(task)
        return task

    async def pool(self, host: URL, *, fresh: bool) -> HostPool:
        """Return the pool for the host of a URL. `fresh`: each of its connections serves one answer only."""
        key = host.origin(), fresh
        if key not in self._pools:
            self._pools[key] = await open_pool(self._sessions[fresh], host, fresh=fresh)
        return self._pools[key]

    async def post(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        """POST a form to the OAuth endpoint; return status and body. Raises `TokenUnavailable` without an answer."""
        try:
            with self._post_timeout:
                async with self._sessions[True].post(
                    URL(url), data=dict(form), headers={"User-Agent": USER_AGENT}, allow_redirects=False
                ) as response:
                    body, trouble = await read_body(response.content, LARGEST_PROBLEM)
                    if trouble is None:
                        return response.status, body
            failure: Exception = trouble
        except Exception as error:  # noqa: BLE001 - every class has its meaning in `trouble_of`
            failure = error
        word = trouble_of(failure)
        self.note_failure(word)
        shows = refusal_of(failure, URL(url)) or Unreachable(reason=word.value)
        raise TokenUnavailable(f"the token endpoint did not answer: {word}", shows)

    def note_failure(self, trouble: Trouble) -> None:
        """Look hosts up again where a request found no one who answers at the address that is remembered."""
        if trouble in NO_CONNECTION:
            for session in self._sessions.values():
                if isinstance(session.connector, aiohttp.TCPConnector):
                    session.connector.clear_dns_cache()

    def _session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self._proxy,
            timeout=aiohttp.ClientTimeout(),  # none: the caller limits the time of the whole request
        )

    def _tcp_connector(self, fresh: bool) -> aiohttp.BaseConnector:
        return aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=trusted_by(self._ca_file), force_close=fresh)


class HubSpotClient:
    """One account's `StatusClient`.

    aiohttp can give a stray answer, left over on a kept connection, to the next request (its issue 13656). So a
    connection is kept only after an answer that names the polled task. A final answer that names no task counts only
    over a fresh connection, and so does a repeated "not found", which cannot name one.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        base_url: str,
        status_path: str,
        tokens: TokenSource,
        request_timeout_s: float = 30.0,
        max_body_bytes: int = 1_048_576,
        is_trusted: Callable[[], bool] | None = None,
    ) -> None:
        """`status_path` contains `{task_id}`; it is appended to `base_url`, which may have a path. In a fleet,
        `is_trusted` returns whether this member may send requests now: asked right before each one leaves."""
        self._connections = connections
        template = base_url.rstrip("/") + status_path
        self._sample = status_url(template, "A")  # None: the URL is invalid
        self._before_id, _, self._after_id = _path_of(template).partition("{task_id}")
        self._tokens = tokens
        self._timeouts = RequestTimeouts(request_timeout_s)
        self._max_body_bytes = max_body_bytes
        self._headers = _Headers()
        self._pools: dict[bool, HostPool] = {}  # by `fresh`
        self._expects_task_ids = answers_name_task(status_path)
        self._warned: set[Trouble] = set()
        self._on_send = None if is_trusted is None else right_to_send(is_trusted)

    async def poll(self, task: Task) -> Answer:
        """Request `task`'s status, at most once; see `StatusClient`."""
        id_in_path = in_path(task.task_id)
        if self._sample is None or id_in_path is None:
            return _unreachable(Trouble.BAD_URL)
        began_at = self._timeouts.now()
        try:
            with self._timeouts.of(task.key):
                token = await self._tokens.token()
                answer = await self._request(self._sample, token, task, id_in_path)
            self._timeouts.answer(task.key, sent_at=began_at, took_s=self._timeouts.now() - began_at)
        except ConfigError as error:
            return Answer(outcome=Refused(reason="token_refused", detail=str(error)))
        except TokenUnavailable as error:
            return _unreachable(Trouble.NO_TOKEN) if error.shows is None else Answer(outcome=error.shows)
        except RightLost:
            raise
        except Exception as error:  # noqa: BLE001 - every class has its meaning in `trouble_of`
            trouble = trouble_of(error)
            self._connections.note_failure(trouble)
            if trouble is Trouble.TIMEOUT:
                self._timeouts.time_out(task.key, sent_at=began_at)
            if (refused := refusal_of(error, self._sample)) is not None:
                return Answer(outcome=refused)
            return _unreachable(trouble)
        if isinstance(answer.outcome, Refused) and answer.outcome.reason == "token_refused":
            self._tokens.refused(token)
        return answer

    async def _request(self, host: URL, token: str, task: Task, id_in_path: str) -> Answer:
        fresh = task.missing_at is not None or not self._expects_task_ids
        credentials = self._tokens.credentials  # of `token`: another may be renewed meanwhile
        pool = self._pools.get(fresh)
        if pool is None:
            pool = self._pools[fresh] = await self._connections.pool(host, fresh=fresh)
        target = f"{self._before_id}{id_in_path}{self._after_id}"
        reply = await pool.get(target, self._headers.of(token), self._on_send)
        is_named = False
        try:
            is_success = 200 <= reply.status <= 299
            limit, trouble = self._max_body_bytes if is_success else LARGEST_PROBLEM, None
            if (body := reply.body_at_hand(limit)) is None:
                body, trouble = await read_body(reply.content, limit)
            answer = self._checked(_answer_of(reply, body, trouble, credentials), task, fresh=fresh)
            is_named = isinstance(answer.outcome, REPORTING) and answer.outcome.task_id is not None
        finally:
            reply.release(keep=is_named)
        return answer

    def _checked(self, answer: Answer, task: Task, *, fresh: bool) -> Answer:
        """Return `answer`, or an `Unreachable` where it is, or may be, another task's."""
        outcome = answer.outcome
        if not isinstance(outcome, REPORTING):
            return answer
        if outcome.task_id is not None:
            if outcome.task_id == task.task_id:
                return answer
            return self._reject(Trouble.FOREIGN, task)
        is_blank = isinstance(outcome, Running) and outcome.status is None  # an empty or `null` body decides nothing
        if fresh or is_blank:
            return answer
        self._expects_task_ids = False
        return self._reject(Trouble.UNNAMED, task)

    def _reject(self, trouble: Trouble, task: Task) -> Answer:
        """Log the first of each kind as a warning: a proxy may be mixing answers up."""
        write = log.debug if trouble in self._warned else log.warning
        self._warned.add(trouble)
        write("answer.distrusted", task_id=task.task_id, reason=trouble.value)
        return _unreachable(trouble)


class _Headers:
    """The headers of each request, kept with the latest token. No repr shows it."""

    __slots__ = ("_text", "_token")

    def __init__(self) -> None:
        self._token = self._text = ""

    def of(self, token: str) -> str:
        """Return the headers with this token: the same object while it is the same."""
        if token != self._token:
            accepted = "Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\n"
            self._text = f"Authorization: Bearer {token}\r\n{accepted}User-Agent: {USER_AGENT}\r\n"
            self._token = token
        return self._text


def _answer_of(reply: Reply, body: bytes, trouble: Exception | None, credentials: bytes) -> Answer:
    """Classify an error answer by status and headers even where its body is too large or cut."""
    limits = read_limits(reply.headers)
    if trouble is not None and 200 <= reply.status <= 299:
        outcome: Outcome = Unreachable(reason=trouble_of(trouble).value)
    else:
        outcome = classify(reply.status, reply.headers, body)
    return Answer(outcome=outcome, limits=limits, credentials=credentials)


def right_to_send(is_trusted: Callable[[], bool]) -> Callable[[], None]:
    """Return a function that raises `RightLost` while this member may not send requests."""

    def check() -> None:
        if not is_trusted():
            raise RightLost

    return check


def answers_name_task(status_path: str) -> bool:
    """Return whether answers of this path contain the task's id; those of exports and source code never do."""
    return "/exports/" not in status_path and "/source-code/" not in status_path


def status_url(template: str, task_id: str) -> URL | None:
    """Return the URL of exactly this task's status; None where there is none."""
    if (id_in_path := in_path(task_id)) is None:
        return None
    text = template.replace("{task_id}", id_in_path)
    try:
        url = URL(text, encoded=True)
    except ValueError:
        return None
    is_exact = url.raw_path_qs == _path_of(text) and re.fullmatch("[!-~]+", text)
    return url if url.host and is_exact else None


def _path_of(url: str) -> str:
    """Return what follows scheme and host, unparsed, to compare a URL library's result with."""
    _, _, rest = url.partition("://")
    _, slash, path = rest.partition("/")
    return slash + path


def _unreachable(trouble: Trouble) -> Answer:
    return Answer(outcome=Unreachable(reason=trouble.value))
