"""The counts of a member are its fleet's, and each outcome counts in them once."""

from poller.core.fleet import KindCount
from poller.core.model import Kind
from poller.core.sums import SinkSums
from poller.engine.metrics import Metrics


def test_what_a_member_finished_itself_is_counted_by_the_state_alone() -> None:
    metrics = Metrics()
    metrics.count_all({"": KindCount(5, 2, 7), "complete": KindCount(10, 10, 12)})
    metrics.finish(Kind.COMPLETE, landed=True)  # may be among the ten already
    assert (metrics.waiting, metrics.finished, metrics.landed["complete"], metrics.tried_again) == (5, 10, 10, 2)
    metrics.count_all({"": KindCount(4, 0, 7), "complete": KindCount(11, 11, 13)})
    assert (metrics.waiting, metrics.finished, metrics.polls_of_fleet) == (4, 11, 20)


def test_a_sink_that_is_taken_over_keeps_what_its_owner_before_delivered() -> None:
    metrics = Metrics()
    metrics.count_all({"complete": KindCount(100, 100, 100)})
    metrics.take_over(SinkSums(name="s", delivered=60, undelivered=39, dead=1, attached=True, missed=0))
    metrics.delivered["s"] += 30
    assert metrics.sink("s") == SinkSums(name="s", delivered=90, undelivered=9, dead=1, attached=True, missed=0)
    metrics.take_over(SinkSums(name="s", delivered=95, undelivered=4, dead=1, attached=True, missed=0))  # back again
    assert metrics.sink("s").delivered == 95
