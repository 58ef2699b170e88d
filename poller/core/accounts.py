"""An account's pauses, what the store remembers of it between runs, and how much of its limits it uses. No I/O.

Instants (`…_at`) are seconds since the epoch, UTC; durations (`…_s`) are seconds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never


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

    @property
    def is_blocked(self) -> bool:
        """Whether it is paused until something happens that has no known instant, as until a person acts."""
        return self.pause is not None and self.resume_at is None


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
    reported: tuple[int, float] | None = None  # requests and seconds of the window that HubSpot's answers showed

    @property
    def limit_reported(self) -> bool:
        """Whether HubSpot's answers showed the window's limit, to this run or to the owner before."""
        return self.reported is not None
