"""When a run stops waiting for an account, and when it must not."""

from typing import Literal, get_args

import pytest

from poller.core.errors import ConfigError, GaveUp, TokenRefused
from poller.core.model import Missing, Outcome, RefusalReason, Refused, Running, Throttled, Unreachable
from poller.engine.give_up import GiveUpRules, GiveUpWatch

GOOD = Running(status="PENDING")
REFUSED = Refused(reason="token_refused", detail="401")
DOWN = Unreachable(reason="http_503")


def check_all(rules: GiveUpRules, *outcomes: tuple[float, Outcome]) -> None:
    watch = GiveUpWatch("eu", rules)
    for now, outcome in outcomes:
        watch.check(outcome, now)


def test_a_token_refused_twice_before_any_good_answer_ends_a_run_that_needs_it() -> None:
    check_all(GiveUpRules(needs_answer=True), (0, REFUSED))
    check_all(GiveUpRules(needs_answer=True), (0, GOOD), (1, REFUSED), (2, REFUSED))
    check_all(GiveUpRules(), (0, REFUSED), (1, REFUSED))
    with pytest.raises(TokenRefused, match="account eu: 401"):
        check_all(GiveUpRules(needs_answer=True), (0, REFUSED), (1, REFUSED))


def test_only_an_outage_without_a_good_answer_for_give_up_s_ends_a_run() -> None:
    rules = GiveUpRules(give_up_s=60)
    check_all(GiveUpRules(), (0, DOWN), (1e9, DOWN))
    check_all(rules, (0, DOWN), (59, DOWN), (59, GOOD), (60, DOWN), (119, DOWN))
    with pytest.raises(GaveUp, match=r"no good answer for 60 s \(latest: http_503\)"):
        check_all(rules, (0, DOWN), (30, Throttled(policy="window")), (60, DOWN))


@pytest.mark.parametrize("reason", get_args(RefusalReason))
def test_every_refusal_counts_for_give_up_s_and_ends_a_run_that_needs_an_answer(reason: RefusalReason) -> None:
    refused = Refused(reason=reason, detail="do this")
    with pytest.raises(GaveUp, match=r"no good answer for 60 s \(latest: do this\)"):
        check_all(GiveUpRules(give_up_s=60, needs_answer=True), (0, GOOD), (1, refused), (61, refused))
    with pytest.raises(TokenRefused if reason == "token_refused" else ConfigError, match="account eu: do this"):
        check_all(GiveUpRules(needs_answer=True), (0, Missing(code=404)), (0, refused), (5, refused))
    check_all(GiveUpRules(needs_answer=True), (0, refused), (1, DOWN), (2, refused))


def test_a_host_without_an_address_ends_a_run_that_needs_an_answer_within_30_s() -> None:
    no_host = Unreachable(reason="dns")
    check_all(GiveUpRules(), (0, no_host), (1e9, no_host))
    check_all(GiveUpRules(needs_answer=True), (0, no_host), (19, no_host))
    with pytest.raises(ConfigError, match="Check base_url"):
        check_all(GiveUpRules(needs_answer=True), (0, no_host), (19, no_host), (25, no_host))


def test_nothing_but_rate_limits_for_give_up_s_ends_a_run() -> None:
    """A window passes by itself, so that some in a row are no sign; hours of them are an outage to who waits."""
    rules, busy = GiveUpRules(give_up_s=60), Throttled(policy="window")
    check_all(GiveUpRules(give_up_s=1), *((at * 10, busy) for at in range(4)))
    check_all(rules, *((at, busy) for at in range(59)))
    check_all(rules, *((at * 10, busy) for at in range(6)), (55, GOOD), *((60 + at * 10, busy) for at in range(6)))
    check_all(GiveUpRules(), *((at * 10, busy) for at in range(1000)))
    with pytest.raises(GaveUp, match=r"account eu: HubSpot answered with nothing but 429 \(rate limit\) for 60 s"):
        check_all(rules, *((at * 10, busy) for at in range(7)))


@pytest.mark.parametrize("policy", ["daily", "migrating"])
def test_a_quota_of_the_day_and_a_move_never_end_a_run(policy: Literal["daily", "migrating"]) -> None:
    throttled = Throttled(policy=policy)
    check_all(GiveUpRules(give_up_s=1, needs_answer=True), *((at, throttled) for at in range(100)))
