"""When a run stops waiting for an account: its token is refused at the start, or the API stays out of reach."""

from dataclasses import dataclass
from typing import assert_never

from poller.core.errors import GaveUp, TokenRefused
from poller.core.model import Finished, Missing, Outcome, Refused, Running, Throttled, Unreachable

REFUSALS_AT_START = 2  # one may be a token that was just being replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpRules:
    """When a run stops waiting for something that may never come back."""

    give_up_s: float | None = None  # an outage or a failing sink this long ends the run; None: never
    needs_token: bool = False  # a token refused before the first good answer ends the run


class GiveUpWatch:
    """Follows the outcomes of one account's polls and ends the run by `rules`."""

    def __init__(self, account: str, rules: GiveUpRules) -> None:
        self.rules = rules
        self._account = account
        self._had_good_answer = False
        self._failing_since: float | None = None
        self._refusals = 0

    def check(self, outcome: Outcome, now: float) -> None:
        """Take the next outcome. Raises `TokenRefused` or `GaveUp`."""
        match outcome:
            case Running() | Finished() | Missing():
                self._had_good_answer = True
                self._failing_since = None
            case Refused(reason="token_refused", detail=detail):
                self._refusals += 1
                if self.rules.needs_token and not self._had_good_answer and self._refusals >= REFUSALS_AT_START:
                    raise TokenRefused(f"account {self._account}: HubSpot refuses the token: {detail}")
            case Unreachable(reason=reason):
                self._failing_since = now if self._failing_since is None else self._failing_since
                failing_s = now - self._failing_since
                if self.rules.give_up_s is not None and failing_s >= self.rules.give_up_s:
                    raise GaveUp(
                        f"account {self._account}: no good answer for {failing_s:.0f} s (latest: {reason}); nothing is "
                        "lost. Run the same command again when the API is back"
                    )
            case Refused() | Throttled():
                pass
            case _:
                assert_never(outcome)
