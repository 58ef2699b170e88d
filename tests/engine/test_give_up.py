"""When a run stops waiting for an account, and when it must not."""

from typing import Literal

import pytest

from poller.core.errors import GaveUp, TokenRefused
from poller.core.model import Outcome, Refused, Running, Throttled, Unreachable
from poller.engine.give_up import GiveUpRules, GiveUpWatch

GOOD = Running(status="PENDING")
REFUSED = Refused(reason="token_refused", detail="401")
DOWN = Unreachable(reason="http_503")


def check_all(rules: GiveUpRules, *outcomes: tuple[float, Outcome]) -> None:
    watch = GiveUpWatch("eu", rules)
    for now, outcome in outcomes:
        watch.check(outcome, now)


def test_a_token_refused_twice_before_any_good_answer_ends_a_run_that_needs_it() -> None:
    check_all(GiveUpRules(needs_token=True), (0, REFUSED))
    check_all(GiveUpRules(needs_token=True), (0, GOOD), (1, REFUSED), (2, REFUSED))
    check_all(GiveUpRules(), (0, REFUSED), (1, REFUSED))
    with pytest.raises(TokenRefused, match="account eu: HubSpot refuses the token: 401"):
        check_all(GiveUpRules(needs_token=True), (0, REFUSED), (1, REFUSED))


def test_only_an_outage_without_a_good_answer_for_give_up_s_ends_a_run() -> None:
    rules = GiveUpRules(give_up_s=60)
    check_all(GiveUpRules(), (0, DOWN), (1e9, DOWN))
    check_all(rules, (0, DOWN), (59, DOWN), (59, GOOD), (60, DOWN), (119, DOWN))
    with pytest.raises(GaveUp, match=r"no good answer for 60 s \(latest: http_503\)"):
        check_all(rules, (0, DOWN), (30, Throttled(policy="window")), (60, DOWN))


@pytest.mark.parametrize("policy", ["window", "daily", "migrating"])
def test_throttling_never_ends_a_run(policy: Literal["window", "daily", "migrating"]) -> None:
    throttled = Throttled(policy=policy)
    check_all(GiveUpRules(give_up_s=1, needs_token=True), *((at, throttled) for at in range(100)))
