"""Sporadic 429s are recognized by counts far apart, whichever came first; a share of others is not taken for them."""

from poller.hubspot.limits.sporadic import SporadicRefusals
from poller.hubspot.limits.window import Window

WINDOW = Window(limit=100, window_s=2.0)


def test_two_answers_accepted_far_above_refused_counts_show_it_within_eight_windows_only() -> None:
    for gap_s, is_known in ((4.0, True), (20.0, False)):
        refusals = SporadicRefusals()
        assert not refusals.refuse(20, WINDOW, 0.0)
        assert not refusals.accept(60, WINDOW, 1.0)
        assert not refusals.refuse(58, WINDOW, 1.0 + gap_s)
        assert refusals.accept(95, WINDOW, 2.0 + gap_s) is is_known
        assert refusals.are_known is is_known


def test_429s_at_the_top_of_what_is_accepted_show_nothing_however_many_come() -> None:
    refusals = SporadicRefusals()
    for turn in range(300):
        for count in (68, 69, 70):
            assert not refusals.accept(count, WINDOW, turn * 2.0)
        assert not refusals.refuse(71, WINDOW, turn * 2.0)
    assert not refusals.are_known


def known() -> SporadicRefusals:
    """Return refusals that were shown to be sporadic, and 200 good answers since."""
    refusals = SporadicRefusals()
    for at in (0.0, 4.0):
        refusals.refuse(20, WINDOW, at)
        refusals.accept(60, WINDOW, at + 1.0)
    for _ in range(200):
        refusals.accept(60, WINDOW, 6.0)
    assert refusals.are_known
    return refusals


def test_more_than_ten_429s_of_a_hundred_are_still_sporadic_where_they_come_apart() -> None:
    refusals = known()
    for _ in range(16):
        refusals.refuse(60, WINDOW, 7.0)
        for _ in range(5):
            refusals.accept(60, WINDOW, 7.0)
    assert refusals.are_known


def test_more_than_ten_429s_of_a_hundred_in_a_row_are_those_of_a_window_that_is_used_up() -> None:
    refusals = known()
    for _ in range(11):
        assert refusals.are_known
        refusals.refuse(60, WINDOW, 7.0)
    assert not refusals.are_known


def test_a_tenth_of_the_latest_400_answers_is_too_many_however_they_come() -> None:
    refusals = known()
    answers = 0
    while refusals.are_known:
        refusals.refuse(60, WINDOW, 7.0)
        for _ in range(6):
            refusals.accept(60, WINDOW, 7.0)
        answers += 7
    assert 250 < answers < 300
