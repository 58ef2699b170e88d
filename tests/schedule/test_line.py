"""Lines: a server that works its imports off in order, and the choice between places and ages."""

import math
from dataclasses import replace
from random import Random

import pytest

from bench.timing_lane import play
from bench.timing_lines import LINES
from bench.timing_workloads import Import
from poller.core.model import Finished, Running
from poller.core.timestamps import iso
from poller.schedule import AccountTiming, Tradeoff, explanation_of
from poller.schedule.account import CONVINCED_OF_REQUESTS, MOST_LEAD
from poller.schedule.line import AHEAD, FEWEST, MOST_PRESSURE, MOSTLY_AHEAD, SAMPLE, SCOUT_S, SCOUTS, Line, LinePlanner
from poller.schedule.policy import Polling
from tests.support.makers import make_task

NOW = 1_767_571_200.0
RULES = Polling()


def moving(places: range, pace_s: float = 2.0, start_at: float = 0.0) -> Line:
    line = Line()
    for place in places:
        line.completed(float(place), start_at + place * pace_s)
    return line


def in_order(count: int, per_second: float, fed_per_second: float = 1000.0) -> list[Import]:
    fed_at = [number / fed_per_second for number in range(count)]
    ends, free_at = [], 0.0
    for at in fed_at:
        free_at = max(free_at, at) + 1 / per_second
        ends.append(free_at)
    return [Import(requested_at=at, fed_at=at, took_s=end - at) for at, end in zip(fed_at, ends, strict=True)]


def costs(imports: list[Import], per_second: float, line_by: str | None = None) -> tuple[float, float]:
    """Return polls a task and mean lateness."""
    played = play(imports, per_second, Polling(line_by=line_by))
    assert min(played.late_s) >= 0
    return sum(played.polls) / len(imports), sum(played.late_s) / len(imports)


def test_a_line_is_unknown_until_enough_imports_are_finished() -> None:
    assert not moving(range(FEWEST - 1)).is_fitted
    assert moving(range(FEWEST)).is_fitted


def test_a_completion_is_predicted_from_pace_and_place() -> None:
    assert moving(range(100)).predicted_at(150.0) == pytest.approx(300.0, abs=1)


def test_some_imports_out_of_order_do_not_move_the_prediction() -> None:
    line, rng = Line(), Random(1)
    for place in range(400):
        line.completed(float(rng.randrange(10_000) if place % 10 == 0 else place), place * 2.0)
    assert line.predicted_at(450.0) == pytest.approx(900.0, abs=50)


def test_a_rush_is_predicted_as_done() -> None:
    line = Line()
    for number, place in enumerate(Random(1).sample(range(5000), 400)):
        line.completed(float(place), 1000.0 + number / 100)
    assert line.predicted_at(5000.0) == pytest.approx(1002.0, abs=3)


def test_polls_in_vain_far_along_the_line_delay_it_and_finished_ones_end_the_delay() -> None:
    line = moving(range(100))
    for _ in range(5):
        line.unfinished(120.0, 340.0)  # 100 s past its prediction
    assert line.predicted_at(120.0) == pytest.approx(340.0, abs=1)
    for place in range(100, 105):
        line.completed(float(place), place * 2.0)
    assert line.predicted_at(120.0) == pytest.approx(240.0, abs=1)


def test_stuck_imports_near_the_front_delay_nothing() -> None:
    line = moving(range(100))
    for _ in range(5):
        line.unfinished(30.0, 1000.0)
    assert line.predicted_at(120.0) == pytest.approx(240.0, abs=1)


def test_a_stuck_import_delays_nothing_once_others_behind_it_are_completed() -> None:
    """Those of the last tenth of all that are remembered did, and voted again after each completion."""
    line = moving(range(400))
    predicted_at = line.predicted_at(450.0)
    for place in (370.0, 380.0, 390.0):
        for again in range(3):
            line.unfinished(place, 830.0 + again)
    assert line.predicted_at(450.0) == pytest.approx(predicted_at)


def test_before_the_prediction_one_gap_leads_to_it_but_scouts_poll_half_way() -> None:
    planner = LinePlanner(Tradeoff())
    for _ in range(100):
        planner.hazard.watch(-1000.0, 0.1, finished=True)
    assert planner.gap_s(-600.0, 1) == pytest.approx(600.0, abs=15)
    assert planner.gap_s(-600.0, SCOUTS) == pytest.approx(300.0)
    assert planner.gap_s(-70.0, SCOUTS) == SCOUT_S
    assert planner.gap_s(100.0, 1) <= 60.0


def test_where_imports_past_their_turn_hardly_finish_their_gap_is_up_to_a_quarter_of_that_time() -> None:
    planner, little_known = LinePlanner(Polling().tradeoff), LinePlanner(Polling().tradeoff)
    for _ in range(100):
        planner.hazard.watch(-1000.0, 0.1, finished=True)
        planner.hazard.watch(-1000.0, 80_000.0, finished=False)
        little_known.hazard.watch(-1000.0, 0.1, finished=True)
    assert 100.0 < planner.gap_s(800.0, 1) <= 200.0
    assert 3000.0 < planner.gap_s(36_000.0, 1) <= 3600.0  # an hour at most
    assert little_known.gap_s(800.0, 1) <= 60.0
    assert little_known.gap_s(36_000.0, 1) <= 1800.0


def test_imports_that_never_finish_cost_few_polls() -> None:
    imports = [
        replace(one, took_s=math.inf) if number % 100 == 50 else one for number, one in enumerate(in_order(400, 3.0))
    ]
    played = play(imports, 60.0, Polling(deadline_s=20_000.0))
    assert max(played.polls) < 110  # each 60 s: 333


def test_stuck_imports_of_a_line_that_is_nearly_empty_do_not_fill_the_limit() -> None:
    """Each was polled once a minute, which filled the limit, and the others, soon done, were seen 14 s late."""
    imports = LINES["23 in order, a tenth never finishes"](Random(1))
    played = play(imports, 10.0, Polling(deadline_s=7200.0))
    seen_s = [late_s for late_s in played.late_s if late_s >= 0]
    assert sum(seen_s) / len(seen_s) < 5.0
    assert sum(played.polls) / len(imports) < 2.8


def test_a_longest_gap_that_the_person_set_holds_in_a_line_too() -> None:
    planner = LinePlanner(Polling(longest_gap_s=40.0).tradeoff)
    assert planner.gap_s(-600.0, 1) == 40.0


@pytest.mark.parametrize("limit", [60.0, 5.0])
def test_imports_worked_off_in_order_cost_little_more_than_one_poll(limit: float) -> None:
    polls, late_s = costs(in_order(800, 3.0), limit)
    assert polls < 2.1
    assert late_s < 3.0


def test_a_line_that_ran_empty_begins_with_the_next_import() -> None:
    """A tool that uploads every quarter of an hour: by the pace, the second batch would long be done when it is fed."""
    batch = in_order(150, 4.0)
    imports = [one.moved(number * 900.0) for number in range(4) for one in batch]
    polls, late_s = costs(imports, 60.0)
    assert polls < 1.9  # before: 2.0
    assert late_s < 4  # before: 13


def test_a_single_import_with_a_wrong_request_does_not_move_a_line() -> None:
    line = moving(range(100))
    for place in (100, 101, 101, 102):  # polled twice, it is one
        line.requested(float(place), 900.0 if place == 101 else 150.0)
    assert line.predicted_at(150.0) == pytest.approx(300.0, abs=1)
    for place in (103, 104):
        line.requested(float(place), 900.0)
    assert line.predicted_at(110.0) == pytest.approx(900.0 + 8 * 2.0, abs=1)


def test_independent_imports_are_polled_by_their_age() -> None:
    rng = Random(1)
    imports = [Import(requested_at=n / 4, fed_at=n / 4, took_s=rng.lognormvariate(3.4, 1.0)) for n in range(600)]
    played = play(imports, 60.0, RULES)
    assert played.put_offs < 2 * 600
    assert sum(played.late_s) / 600 < 12


def test_lines_told_apart_by_a_field_are_each_followed() -> None:
    imports = []
    for attr, per_second in (("a", 2.0), ("b", 0.5), ("c", 1.0)):
        own = in_order(250, per_second, fed_per_second=10.0)
        imports += [
            Import(requested_at=one.requested_at, fed_at=one.fed_at, took_s=one.took_s, attr=attr) for one in own
        ]
    together, apart = costs(imports, 60.0), costs(imports, 60.0, "attr")
    assert apart[0] < 2.6
    assert apart[0] + apart[1] < together[0] + together[1]


def learn_line(timing: AccountTiming, keys: range) -> None:
    """Finish one import every 10 s."""
    for key in keys:
        at = NOW + key * 10.0
        timing.learn(make_task(key=key, fed_at=NOW), finished_at(at), asked_at=at + 1, now=at + 1)
        timing.refresh(at + 1)


def test_a_due_task_is_put_off_by_half_of_the_way_at_most_a_minute_never_beyond_its_deadline() -> None:
    timing = AccountTiming("a", Tradeoff(deadline_s=5000.0))
    learn_line(timing, range(100))
    now = NOW + 1000.0
    far, near = (
        make_task(key=350, fed_at=NOW, polls=1, seen_at=now),
        make_task(key=106, fed_at=NOW, polls=1, seen_at=now),
    )
    assert timing.put_off_s(far, now) == 60.0
    assert 20.0 <= timing.put_off_s(near, now) <= 40.0
    assert timing.put_off_s(make_task(key=80, fed_at=NOW), now) == 0.0  # the line has passed it
    assert timing.put_off_s(make_task(key=350, fed_at=now - 4990.0, polls=1, seen_at=now), now) <= 10.0
    assert timing.put_off_s(make_task(key=350, fed_at=NOW, errors=1), now) == 0.0  # its back-off is no plan
    assert timing.put_off_s(make_task(key=350, fed_at=NOW, missing_at=now), now) == 0.0


def test_long_after_its_turn_an_import_is_not_put_off_each_minute() -> None:
    """One that never finishes was put off once in 46 s for a day, between polls minutes and then an hour apart."""
    stuck = {9, 19}
    imports = [replace(one, took_s=math.inf) if n in stuck else one for n, one in enumerate(in_order(20, 0.8, 2.0))]
    played = play(imports, 10.0, Polling(deadline_s=7200.0))
    assert played.put_offs <= 100 * len(stuck)  # each 46 s: 340


def test_a_line_does_not_begin_with_what_it_has_passed() -> None:
    """By a pace that is a little wrong, the first import of a burst is predicted to be completed before its request."""
    line = moving(range(100), pace_s=2.0, start_at=1000.0)
    before = line.predicted_at(150.0)
    for place in (1.0, 3.0):
        line.requested(place, 1100.0)
    assert line.predicted_at(150.0) == before
    for place in (1000.0, 1001.0):
        line.requested(place, 4000.0)
    assert line.predicted_at(1000.0) == pytest.approx(4002.0)


def test_many_old_imports_found_in_a_row_do_not_move_the_line_back() -> None:
    """Under a limit, those that went before their turn are found together, long after their completion."""
    line = moving(range(400))
    for place in range(100, 400, 3):
        line.completed(float(place), place * 2.0 - 100.0)
    line.completed(400.0, 800.0)
    assert line.predicted_at(410.0) == pytest.approx(820.0, abs=10)


def finished_at(at: float) -> Finished:
    return Finished(status="COMPLETE", num_errors=0, requested_at=iso(NOW), completed_at=iso(at))


def test_what_was_learned_of_a_line_is_kept_and_a_few_imports_show_where_it_is() -> None:
    timing = AccountTiming("a", Tradeoff())
    learn_line(timing, range(100))
    restored = AccountTiming("a", Tradeoff(), timing.knowledge(NOW))
    assert restored.by_feeding.evidence == pytest.approx(timing.by_feeding.evidence, abs=0.01)
    task = make_task(key=400, fed_at=NOW, polls=1, seen_at=NOW + 1000.0)
    assert restored.put_off_s(task, NOW + 1000.0) == 0.0
    learn_line(restored, range(100, 100 + FEWEST))
    assert restored.put_off_s(task, NOW + 1200.0) == 60.0


def test_what_was_learned_is_explained_in_a_sentence() -> None:
    timing = AccountTiming("a", Tradeoff())
    assert "is being learned" in timing.explanation(NOW)
    learn_line(timing, range(100))
    assert timing.explanation(NOW + 1000) == "HubSpot works the imports off in order, about one every 10 s"
    assert explanation_of(timing.knowledge(NOW + 1000)) == timing.explanation(NOW + 1000)
    for second in range(1100, 1200):
        timing.learn(make_task(key=50, fed_at=NOW), Running(status=None), asked_at=NOW + second, now=NOW + second)
    assert timing.explanation(NOW + 4000).endswith(": one task is polled every 5 min, at random")


def test_after_a_standstill_lines_start_over() -> None:
    """What piled up may finish in another order and at another pace."""
    timing = AccountTiming("a", Tradeoff())
    learn_line(timing, range(100))
    for second in range(1100, 1200):
        timing.learn(make_task(key=50, fed_at=NOW), Running(status=None), asked_at=NOW + second, now=NOW + second)
    assert timing.standstill.lasts(NOW + 4000)
    timing.learn(make_task(key=100, fed_at=NOW), finished_at(NOW + 4000), asked_at=NOW + 4001, now=NOW + 4001)
    assert not timing.by_feeding.planner.line("").is_fitted
    assert "in order" not in timing.explanation(NOW + 4001)


def test_requests_are_dated_by_our_clock_where_the_server_s_is_behind() -> None:
    timing = AccountTiming("a", Tradeoff())
    for key in range(100):
        fed_at = NOW + key
        polled = make_task(key=key, fed_at=fed_at, polls=1, seen_at=fed_at + 5)
        asked = Running(status=None, requested_at=fed_at - 300.5)
        done = Finished(
            status="COMPLETE",
            num_errors=0,
            requested_at=iso(fed_at - 300.5),
            completed_at=iso(fed_at + 8 - 300),
        )
        timing.learn(make_task(key=key, fed_at=fed_at), asked, asked_at=fed_at + 5, now=fed_at + 5)
        timing.learn(polled, done, asked_at=fed_at + 9, now=fed_at + 9)
    assert timing.planner.usual_feeding_age_s == pytest.approx(0.5, abs=4)


def test_the_durations_of_independent_imports_are_explained_too() -> None:
    timing, rng = AccountTiming("a", Tradeoff()), Random(1)
    for number in range(200):
        fed_at, took_s = NOW + number * 5, rng.lognormvariate(3.4, 0.8)
        outcome = Finished(status="COMPLETE", num_errors=0, requested_at=iso(fed_at), completed_at=iso(fed_at + took_s))
        timing.learn(make_task(key=rng.randrange(9999), fed_at=fed_at), outcome, asked_at=fed_at + 99, now=fed_at + 99)
    timing.refresh(NOW + 5000)
    assert timing.explanation(NOW + 5000).startswith("half of the imports finish within ")


def mostly_hung(now: float) -> AccountTiming:
    """Return the timing of an account most of whose imports have hung for a month, while new ones finish."""
    timing, rng = AccountTiming("a", Tradeoff()), Random(1)
    for number in range(600):
        seen_at = now - 60 + number / 10
        outcome: Running | Finished = Running(status="PROCESSING", requested_at=seen_at - 30 * 86_400)
        if rng.random() > 0.8:
            ends_at = iso(seen_at - rng.uniform(1, 290))
            outcome = Finished(status="COMPLETE", num_errors=0, requested_at=iso(seen_at - 300), completed_at=ends_at)
        timing.learn(make_task(key=number + 1, fed_at=seen_at), outcome, asked_at=seen_at, now=seen_at)
    return timing


def test_a_median_beyond_all_ages_that_are_learned_is_explained_too() -> None:
    timing = mostly_hung(NOW)
    assert timing.planner.hazard.finished > 100
    assert timing.explanation(NOW) == "more than half of the imports have not finished after 40 d"
    assert explanation_of(timing.knowledge(NOW)) == timing.explanation(NOW)


def test_imports_finished_before_their_turn_do_not_make_the_line_seem_early_once_others_are_not() -> None:
    """Only a finished one can be found before its turn, so five in a row are no proof."""
    line = moving(range(100))
    for place in range(500, 505):
        line.completed(float(place), 220.0)
    assert line.predicted_at(600.0) < 500.0  # 1,200 s, by its pace
    line.unfinished(600.0, 500.0)
    assert line.predicted_at(600.0) == pytest.approx(1200.0, abs=60)


def test_a_line_that_breaks_is_left_after_as_much_evidence_however_long_it_held() -> None:
    timing = AccountTiming("a", Tradeoff())
    learn_line(timing, range(600))
    assert 100 < timing.by_feeding.evidence <= MOST_LEAD
    for key in range(5000, 5080):
        timing.learn(make_task(key=key, fed_at=NOW), finished_at(NOW + 6000), asked_at=NOW + 6001, now=NOW + 6001)
    assert timing.by_feeding.evidence < 0


def test_a_line_that_completes_many_at_once_is_not_left_for_the_order_of_requests() -> None:
    """That is known before the first poll only of feeding; by the other order, 20 chunks were seen 18 s late."""
    played = play(LINES["16 chunks of 200"](Random(1))[:8000], 10.0)
    assert sum(played.late_s[5800:7400]) / 1600 < 15.0


def test_the_order_of_requests_leads_only_by_polls_that_both_lines_were_learned_from() -> None:
    """It is followed by one import of four: what the other polls show counts for both, or a line that loses evidence
    would always lose against it."""
    timing = AccountTiming("a", Tradeoff())

    def finish(key: int, done_at: float) -> None:
        outcome = Finished(status="COMPLETE", num_errors=0, requested_at=iso(NOW + key), completed_at=iso(done_at))
        timing.learn(make_task(key=key, fed_at=NOW + key), outcome, asked_at=done_at + 1, now=done_at + 1)
        timing.refresh(done_at + 1)

    for key in range(200):
        finish(key, NOW + key * 10.0)
    assert abs(timing.by_request.evidence - timing.by_feeding.evidence) < CONVINCED_OF_REQUESTS
    for key in range(1000, 1030):
        finish(key, NOW + 2100.0)
        assert abs(timing.by_request.evidence - timing.by_feeding.evidence) < CONVINCED_OF_REQUESTS


def test_where_one_import_was_completed_long_before_its_turn_more_behind_it_are_polled() -> None:
    planner = LinePlanner(Tradeoff())
    assert not planner.runs_ahead(700.0, -300.0, SAMPLE)
    planner.polled_ahead(500.0, finished=True)
    assert planner.runs_ahead(700.0, -300.0, SAMPLE)
    assert not planner.runs_ahead(700.0, -300.0, SAMPLE + 1)
    assert not planner.runs_ahead(300.0, -300.0, SAMPLE)  # not behind it
    assert not planner.runs_ahead(700.0, -1.0, SAMPLE)  # it is due anyway
    for _ in range(MOSTLY_AHEAD):
        planner.polled_ahead(600.0, finished=True)
    assert planner.runs_ahead(700.0, -300.0, SAMPLE + 1)
    for _ in range(AHEAD):
        planner.polled_ahead(700.0, finished=False)
    assert not planner.runs_ahead(700.0, -300.0, SAMPLE)


def test_scouts_are_first_polled_at_different_parts_of_the_way() -> None:
    """Otherwise a change that concerns the latest ones alone shows when they are half way, and no earlier."""
    planner = LinePlanner(Tradeoff())
    for _ in range(100):
        planner.hazard.watch(-1000.0, 0.1, finished=True)
    gaps_s = [planner.gap_s(-1000.0, key, is_first=True) for key in range(SCOUTS, 40 * SCOUTS, SCOUTS)]
    assert min(gaps_s) < 100 < 400 < max(gaps_s) <= 500


def test_what_is_overdue_after_a_standstill_did_not_wait_for_the_limit() -> None:
    timing = AccountTiming("a", Tradeoff())
    learn_line(timing, range(100))
    late = make_task(key=50, fed_at=NOW, polls=1, due_at=NOW + 1200)
    for second in range(1100, 1200):
        timing.learn(late, Running(status=None), asked_at=NOW + second, now=NOW + second)
    for second in range(3000, 4000, 10):
        timing.learn(late, Running(status=None), asked_at=NOW + second, now=NOW + second)
    timing.learn(late, finished_at(NOW + 4000), asked_at=NOW + 4001, now=NOW + 4001)
    for key in range(100, 130):
        timing.learn(
            make_task(key=key, fed_at=NOW, polls=1, due_at=NOW + 1200, seen_at=NOW + 1100),
            finished_at(NOW + 4000),
            asked_at=NOW + 4001,
            now=NOW + 4001,
        )
        timing.refresh(NOW + 4020)
    assert timing.planner.pressure.factor == timing.by_feeding.planner.pressure.factor == 1.0


def test_out_of_order_and_stuck_imports_do_not_fill_the_limit() -> None:
    """A poll of each of them a minute made the others of a burst two minutes late."""
    gaps_s = []
    for cap_s in (math.inf, 60.0):  # nothing set, and what the person set
        planner = LinePlanner(Tradeoff(cap_s=cap_s))
        for number in range(300):
            planner.hazard.watch(-10.0, 6000.0 if number % 10 == 0 else 0.5, finished=number % 10 != 0)
        planner.pressure.factor = MOST_PRESSURE
        planner.replan()
        gaps_s.append(planner.gap_s(400.0, 1))
    assert gaps_s[0] > 120.0
    assert gaps_s[1] <= 60.0
