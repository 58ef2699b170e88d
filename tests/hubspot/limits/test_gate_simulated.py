"""The gate against a simulated server that counts arrivals strictly, for minutes and hours of virtual time."""

import asyncio
import math
from bisect import bisect_right
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.accounts import AccountState, Pause
from poller.core.model import Answer, Outcome, RateLimits, Running, Throttled, Unreachable
from poller.core.protocols import Clock
from poller.core.request_protocols import GateClosed, Slot
from poller.hubspot.limits import AccountGate, GateLimits
from tests.support.virtual import EPOCH, VirtualLoop

RUNNING = Running(status="PROCESSING")
TIMEOUT_S = 30.0
FRESH = AccountState()


@dataclass(slots=True, kw_only=True)
class SimulatedServer:
    """Counts requests in a rolling window when they arrive, as HubSpot does, and reports the counts."""

    limit: int
    window_s: float
    reports: bool = True  # sends the headers of the window
    daily: int | None = None
    refused: int = 0  # 429s
    failure: Callable[[float], str | None] = lambda _: None  # an Unreachable reason, by the time
    bare_refusals: bool = False  # its 429s have no headers
    reports_zero: bool = False  # its headers always report that nothing is left
    sporadic: float = 0.0  # share of requests that get a 429 although the window has room
    chance: Random = field(default_factory=lambda: Random(5))
    accepted: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)  # every arrival from our gate, refused or not
    used_today: int = 0

    def arrive(self, now: float) -> Answer:
        used = len(self.accepted) - bisect_right(self.accepted, now - self.window_s)
        if self.failure(now):
            return Answer(outcome=Unreachable(reason=self.failure(now) or ""))
        outcome: Outcome = RUNNING
        if used >= self.limit:
            self.refused += 1
            outcome = Throttled(policy="window")
        elif self.daily is not None and self.used_today >= self.daily:
            self.refused += 1
            outcome = Throttled(policy="daily")
        elif self.sporadic and self.chance.random() < self.sporadic:
            self.refused += 1
            self.accepted.append(now)  # it counts, as the strictest server would do
            outcome = Throttled(policy="window")
            used += 1
        else:
            self.accepted.append(now)
            self.used_today += 1
            used += 1
        return Answer(outcome=outcome, limits=self._headers(used, refuses=isinstance(outcome, Throttled)))

    def _headers(self, used: int, *, refuses: bool) -> RateLimits:
        left = None if self.daily is None else self.daily - self.used_today
        if not self.reports or (refuses and self.bare_refusals):
            return RateLimits(daily=self.daily, daily_remaining=left)
        return RateLimits(
            max=self.limit,
            remaining=0 if self.reports_zero else self.limit - used,
            interval_s=self.window_s,
            daily=self.daily,
            daily_remaining=left,
        )

    async def serve(self, slot: Slot, latency_s: float, rng: Random) -> Answer:
        """One request: it arrives at some random point of its latency."""
        arrives_s = latency_s * rng.random()
        await asyncio.sleep(arrives_s)
        now = loop_time()
        self.ours.append(now)
        answer = self.arrive(now)
        if isinstance(answer.outcome, Unreachable) and answer.outcome.reason == "timeout":
            latency_s = TIMEOUT_S
        await asyncio.sleep(latency_s - arrives_s)
        slot.answered(answer)
        return answer


def loop_time() -> float:
    return asyncio.get_running_loop().time()


def worst_window(arrivals: list[float], window_s: float) -> int:
    """Return the most arrivals in any half-open window."""
    ordered = sorted(arrivals)
    return max((i + 1 - bisect_right(ordered, at - window_s) for i, at in enumerate(ordered)), default=0)


def usual(rng: Random) -> float:
    return rng.uniform(0.05, 0.3)


def with_slow_tail(rng: Random) -> float:
    return 3.0 if rng.random() < 0.1 else usual(rng)


def make_gate(clock: Clock, state: AccountState = FRESH, **limits: Any) -> AccountGate:
    return AccountGate(
        "main",
        GateLimits(**limits),
        state=state,
        clock=clock,
        monotonic=asyncio.get_running_loop().time,
        rng=Random(7),
    )


async def keep_busy(
    gate: AccountGate,
    server: SimulatedServer,
    *,
    for_s: float,
    workers: int = 16,
    latency: Callable[[Random], float] = usual,
    beside: Coroutine[None, None, None] | None = None,
) -> None:
    """Run workers that always have a task due; then stop as a killed process does: no more answers are reported."""
    rng = Random(1)

    async def work() -> None:
        while True:
            async with gate.slot() as slot:
                await server.serve(slot, latency(rng), rng)

    with suppress(TimeoutError):
        async with asyncio.timeout(for_s), asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(work())
            if beside is not None:
                group.create_task(beside)


@pytest.mark.parametrize(("limit", "window_s", "reports"), [(100, 10.0, True), (200, 2.0, True), (100, 10.0, False)])
async def test_a_busy_lane_gets_97_percent_of_what_answer_anchored_slots_allow_and_never_a_429(
    clock: Clock, limit: int, window_s: float, reports: bool
) -> None:
    server = SimulatedServer(limit=limit, window_s=window_s, reports=reports)
    gate = make_gate(clock, requests=limit, window_s=window_s, workers=64)
    await keep_busy(gate, server, for_s=13 * window_s, workers=64)
    rate = sum(at > window_s for at in server.ours) / (12 * window_s)
    assert server.refused == 0
    assert worst_window(server.ours, window_s) <= limit
    assert rate >= 0.97 * limit / (window_s + 0.175)


@pytest.mark.parametrize(("limit", "window_s"), [(100, 10.0), (200, 2.0)])
async def test_a_tenth_of_the_answers_being_slow_brings_no_429(clock: Clock, limit: int, window_s: float) -> None:
    server = SimulatedServer(limit=limit, window_s=window_s)
    gate = make_gate(clock, requests=limit, window_s=window_s, workers=64)
    await keep_busy(gate, server, for_s=13 * window_s, workers=64, latency=with_slow_tail)
    rate = sum(at > window_s for at in server.ours) / (12 * window_s)
    assert server.refused == 0
    assert worst_window(server.ours, window_s) <= limit
    assert rate >= 0.97 * limit / (window_s + 0.9 * 0.175 + 0.3)


async def test_requests_leave_evenly_spread(clock: Clock) -> None:
    server = SimulatedServer(limit=100, window_s=10.0)
    await keep_busy(make_gate(clock, requests=100), server, for_s=60)
    assert worst_window(server.ours, 1.0) <= 16


async def test_of_two_windows_neither_is_overrun(clock: Clock) -> None:
    server = SimulatedServer(limit=40, window_s=2.0)
    gate = make_gate(clock, requests=100, window_s=10.0)
    await keep_busy(gate, server, for_s=60)
    assert server.refused == 0
    assert worst_window(server.ours, 10.0) <= 100
    assert len(server.ours) > 550


@pytest.mark.parametrize(
    ("pattern", "reports", "most_429"), [("even", True, 3), ("bursts", True, 3), ("even", False, 9)]
)
async def test_another_client_taking_30_of_100_gets_them_at_the_cost_of_a_handful_of_429(
    clock: Clock, pattern: str, reports: bool, most_429: int
) -> None:
    server = SimulatedServer(limit=100, window_s=10.0, reports=reports)
    gate = make_gate(clock, requests=100)
    theirs = [0, 0]  # answered, refused

    async def other() -> None:
        await asyncio.sleep(30)
        while True:
            for _ in range(30 if pattern == "bursts" else 1):
                before = server.refused
                server.arrive(loop_time())
                theirs[server.refused - before] += 1
            await asyncio.sleep(10.0 if pattern == "bursts" else 1 / 3)

    await keep_busy(gate, server, for_s=630, beside=other())
    assert server.refused - theirs[1] <= most_429
    assert theirs[0] > 0.9 * 30 * 60
    assert len(server.ours) > 0.85 * 70 * 60


async def test_when_the_other_client_leaves_its_share_comes_back(clock: Clock) -> None:
    server = SimulatedServer(limit=100, window_s=10.0)
    gate = make_gate(clock, requests=100)

    async def other() -> None:
        for _ in range(100):
            server.arrive(loop_time())
            await asyncio.sleep(1 / 3)

    await keep_busy(gate, server, for_s=120, beside=other())
    assert sum(at >= 60 for at in server.ours) >= 0.95 * 60 * 100 / 10.175


async def polls_in(for_s: float, clock: Clock, sporadic: float) -> tuple[AccountGate, SimulatedServer, int]:
    """Work with tasks that are always due, at most 100 in 2 s; return gate, server and the number of good answers."""
    server = SimulatedServer(limit=100, window_s=2.0, sporadic=sporadic)
    gate = make_gate(clock, workers=64)
    await keep_busy(gate, server, for_s=for_s, workers=64)
    return gate, server, len(server.ours) - server.refused


async def test_sporadic_429s_with_room_in_the_headers_cost_little_more_than_themselves(clock: Clock) -> None:
    _, _, without = await polls_in(90, clock, 0.0)
    for sporadic in (0.01, 0.03):
        gate, server, answered = await polls_in(90, clock, sporadic)
        assert answered >= 0.8 * without
        assert server.refused <= 1.5 * sporadic * len(server.ours)
        assert worst_window(server.ours, 2.0) <= 100
        assert gate.paused_s < 10


BARE = 4000  # good answers in 90 s without any 429 and without headers, at least


@pytest.mark.parametrize(("sporadic", "seed"), [(0.0, 5), (0.01, 5), (0.03, 5), (0.03, 6)])
async def test_sporadic_429s_without_any_headers_cost_little_from_the_start(
    clock: Clock, sporadic: float, seed: int
) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, reports=False, sporadic=sporadic, chance=Random(seed))
    gate = make_gate(clock, requests=100, window_s=2.0, workers=64)
    await keep_busy(gate, server, for_s=90, workers=64)
    assert len(server.ours) - server.refused >= (0.88 if sporadic else 1.0) * BARE
    assert worst_window(server.ours, 2.0) <= 100
    assert server.refused <= 1.5 * sporadic * len(server.ours)


@pytest.mark.parametrize(("sporadic", "seed", "least"), [(0.05, 1, 0.7), (0.05, 8, 0.7), (0.08, 3, 0.6)])
async def test_unlucky_runs_with_more_sporadic_429s_keep_most_of_the_pace(
    clock: Clock, sporadic: float, seed: int, least: float
) -> None:
    """More than ten of a hundred answers came by chance, and all that was known of them was forgotten."""
    server = SimulatedServer(limit=100, window_s=2.0, reports=False, sporadic=sporadic, chance=Random(seed))
    gate = make_gate(clock, requests=100, window_s=2.0, workers=64)
    await keep_busy(gate, server, for_s=90, workers=64)
    assert len(server.ours) - server.refused >= least * BARE
    assert worst_window(server.ours, 2.0) <= 100


async def test_when_a_third_of_the_answers_are_429_without_headers_the_lane_backs_off(clock: Clock) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, reports=False, sporadic=0.3)
    gate = make_gate(clock, requests=100, window_s=2.0, workers=64)
    await keep_busy(gate, server, for_s=300, workers=64)
    assert len(server.ours) < 0.02 * 300 * 50


@pytest.mark.parametrize("sporadic", [0.01, 0.03])
async def test_a_sporadic_429_that_has_no_headers_itself_is_known_by_the_good_answers_around_it(
    clock: Clock, sporadic: float
) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, sporadic=sporadic, bare_refusals=True)
    gate = make_gate(clock, workers=64)
    await keep_busy(gate, server, for_s=90, workers=64)
    assert len(server.ours) - server.refused >= 0.85 * 45 * 90
    assert gate.paused_s < 10


@pytest.mark.parametrize(("theirs", "most_429"), [(10, 30), (30, 40), (60, 90)])
async def test_without_headers_another_client_s_share_is_not_taken_for_sporadic_429s(
    clock: Clock, theirs: int, most_429: int
) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, reports=False)
    gate = make_gate(clock, requests=100, window_s=2.0, workers=64)

    async def other() -> None:
        while True:
            server.arrive(loop_time())
            await asyncio.sleep(2.0 / theirs)

    await keep_busy(gate, server, for_s=120, workers=64, beside=other())
    assert server.refused <= most_429
    assert len(server.ours) >= 0.6 * (100 - theirs) * 60


@pytest.mark.parametrize("sporadic", [0.0, 0.01])
async def test_a_count_that_is_always_zero_costs_no_pace_as_long_as_requests_are_accepted(
    clock: Clock, sporadic: float
) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, reports_zero=True, sporadic=sporadic)
    gate = make_gate(clock, workers=64)
    await keep_busy(gate, server, for_s=60, workers=64)
    assert len(server.ours) >= 0.9 * 45 * (60 - 10)
    assert worst_window(server.ours, 2.0) <= 100


async def test_a_count_of_zero_is_believed_again_once_429s_are_frequent(clock: Clock) -> None:
    """The first 30 s the count lies; then another client takes 60 of 100, and the count is right."""
    server = SimulatedServer(limit=100, window_s=2.0, reports_zero=True)
    gate = make_gate(clock, workers=64)

    async def other() -> None:
        await asyncio.sleep(30)
        server.reports_zero = False
        while True:
            server.arrive(loop_time())
            await asyncio.sleep(2 / 60)

    await keep_busy(gate, server, for_s=230, workers=64, beside=other())
    later = [at for at in server.ours if at >= 30]
    assert len(later) >= 0.6 * 20 * 200
    assert server.refused < 0.01 * len(server.accepted)


async def test_one_429_without_headers_halves_the_pace_at_most_and_is_forgotten_within_a_minute(clock: Clock) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, reports=False)
    gate = make_gate(clock, requests=100, window_s=2.0, workers=64)
    await keep_busy(gate, server, for_s=1.5, workers=1)
    async with gate.slot() as slot:
        slot.answered(Answer(outcome=Throttled(policy="window")))
    await keep_busy(gate, server, for_s=62, workers=64)
    assert sum(at < 20 for at in server.ours) >= 0.5 * 45 * 12
    assert sum(at >= 60 for at in server.ours) >= 0.9 * 45 * 3


async def test_when_a_third_of_the_answers_are_429_the_lane_backs_off_and_is_back_once_they_end(clock: Clock) -> None:
    server = SimulatedServer(limit=100, window_s=2.0, sporadic=0.3)
    gate = make_gate(clock, workers=64)

    async def end_them() -> None:
        await asyncio.sleep(300)
        server.sporadic = 0.0

    await keep_busy(gate, server, for_s=720, workers=64, beside=end_them())
    assert sum(at < 300 for at in server.ours) < 0.1 * 300 * 50
    assert server.refused < 0.3 * 0.1 * 300 * 50
    assert sum(at >= 660 for at in server.ours) >= 0.9 * 60 * 45
    assert gate.pause is None


async def test_a_429_without_room_pauses_the_account_at_once_and_one_with_room_only_when_they_are_frequent(
    clock: Clock,
) -> None:
    full, free = (RateLimits(max=100, remaining=left, interval_s=10.0) for left in (0, 60))
    for limits, refusals in ((full, 1), (free, 5)):
        gate = make_gate(clock)
        for _ in range(20):
            async with gate.slot() as slot:
                slot.answered(Answer(outcome=RUNNING, limits=free))
        for refusal in range(refusals):
            assert gate.pause is None, refusal
            async with gate.slot() as slot:
                slot.answered(Answer(outcome=Throttled(policy="window"), limits=limits))
        assert gate.pause is Pause.THROTTLED


@pytest.mark.parametrize("save_is_late_by_s", [0.0, 1.0])
async def test_killed_and_restarted_every_3_s_it_never_exceeds_the_limit(
    clock: Clock, save_is_late_by_s: float
) -> None:
    server = SimulatedServer(limit=200, window_s=2.0)
    state = FRESH
    for _ in range(40):
        gate = make_gate(clock, state=state, requests=200, window_s=2.0, workers=64)
        await keep_busy(gate, server, for_s=3.0, workers=64)
        state = replace(gate.state(), active_at=clock() - save_is_late_by_s)
    assert server.refused == 0
    assert worst_window(server.ours, 2.0) <= 200
    assert len(server.ours) > 40 * 60


async def test_restarted_in_order_it_waits_only_for_what_is_left_of_the_window(clock: Clock) -> None:
    server = SimulatedServer(limit=50, window_s=2.0)
    state = FRESH
    for _ in range(10):
        gate = make_gate(clock, state=state, requests=50, window_s=2.0)
        await keep_busy(gate, server, for_s=3.0)
        state = replace(gate.state(), clean=True)
        await asyncio.sleep(1.0)
    assert server.refused == 0
    assert worst_window(server.ours, 2.0) <= 50
    assert len(server.ours) > 10 * 40


OUTAGE_FROM, OUTAGE_S = 600.0, 600.0


def failure_of_ten_minutes(now: float) -> str | None:
    phase = (now - OUTAGE_FROM) / (OUTAGE_S / 3)
    if not 0 <= phase < 3:
        return None
    return ("http_503", "reset", "timeout")[int(phase)]


@pytest.mark.parametrize("begins_at", [600.0, 5.0])
async def test_an_outage_of_ten_minutes_costs_few_errors_and_ends_without_a_burst(
    clock: Clock, begins_at: float
) -> None:
    shift_s = OUTAGE_FROM - begins_at
    server = SimulatedServer(limit=100, window_s=10.0, failure=lambda now: failure_of_ten_minutes(now + shift_s))
    gate = make_gate(clock, requests=100)
    ends_at = begins_at + OUTAGE_S
    await keep_busy(gate, server, for_s=ends_at + 300)
    back_at = next(at for at in server.accepted if at > ends_at)
    assert gate.reading().errors < max(40, 0.05 * gate.reading().requests)
    assert gate.paused_s == pytest.approx(back_at - begins_at, abs=3)
    assert back_at - ends_at < (9 if begins_at > 60 else 61)
    assert worst_window([at for at in server.accepted if at > ends_at], 1.0) <= 16
    assert sum(back_at < at <= back_at + 10 for at in server.accepted) >= 90


async def test_a_gone_outage_of_quick_errors_is_noticed_within_10_s_while_errors_are_few(clock: Clock) -> None:
    server = SimulatedServer(limit=100, window_s=10.0, failure=lambda now: "http_503" if 600 <= now < 800 else None)
    gate = make_gate(clock, requests=100)
    await keep_busy(gate, server, for_s=820)
    assert sum(800 < at <= 820 for at in server.accepted) > 100
    assert gate.pause is None


async def test_one_broken_task_among_good_ones_is_no_outage(clock: Clock, events: list[dict[str, object]]) -> None:
    gate = make_gate(clock, requests=100)
    rng = Random(3)
    async with gate.slot(1) as slot:
        slot.answered(Answer(outcome=RUNNING))
    for poll in range(2000):
        broken = rng.random() < 0.7
        async with gate.slot(7 if broken else poll + 100) as slot:
            slot.answered(Answer(outcome=Unreachable(reason="http_500") if broken else RUNNING))
    assert [event for event in events if event["event"] == "lane.paused"] == []


@pytest.mark.parametrize("source", ["headers", "configured"])
async def test_a_daily_quota_of_2000_with_a_fifth_in_reserve_stops_at_exactly_1600_and_resumes_at_the_reset(
    clock: Clock, source: str
) -> None:
    server = SimulatedServer(limit=200, window_s=2.0, daily=2000 if source == "headers" else None)
    limit = 2000 if source == "configured" else None
    gate = make_gate(clock, requests=200, window_s=2.0, daily_limit=limit, daily_reserve=0.2)
    seen: list[tuple[float, int, Pause | None]] = []

    async def midnight() -> None:
        while True:
            await asyncio.sleep(60)
            seen.append((loop_time(), len(server.ours), gate.pause))
            if loop_time() > 86_400 - 1 and server.used_today > 1000:
                server.used_today = 0

    await keep_busy(gate, server, for_s=86_400 + 60, beside=midnight())
    first_minute = seen[0]
    last_before = [count for at, count, _ in seen if at < 86_400 - 1][-1]
    assert first_minute[1:] == (1600, Pause.DAILY_QUOTA)
    assert gate.state().resume_at is None or gate.state().resume_at == EPOCH + 2 * 86_400
    assert last_before <= 1600 + (96 if source == "headers" else 0)
    assert server.refused == 0
    assert len(server.ours) >= last_before + 1600 - 5


async def test_the_day_count_survives_a_restart(clock: Clock) -> None:
    server = SimulatedServer(limit=200, window_s=2.0)
    state = FRESH
    for _ in range(20):
        gate = make_gate(clock, state=state, requests=200, window_s=2.0, daily_limit=1000, daily_reserve=100)
        await keep_busy(gate, server, for_s=4.0)
        state = gate.state()
    assert 900 - 20 * 16 <= len(server.ours) <= 900  # the rest was cancelled on its way
    assert state.day_requests == 900
    assert state.pause == Pause.DAILY_QUOTA
    assert state.resume_at == EPOCH + 86_400


# --- the law ---------------------------------------------------------------------------------------------------------

polls = st.lists(
    st.tuples(
        st.floats(0, 4, allow_nan=False),  # latency
        st.floats(0, 1, allow_nan=False),  # share of it until arrival
        st.sampled_from(["good", "good", "good", "reset", "timeout", "abandoned", "503", "lower", "higher"]),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(polls=polls, limit=st.integers(1, 12), window_s=st.sampled_from([0.5, 1.0, 3.0]), workers=st.integers(1, 20))
def test_whatever_comes_of_polls_no_window_holds_more_arrivals_than_its_limit(
    polls: list[tuple[float, float, str]], limit: int, window_s: float, workers: int
) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        arrivals = runner.run(arrivals_of(polls, limit, window_s, workers))
    assert len(arrivals) == len(polls)
    assert worst_window(arrivals, window_s) <= limit


async def arrivals_of(polls: list[tuple[float, float, str]], limit: int, window_s: float, workers: int) -> list[float]:
    loop = asyncio.get_running_loop()
    gate = make_gate(lambda: EPOCH + loop.time(), requests=limit, window_s=window_s, workers=workers)
    arrivals: list[float] = []
    remaining = iter(polls)

    async def work() -> None:
        for latency_s, share, what in remaining:
            async with gate.slot() as slot:
                await asyncio.sleep(latency_s * share)
                arrivals.append(loop.time())
                await asyncio.sleep(latency_s * (1 - share))
                if what != "abandoned":
                    slot.answered(answer_for(what, limit, window_s))

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(work())
    return arrivals


def answer_for(what: str, limit: int, window_s: float) -> Answer:
    match what:
        case "good":
            return Answer(outcome=RUNNING)
        case "lower":
            return Answer(
                outcome=RUNNING, limits=RateLimits(max=max(1, limit // 2), interval_s=window_s * 2, remaining=0)
            )
        case "higher":
            return Answer(outcome=RUNNING, limits=RateLimits(max=limit * 10, interval_s=window_s, remaining=3))
        case _:
            return Answer(outcome=Unreachable(reason=what))


async def test_closing_rejects_all_waiting_requests_at_once(clock: Clock) -> None:
    gate = make_gate(clock, requests=1, window_s=100.0)
    turned_away: list[float] = []

    async def wait() -> None:
        try:
            async with gate.slot():
                pytest.fail("no request may leave")
        except GateClosed:
            turned_away.append(loop_time())

    async with gate.slot() as slot, asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(wait())
        await asyncio.sleep(1)
        gate.close()
        await asyncio.sleep(0.001)
        assert len(turned_away) == 50
        slot.answered(Answer(outcome=RUNNING))
    assert gate.reading().in_flight == 0
    assert math.isclose(max(turned_away), 1, abs_tol=0.001)
