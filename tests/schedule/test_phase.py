"""Imports whose start HubSpot names are polled by the time since it."""

from random import Random

from bench.timing_lane import play
from bench.timing_workloads import Import
from poller.schedule import AccountTiming, Tradeoff
from poller.schedule.phase import FEWEST, PhaseClock
from poller.schedule.policy import Polling


def phased(count: int, *, named: bool) -> list[Import]:
    """Pending for a minute, more or less; then processed for three, nearly exactly."""
    rng, imports = Random(1), []
    for number in range(count):
        at = number / 4
        started_at = at + rng.lognormvariate(4.1, 0.8)
        took_s = started_at + rng.lognormvariate(5.2, 0.05) - at
        start = started_at if named else None
        imports.append(Import(requested_at=at, fed_at=at, took_s=took_s, started_at=start))
    return imports


def cost_s(imports: list[Import]) -> float:
    played = play(imports, 60.0, Polling())
    return (sum(played.late_s) + 3 * sum(played.polls)) / len(imports)


def test_a_named_start_makes_polls_fewer_or_earlier() -> None:
    assert cost_s(phased(500, named=True)) < 0.9 * cost_s(phased(500, named=False))


def test_a_pending_import_is_not_polled_before_the_shortest_processing_time_has_passed() -> None:
    clock = PhaseClock(Tradeoff())
    assert clock.pending_s == 0.0
    for took_s in range(20, 20 + FEWEST):
        clock.learn(100.0, 100.0, 100.0 + took_s, finished=True, seen=False)
    assert clock.pending_s == 20.0
    for _ in range(64):
        clock.learn(100.0, 100.0, 1100.0, finished=True, seen=False)
    assert clock.pending_s == 60.0  # the longest gap still holds


def test_a_start_that_is_seen_for_the_first_time_is_no_evidence() -> None:
    clock = PhaseClock(Tradeoff())
    assert clock.learn(100.0, 90.0, 130.0, finished=False, seen=False) is None
    assert clock.learn(100.0, 130.0, 160.0, finished=True, seen=True) is not None


def test_what_was_learned_of_phases_is_kept() -> None:
    timing = AccountTiming("a", Tradeoff())
    for took_s in range(30, 60):
        timing.by_start.learn(100.0, 100.0, 100.0 + took_s, finished=True, seen=False)
    timing.by_start.evidence = 50.0
    restored = AccountTiming("a", Tradeoff(), timing.knowledge(0.0))
    assert restored.by_start.planner.hazard.finished == 30
    assert restored.by_start.evidence == 50.0
