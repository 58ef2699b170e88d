"""What the figures of a fleet are made of: gaps, windows, and the times for which an alert's condition holds."""

from campaign.fleet.figure import Figure, fullest_window, gaps_of_moves, longest_gap, longest_true, share
from campaign.fleet.history import Arrival
from campaign.fleet.rolling import Scrape


def arrival(at: float, replica: str = "r1", account: str = "a") -> Arrival:
    return Arrival(at=at, account=account, replica=replica, task_id="1", is_final=False)


ARRIVALS = [arrival(1.0), arrival(1.5, account="b"), arrival(2.0), arrival(4.5, "r2"), arrival(5.0, "r2")]


def test_a_gap_is_from_the_old_owners_last_request_to_the_new_ones_first() -> None:
    assert gaps_of_moves(ARRIVALS) == [2.5]
    assert longest_gap(ARRIVALS) == 2.5


def test_the_fullest_window_is_that_of_one_account() -> None:
    assert fullest_window(ARRIVALS, 1.0) == 2
    assert fullest_window(ARRIVALS, 3.5) == 3
    assert fullest_window([], 3.0) == 0


def test_a_share_of_the_values_is_at_most_the_figure() -> None:
    assert share("gap, s", range(1, 101), 96.0) == Figure(name="gap, s, p95", value=95, goal=96.0, count=100)
    assert share("gap, s", [3.0], 2.5).value == 3.0
    assert "MISSED" in str(share("gap, s", [3.0], 2.5))
    assert "MISSED" in str(share("gap, s", [], 2.5))


def test_an_alert_waits_for_a_condition_that_holds_without_a_break() -> None:
    samples = [(0.0, True), (1.0, True), (2.0, False), (3.0, True), (6.0, True), (7.0, True)]
    assert longest_true(samples) == 4.0
    assert longest_true([(0.0, True)]) == 0.0


def test_a_scrape_has_the_values_of_those_who_answered() -> None:
    scrape = Scrape(at=0.0, replicas={"r1": {"up{a}": 1.0, "up{b}": 2.0, "upper": 3.0}, "r2": {}, "r3": {"up": 4.0}})
    assert scrape.values("up") == [1.0, 2.0, 4.0]
