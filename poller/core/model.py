"""The words of polling as frozen data: tasks, outcomes, decisions, records. No behaviour, no I/O.

Instants (`…_at`) are seconds since the epoch, UTC. Durations (`…_s`) are seconds. JSON from HubSpot or from the
person is kept as the received bytes, so that it comes out as it went in. None of it can be part of a reference cycle:
the garbage collector need not follow it (`gc=False`).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Literal

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


class Task(Struct, frozen=True, gc=False):
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


class Fed(Struct, frozen=True, kw_only=True, gc=False):
    """One usable input line."""

    account: str
    task_id: str
    ref: bytes | None = None


class FedRow(Struct, frozen=True, kw_only=True, gc=False):
    """One usable line of an import: what the start call gets, and who the row is."""

    account: str
    row: str  # its identity: the digest of its body, or the person's key
    body: bytes  # the start call's JSON
    ref: bytes  # JSON object: the row as it was fed
    due_at: float | None = None  # of another attempt: when it may be sent; None: at once


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
    digest: str = ""  # of a file's content up to here, then of how its lines were read; empty where it is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """How many of a chunk's usable lines are new tasks, and how many duplicates."""

    tasks: int
    duplicates: int
    failed: int = 0  # duplicates whose task has an outcome already, but not `complete`
    again: int = 0  # of `tasks`: attempts at rows whose latest one failed, which no longer counts
    other_refs: int = 0  # duplicates that were fed with another `ref`: the task keeps its first one

    def __add__(self, other: "Added") -> "Added":
        return Added(
            tasks=self.tasks + other.tasks,
            duplicates=self.duplicates + other.duplicates,
            failed=self.failed + other.failed,
            again=self.again + other.again,
            other_refs=self.other_refs + other.other_refs,
        )


NOTHING_ADDED: Final = Added(tasks=0, duplicates=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A run of consecutive input lines, each in exactly one of these places."""

    fed: tuple[Fed, ...]
    rejected: tuple[Rejection, ...]
    blank: int  # blank lines, comments, CSV header
    position: Position  # after the last of them
    rows: tuple[FedRow, ...] = ()  # usable lines of an import, in place of `fed`
    repeated: Added = NOTHING_ADDED  # usable lines that an earlier reading of the file stored, in neither of them

    @property
    def lines(self) -> int:
        """How many lines it has."""
        return len(self.fed) + len(self.rows) + self.repeated.duplicates + len(self.rejected) + self.blank


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLines:
    """How many of a chunk's usable lines a run would not begin with."""

    ended: int = 0  # duplicates of tasks with an outcome; of a row, where it landed or its task is `complete`
    underway: int = 0  # their task waits for its outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """How many of a chunk's usable lines have a task that failed, or none."""

    failed: int = 0  # it has an outcome, but not `complete`
    dead: int = 0  # a sink refused its record
    unknown: int = 0  # ids without a task; 0 where tasks were pruned

    def __add__(self, other: "Failed") -> "Failed":
        return Failed(
            failed=self.failed + other.failed, dead=self.dead + other.dead, unknown=self.unknown + other.unknown
        )


# --- polling ---------------------------------------------------------------------------------------------------------


class Running(Struct, frozen=True, kw_only=True, gc=False):
    """The task is not finished. `status` is None where HubSpot sent an empty or `null` body."""

    status: str | None
    known: bool = True  # False: an unknown status
    task_id: str | None = None  # the id in the body
    requested_at: float | None = None  # None where absent or nonsense
    started_at: float | None = None  # the same
    answered_at: float | None = None  # HubSpot's clock at the answer, by its header `Date`
    correlation_id: str | None = None


class Finished(Struct, frozen=True, kw_only=True, gc=False):
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


class Missing(Struct, frozen=True, kw_only=True, gc=False):
    """400 or 404 with HubSpot's own JSON: HubSpot does not know this id (any more)."""

    code: int
    message: str | None = None  # HubSpot's own words
    correlation_id: str | None = None


class Throttled(Struct, frozen=True, kw_only=True, gc=False):
    """The account must wait; the task is not the cause."""

    policy: Literal["window", "daily", "migrating"]  # 429 ten-secondly or unnamed, 429 DAILY, 477
    retry_after_s: float | None = None  # as sent, clamped to 1 … 900
    correlation_id: str | None = None

    @property
    def is_marked(self) -> bool:
        """The answer had a correlation id, as HubSpot's own have."""
        return self.correlation_id is not None


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


class Refused(Struct, frozen=True, kw_only=True, gc=False):
    """Not HubSpot's word on this task: a person must change something, such as token, host, path or proxy. Where other
    tasks are answered meanwhile, the task is the cause; otherwise the account is."""

    reason: RefusalReason
    detail: str  # for people; names the missing scopes
    correlation_id: str | None = None


class Unreachable(Struct, frozen=True, kw_only=True, gc=False):
    """No usable answer: nothing was learned about the task."""

    reason: str  # closed vocabulary, snake_case: "http_503", "timeout", "reset", "unreadable_body", …
    retry_after_s: float | None = None
    correlation_id: str | None = None


Outcome = Running | Finished | Missing | Throttled | Refused | Unreachable

# For `isinstance`, several times a poll: a union would be made at each use.
REPORTING: Final = (Running, Finished)  # HubSpot's status of this task
ANSWERING: Final = (Running, Finished, Missing)  # HubSpot's word on this task


class RateLimits(Struct, frozen=True, kw_only=True, gc=False):
    """The X-HubSpot-RateLimit-* headers of an answer; None where missing or nonsense."""

    max: int | None = None
    remaining: int | None = None
    interval_s: float | None = None
    daily: int | None = None
    daily_remaining: int | None = None


NO_LIMITS = RateLimits()


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """All that one poll returned: about the task, and about the account."""

    outcome: Outcome
    limits: RateLimits = NO_LIMITS
    credentials: bytes = b""  # `TokenSource.credentials` by then; empty: HubSpot gave no answer


# --- deciding --------------------------------------------------------------------------------------------------------


class PollAgain(Struct, frozen=True, kw_only=True, gc=False):
    """The task goes back to the queue with these counts."""

    at: float
    errors: int
    missing_at: float | None = None
    status: str | None = None
    requested_at: float | None = None  # None: the known one stays
    seen_at: float | None = None  # when this poll found it unfinished; None: it did not
    started_at: float | None = None  # None: the known one stays


class Finish(Struct, frozen=True, kw_only=True, gc=False):
    """The task has its outcome."""

    kind: Kind


Decision = PollAgain | Finish


class Record(Struct, frozen=True, kw_only=True, gc=False):
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


class Settled(Struct, frozen=True, kw_only=True, gc=False):
    """A poll made and decided, ready to be recorded: with `again`, or with `record` where the task is finished."""

    task: Task  # as claimed
    again: PollAgain | None = None
    record: Record | None = None
    poll_line: str = ""  # the poll, a line of the task's poll log; see core/poll_log.py


JsonObject = dict[str, Any]
