"""The words of the project as frozen data: tasks, outcomes, decisions, records. No behaviour, no I/O.

Instants (`…_at`) are seconds since the epoch, UTC. Durations (`…_s`) are seconds. JSON from HubSpot or from the
person is kept as the received bytes, so that it comes out as it went in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal, NamedTuple, assert_never

from msgspec import Struct


class Kind(StrEnum):
    """How a task ended."""

    COMPLETE = "complete"
    COMPLETE_WITH_ERRORS = "complete_with_errors"  # COMPLETE, with errors or numErrors > 0
    COMPLETE_WITHOUT_RESULT = "complete_without_result"  # COMPLETE, no result where the endpoint promises one
    CANCELED = "canceled"
    NOT_FOUND = "not_found"  # 400/404 JSON, seen twice with time between
    TIMED_OUT = "timed_out"  # our deadline; the task may still finish at HubSpot
    NOT_STARTED = "not_started"  # of a row: HubSpot refused its start for good
    START_UNKNOWN = "start_unknown"  # of a row: the answers to its starts were lost; a file may be there


class Task(Struct, frozen=True, kw_only=True):
    """One import task as the store hands it to a worker: its identity, and what was learned so far."""

    key: int  # the store's own number, in feeding order
    account: str
    task_id: str
    ref: bytes | None  # JSON object: what the person fed with the id
    fed_at: float
    due_at: float
    polls: int  # status requests so far
    errors: int  # consecutive failed polls; a good answer resets it
    missing_at: float | None  # when a 400/404 JSON was first seen; None after any other answer
    status: str | None  # HubSpot's last known status
    paused_base_s: float  # the account's paused time when the task was fed; see `decide` in schedule/policy.py
    requested_at: float | None = None  # when the import was started; None until HubSpot reported it
    seen_at: float | None = None  # when a poll last found it unfinished
    started_at: float | None = None  # when its processing began, by HubSpot's clock
    lease: int = 0  # fencing token of the claim
    start: bytes | None = None  # JSON of `StartFacts`: how it was started; None where its id was fed


# --- feeding ---------------------------------------------------------------------------------------------------------


class Fed(Struct, frozen=True, kw_only=True):
    """One usable input line."""

    account: str
    task_id: str
    ref: bytes | None = None


class FedRow(Struct, frozen=True, kw_only=True):
    """One usable line of an import: what the start call gets, and who the row is."""

    account: str
    row: str  # its identity: the digest of its body, or the person's key
    body: bytes  # the start call's JSON
    ref: bytes  # JSON object: the row as it was fed


class Row(Struct, frozen=True, kw_only=True):
    """A row without a task as the store hands it to a worker: what to send, and what was sent before."""

    key: int  # the store's own number, in feeding order
    account: str
    row: str  # its identity
    body: bytes
    ref: bytes
    fed_at: float
    due_at: float
    starts: int  # POSTs that may have left
    lost: int  # of these: answers that are not known. Above 0 the row is unsure: it may have been accepted
    refusals: int  # in a row, others being accepted between
    first_sent_at: float | None  # of the first POST that may have left
    may_have_landed: bool  # in an earlier attempt: send it with HubSpot's duplicate check
    earlier: tuple[str, ...] = ()  # task ids of earlier attempts


class StartFacts(Struct, frozen=True, kw_only=True):
    """How the program started a task; its record has these facts."""

    row: str
    starts: int
    first_sent_at: float
    earlier: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """One input line that cannot be used."""

    line: int  # physical line number, from 1
    reason: str  # for people: what is wrong and what would be right
    excerpt: str  # at most 120 characters of the line, printable


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """How far a source was read; stored in the same transaction as the lines that were read."""

    offset: int = 0  # bytes
    line: int = 0  # physical lines
    fingerprint: str = ""  # identifies the file whose reading continues; empty for pipes
    ended: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of consecutive input lines, each in exactly one of three places."""

    fed: tuple[Fed, ...]
    rejected: tuple[Rejection, ...]
    blank: int  # blank lines, comments, CSV header
    position: Position  # after the last of them
    rows: tuple[FedRow, ...] = ()  # usable lines of an import, in place of `fed`


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """How many of a chunk's usable lines are new tasks, and how many duplicates."""

    tasks: int
    duplicates: int
    failed: int = 0  # duplicates whose task has an outcome already, but not `complete`
    other_refs: int = 0  # duplicates that were fed with another `ref`: the task keeps its first one


# --- polling ---------------------------------------------------------------------------------------------------------


class Running(Struct, frozen=True, kw_only=True):
    """The task is not finished. `status` is None where HubSpot sent an empty or `null` body."""

    status: str | None
    known: bool = True  # False: an unknown status
    task_id: str | None = None  # the id in the body
    requested_at: float | None = None  # None where absent or nonsense
    started_at: float | None = None  # the same
    correlation_id: str | None = None


class Finished(Struct, frozen=True, kw_only=True):
    """COMPLETE or CANCELED. `errors` and `result` are HubSpot's bytes (None: absent or null)."""

    status: Literal["COMPLETE", "CANCELED"]
    num_errors: int
    errors: bytes | None = None
    has_errors: bool = False  # `errors` holds at least one
    result: bytes | None = None
    requested_at: str | None = None  # as HubSpot wrote them
    started_at: str | None = None
    completed_at: str | None = None
    task_id: str | None = None
    correlation_id: str | None = None


class Missing(Struct, frozen=True, kw_only=True):
    """400 or 404 with HubSpot's own JSON: HubSpot does not know this id (any more)."""

    code: int
    message: str | None = None  # HubSpot's own words
    correlation_id: str | None = None


class Throttled(Struct, frozen=True, kw_only=True):
    """The account must wait; the task is not the cause."""

    policy: Literal["window", "daily", "migrating"]  # 429 ten-secondly or unnamed, 429 DAILY, 477
    retry_after_s: float | None = None  # as sent, clamped to 1 … 900
    correlation_id: str | None = None


RefusalReason = Literal[
    "token_refused",
    "scope_missing",
    "wrong_path",
    "wrong_host",
    "wrong_region",
    "wrong_account",
    "unknown_answer",
    "untrusted_certificate",
    "import_refused",
]  # each is a `Pause` that needs a person


class Refused(Struct, frozen=True, kw_only=True):
    """Not HubSpot's word on this task: a person must change something, such as token, host, path or proxy. Where other
    tasks are answered meanwhile, the task is the cause; otherwise the account is."""

    reason: RefusalReason
    detail: str  # for people; names the missing scopes
    correlation_id: str | None = None


class Unreachable(Struct, frozen=True, kw_only=True):
    """No usable answer: nothing was learned about the task."""

    reason: str  # closed vocabulary, snake_case: "http_503", "timeout", "reset", "unreadable_body", …
    retry_after_s: float | None = None
    correlation_id: str | None = None


Outcome = Running | Finished | Missing | Throttled | Refused | Unreachable

# For `isinstance`, several times a poll: a union would be made at each use.
REPORTING: Final = (Running, Finished)  # HubSpot's status of this task
ANSWERING: Final = (Running, Finished, Missing)  # HubSpot's word on this task


class RateLimits(Struct, frozen=True, kw_only=True):
    """The X-HubSpot-RateLimit-* headers of an answer; None where missing or nonsense."""

    max: int | None = None
    remaining: int | None = None
    interval_s: float | None = None
    daily: int | None = None
    daily_remaining: int | None = None


NO_LIMITS = RateLimits()


class Answer(Struct, frozen=True, kw_only=True):
    """All that one poll returned: about the task, and about the account."""

    outcome: Outcome
    limits: RateLimits = NO_LIMITS


# --- starting --------------------------------------------------------------------------------------------------------


class Started(Struct, frozen=True, kw_only=True):
    """HubSpot accepted the start."""

    task_id: str
    correlation_id: str | None = None


class Declined(Struct, frozen=True, kw_only=True):
    """HubSpot refused this start for good."""

    code: int
    message: str | None = None  # HubSpot's own words
    body: bytes | None = None  # HubSpot's error, as JSON on one line
    correlation_id: str | None = None


class NotSent(Struct, frozen=True, kw_only=True):
    """It is certain that no import began, and it is not the row's fault."""

    reason: str
    left: bool  # a request left, but did not reach HubSpot; False: no byte of it was written
    retry_after_s: float | None = None


class Unsure(Struct, frozen=True, kw_only=True):
    """The request may have left and its answer shows nothing: an import may have begun."""

    reason: str  # as of `Unreachable`


StartOutcome = Started | Declined | NotSent | Unsure | Refused | Throttled


class StartAnswer(Struct, frozen=True, kw_only=True):
    """All that one start returned: about its row, and about the account."""

    outcome: StartOutcome
    shows: Outcome  # what a poll with this answer would have shown
    limits: RateLimits = NO_LIMITS


class Begin(Struct, frozen=True, kw_only=True):
    """The row has its task, due for its first poll."""

    task_id: str


class StartAgain(Struct, frozen=True, kw_only=True):
    """This start began no import: the row is as before, or unsure if it was."""

    at: float
    refusals: int
    left: bool  # the request left; it counts as a start


class AwaitStart(Struct, frozen=True, kw_only=True):
    """The row is unsure until its settle time is over, as was stored before its start."""


class EndRow(Struct, frozen=True, kw_only=True):
    """The row has its outcome without a task."""

    kind: Kind


StartDecision = Begin | StartAgain | AwaitStart | EndRow


# --- deciding --------------------------------------------------------------------------------------------------------


class PollAgain(Struct, frozen=True, kw_only=True):
    """The task goes back to the queue with these counts."""

    at: float
    errors: int
    missing_at: float | None = None
    status: str | None = None
    requested_at: float | None = None  # None: the known one stays
    seen_at: float | None = None  # when this poll found it unfinished; None: it did not
    started_at: float | None = None  # None: the known one stays


class Finish(Struct, frozen=True, kw_only=True):
    """The task has its outcome."""

    kind: Kind


Decision = PollAgain | Finish


class Record(Struct, frozen=True, kw_only=True):
    """A finished task as every sink gets it: `body` is one JSON object without a line break.

    Beside it are the fields that the run itself uses, so that a body is not decoded right after it was encoded.
    """

    body: bytes
    kind: Kind
    landed: bool  # a file is there: `result` names one
    reason: str | None  # why it is not plainly complete; groups the summary
    seen_at: float
    account: str
    task_id: str
    ref: bytes | None = None
    requested_at: str | None = None  # as HubSpot wrote them
    completed_at: str | None = None
    correlation_id: str | None = None


class Settled(Struct, frozen=True, kw_only=True):
    """A poll made and decided, ready to be recorded: with `again`, or with `record` where the task is finished."""

    task: Task  # as claimed
    again: PollAgain | None = None
    record: Record | None = None
    poll_line: str = ""  # the poll, a line of the task's poll log; see core/poll_log.py


# --- delivering ------------------------------------------------------------------------------------------------------


class Delivery(Struct, frozen=True, kw_only=True):
    """A record to deliver to one sink. `number` grows in the order in which tasks finished."""

    number: int
    account: str
    task_id: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The batch is safe at its target, except for the records refused for good (number → reason)."""

    position: bytes | None = None  # the sink's own progress, committed with the delivered rows
    count: int | None = None  # only so many records from the batch's begin were taken; None: all
    refused: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Nothing of the batch counts as written: write the same batch again after `wait_s`."""

    reason: str
    wait_s: float
    position: bytes | None = None  # the sink's position, where it changed all the same


# --- reporting -------------------------------------------------------------------------------------------------------


class Pause(StrEnum):
    """Why a lane sends no requests."""

    THROTTLED = "throttled"
    DAILY_QUOTA = "daily_quota"
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a reason, not a token
    SCOPE_MISSING = "scope_missing"
    WRONG_PATH = "wrong_path"
    WRONG_HOST = "wrong_host"
    WRONG_REGION = "wrong_region"
    WRONG_ACCOUNT = "wrong_account"
    UNKNOWN_ANSWER = "unknown_answer"
    UNTRUSTED_CERTIFICATE = "untrusted_certificate"
    IMPORT_REFUSED = "import_refused"
    MIGRATING = "migrating"
    OUTAGE = "outage"
    PAUSED_BY_PERSON = "paused_by_person"

    @property
    def needs_person(self) -> bool:
        """Whether something is wrong that only a person can fix. A pause that a person made is not a fault."""
        match self:
            case Pause.TOKEN_REFUSED | Pause.SCOPE_MISSING | Pause.WRONG_PATH | Pause.WRONG_HOST:
                return True
            case Pause.WRONG_REGION | Pause.WRONG_ACCOUNT | Pause.UNKNOWN_ANSWER | Pause.UNTRUSTED_CERTIFICATE:
                return True
            case Pause.IMPORT_REFUSED:
                return True
            case Pause.THROTTLED | Pause.DAILY_QUOTA | Pause.MIGRATING | Pause.OUTAGE | Pause.PAUSED_BY_PERSON:
                return False
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountState:
    """What the store keeps of an account between runs."""

    active_at: float | None = None  # last instant at which it may have sent requests; None: never
    clean: bool = False  # `active_at` is exact: the run before ended in order
    paused_s: float = 0.0  # time spent paused, ever: deadlines do not run meanwhile
    day: str = ""  # ISO date in the account's time zone to which `day_requests` belongs
    day_requests: int = 0
    pause: str | None = None  # Pause or None
    pause_detail: str | None = None
    resume_at: float | None = None  # forecast


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """How much of its limits an account uses, as of now."""

    state: AccountState
    workers: int  # requests in flight at once, at most
    in_flight: int
    window_used: int  # slots taken of the tighter window
    window_limit: int
    window_s: float
    requests: int  # sent by this run
    errors: int  # of these: time-outs and answers without a status of the task
    daily_left: int | None  # requests that may still be sent today, the reserve kept; None: no limit is known
    daily_usable: int | None  # requests of a whole day, the reserve kept
    resets_at: float  # the account's next midnight
    pauses: Mapping[Pause, int]  # that began in this run, by reason
    limit_reported: bool = False  # HubSpot's answers of this run showed the window's limit


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSums:
    """Where one source's lines went: lines = tasks + duplicates + rejected + blank."""

    name: str
    lines: int
    tasks: int
    duplicates: int
    rejected: int
    blank: int
    ended: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSums:
    """Where one sink's records went: finished = delivered + undelivered + dead + missed."""

    name: str
    delivered: int
    undelivered: int
    dead: int
    attached: bool  # configured in the latest run
    missed: int = 0  # pruned before the sink, which is new or was away, could get them


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that a sink refused for good."""

    sink: str
    reason: str
    refused_at: float
    delivery: Delivery


class Poll(Struct, frozen=True, kw_only=True):
    """One status request for a task, as kept in the task's poll log."""

    at: float  # when the request was sent
    gate_s: float  # waited for the right to send it
    took_s: float  # until its answer was read
    outcome: str  # the outcome's class, lower case
    detail: str | int | None  # its status, code or reason
    again_in_s: float | None  # until the next poll was due; None: it was the last


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails:
    """Everything the store knows about one task."""

    account: str
    task_id: str
    ref: bytes | None
    fed_at: float
    requested_at: float | None
    due_at: float  # of its next poll; without meaning once the task is finished
    polls: int
    errors: int
    status: str | None
    poll_log: tuple[Poll, ...]  # the latest polls, oldest first
    kind: Kind | None = None  # None: waiting
    record: Record | None = None
    deliveries: Mapping[str, str] = field(default_factory=dict)  # sink → "delivered", "undelivered" or "dead: REASON"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which finished records to take; all given conditions must hold."""

    since: float | None = None  # finished at or after this instant
    kinds: frozenset[str] = frozenset()  # empty: any kind
    dead: bool = False  # only dead letters of the sink in question
    task_ids: frozenset[str] | None = None  # only these; None: any


class ReasonSum(NamedTuple):
    """One reason why tasks are not plainly complete."""

    reason: str
    tasks: int
    landed: int  # of these: a file is there all the same


@dataclass(frozen=True, slots=True, kw_only=True)
class StartSums:
    """Where the starts of a state went: starts = accepted + refused + lost."""

    unstarted: int = 0  # rows that were never sent, or certainly not accepted
    unsure: int = 0  # rows that may have been accepted
    underway: int = 0  # tasks of rows, without an outcome
    starts: int = 0  # POSTs that may have left
    accepted: int = 0
    refused: int = 0  # certainly not accepted
    lost: int = 0  # answers that are not known
    repeated: int = 0  # POSTs of rows whose earlier answer was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Everything the store counts, from the rows themselves: what the ledger is made of.

    Finished tasks that were pruned after their retention stay in `finished`, `polls` and `kinds`.
    """

    sources: tuple[SourceSums, ...]
    sinks: tuple[SinkSums, ...]
    accounts: Mapping[str, AccountState]
    waiting: int  # tasks without an outcome, and rows without a task
    finished: int
    polls: int
    kinds: Mapping[str, int]
    landed: Mapping[str, int]  # by kind: how many of these have a file
    reasons: tuple[ReasonSum, ...]  # of records still kept, most frequent first, at most ten
    pruned: int = 0  # finished tasks whose rows are gone
    starts: StartSums | None = None  # None: the state never had a row to import


JsonObject = dict[str, Any]
