"""The gate's rules one by one: queue, pauses and their probes, learned limits, restarts, the day's quota."""

import asyncio
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any, get_args, get_type_hints

import pytest

from poller.core.accounts import AccountState, Pause
from poller.core.model import Answer, Finished, Missing, Outcome, RateLimits, Refused, Running, Throttled, Unreachable
from poller.core.protocols import Clock
from poller.core.request_protocols import Gate, GateClosed
from poller.core.steady_clock import SteadyClock
from poller.hubspot.limits import AccountGate, GateLimits
from poller.hubspot.limits.concurrency import Concurrency
from poller.hubspot.limits.outage import REFUSED_IN_A_ROW, WITNESS, OutageDetector
from poller.hubspot.limits.pause import outage_wait_s, refused_wait_s, throttled_wait_s
from poller.hubspot.limits.quota import DailyQuota
from poller.hubspot.limits.window import Window
from poller.hubspot.limits.windows import AccountWindows, assumed_used_s
from tests.support.virtual import EPOCH

GOOD = Answer(outcome=Running(status="PENDING"))
DOWN = Unreachable(reason="http_503")
TEN_S = Window(limit=100, window_s=10.0)


def make_gate(
    clock: Clock,
    state: AccountState | None = None,
    has_new_token: Callable[[], bool] = lambda: False,
    **limits: Any,
) -> AccountGate:
    return AccountGate(
        "main",
        GateLimits(**limits),
        state=state or AccountState(),
        clock=clock,
        monotonic=asyncio.get_running_loop().time,
        rng=Random(1),
        has_new_token=has_new_token,
    )


async def poll(gate: AccountGate, outcome: Outcome | None = None, limits: RateLimits | None = None) -> float:
    """Make one poll that is answered at once; return when it left."""
    async with gate.slot() as slot:
        left_at = asyncio.get_running_loop().time()
        slot.answered(Answer(outcome=outcome or GOOD.outcome, limits=limits or RateLimits()))
    return left_at


async def pause(gate: AccountGate, outcome: Outcome) -> float:
    """Let requests of different tasks end in `outcome` until the account pauses; return when the last one left."""
    for _ in range(REFUSED_IN_A_ROW):
        left_at = await poll(gate, outcome)
        if is_paused(gate):
            return left_at
    raise AssertionError("no pause")


def is_paused(gate: AccountGate) -> bool:
    return gate.pause is not None


async def bring_down(gate: AccountGate) -> None:
    while gate.pause is not Pause.OUTAGE:
        await poll(gate, DOWN)


# --- the queue -------------------------------------------------------------------------------------------------------


async def test_it_is_a_gate(clock: Clock) -> None:
    gate: Gate = make_gate(clock)
    assert gate.pause is None


async def test_waiting_requests_leave_in_the_order_of_their_arrival(clock: Clock) -> None:
    gate = make_gate(clock, requests=5, window_s=1.0)
    passed: list[int] = []

    async def one(number: int) -> None:
        async with gate.slot() as slot:
            passed.append(number)
            slot.answered(GOOD)

    async with asyncio.TaskGroup() as group:
        for number in range(40):
            group.create_task(one(number))
    assert passed == list(range(40))


async def test_a_cancelled_waiter_takes_nothing(clock: Clock) -> None:
    gate = make_gate(clock, requests=1, window_s=10.0)
    await poll(gate)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3), gate.slot():
                pytest.fail("the window is full")
    assert gate.reading().in_flight == 0
    assert await poll(gate) == pytest.approx(10.02, abs=0.01)
    assert gate.reading().requests == 2


async def test_a_slot_left_without_an_answer_is_held_for_a_window_from_then_on(clock: Clock) -> None:
    gate = make_gate(clock, requests=1, window_s=10.0)
    async with gate.slot():
        await asyncio.sleep(3)
    assert gate.reading().in_flight == 0
    assert await poll(gate) == pytest.approx(13.02, abs=0.01)


async def test_after_closing_no_request_leaves_and_slots_taken_before_stay_valid(clock: Clock) -> None:
    gate = make_gate(clock)
    async with gate.slot() as slot:
        gate.close()
        with pytest.raises(GateClosed):
            await poll(gate)
        slot.answered(GOOD)
    assert gate.reading().in_flight == 0
    assert gate.state().active_at == pytest.approx(clock())


async def test_closing_also_wakes_a_request_that_waits_for_the_pace(clock: Clock) -> None:
    gate = make_gate(clock, requests=2, window_s=1000.0)
    await poll(gate)

    async def wait() -> None:
        with pytest.raises(GateClosed):
            await poll(gate)

    async with asyncio.TaskGroup() as group:
        group.create_task(wait())
        await asyncio.sleep(1)
        gate.close()
    assert asyncio.get_running_loop().time() < 2


# --- pauses ----------------------------------------------------------------------------------------------------------

PAUSES: list[tuple[Outcome, Pause, float]] = [
    (Throttled(policy="window"), Pause.THROTTLED, 10.02),
    (Throttled(policy="window", retry_after_s=25), Pause.THROTTLED, 25),
    (Throttled(policy="window", retry_after_s=86_400), Pause.THROTTLED, 300),
    (Throttled(policy="migrating"), Pause.MIGRATING, 60),
    (Throttled(policy="migrating", retry_after_s=7200), Pause.MIGRATING, 900),
    (Throttled(policy="daily"), Pause.DAILY_QUOTA, 902),
    (Refused(reason="token_refused", detail="expired"), Pause.TOKEN_REFUSED, 5),
    (Refused(reason="scope_missing", detail="needs files"), Pause.SCOPE_MISSING, 5),
    (Refused(reason="wrong_path", detail="HTML 404"), Pause.WRONG_PATH, 5),
]
GOOD_OUTCOMES: list[Outcome] = [
    Running(status=None),
    Finished(status="COMPLETE", num_errors=0),
    Missing(code=404),
]


@pytest.mark.parametrize(("outcome", "reason", "wait_s"), PAUSES)
async def test_each_reason_pauses_for_its_time_and_ends_with_a_good_probe(
    clock: Clock, outcome: Outcome, reason: Pause, wait_s: float
) -> None:
    gate = make_gate(clock)
    await poll(gate)
    paused_at = await pause(gate, outcome)
    assert gate.pause is reason
    assert gate.state().pause == reason.value
    probed_at = await poll(gate, GOOD_OUTCOMES[0])
    assert probed_at - paused_at == pytest.approx(wait_s, abs=1.2)
    assert not is_paused(gate)
    assert gate.paused_s == pytest.approx(probed_at - paused_at)


@pytest.mark.parametrize(("asked_s", "pause"), [(25.0, Pause.THROTTLED), (None, None)])
async def test_a_429_among_good_answers_pauses_only_where_hubspot_asks_for_it(
    clock: Clock, asked_s: float | None, pause: Pause | None
) -> None:
    gate = make_gate(clock)
    for _ in range(30):
        await poll(gate)
    await poll(gate, Throttled(policy="window", retry_after_s=asked_s))
    refused_at = asyncio.get_running_loop().time()
    assert gate.pause is pause
    assert await poll(gate) - refused_at >= (asked_s or 0.0)


@pytest.mark.parametrize("good", GOOD_OUTCOMES)
async def test_any_sensible_answer_to_a_probe_ends_a_pause(clock: Clock, good: Outcome) -> None:
    gate = make_gate(clock)
    await poll(gate, PAUSES[6][0])
    await poll(gate, good)
    assert gate.pause is None


@pytest.mark.parametrize(("outcome", "pause", "wait_s"), PAUSES)
async def test_one_probe_at_a_time_leaves_during_a_pause(
    clock: Clock, outcome: Outcome, pause: Pause, wait_s: float
) -> None:
    gate = make_gate(clock)
    out, most = 0, 0

    async def work() -> None:
        nonlocal out, most
        for _ in range(3):
            async with gate.slot() as slot:
                out += 1
                most = max(most, out)
                await asyncio.sleep(20)
                out -= 1
                slot.answered(Answer(outcome=outcome))

    await poll(gate, outcome)
    async with asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(work())
    assert gate.pause is pause
    assert most == 1


async def test_answers_to_requests_that_left_before_the_pause_neither_end_nor_extend_it(clock: Clock) -> None:
    gate = make_gate(clock)
    for _ in range(5):
        await poll(gate)
    async with gate.slot() as first, gate.slot() as second, gate.slot() as third:
        first.answered(Answer(outcome=Throttled(policy="window")))
        resume_at = gate.state().resume_at
        await asyncio.sleep(5)
        second.answered(GOOD)
        third.answered(Answer(outcome=Throttled(policy="migrating", retry_after_s=80_000)))
    assert gate.pause is Pause.THROTTLED
    assert gate.state().resume_at == resume_at


async def test_a_probe_that_is_cancelled_makes_way_for_the_next(clock: Clock) -> None:
    gate = make_gate(clock)
    await poll(gate, PAUSES[6][0])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(8), gate.slot():
            await asyncio.sleep(60)
    await poll(gate)
    assert gate.pause is None


async def test_a_refused_token_is_retried_more_and_more_rarely(clock: Clock) -> None:
    gate = make_gate(clock)
    began_at = await pause(gate, PAUSES[6][0])
    times = [began_at, *[await poll(gate, PAUSES[6][0]) for _ in range(7)]]
    gaps = [round(b - a) for a, b in pairwise(times)]
    assert gaps == [5, 10, 20, 40, 60, 60, 60]
    assert [refused_wait_s(n) for n in (0, 4, 9999)] == [5, 60, 60]


def test_every_refusal_is_a_pause_that_needs_a_person() -> None:
    reasons = get_args(get_type_hints(Refused)["reason"])
    assert reasons
    assert all(Pause(reason).needs_person for reason in reasons)


@pytest.mark.parametrize("reason", ["token_refused", "scope_missing"])
async def test_another_token_is_tried_within_2_s_however_long_the_old_one_was_refused(
    clock: Clock, reason: Any
) -> None:
    news: list[bool] = []
    gate = make_gate(clock, has_new_token=lambda: bool(news))
    for _ in range(8):
        await poll(gate, Refused(reason=reason, detail=""))
    began_at = asyncio.get_running_loop().time()
    asyncio.get_running_loop().call_later(10, news.append, True)
    assert await poll(gate) - began_at == pytest.approx(11, abs=1.01)
    assert gate.pause is None


async def test_throttling_that_repeats_waits_longer_up_to_300_s(clock: Clock) -> None:
    gate = make_gate(clock)
    times = [await poll(gate, Throttled(policy="window")) for _ in range(11)]
    gaps = [b - a for a, b in pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] == pytest.approx(10, abs=0.1)
    assert gaps[-1] == pytest.approx(300, abs=0.1)
    assert throttled_wait_s(0.0, window_s=10, relapses=0) == 1


async def test_a_count_of_zero_that_was_disbelieved_counts_again_after_a_pause_for_429s(clock: Clock) -> None:
    gate, refusals = make_gate(clock), 0
    zero = RateLimits(max=100, remaining=0, interval_s=10.0)
    for _ in range(20):
        await poll(gate, limits=zero)
    while not is_paused(gate):
        await poll(gate, Throttled(policy="window"), zero)
        refusals += 1
    assert refusals == 5
    await poll(gate, limits=zero)  # the probe
    await poll(gate, Throttled(policy="window"), zero)
    assert is_paused(gate)


async def test_a_429_without_headers_among_good_answers_is_no_pause_and_two_in_a_row_are(clock: Clock) -> None:
    gate = make_gate(clock)
    for _ in range(20):
        await poll(gate)
    await poll(gate, Throttled(policy="window"))
    assert gate.pause is None
    await poll(gate)
    await poll(gate, Throttled(policy="window"))
    assert gate.pause is None
    await poll(gate, Throttled(policy="window"))
    assert is_paused(gate)


async def test_after_good_answers_the_next_pause_for_429s_is_shorter_again(clock: Clock) -> None:
    gate, full = make_gate(clock), RateLimits(max=1000, remaining=0, interval_s=10.0)
    times = [await poll(gate, Throttled(policy="window"), full) for _ in range(5)]
    for _ in range(100):
        await poll(gate)
    times += [await poll(gate, Throttled(policy="window"), full) for _ in range(2)]
    assert times[4] - times[3] == pytest.approx(10 * 1.5**3, rel=0.01)
    assert times[6] - times[5] == pytest.approx(10, rel=0.01)


async def test_a_pause_is_logged_once_then_every_ten_minutes_and_its_end_once(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    gate = make_gate(clock)
    while asyncio.get_running_loop().time() < 1500:
        await poll(gate, PAUSES[6][0])
    await poll(gate)
    assert [event["event"] for event in events] == ["lane.paused"] * 3 + ["lane.resumed"]
    assert events[0]["pause"] == "token_refused"
    assert events[-1]["paused_s"] == pytest.approx(gate.paused_s, abs=0.01)


async def test_the_reason_of_a_pause_may_change_without_ending_it(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    gate = make_gate(clock)
    began_at = await poll(gate, Throttled(policy="window"))
    for _ in range(2):
        await poll(gate, Refused(reason="scope_missing", detail="needs the scope files"))
    assert gate.pause is Pause.SCOPE_MISSING
    assert gate.state().pause_detail == "needs the scope files"
    ended_at = await poll(gate)
    assert [event["event"] for event in events] == ["lane.paused", "lane.paused", "lane.resumed"]
    assert gate.paused_s == pytest.approx(ended_at - began_at)


async def test_time_paused_in_earlier_runs_counts(clock: Clock) -> None:
    gate = make_gate(clock, AccountState(paused_s=1000.0))
    await pause(gate, PAUSES[6][0])
    await asyncio.sleep(3)
    assert gate.paused_s == pytest.approx(1003, abs=0.01)
    assert gate.state().paused_s == pytest.approx(1003, abs=0.01)


# --- outages ---------------------------------------------------------------------------------------------------------


async def test_five_failures_in_a_row_are_an_outage(clock: Clock) -> None:
    gate = make_gate(clock)
    for _ in range(4):
        await poll(gate, DOWN)
    assert not is_paused(gate)
    await poll(gate, DOWN)
    assert gate.pause is Pause.OUTAGE
    assert gate.state().resume_at is None


async def test_probes_in_an_outage_come_more_and_more_rarely_and_never_in_step(clock: Clock) -> None:
    gate = make_gate(clock)
    await bring_down(gate)
    times = [await poll(gate, DOWN) for _ in range(40)]
    gaps = [b - a for a, b in pairwise(times)]
    assert [round(gap + 0.35) for gap in gaps[:2]] == [2, 4]
    assert max(gaps[:8]) <= 8.01
    assert 50 <= max(gaps) <= 60.01
    assert len({round(gap, 3) for gap in gaps[-10:]}) > 5


def test_gaps_in_an_outage_double_up_to_8_s_while_errors_are_few_else_to_60_s() -> None:
    few = [outage_wait_s(None, doublings=n, errors_are_few=True, share=1) for n in range(6)]
    many = [outage_wait_s(None, doublings=n, errors_are_few=False, share=1) for n in range(8)]
    assert few == [1, 2, 4, 8, 8, 8]
    assert many == [1, 2, 4, 8, 16, 32, 60, 60]
    assert outage_wait_s(30.0, doublings=0, errors_are_few=True, share=1) == 30
    assert outage_wait_s(9999.0, doublings=0, errors_are_few=True, share=1) == 60


def test_failures_of_fewer_than_three_different_tasks_are_no_outage() -> None:
    outage = OutageDetector()
    outage.note(0, failed=False, succeeded=True)
    for turn in range(40):
        outage.note(turn % 2, failed=True)
    assert not outage.is_outage
    outage.note("a third task", failed=True)
    assert outage.is_outage


def test_a_task_and_the_witness_failing_in_turn_are_an_outage() -> None:
    outage = OutageDetector()
    outage.note(0, failed=False, succeeded=True)
    for turn in range(5):
        outage.note(WITNESS if turn % 2 else 7, failed=True)
    assert outage.is_outage


def test_until_the_first_good_answer_any_task_that_keeps_failing_is_an_outage() -> None:
    outage = OutageDetector()
    for _ in range(5):
        assert not outage.is_outage
        outage.note(7, failed=True)
    assert outage.is_outage


@pytest.mark.parametrize("outcome", [each for each, _, _ in PAUSES[6:]])
async def test_before_the_first_good_answer_the_second_refusal_in_a_row_is_the_account_s(
    clock: Clock, outcome: Outcome
) -> None:
    for subjects, pauses in (([1], False), ([1, 2], True), ([1, 1], True)):
        gate = make_gate(clock, requests=1000)
        for subject in subjects:
            assert not is_paused(gate)
            async with gate.slot(subject) as slot:
                slot.answered(Answer(outcome=outcome))
        assert is_paused(gate) is pauses, subjects


@pytest.mark.parametrize("outcome", [each for each, _, _ in PAUSES[6:]])
async def test_one_task_that_is_refused_while_others_are_answered_pauses_nothing(
    clock: Clock, outcome: Outcome
) -> None:
    gate = make_gate(clock, requests=1000)
    await poll(gate)
    for turn in range(60):
        async with gate.slot(7 if turn % 10 else turn) as slot:
            slot.answered(Answer(outcome=outcome) if turn % 10 else GOOD)
        assert not is_paused(gate)
    for _ in range(2):
        async with gate.slot(7) as slot:
            slot.answered(Answer(outcome=outcome))
    assert not is_paused(gate)
    async with gate.slot(8) as slot:
        slot.answered(Answer(outcome=outcome))
    assert is_paused(gate)


def test_four_of_five_polls_failing_are_an_outage_and_three_of_four_are_not() -> None:
    four_of_five, three_of_four = OutageDetector(), OutageDetector()
    for detector in (four_of_five, three_of_four):
        detector.note("good", failed=False, succeeded=True)
    for turn in range(40):
        four_of_five.note(turn, failed=turn % 5 != 0)
        three_of_four.note(turn, failed=turn % 4 != 0)
    assert four_of_five.is_outage
    assert not three_of_four.is_outage


def test_where_many_polls_fail_by_accident_a_longer_row_of_failures_is_an_outage() -> None:
    rng, bad, fine, by_chance = Random(1), OutageDetector(), OutageDetector(), 0
    for turn in range(3000):
        failed = rng.random() < 0.45
        bad.note(turn, failed=failed, succeeded=not failed)
        by_chance += bad.is_outage
        fine.note(turn, failed=rng.random() < 0.05, succeeded=True)
    assert by_chance <= 10  # a row of five alone would be one 70 times
    for turn in range(5):
        bad.note(turn, failed=True)
        fine.note(turn, failed=True)
    assert (bad.is_outage, fine.is_outage) == (False, True)
    for turn in range(15):
        bad.note(turn, failed=True)
    assert bad.is_outage


def test_polls_that_time_out_together_are_no_outage_where_later_ones_were_answered() -> None:
    outage = OutageDetector()
    for number in range(1, 101):  # every fourth hangs; the others are answered at once
        if number % 4:
            outage.note(number, failed=False, succeeded=True, number=number)
    for number in range(4, 101, 4):
        outage.note(number, failed=True, number=number)
        assert not outage.is_outage
    for number in range(101, 125):
        outage.note(number, failed=True, number=number)
    assert outage.is_outage


async def test_where_failed_polls_are_frequent_an_outage_by_chance_is_probed_more_often(clock: Clock) -> None:
    pauses = []
    for failing in (0, 60):  # of 120 polls before
        gate = make_gate(clock, requests=1000)
        for turn in range(120):
            await poll(gate, DOWN if failing and turn % 2 else GOOD.outcome)
        await bring_down(gate)
        began_at = asyncio.get_running_loop().time()
        for _ in range(6):
            await poll(gate, DOWN)
        pauses.append(asyncio.get_running_loop().time() - began_at)
    assert pauses[1] < 0.6 * pauses[0]


def test_probes_of_a_long_outage_do_not_make_the_next_one_harder_to_notice() -> None:
    outage = OutageDetector()
    outage.note(0, failed=False, succeeded=True)
    for turn in range(100):
        outage.note(turn, failed=True, is_probe=turn >= 5)
    outage.clear()
    for turn in range(30):
        outage.note(turn, failed=False, succeeded=True)
    for turn in range(5):
        outage.note(turn, failed=True)
    assert outage.is_outage


async def test_one_refusal_of_a_probe_does_not_make_an_outage_a_refused_account(clock: Clock) -> None:
    gate = make_gate(clock)
    await poll(gate)
    await bring_down(gate)
    for stray in (Refused(reason="token_refused", detail=""), Throttled(policy="migrating", retry_after_s=600)):
        await poll(gate, stray)
        assert gate.pause is Pause.OUTAGE
    await poll(gate)
    assert not is_paused(gate)
    await bring_down(gate)
    for _ in range(REFUSED_IN_A_ROW):
        await poll(gate, Refused(reason="token_refused", detail=""))
    assert gate.pause is Pause.TOKEN_REFUSED


def test_time_outs_of_one_round_halve_the_concurrency_once_and_good_answers_raise_it_by_one_a_round() -> None:
    concurrency = Concurrency(16, TEN_S)
    for _ in range(15):
        concurrency.succeed()
    assert concurrency.allowed == 16
    for number in range(1, 17):
        concurrency.time_out(number, latest=16)
    assert concurrency.allowed == 8
    for _ in range(8):
        concurrency.succeed()
    assert concurrency.allowed == 9
    concurrency.time_out(30, latest=30)
    assert concurrency.allowed == 4


def test_fewer_workers_lower_the_concurrency_at_once_and_the_persons_number_decides() -> None:
    concurrency = Concurrency(None, Window(limit=1000, window_s=10.0))
    assert concurrency.workers == 40
    for _ in range(39):
        concurrency.succeed()
    assert concurrency.allowed == 40
    concurrency.fit(TEN_S)
    assert (concurrency.workers, concurrency.allowed) == (16, 16)
    concurrency.configured = 3
    concurrency.fit(TEN_S)
    assert (concurrency.workers, concurrency.allowed) == (3, 3)


async def test_concurrency_starts_with_one_and_never_exceeds_the_workers(clock: Clock) -> None:
    gate = make_gate(clock, requests=1000, window_s=1.0, workers=4)
    seen: list[int] = []

    async def one() -> None:
        async with gate.slot() as slot:
            seen.append(gate.reading().in_flight)
            await asyncio.sleep(1)
            slot.answered(GOOD)

    async with asyncio.TaskGroup() as group:
        for _ in range(30):
            group.create_task(one())
    assert seen[:3] == [1, 1, 2]
    assert max(seen) == 4


# --- limits and restarts ---------------------------------------------------------------------------------------------


def rate_limits(most: int | None, interval_s: float | None = None) -> RateLimits:
    return RateLimits(max=most, interval_s=interval_s)


@pytest.mark.parametrize(
    ("requests", "headers", "limit"),
    [
        (100, rate_limits(50), 50),
        (100, rate_limits(190, 10.0), 100),
        (None, rate_limits(190, 10.0), 190),
        (None, rate_limits(20), 20),
        (None, rate_limits(0), 100),
        (None, rate_limits(-5, -1.0), 100),
        (None, rate_limits(None, 1e9), 100),
        (None, RateLimits(), 100),
    ],
)
async def test_headers_lower_a_limit_and_raise_only_what_the_person_did_not_set(
    clock: Clock, requests: int | None, headers: RateLimits, limit: int
) -> None:
    gate = make_gate(clock, requests=requests)
    await poll(gate, limits=headers)
    assert gate.reading().window_limit == limit


@pytest.mark.parametrize(
    ("own", "headers", "reported"),
    [
        ((None, 1.0), [], None),  # a short time alone is no limit, of the person's …
        ((None, None), [rate_limits(None, 1.0)], None),  # … nor in headers
        ((None, None), [rate_limits(190, 10.0), rate_limits(None, 1.0)], (190, 10.0)),
        ((20, 1.0), [rate_limits(190)], (190, 10.0)),  # not in a second
        ((None, None), [rate_limits(190, 2.0), rate_limits(150)], (150, 2.0)),
    ],
)
def test_half_a_limit_never_raises_what_may_be_sent(
    own: tuple[int | None, float | None], headers: list[RateLimits], reported: tuple[int, float] | None
) -> None:
    windows = AccountWindows(*own)
    for limits in headers:
        windows.learn(limits)
    found = windows.reported
    assert (None if found is None else (found.limit, found.window_s)) == reported
    assert windows.own == (TEN_S if own[0] is None else Window(limit=20, window_s=1.0))


def test_a_longer_time_alone_slows_the_default_limit_down() -> None:
    assert AccountWindows(None, 60.0).own == Window(limit=100, window_s=60.0)


def test_a_lower_limit_takes_effect_at_once() -> None:
    windows = AccountWindows(100, 10.0)
    for _ in range(30):
        windows.take()
        windows.release(1.0)
    assert windows.free_in_s(1.0) == 0
    windows.learn(rate_limits(20))
    assert windows.free_in_s(1.0) == pytest.approx(10.02)


def test_a_longer_interval_counts_what_left_before_it_was_known() -> None:
    windows = AccountWindows(None, 10.0)
    for _ in range(100):
        windows.take()
        windows.release(1.0)
    windows.learn(rate_limits(100, 60.0))
    assert windows.free_in_s(20.0) == pytest.approx(41.12)


@pytest.mark.parametrize(("window_s", "wait_s"), [(5.0, 0.0), (60.0, 41.12), (600.0, 601.2)])
def test_other_limits_of_a_reload_count_what_was_sent_before(window_s: float, wait_s: float) -> None:
    windows = AccountWindows(100, 10.0)
    for _ in range(100):
        windows.take()
        windows.release(1.0)
    windows.apply(100, window_s, 20.0)
    assert windows.free_in_s(20.0) == pytest.approx(wait_s)


async def test_a_learned_limit_is_logged_once(clock: Clock, events: list[MutableMapping[str, Any]]) -> None:
    gate = make_gate(clock)
    for most in (190, 190, 250, 190):
        await poll(gate, limits=rate_limits(most, 10.0))
    assert [(event["event"], event["requests"]) for event in events] == [
        ("lane.limit_learned", 190),
        ("lane.limit_learned", 250),
    ]


NEVER, JUST_NOW, LONG_AGO, LATER = None, 1000.0, 500.0, 2000.0


@pytest.mark.parametrize(
    ("active_at", "clean", "wait_s"),
    [
        (NEVER, False, 0),
        (JUST_NOW, False, 10.02),
        (JUST_NOW, True, 10.02),
        (JUST_NOW - 4, True, 6.02),
        (JUST_NOW - 4, False, 10.02),
        (JUST_NOW - 100, True, 0),
        (JUST_NOW - 100, False, 10.02),
        (LONG_AGO, False, 10.02),  # the clock may have been set forward since
        (LATER, True, 10.02),
        (LATER, False, 10.02),
    ],
)
def test_after_a_restart_the_window_counts_as_full(active_at: float | None, clean: bool, wait_s: float) -> None:
    state = AccountState(active_at=active_at, clean=clean)
    assert assumed_used_s(state, TEN_S, JUST_NOW) == pytest.approx(wait_s)


async def test_a_run_that_ended_before_its_first_request_leaves_no_shorter_wait(clock: Clock) -> None:
    killed = AccountState(active_at=clock() - 60)
    gate = make_gate(clock, killed)
    state = gate.state()
    assert state.active_at == pytest.approx(clock())
    assert await poll(gate) == pytest.approx(10.02, abs=0.01)


# --- the day's quota -------------------------------------------------------------------------------------------------


class Wall:
    """A wall clock that changes only when set."""

    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def make_quota(wall: Wall, **settings: Any) -> DailyQuota:
    defaults: dict[str, Any] = {"limit": None, "reserve": 0, "time_zone": "UTC", "day": "", "day_requests": 0}
    return DailyQuota(clock=wall, **(defaults | settings))


def reported(remaining: int, daily: int | None = 1000) -> RateLimits:
    return RateLimits(daily=daily, daily_remaining=remaining)


def test_the_day_ends_at_midnight_in_the_accounts_time_zone() -> None:
    wall = Wall(EPOCH)  # 2026-01-05T00:00Z is 05:45 in Kathmandu
    quota = make_quota(wall, time_zone="Asia/Kathmandu", limit=10)
    quota.send()
    assert (quota.day, quota.day_requests) == ("2026-01-05", 1)
    assert quota.resets_at == EPOCH + 18.25 * 3600
    wall.at = quota.resets_at
    assert (quota.day, quota.day_requests) == ("2026-01-06", 0)


def test_the_day_is_the_machine_s_after_it_was_suspended_or_its_clock_was_set_right() -> None:
    wall, elapsed = Wall(EPOCH + 10 * 3600), Wall(0.0)
    steady = SteadyClock(wall, elapsed)
    quota = DailyQuota(limit=5, reserve=0, time_zone="UTC", clock=steady, day="", day_requests=0)
    quota.send()
    assert quota.resets_at == steady() + 14 * 3600
    wall.at += 8 * 3600  # no time elapsed by the clock of the process
    assert quota.resets_at == steady() + 6 * 3600
    wall.at += 6 * 3600
    quota.send()
    assert (quota.day, quota.day_requests) == ("2026-01-06", 1)


def test_a_clock_set_back_gives_no_second_quota() -> None:
    wall = Wall(EPOCH)
    quota = make_quota(wall, limit=1)
    quota.send()
    wall.at = EPOCH - 3600
    assert quota.configured_left() == 0
    wall.at = EPOCH + 10
    assert quota.configured_left() == 0


def test_a_day_that_a_wrong_clock_noted_years_ahead_ends_at_the_next_midnight_with_its_count() -> None:
    wall = Wall(EPOCH)
    quota = make_quota(wall, limit=1000, day="2030-01-01", day_requests=850)
    assert (quota.day, quota.day_requests, quota.configured_left()) == ("2026-01-05", 850, 150)
    wall.at += 86_400
    assert (quota.day, quota.day_requests) == ("2026-01-06", 0)


def test_a_reported_quota_is_forgotten_at_midnight_where_reports_stopped_and_stays_where_they_come() -> None:
    for answers, left in ((RateLimits(), float("inf")), (reported(0), 0)):
        wall = Wall(EPOCH + 86_000)
        quota = make_quota(wall)
        quota.learn(reported(3), sent_at=1, now=2)
        for second in range(3, 6):
            quota.learn(answers, sent_at=second, now=second + 0.5)
        assert quota.left() == 0
        wall.at = EPOCH + 86_400
        quota.send()
        assert quota.left() == left


@pytest.mark.parametrize(("age_s", "left"), [(59, 999), (61, float("inf"))])
def test_a_reported_quota_is_not_forgotten_at_midnight_for_an_answer_without_one(age_s: float, left: float) -> None:
    """A 502 has no headers. Where the account's midnight is another, the reserve of others stays kept."""
    wall = Wall(EPOCH + 86_400 - age_s)
    quota = make_quota(wall)
    quota.learn(reported(1000), sent_at=1, now=2)
    wall.at = EPOCH + 86_399
    quota.learn(RateLimits(), sent_at=3, now=4)
    wall.at = EPOCH + 90_000  # the first look after it
    quota.send()
    assert quota.left() == left


def test_a_reported_quota_is_forgotten_a_day_after_its_latest_report() -> None:
    """Where the account's midnight is not the one that was set."""
    quota = make_quota(Wall(EPOCH))
    quota.learn(reported(0), sent_at=1, now=2)
    quota.learn(RateLimits(), sent_at=86_400, now=86_401)
    assert quota.left() == -1
    quota.learn(RateLimits(), sent_at=86_401, now=86_402)
    assert quota.left() == float("inf")


async def test_another_token_has_its_own_quota(clock: Clock) -> None:
    """Such as an OAuth app's after a private app's: its answers report none."""
    gate = make_gate(clock)
    await poll(gate, limits=reported(900))
    gate.apply(GateLimits(), has_new_token=lambda: False)
    assert gate.reading().daily_left == 800
    gate.apply(GateLimits(), has_new_token=lambda: False, is_same_token=False)
    assert gate.reading().daily_left is None


@pytest.mark.parametrize(("reserve", "left"), [(0, 100), (0.1, 0), (0.0005, 99), (30, 70), (1, 99), (500, -400)])
def test_the_reserve_is_a_share_or_a_number(reserve: float, left: int) -> None:
    quota = make_quota(Wall(EPOCH), reserve=reserve)
    quota.learn(reported(100), sent_at=1, now=2)
    assert quota.left() == left


def test_with_both_sources_the_lower_counts_each_with_its_own_share() -> None:
    quota = make_quota(Wall(EPOCH), limit=100, reserve=0.2)
    quota.learn(reported(900), sent_at=1, now=2)
    assert quota.left() == 80
    quota.learn(reported(250), sent_at=3, now=4)
    assert quota.left() == 50


def test_an_account_without_headers_or_limit_is_unlimited() -> None:
    quota = make_quota(Wall(EPOCH), reserve=0.5)
    quota.learn(RateLimits(), sent_at=1, now=2)
    assert quota.left(16) == float("inf")


def test_answers_out_of_order_do_not_raise_what_is_left_and_a_reset_does() -> None:
    quota = make_quota(Wall(EPOCH))
    quota.learn(reported(10), sent_at=1, now=2)
    quota.learn(reported(14), sent_at=1.5, now=3)
    assert quota.left() == 10
    quota.learn(reported(990), sent_at=4, now=5)
    assert quota.left() == 990
    quota.learn(reported(9), sent_at=3.5, now=6)  # counted before the reset
    assert quota.left() == 990


def test_a_request_without_reported_quota_counts_until_a_later_report() -> None:
    quota = make_quota(Wall(EPOCH))
    quota.learn(reported(10), sent_at=1, now=2)
    quota.learn(RateLimits(), sent_at=2, now=3)
    assert quota.left(in_flight=2) == 7
    quota.learn(reported(8), sent_at=4, now=5)
    assert quota.left() == 8


async def test_a_quota_probe_that_shows_no_quota_continues_the_pause_until_one_does(clock: Clock) -> None:
    gate = make_gate(clock, daily_reserve=10)
    await poll(gate, limits=reported(10))
    times = [await poll(gate, limits=reported(9 - n)) for n in range(3)]
    assert gate.pause is Pause.DAILY_QUOTA
    assert [at // 900 for at in times] == [1, 2, 3]
    assert max(at % 900 for at in times) <= 3.1
    assert gate.state().resume_at == EPOCH + 86_400
    await poll(gate, limits=reported(999))
    assert not is_paused(gate)


# --- a person's pause ------------------------------------------------------------------------------------------------


async def test_a_person_pauses_and_resumes_an_account(clock: Clock) -> None:
    loop = asyncio.get_running_loop()
    gate = make_gate(clock)
    gate.hold("for the night")
    waiting = asyncio.ensure_future(poll(gate))
    await asyncio.sleep(100_000)
    assert not waiting.done()
    assert (gate.pause, gate.state().pause_detail) == (Pause.PAUSED_BY_PERSON, "for the night")
    assert gate.paused_s == pytest.approx(100_000, abs=1)
    resumed_at = loop.time()
    gate.release()
    assert await waiting - resumed_at < 0.1
    assert gate.pause is None
    assert gate.paused_s == pytest.approx(100_000, abs=1)
    gate.release()
    assert gate.reading().pauses == {Pause.PAUSED_BY_PERSON: 1}


@pytest.mark.parametrize(
    "outcome",
    [
        Running(status="PENDING"),
        Finished(status="COMPLETE", num_errors=0),
        Missing(code=404),
        Throttled(policy="window"),
        Refused(reason="token_refused", detail=""),
        Unreachable(reason="timeout"),
    ],
)
async def test_no_answer_to_an_earlier_request_ends_a_persons_pause(clock: Clock, outcome: Outcome) -> None:
    gate = make_gate(clock)
    await bring_down(gate)
    await asyncio.sleep(60)
    async with gate.slot() as probe:
        gate.hold()
        probe.answered(Answer(outcome=outcome))
    assert gate.pause is Pause.PAUSED_BY_PERSON
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10_000):
            await poll(gate)


async def test_the_pause_below_a_persons_pause_goes_on_after_it(clock: Clock) -> None:
    """Resuming must not shorten what HubSpot asked for."""
    loop = asyncio.get_running_loop()
    gate = make_gate(clock)
    began_at = await pause(gate, Throttled(policy="window", retry_after_s=250))
    gate.hold()
    await asyncio.sleep(20)
    gate.release()
    assert gate.pause is Pause.THROTTLED
    assert await poll(gate) - began_at >= 250
    assert not is_paused(gate)
    assert gate.paused_s == pytest.approx(loop.time() - began_at, abs=1)


@pytest.mark.parametrize("clean", [True, False])
async def test_a_persons_pause_survives_a_restart_and_the_time_between_does_not_age_its_tasks(
    clock: Clock, clean: bool
) -> None:
    gate = make_gate(clock)
    gate.hold("quota for others")
    await asyncio.sleep(50)
    state = replace(gate.state(), active_at=clock(), clean=clean)
    await asyncio.sleep(9000)
    again = make_gate(clock, state)
    assert (again.pause, again.state().pause_detail) == (Pause.PAUSED_BY_PERSON, "quota for others")
    assert again.paused_s == pytest.approx(9050, abs=1)
    again.release()
    await poll(again)


async def test_a_persons_pause_counts_once_over_any_number_of_clean_restarts(clock: Clock) -> None:
    gate = make_gate(clock)
    await poll(gate)
    await asyncio.sleep(3600)
    gate.hold()
    for _ in range(3):
        await asyncio.sleep(86_000)
        state = replace(gate.state(), clean=True)
        await asyncio.sleep(400)
        gate = make_gate(clock, state)
    assert gate.paused_s == pytest.approx(3 * 86_400, abs=1)


async def test_a_reload_does_not_end_a_persons_pause(clock: Clock) -> None:
    gate = make_gate(clock)
    gate.hold()
    gate.apply(GateLimits(requests=5, daily_limit=100))
    await asyncio.sleep(5)
    assert gate.pause is Pause.PAUSED_BY_PERSON
