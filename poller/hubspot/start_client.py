"""Starts an import: one POST over a connection of its own, whose result is always a `StartAnswer`. Never raises.

A start's answer names nothing by which it could be checked. A stray answer on a kept connection would give the row
another row's task id, so no connection is used twice.
"""

from collections.abc import Callable

import structlog
from yarl import URL

from poller.core.errors import ConfigError
from poller.core.model import Refused
from poller.core.request_protocols import RightLost, TokenSource
from poller.core.shared_timeout import SharedTimeout
from poller.core.starts import RIGHT_LOST, StartAnswer
from poller.hubspot.body import read_body
from poller.hubspot.classify_start import classify_start, not_sent, unsure
from poller.hubspot.client import (
    LARGEST_PROBLEM,
    USER_AGENT,
    Connections,
    Trouble,
    right_to_send,
    trouble_of,
)
from poller.hubspot.connection import HostPool
from poller.hubspot.tokens import TokenUnavailable
from poller.hubspot.unanswered import refusal_of

log = structlog.get_logger("poller")


class HubSpotStarts:
    """One account's `StartClient`."""

    def __init__(
        self,
        connections: Connections,
        *,
        base_url: str,
        start_path: str,
        tokens: TokenSource,
        request_timeout_s: float = 30.0,
        is_trusted: Callable[[], bool] | None = None,
    ) -> None:
        """In a fleet, `is_trusted` returns whether this member may send requests now."""
        self._connections = connections
        self._url = URL(base_url.rstrip("/") + start_path, encoded=True)
        self._tokens = tokens
        self._timeout = SharedTimeout(request_timeout_s)
        self.longest_s = request_timeout_s
        self._headers = (
            f"Accept: application/json\r\nAccept-Encoding: gzip, deflate\r\nUser-Agent: {USER_AGENT}\r\n"
            "Content-Type: application/json\r\nConnection: close\r\n"
        )
        self._pool: HostPool | None = None
        self._check_right = (lambda: None) if is_trusted is None else right_to_send(is_trusted)

    async def start(self, body: bytes) -> StartAnswer:
        """Send the start call once; see `StartClient`."""
        left = Departure(self._check_right)
        try:
            with self._timeout:
                token = await self._tokens.token()
                answer = await self._request(token, body, left)
        except ConfigError as error:
            refused = Refused(reason="token_refused", detail=str(error))
            return StartAnswer(outcome=refused, shows=refused)
        except TokenUnavailable as error:
            if isinstance(error.shows, Refused):
                return StartAnswer(outcome=error.shows, shows=error.shows)
            return not_sent(Trouble.NO_TOKEN.value if error.shows is None else error.shows.reason)
        except RightLost:
            return not_sent(RIGHT_LOST)
        except Exception as error:  # noqa: BLE001 - every class has its meaning in `trouble_of`
            trouble = trouble_of(error)
            if left.began:
                return unsure(trouble.value)
            if (refusal := refusal_of(error, self._url)) is not None:
                return StartAnswer(outcome=refusal, shows=refusal)
            return not_sent(trouble.value)
        if isinstance(answer.outcome, Refused) and answer.outcome.reason == "token_refused":
            self._tokens.refused(token)
        return answer

    async def _request(self, token: str, body: bytes, left: "Departure") -> StartAnswer:
        if self._pool is None:
            self._pool = await self._connections.pool(self._url, fresh=True)
        headers = f"Authorization: Bearer {token}\r\n{self._headers}"
        reply = await self._pool.post(self._url.raw_path_qs, headers, body, left.begin)
        try:
            content, trouble = await read_body(reply.content, LARGEST_PROBLEM)
            if trouble is not None and 200 <= reply.status <= 299:
                return unsure(trouble_of(trouble).value)
            return classify_start(reply.status, reply.headers, content)
        finally:
            reply.release(keep=False)


class Departure:
    """Whether the first byte of a request may have left: set right before it is written."""

    def __init__(self, check_right: Callable[[], None]) -> None:
        self.began = False
        self._check_right = check_right

    def begin(self) -> None:
        """Raises `RightLost` where this member may not send requests."""
        self._check_right()
        self.began = True
