"""A gate in a fleet: nothing leaves untrusted, and what another member sent counts in the window."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.accounts import AccountState
from poller.core.handover import Handover
from poller.core.learned_limit import LearnedLimit
from poller.core.model import Answer, RateLimits, Running
from poller.core.protocols import Clock
from poller.hubspot.limits import AccountGate, GateLimits
from poller.hubspot.limits.gate import TRUST_CHECK_S
from poller.hubspot.limits.window import HeldSlots, Window

GOOD = Answer(outcome=Running(status="PENDING"))
HOLD_S = Window(limit=10, window_s=10.0).hold_s


def make_gate(
    clock: Clock,
    handover: Handover | None = None,
    *,
    is_trusted: Callable[[], bool] | None = None,
    state: AccountState | None = None,
    known: LearnedLimit | None = None,
    **limits: Any,
) -> AccountGate:
    return AccountGate(
        "main",
        GateLimits(**({"requests": 10, "window_s": 10.0} | limits)),
        state=state or AccountState(),
        clock=clock,
        monotonic=asyncio.get_running_loop().time,
        rng=Random(1),
        is_trusted=is_trusted,
        handover=handover,
        known=known,
    )


async def poll(gate: AccountGate, limits: RateLimits | None = None) -> float:
    """Make one poll that is answered at once; return when it left."""
    async with gate.slot() as slot:
        left_at = asyncio.get_running_loop().time()
        slot.answered(Answer(outcome=GOOD.outcome, limits=limits or RateLimits()))
    return left_at


# --- trust -----------------------------------------------------------------------------------------------------------


async def test_nothing_leaves_while_the_member_is_not_trusted(clock: Clock) -> None:
    is_trusted = False
    gate = make_gate(clock, is_trusted=lambda: is_trusted)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(60), gate.slot():
            pytest.fail("it is not trusted")
    is_trusted = True
    began_at = asyncio.get_running_loop().time()
    assert await poll(gate) == began_at


async def test_a_waiting_request_leaves_soon_after_trust_is_back(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    back_at = loop.time() + 7.03
    gate = make_gate(clock, is_trusted=lambda: loop.time() >= back_at)
    assert back_at <= await poll(gate) <= back_at + TRUST_CHECK_S + 0.01


async def test_trust_that_ends_during_a_wait_for_the_window_holds_the_request(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    ends_at, back_at = loop.time() + 5, loop.time() + 30
    gate = make_gate(clock, is_trusted=lambda: not ends_at <= loop.time() < back_at, requests=1)
    await poll(gate)
    assert await poll(gate) >= back_at


# --- a change of owner -----------------------------------------------------------------------------------------------


async def test_after_a_clean_change_the_first_request_leaves_at_once(clock: Clock) -> None:
    gate = make_gate(clock, Handover(is_clean=True, slot_ages_s=(1.0, 2.0)))
    assert await poll(gate) == pytest.approx(asyncio.get_running_loop().time())


async def test_slots_that_another_member_used_stay_taken_until_their_window_has_passed(clock: Clock) -> None:
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, Handover(is_clean=True, slot_ages_s=(9.0, 4.0, 1.0)), requests=3)
    left = [await poll(gate) - began_at for _ in range(3)]
    for left_s, age_s in zip(left, (9.0, 4.0, 1.0), strict=True):
        assert HOLD_S - age_s <= left_s <= HOLD_S - age_s + 0.4  # the even pace adds a little


@pytest.mark.parametrize("settle_s", [0.0, 5.0])
async def test_after_an_unclean_change_nothing_leaves_for_a_window(clock: Clock, settle_s: float) -> None:
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, Handover(is_clean=False, settle_s=settle_s))
    assert await poll(gate) - began_at == pytest.approx(HOLD_S + settle_s, abs=0.01)


async def test_what_the_state_remembers_of_another_machines_clock_does_not_count(clock: Clock) -> None:
    state = AccountState(active_at=clock() + 3600, clean=False)
    gate = make_gate(clock, Handover(is_clean=True), state=state)
    assert await poll(gate) == asyncio.get_running_loop().time()


async def test_an_account_that_leaves_during_its_wait_is_unclean_again(clock: Clock) -> None:
    gate = make_gate(clock, Handover(is_clean=False))
    await asyncio.sleep(HOLD_S - 0.1)
    assert gate.slot_ages_s is None
    await asyncio.sleep(0.2)
    assert gate.slot_ages_s == ()


async def test_an_account_with_requests_in_flight_is_unclean(clock: Clock) -> None:
    gate = make_gate(clock)
    async with gate.slot() as slot:
        assert gate.slot_ages_s is None
        slot.answered(GOOD)
    assert gate.slot_ages_s == (0.0,)


async def test_a_longer_window_that_hubspot_reports_is_handed_over(clock: Clock) -> None:
    gate = make_gate(clock)
    await poll(gate, RateLimits(max=10, remaining=9, interval_s=60.0))
    await asyncio.sleep(30)
    assert gate.slot_ages_s == pytest.approx((30.0,))
    await asyncio.sleep(31)
    assert gate.slot_ages_s == ()


# --- a window that HubSpot reported to the owner before --------------------------------------------------------------

REPORTED = LearnedLimit(requests=10, window_s=10.0, reported_requests=20, reported_window_s=60.0)


async def test_an_unclean_wait_is_as_long_as_the_window_that_hubspot_reported(clock: Clock) -> None:
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, Handover(is_clean=False), known=REPORTED)
    assert await poll(gate) - began_at == pytest.approx(60.12, abs=0.01)


async def test_the_reported_window_is_in_force_at_the_next_owner_from_the_first_request_on(clock: Clock) -> None:
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, Handover(is_clean=True, slot_ages_s=(30.0,) * 19), known=REPORTED)
    left = [await poll(gate) - began_at for _ in range(2)]
    assert left == [pytest.approx(0.0), pytest.approx(30.12, abs=0.01)]


async def test_other_limits_in_an_answer_replace_what_the_owner_before_knew(clock: Clock) -> None:
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, Handover(is_clean=True, slot_ages_s=(30.0,) * 19), known=REPORTED)
    left = [await poll(gate, RateLimits(max=10, remaining=9, interval_s=10.0)) - began_at for _ in range(9)]
    assert left[-1] < 10
    assert gate.reading().reported == (10, 10.0)


async def test_after_a_kill_the_window_counts_as_full_for_as_long_as_hubspot_reported(clock: Clock) -> None:
    """Without a fleet, too. Only the wait: what HubSpot reports now may be another limit."""
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, state=AccountState(active_at=clock(), clean=False), known=REPORTED)
    assert await poll(gate) - began_at == pytest.approx(60.12, abs=0.01)
    assert (gate.reading().window_limit, gate.reading().limit_reported) == (10, False)


async def test_a_limit_that_an_earlier_version_kept_is_its_reported_window(clock: Clock) -> None:
    began_at = asyncio.get_running_loop().time()
    gate = make_gate(clock, Handover(is_clean=False), known=LearnedLimit(requests=20, window_s=30.0))
    assert await poll(gate) - began_at == pytest.approx(30.06, abs=0.01)


# --- many changes of owner -------------------------------------------------------------------------------------------


async def test_a_window_that_changes_owner_again_and_again_is_never_exceeded(clock: Clock) -> None:
    loop, rng, left, handover = asyncio.get_running_loop(), Random(5), [], Handover(is_clean=True)
    for _ in range(40):
        gate = make_gate(clock, handover)
        until = loop.time() + rng.uniform(0, 6)
        while loop.time() < until:
            try:
                async with asyncio.timeout_at(until):
                    left.append(await poll(gate))
            except TimeoutError:
                break
        await asyncio.sleep(rng.uniform(0, 1))  # nothing is owned between two members
        ages_s = gate.slot_ages_s
        assert ages_s is not None
        handover = Handover(is_clean=True, slot_ages_s=ages_s)
    assert len(left) > 60
    assert all(later - earlier >= 10.0 for earlier, later in zip(left, left[10:], strict=False))


@given(st.lists(st.floats(0, 30), max_size=40), st.floats(0, 1e6), st.floats(0, 1e6))
def test_ages_that_are_handed_over_use_as_many_slots_there(ages_s: list[float], here: float, there: float) -> None:
    window = Window(limit=100, window_s=10.0)
    one, other = HeldSlots(), HeldSlots()
    one.restore(ages_s, here)
    other.restore(one.ages_s(window.hold_s, here), there)
    within = [age_s for age_s in ages_s if abs(age_s - window.hold_s) > 1e-3]  # not on the very edge
    assert abs(other.used(window, there) - sum(age_s < window.hold_s for age_s in within)) <= len(ages_s) - len(within)
