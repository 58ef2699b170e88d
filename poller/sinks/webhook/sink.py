"""Finished tasks as signed POST requests: at least once, in order, with an id that duplicates share.

Only 2xx is success. A record that the receiver refuses (4xx) becomes a dead letter, after some retries where the fault
may be the receiver's; an unavailable receiver is retried.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Annotated, ClassVar

import aiohttp
import structlog
from pydantic import AfterValidator, BeforeValidator, Field
from yarl import URL

from poller import __version__
from poller.config.value_types import Count, Empty, Seconds, Variable, http_url, no_bool
from poller.core.credentials import secret_in_env, secret_in_file, trusted_by
from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, SinkError
from poller.core.http_errors import http_error
from poller.core.log import keep_secret
from poller.core.protocols import Clock
from poller.core.retry_after import http_date, parse_retry_after
from poller.core.shared_timeout import SharedTimeout
from poller.core.steady_clock import machine_clock_of
from poller.sinks.backoff import backoff_s
from poller.sinks.batches import Batch, BatchRefused, BatchSender
from poller.sinks.table import SinkEnvironment, UrlTable
from poller.sinks.webhook.signature import key_of, message_id, signed_headers

log = structlog.get_logger("poller")

# Waits after the 1st, 2nd, … failure; the attempts of the Standard Webhooks text.
SCHEDULE_S = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
NOT_NOW = {408, 425, 429}
OF_THE_RECORD = {400, 409, 413, 414, 415, 422, 431, 451}  # other 4xx, such as 401 and 404, may be the receiver's fault
PATIENCE = 5  # retries of those, on the first steps of the schedule, before a record is a dead letter …
PATIENCE_S, LEAST_TRIES = 900.0, 3  # … or fewer, where others were taken and the next would come later: all wait for it
UNAVAILABLE = {502, 503, 504, *range(520, 528), 530}  # sent by a proxy in front of the receiver

# The reason words of `http_error`, for people.
MESSAGES: Mapping[str | None, str] = {
    "timeout": "no answer in time",
    "dns": "its host name is not known",
    "proxy": "the proxy refuses or cannot be reached",
    "tls": "no TLS connection",
    "tls_certificate": "its certificate is not trusted",
    "connection_refused": "no connection",
    "connection_lost": "the connection was lost",
    "connection_reset": "the connection was lost",
}


class WebhookTable(UrlTable):
    """Settings of a `webhook` sink."""

    KIND: ClassVar[str] = "webhook"
    EXAMPLE: ClassVar[str] = "webhook:https://example.com/finished"

    secret_env: Variable = "WEBHOOK_SECRET"  # noqa: S105 - a name
    secret_file: Annotated[Path | None, Empty] = None
    batch: Annotated[Count, Field(le=500)] = 1  # 1: an object a request; more: an array of at most that many
    concurrency: Annotated[Count, Field(le=64)] = 1  # requests at a time; the order is kept with 1 only
    timeout_s: Annotated[Seconds, Field(le=600)] = 20.0
    retries_s: Annotated[
        tuple[Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=604_800)], ...], Field(min_length=1)
    ] = SCHEDULE_S
    proxy: Annotated[Annotated[str, AfterValidator(http_url)] | None, Empty, Field(repr=False)] = None
    ca_file: Annotated[Path | None, Empty] = None

    def make(self, environment: SinkEnvironment) -> "WebhookSink":
        url, key = self.find_url(environment.environ), self._find_key(environment.environ)
        return WebhookSink(self, url=url, key=key, clock=environment.clock, rng=environment.rng)

    @classmethod
    def check_url(cls, url: str) -> str:
        """Return `url`. Raises `ValueError` where no request can be sent to it."""
        try:
            http_url(url)
        except ValueError:
            problem = "must be an http:// or https:// URL; write / @ : in a user or password as %2F %40 %3A"
            raise ValueError(problem) from None
        return url

    def _find_key(self, environ: Mapping[str, str]) -> bytes | None:
        """Return the signing key; None only where the default variable is not set and the table names no other."""
        if self.secret_file is not None:
            secret, origin = secret_in_file(self.secret_file), str(self.secret_file)
        elif "secret_env" in self.model_fields_set or environ.get(self.secret_env):
            secret, origin = secret_in_env(self.secret_env, environ), self.secret_env
        else:
            return None
        keep_secret(secret)
        try:
            return key_of(secret)
        except ValueError as error:
            raise ConfigError(f"sink webhook: the secret in {origin} {error}") from None


class WebhookSink:
    """Posts records to one URL. Connections are not kept: a stray answer left over on a kept one would acknowledge a
    record that never arrived (aiohttp issue 13656)."""

    shared = True  # any replica of a fleet can deliver to it

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
        self._signed_at = machine_clock_of(clock)  # a receiver refuses what is minutes off its own
        self._rng = rng
        self._make_connector = connector or self._tcp_connector
        self._session: aiohttp.ClientSession | None = None
        self._batches = BatchSender(self._send, size=table.batch, concurrency=table.concurrency)
        self._failures: dict[str, int] = {}  # message id → attempts that failed
        self._failing_since: dict[str, float] = {}
        self._has_taken = False  # the receiver accepted a record of this run

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002 - the protocol's
        self._session = aiohttp.ClientSession(
            connector=self._make_connector(),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            proxy=self._table.proxy,
            timeout=aiohttp.ClientTimeout(),  # none: ours covers all of a request
        )
        self._timeout = SharedTimeout(self._table.timeout_s)
        if self._key is None:
            log.warning("webhook.unsigned", sink=self.name, secret_env=self._table.secret_env)
        return None

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        return await self._batches.write(batch)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _send(self, batch: Batch) -> Retry | BatchRefused | None:
        message = message_id(batch)
        if self._key is not None and not all(map(_is_text, batch)):
            return BatchRefused(reason="is not UTF-8: it cannot be signed")
        answer = await self._post(message, self._body(batch))
        result = self._retry(message, answer) if isinstance(answer, str) else self._classify(message, answer)
        if not isinstance(result, Retry):
            self._failures.pop(message, None)
            self._failing_since.pop(message, None)
        return result

    async def _post(self, message: str, body: bytes) -> aiohttp.ClientResponse | str:
        """Return the answer, its body unread, or the reason. aiohttp's exceptions, which contain the URL, end here."""
        if self._session is None:
            raise RuntimeError("the sink is not open")
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"hubspot-import-poller/{__version__}",
            **signed_headers(self._key, message, self._signed_at(), body),
        }
        try:
            with self._timeout:
                async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                    return answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return MESSAGES.get(http_error(error), "no usable answer")

    def _body(self, batch: Batch) -> bytes:
        if self._table.batch == 1:
            return batch[0].body
        return b"[" + b",".join(delivery.body for delivery in batch) + b"]"

    def _classify(self, message: str, answer: aiohttp.ClientResponse) -> Retry | BatchRefused | None:
        status, reason = answer.status, f"it answered {answer.status}"
        if 200 <= status <= 299:
            self._has_taken = True
            return None
        if status == 410:
            raise SinkError(
                f"sink {self.name}: its receiver answered 410 Gone; remove the sink, or set another url. Undelivered "
                "records stay in the state."
            )
        if status in OF_THE_RECORD:
            return BatchRefused(reason=reason)
        if 300 <= status <= 399:
            return self._retry(message, f"{reason}; redirects are not followed: set url to the target")
        requested_s = parse_retry_after(
            answer.headers.get("Retry-After"),
            sent_at=http_date(answer.headers.get("Date")),
            floor_s=self._table.retries_s[0],
        )
        retry = self._retry(message, reason, requested_s=requested_s)
        if status not in NOT_NOW | UNAVAILABLE and self._is_hopeless(message, status, retry.wait_s):
            return BatchRefused(reason=f"{reason}, {self._failures[message]} times in a row", every_record=True)
        return retry

    def _is_hopeless(self, message: str, status: int, wait_s: float) -> bool:
        """Return whether a message is not worth a try after `wait_s`: the schedule is at its end, or for a 4xx at the
        end of our patience."""
        failures = self._failures[message]
        if status > 499:
            return failures > len(self._table.retries_s)
        failing_s = self._clock() + wait_s - self._failing_since[message]
        is_too_long = self._has_taken and failures >= LEAST_TRIES and failing_s > PATIENCE_S
        return is_too_long or failures > min(PATIENCE, len(self._table.retries_s))

    def _retry(self, message: str, reason: str, *, requested_s: float | None = None) -> Retry:
        failures = self._failures[message] = self._failures.get(message, 0) + 1
        self._failing_since.setdefault(message, self._clock())
        wait_s = backoff_s(self._table.retries_s, failures, self._rng)
        if requested_s is not None:
            wait_s = requested_s * self._rng.uniform(1.0, 1.1)
        return Retry(reason=reason, wait_s=wait_s)

    def _tcp_connector(self) -> aiohttp.BaseConnector:
        trusted = trusted_by(self._table.ca_file, "sink webhook: ca_file")
        return aiohttp.TCPConnector(limit=0, ssl=trusted, force_close=True)


def _is_text(delivery: Delivery) -> bool:
    try:
        return bool(delivery.body.decode())
    except UnicodeDecodeError:
        return False
