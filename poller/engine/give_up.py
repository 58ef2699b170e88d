"""When a run stops waiting for an account: it is refused at the start, or stays without a good answer."""

from dataclasses import dataclass
from typing import assert_never

from poller.core.errors import ConfigError, GaveUp, TokenRefused
from poller.core.model import REPORTING, Missing, Outcome, Refused, Throttled, Unreachable

LIMITED_IN_A_ROW = 5  # 429s; fewer may be a window that is used up, however short `give_up_s` is
REFUSALS_AT_START = 2  # for one reason in a row; one may be a token that was just being replaced
NO_HOST_S = 20.0  # at the start: a name that cannot be resolved, or a host that answers otherwise, this long is wrong
# Reasons of 2xx answers that HubSpot does not give
NOT_HUBSPOTS = ("unreadable_body", "not_an_object", "no_status", "empty_body")


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpRules:
    """When a run stops waiting for something that may never come back."""

    give_up_s: float | None = None  # no good answer, or a failing sink, this long ends the run; None: never
    needs_answer: bool = False  # an account refused before HubSpot reported a first status ends the run


class GiveUpWatch:
    """Follows the outcomes of one account's polls and ends the run by `rules`."""

    def __init__(self, account: str, rules: GiveUpRules) -> None:
        self.rules = rules
        self._account = account
        self._had_status = False
        self._failing_since: float | None = None
        self._latest = ""  # reason of the latest failure
        self._in_a_row = 0  # failures for that reason
        self._limited_since: float | None = None  # nothing but 429 since then
        self._limited_in_a_row = 0

    def check(self, outcome: Outcome, now: float) -> None:
        """Take the next outcome. Raises `TokenRefused`, `ConfigError` or `GaveUp`."""
        if isinstance(outcome, REPORTING):  # as mostly
            self._had_status |= outcome.status is not None
            self.forget()
            return
        match outcome:
            case Missing():
                self.forget()
            case Refused(reason=reason) | Unreachable(reason=reason):
                self._limited_since, self._limited_in_a_row = None, 0
                self._failing_since = now if self._failing_since is None else self._failing_since
                self._in_a_row = self._in_a_row + 1 if reason == self._latest else 1
                self._latest = reason
                self._check_start(outcome, now - self._failing_since)
                self._check_length(outcome, now - self._failing_since)
            case Throttled(policy="window"):
                self._limited_since = now if self._limited_since is None else self._limited_since
                self._limited_in_a_row += 1
                self._check_limited(now - self._limited_since)
            case Throttled():  # it ends by itself, and HubSpot has named until when
                pass
            case _:
                assert_never(outcome)

    def check_starts(self, unanswered_s: float) -> None:
        """Starts were lost in a row for so long, though polls may have been answered. Raises `GaveUp`."""
        if self.rules.give_up_s is not None and unanswered_s >= self.rules.give_up_s:
            raise GaveUp(
                f"account {self._account}: HubSpot answered no start of an import for {unanswered_s:.0f} s; no row is "
                "lost. Run the same command again when it does: rows whose answer was lost are repeated later"
            )

    def forget(self) -> None:
        """Forget the failures so far: there was a good answer, or a person paused the account meanwhile."""
        self._failing_since, self._in_a_row = None, 0
        self._limited_since, self._limited_in_a_row = None, 0

    def _check_start(self, outcome: Refused | Unreachable, failing_s: float) -> None:
        if not self.rules.needs_answer or self._had_status or self._in_a_row < REFUSALS_AT_START:
            return
        match outcome:
            case Refused(reason="token_refused", detail=detail):
                raise TokenRefused(f"account {self._account}: {detail}")
            case Refused(detail=detail):
                raise ConfigError(f"account {self._account}: {detail}")
            case Unreachable(reason="dns") if failing_s >= NO_HOST_S:
                raise ConfigError(f"account {self._account}: the host of base_url has no address. Check base_url.")
            case Unreachable(reason=reason) if reason in NOT_HUBSPOTS and failing_s >= NO_HOST_S:
                raise ConfigError(
                    f"account {self._account}: the host does not answer as HubSpot does ({reason}). Check base_url and "
                    "status_path, and the proxy or gateway on the way."
                )

    def _check_length(self, outcome: Refused | Unreachable, failing_s: float) -> None:
        if self.rules.give_up_s is not None and failing_s >= self.rules.give_up_s:
            latest = outcome.detail if isinstance(outcome, Refused) else outcome.reason
            raise GaveUp(
                f"account {self._account}: no good answer for {failing_s:.0f} s (latest: {latest}); nothing is lost. "
                "Run the same command again when the cause is gone"
            )

    def _check_limited(self, limited_s: float) -> None:
        is_long = self.rules.give_up_s is not None and limited_s >= self.rules.give_up_s
        if is_long and self._limited_in_a_row >= LIMITED_IN_A_ROW:
            raise GaveUp(
                f"account {self._account}: HubSpot answered with nothing but 429 (rate limit) for {limited_s:.0f} s; "
                "nothing is lost. Find the program that uses up the account's limit, then run the same command again"
            )
