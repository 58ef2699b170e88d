"""The words of imports that the program starts: rows without a task, starts and what their answers decide. No I/O.

Instants (`…_at`) are seconds since the epoch, UTC; durations (`…_s`) are seconds.
"""

from collections.abc import Collection

from msgspec import Struct

from poller.core.model import NO_LIMITS, Kind, Outcome, RateLimits, Refused, Throttled, Unreachable

NO_TASK = "start:"  # begins what a row has for a task id while, or because, it has none; its identity follows


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


BACKLOG_COUNTED = 100_000  # rows; more are not counted while a run is at work


class TrialReading(Struct, frozen=True, kw_only=True):
    """The first rows of an import, while the others wait for what becomes of them."""

    rows: int  # that are started first
    started: int  # of these; those that HubSpot did not accept do not count
    landed: int
    needed: int  # so many must land before the other rows are started


class ImportsReading(Struct, frozen=True, kw_only=True):
    """The rows of an account in a run at work, for people and metrics."""

    unstarted: int  # rows without a task, the unsure ones too; counted some seconds ago, up to `BACKLOG_COUNTED`
    underway: int  # imports at HubSpot
    trial: TrialReading | None = None  # None: no row waits for one


def starts_left(imports: Collection[ImportsReading], waiting: int, elsewhere: int = 0) -> int:
    """Return how many of the waiting tasks are rows to start. Of accounts that have too many to be counted, all but
    those at HubSpot; `elsewhere` is what waits in the other accounts."""
    many = [each for each in imports if each.unstarted >= BACKLOG_COUNTED]
    few = [each for each in imports if each.unstarted < BACKLOG_COUNTED]
    left = sum(each.unstarted for each in few)
    if many:
        elsewhere = max(elsewhere, sum(each.unstarted + each.underway for each in few))
        left += max(0, waiting - elsewhere - sum(each.underway for each in many))
    return max(0, min(waiting, left))


class StartFacts(Struct, frozen=True, kw_only=True):
    """How the program started a task; its record has these facts."""

    row: str
    starts: int
    first_sent_at: float
    accepted_at: float | None = None  # when the answer of the accepted start came, by the same clock; None: not known
    earlier: tuple[str, ...] = ()


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


RIGHT_LOST = "right_lost"  # the reason where this member of a fleet may not send requests


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

    @property
    def shows_hubspot(self) -> bool:
        """Whether it shows anything of HubSpot: not where this process held the request back."""
        return self is not HELD_UP and not (isinstance(self.outcome, NotSent) and self.outcome.reason == RIGHT_LOST)


# It took so long to store the start that it was not sent.
HELD_UP = StartAnswer(outcome=NotSent(reason="held_up", left=False), shows=Unreachable(reason="held_up"))


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
