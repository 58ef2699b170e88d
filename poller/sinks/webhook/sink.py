"""Finished tasks as signed POST requests: at least once, in order, known by an id that doubles share.

Only 2xx is success. What a receiver refuses (4xx) becomes a dead letter; a receiver that is away is waited for.
"""

import asyncio
import email.utils
import re
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, ClassVar

import aiohttp
import structlog
from pydantic import AfterValidator, BeforeValidator, Field
from yarl import URL

from poller import __version__
from poller.config.value_types import Count, Empty, Seconds, Variable, http_url, no_bool
from poller.core.errors import ConfigError, SinkError
from poller.core.model import Delivery, Retry, Written
from poller.core.protocols import Clock
from poller.sinks.backoff import jittered_s
from poller.sinks.batches import Portion, Portions, RecordRefused
from poller.sinks.table import UrlTable
from poller.sinks.webhook.signature import message_id, signed_headers

log = structlog.get_logger()

# Waits after the 1st, 2nd, … failure; the attempts of the Standard Webhooks text.
SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
LONGEST_RETRY_AFTER_S = 86_400.0
NOT_NOW = {408, 425, 429}
AWAY = {502, 503, 504, *range(520, 528), 530}  # said by what stands before the receiver

_TROUBLES: tuple[tuple[type[BaseException], str], ...] = (
    (TimeoutError, "no answer in time"),
    (aiohttp.ClientConnectorDNSError, "its host name is not known"),
    (aiohttp.ClientConnectorCertificateError, "its certificate is not trusted"),
    (aiohttp.ClientProxyConnectionError, "the proxy cannot be reached"),
    (aiohttp.ClientHttpProxyError, "the proxy refuses"),
    (aiohttp.ClientSSLError, "no TLS connection"),
    (aiohttp.ClientConnectorError, "no connection"),
    (aiohttp.ClientConnectionError, "the connection was lost"),
    (OSError, "the connection was lost"),
)


def web_url(url: str) -> str:
    """Return `url`. Raises `ValueError` where no request can be sent there."""
    try:
        http_url(url)
    except ValueError:
        raise ValueError(
            "must be an http:// or https:// URL; write / @ : in a user or password as %2F %40 %3A"
        ) from None
    return url


class WebhookTable(UrlTable):
    """Settings of a `webhook` sink."""

    KIND: ClassVar[str] = "webhook"
    EXAMPLE: ClassVar[str] = "webhook:https://example.com/finished"

    url: Annotated[Annotated[str, AfterValidator(web_url)] | None, Field(repr=False)] = None
    secret_env: Variable = "WEBHOOK_SECRET"  # noqa: S105 - a name
    secret_file: Annotated[Path | None, Empty] = None
    batch: Annotated[Count, Field(le=500)] = 1  # 1: an object a request; more: an array of up to so many
    concurrency: Annotated[Count, Field(le=64)] = 1  # requests at a time; only with 1 does the order hold
    timeout_s: Annotated[Seconds, Field(le=600)] = 20.0
    retries_s: Annotated[
        tuple[Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=604_800)], ...], Field(min_length=1)
    ] = SCHEDULE_S
    proxy: Annotated[Annotated[str, AfterValidator(http_url)] | None, Empty, Field(repr=False)] = None
    ca_file: Annotated[Path | None, Empty] = None


class WebhookSink:
    """Posts records to one URL. Connections are not kept: an answer that nobody asked for, left over on a kept one,
    would acknowledge what never arrived (aiohttp issue 13656)."""

    def __init__(
        self,
        table: WebhookTable,
        *,
        url: str,
        key: bytes | None,
        clock: Clock,
        rng: Random,
        connector: Callable[[], aiohttp.BaseConnector] | None = None,
    ) -> None:
        self.name = table.name_for(url)
        self._table = table
        self._url = URL(url, encoded=True)
        self._key = key
        self._clock = clock
        self._rng = rng
        self._make_connector = connector or self._tcp_connector
        self._session: aiohttp.ClientSession | None = None
        self._portions = Portions(self._send, size=table.batch, at_once=table.concurrency)
        self._failures: dict[str, int] = {}  # message id → attempts that failed

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        self._session = aiohttp.ClientSession(
            connector=self._make_connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self._table.proxy,
            timeout=aiohttp.ClientTimeout(),  # none: `asyncio.timeout` covers all of a request
        )
        if self._key is None:
            log.warning("webhook.unsigned", sink=self.name, secret_env=self._table.secret_env)
        return None

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        return await self._portions.write(batch)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(self, portion: Portion) -> Retry | RecordRefused | None:
        message = message_id(portion)
        answer = await self._post(message, self._body(portion))
        verdict = self._retry(message, answer) if isinstance(answer, str) else self._judge(message, answer)
        if not isinstance(verdict, Retry):
            self._failures.pop(message, None)
        return verdict

    async def _post(self, message: str, body: bytes) -> aiohttp.ClientResponse | str:
        """Return the answer, its body unread, or why there is none. aiohttp's exceptions hold the URL: none leaves."""
        if self._session is None:
            raise RuntimeError("the sink is not open")
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"hubspot-import-poller/{__version__}",
            **signed_headers(self._key, message, self._clock(), body),
        }
        try:
            async with (
                asyncio.timeout(self._table.timeout_s),
                self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer,
            ):
                return answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return next((text for known, text in _TROUBLES if isinstance(error, known)), "no usable answer")

    def _body(self, portion: Portion) -> bytes:
        if self._table.batch == 1:
            return portion[0].body
        return b"[" + b",".join(delivery.body for delivery in portion) + b"]"

    def _judge(self, message: str, answer: aiohttp.ClientResponse) -> Retry | RecordRefused | None:
        status, told = answer.status, f"it answered {answer.status}"
        if 200 <= status <= 299:
            return None
        if status == 410:
            raise SinkError(
                f"sink {self.name} is not wanted any more: its receiver answered 410 Gone; remove the sink, or set "
                "another url. Undelivered records stay in the state."
            )
        if 400 <= status <= 499 and status not in NOT_NOW:
            return RecordRefused(reason=told)
        if 300 <= status <= 399:
            return self._retry(message, f"{told}; redirects are not followed: set url to where it leads")
        failures = self._failures.get(message, 0) + 1
        if status not in NOT_NOW | AWAY and failures > len(self._table.retries_s):
            return RecordRefused(reason=f"{told}, {failures} times in a row", whole=True)
        return self._retry(message, told, asked_s=self._retry_after_s(answer))

    def _retry(self, message: str, reason: str, *, asked_s: float | None = None) -> Retry:
        failures = self._failures[message] = self._failures.get(message, 0) + 1
        wait_s = jittered_s(self._table.retries_s, failures, self._rng)
        if asked_s is not None:
            wait_s = asked_s * self._rng.uniform(1.0, 1.1)
        return Retry(reason=reason, wait_s=wait_s)

    def _retry_after_s(self, answer: aiohttp.ClientResponse) -> float | None:
        told = answer.headers.get("Retry-After", "").strip()
        if re.fullmatch(r"[0-9]{1,18}", told):
            return min(float(told), LONGEST_RETRY_AFTER_S)
        try:
            until_at = email.utils.parsedate_to_datetime(told).timestamp()
        except (ValueError, TypeError, OverflowError):
            return None
        return min(max(until_at - self._clock(), 0.0), LONGEST_RETRY_AFTER_S)

    def _tcp_connector(self) -> aiohttp.BaseConnector:
        return aiohttp.TCPConnector(limit=0, ssl=_trusted(self._table.ca_file), force_close=True)


def _trusted(ca_file: Path | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"sink webhook: ca_file {ca_file} cannot be used: {error}") from None
