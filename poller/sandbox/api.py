"""A simulated HubSpot: tasks, tokens, quota and the answer to each request. No I/O, the clock is passed in.

All chance follows from (seed, task id, number of the poll), so one seed gives one behaviour in any order of arrival.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from email.utils import formatdate
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, unquote
from uuid import UUID

from poller.core.protocols import Clock
from poller.sandbox import reply as replies
from poller.sandbox.faults import FaultContext, spoil
from poller.sandbox.quota import Arrival, Quota
from poller.sandbox.reply import SandboxReply, SandboxRequest, Transmission
from poller.sandbox.scenario import START_FAULTS, Fate, Scenario, chance, pick
from poller.sandbox.starts import Starts
from poller.sandbox.tasks import (
    ExpectedOutcome,
    Family,
    SimulatedTask,
    expected_outcome,
    id_decodes,
    simulated_task,
    status_fields,
    task_id_of,
)

STATS_PATH = "/_sandbox/stats"
NO_LIMITS: Mapping[str, str] = MappingProxyType({})
TOKEN_PATHS = ("/oauth/2026-03/token", "/oauth/v1/token")

_VERSION = r"(?:v3|20\d\d-(?:03|09))"
_START = re.compile(rf"/files/{_VERSION}/files/import-from-url/async")
_STATUS = {
    Family.FILES: re.compile(rf"/files/{_VERSION}/files/import-from-url/async/tasks/([^/]+)/status"),
    Family.FOLDERS: re.compile(rf"/files/{_VERSION}/folders/update/async/tasks/([^/]+)/status"),
    Family.EXPORTS: re.compile(rf"/crm/{_VERSION}/exports/export/async/tasks/([^/]+)/status"),
    Family.SOURCE_CODE: re.compile(rf"/cms/{_VERSION}/source-code/extract/async/tasks/([^/]+)/status"),
}


@dataclass(slots=True, kw_only=True)
class _Started:
    born_at: float
    url: str | None
    polls: int = 0
    task: SimulatedTask | None = None  # once asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The sandbox's counts, served at `/_sandbox/stats`."""

    tasks: int
    requests_total: int  # API requests at arrival; the token endpoint has its own count
    token_requests_total: int
    polls_total: int  # status requests for known tasks
    polls_max: int  # for one task
    throttled_total: int  # 429s of both kinds
    throttled_daily_total: int
    errors_total: int  # codes from 400 up, and answers that did not arrive whole
    max_in_window: int  # most arrivals in any rolling window
    requests: int  # the limit that `max_in_window` must not exceed
    window_s: float
    today: int
    codes: Mapping[str, int]
    faults: Mapping[str, int]
    starts_total: int  # valid start calls, accepted or not
    starts_accepted: int
    starts_max: int  # accepted for one URL
    files: int
    files_twice: int  # beside the first of the same content, folder and name


class SandboxApi:
    """One simulated HubSpot. The times of its outages count from its creation."""

    def __init__(self, scenario: Scenario, clock: Clock) -> None:
        self.scenario = scenario
        self.scope_missing = scenario.scope_missing  # may change while it runs
        self._clock = clock
        self._began_at = clock()
        self._tasks: dict[str, _Started] = {}
        self._quotas: dict[str, Quota] = {}
        self._accepted = None if scenario.tokens is None else set(scenario.tokens)
        self._refused: set[str] = set()
        self._issued: dict[str, float] = {}  # OAuth access token → end of its life
        self._refresh_token = scenario.refresh_token
        of_polls = scenario.faults.keys() - START_FAULTS - {"big_ints"}
        self._poll_faults = {name: share for name, share in scenario.faults.items() if name in of_polls}
        self.starts = Starts(scenario, clock, begin=self.start, task=self._begun)
        self._counts: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()

    # --- for the person who runs it, and for tests

    def start(self, url: str | None = None) -> str:
        """Start an import now; return its task id."""
        task_id = task_id_of(self.scenario.seed, len(self._tasks))
        self._tasks[task_id] = _Started(born_at=self._clock(), url=url)
        return task_id

    def preload(self, count: int) -> list[str]:
        """Start `count` imports now; the same seed gives the same ids."""
        return [self.start() for _ in range(count)]

    def expected(self, task_id: str, family: Family = Family.FILES) -> ExpectedOutcome:
        """Return the outcome of a started task. Raises `KeyError` for an id that was never started."""
        return expected_outcome(self._task(task_id), family)

    def polls(self, task_id: str) -> int:
        """Return how often a started task was polled."""
        return self._tasks[task_id].polls

    def accept_token(self, token: str) -> None:
        self._refused.discard(token)
        if self._accepted is not None:
            self._accepted.add(token)

    def refuse_token(self, token: str) -> None:
        self._refused.add(token)

    def stats(self) -> Stats:
        polls = [started.polls for started in self._tasks.values()]
        self.starts.advance()
        accepted = self.starts.accepted
        return Stats(
            tasks=len(self._tasks),
            requests_total=self._counts["requests"],
            token_requests_total=self._counts["token_requests"],
            polls_total=sum(polls),
            polls_max=max(polls, default=0),
            throttled_total=self._counts["throttled"],
            throttled_daily_total=self._counts["throttled_daily"],
            errors_total=self._counts["errors"],
            max_in_window=max((quota.max_in_window for quota in self._quotas.values()), default=0),
            requests=self.scenario.requests,
            window_s=self.scenario.window_s,
            today=sum(quota.today for quota in self._quotas.values()),
            codes=dict(self._codes),
            faults=dict(self._faults + self.starts.faults),
            starts_total=len(self.starts.posts),
            starts_accepted=accepted.total(),
            starts_max=max(accepted.values(), default=0),
            files=len(self.starts.files),
            files_twice=self.starts.files.copies,
        )

    # --- requests

    def respond(self, request: SandboxRequest) -> SandboxReply:
        """Return the reply to a request that arrives now; `SandboxReply.wait_s` is its latency."""
        if request.path == STATS_PATH:
            return replies.json_reply(200, self.stats())
        if request.path in TOKEN_PATHS:
            self._counts["token_requests"] += 1
            name = f"token {self._counts['token_requests']}"
            correlation_id = self._correlation_id(name)
            return self._finished(self._refresh(request, correlation_id), name, correlation_id)
        self._counts["requests"] += 1
        arrival = self._quota(request.token).arrive(self._clock())
        found = _find_status(request.path)
        name = self._name_of(found, self._counts["requests"])
        correlation_id = self._correlation_id(name)
        answer = self._answer(request, arrival, found, name, correlation_id)
        return self._finished(answer, name, correlation_id, self._limit_headers(arrival))

    def _quota(self, token: str | None) -> Quota:
        key = (token or "") if self.scenario.window_per_token else ""
        if key not in self._quotas:
            self._quotas[key] = Quota(self.scenario, self._began_at)
        return self._quotas[key]

    def _name_of(self, found: tuple[Family, str] | None, number: int) -> str:
        """Return a name of the request: by task and poll, or without a known task by its order of arrival."""
        if found is None or (started := self._tasks.get(found[1])) is None:
            return f"request {number}"
        started.polls += 1
        return f"{found[1]} {started.polls}"

    def _answer(
        self,
        request: SandboxRequest,
        arrival: Arrival,
        found: tuple[Family, str] | None,
        name: str,
        correlation_id: str,
    ) -> SandboxReply:
        family = found[0] if found else Family.FILES
        if outage := self._outage():
            good, fields = self._poll(found, correlation_id) if found else (SandboxReply(body=b"{}"), None)
            return self._spoilt(good, outage, family, fields, name, correlation_id)
        if refusal := self._refusal(request, arrival, family, correlation_id):
            return refusal
        if found is None:
            is_start = _START.fullmatch(request.path)
            return self.starts.respond(request, correlation_id) if is_start else replies.wrong_path()
        if request.method != "GET":
            return replies.html(405, "Error 405 Method Not Allowed")
        good, fields = self._poll(found, correlation_id)
        if not self._poll_faults:
            return good
        fault = pick(self._poll_faults, chance(self.scenario.seed, name, "fault"))
        return self._spoilt(good, fault, family, fields, name, correlation_id) if fault else good

    def _refusal(
        self, request: SandboxRequest, arrival: Arrival, family: Family, correlation_id: str
    ) -> SandboxReply | None:
        """Return the refusal of the account, if there is one; the token is checked before the limits."""
        if self._issued.get(request.token or "", float("inf")) <= self._clock():
            return replies.token_expired(correlation_id)
        if not self._token_accepted(request.token):
            return replies.token_refused(correlation_id)
        if arrival.exceeded:
            self._counts["throttled"] += 1
            self._counts["throttled_daily"] += arrival.exceeded == "DAILY"
            retry_after_s = arrival.free_in_s if self.scenario.send_retry_after else None
            return replies.throttled(arrival.exceeded, correlation_id, retry_after_s)
        return replies.scope_missing(family.value, correlation_id) if self.scope_missing else None

    def _token_accepted(self, token: str | None) -> bool:
        if not token or token in self._refused:
            return False
        return self._accepted is None or token in self._accepted or token in self._issued

    def _poll(self, found: tuple[Family, str], correlation_id: str) -> tuple[SandboxReply, dict[str, Any] | None]:
        family, task_id = found
        task = self._task(task_id) if task_id in self._tasks else None
        if task is None or task.fate is Fate.UNKNOWN:
            decodes = id_decodes(task_id) if task is None else task.draw("404") < 0.5
            refusal = replies.unknown_id(task_id, correlation_id) if decodes else replies.undecodable_id(correlation_id)
            return refusal, None
        fields = status_fields(task, family, self._clock())
        return replies.json_reply(200, fields), fields

    def _task(self, task_id: str) -> SimulatedTask:
        return self.starts.with_landing(self._begun(task_id))

    def _begun(self, task_id: str) -> SimulatedTask:
        started = self._tasks[task_id]
        if started.task is None:
            started.task = simulated_task(self.scenario, task_id, started.born_at, started.url)
        return started.task

    def _refresh(self, request: SandboxRequest, correlation_id: str) -> SandboxReply:
        if self._counts["token_requests"] <= self.scenario.oauth_refusals:
            return replies.throttled("TEN_SECONDLY_ROLLING", correlation_id, 1)
        form = {name: values[0] for name, values in parse_qs(request.body.decode(errors="replace")).items()}
        whole = form.get("grant_type") == "refresh_token" and form.get("client_id") and form.get("client_secret")
        if request.method != "POST" or not whole or form.get("refresh_token") != self._refresh_token:
            return replies.refresh_refused(correlation_id)
        number = len(self._issued) + 1
        access_token = f"sandbox-access-{number}"
        self._issued[access_token] = self._clock() + self.scenario.oauth_expires_s
        if self.scenario.rotate_refresh_token:
            self._refresh_token = f"{self.scenario.refresh_token}-{number}"
        return replies.json_reply(
            200,
            {
                "access_token": access_token,
                "expires_in": int(self.scenario.oauth_expires_s),
                "refresh_token": self._refresh_token,
                "token_type": "bearer",
            },
        )

    # --- faults, latency, headers

    def _outage(self) -> str | None:
        since_s = self._clock() - self._began_at
        return next((out.fault for out in self.scenario.outages if out.from_s <= since_s < out.to_s), None)

    def _spoilt(
        self,
        good: SandboxReply,
        fault: str,
        family: Family,
        fields: dict[str, Any] | None,
        name: str,
        correlation_id: str,
    ) -> SandboxReply:
        context = FaultContext(
            family=family,
            correlation_id=correlation_id,
            variant=chance(self.scenario.seed, name, "variant"),
            fields=fields,
            foreign=lambda: self._foreign(family),
        )
        bad = spoil(good, fault, context)
        self._faults[fault] += bad is not good
        return bad

    def _foreign(self, family: Family) -> dict[str, Any]:
        """Return the finished answer of a task that was never started."""
        stranger = task_id_of(self.scenario.seed, -1)
        task = simulated_task(replace(self.scenario, fates={}), stranger, self._began_at, None)
        return status_fields(task, family, task.ends_at)

    def _limit_headers(self, arrival: Arrival) -> dict[str, str]:
        scenario = self.scenario
        if not scenario.send_headers:
            return {}
        headers = {
            "X-HubSpot-RateLimit-Max": str(scenario.requests),
            "X-HubSpot-RateLimit-Remaining": str(max(0, scenario.requests - arrival.in_window)),
            "X-HubSpot-RateLimit-Interval-Milliseconds": str(round(scenario.window_s * 1000)),
        }
        if scenario.daily is not None:
            headers["X-HubSpot-RateLimit-Daily"] = str(scenario.daily)
            headers["X-HubSpot-RateLimit-Daily-Remaining"] = str(max(0, scenario.daily - arrival.today))
        return headers

    def _correlation_id(self, name: str) -> str:
        return str(UUID(int=int(chance(self.scenario.seed, name, "correlation") * 2**53) << 75 | len(name)))

    def _finished(
        self, reply: SandboxReply, name: str, correlation_id: str, limits: Mapping[str, str] = NO_LIMITS
    ) -> SandboxReply:
        self._codes[str(reply.code)] += 1
        self._counts["errors"] += reply.code >= 400 or reply.transmission not in (
            Transmission.WHOLE,
            Transmission.STRAY,
        )
        date = formatdate(self._clock(), usegmt=True)
        headers = {"x-hubspot-correlation-id": correlation_id, "Date": date, **limits, **reply.headers}
        return replace(reply, headers=headers, wait_s=self._latency_s(name))

    def _latency_s(self, name: str) -> float:
        seed, (low, high) = self.scenario.seed, self.scenario.latency_s
        if self.scenario.slow_share and chance(seed, name, "slow") < self.scenario.slow_share:
            return self.scenario.slow_s
        return low + (high - low) * chance(seed, name, "latency")


def _find_status(path: str) -> tuple[Family, str] | None:
    for family, pattern in _STATUS.items():
        if match := pattern.fullmatch(path):
            return family, unquote(match[1])
    return None
