"""Histograms: each value in one bucket, quantiles within the bounds."""

from bisect import bisect_right
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.histogram import Histogram

BOUNDS = (1.0, 10.0, 100.0)


@given(st.lists(st.floats(0, 1e6)))
def test_each_value_is_in_one_bucket(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.add(value)
    assert histogram.total == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    assert histogram.counts[0] == sum(value <= 1.0 for value in values)
    assert histogram.counts[-1] == sum(value > 100.0 for value in values)


def test_a_value_equal_to_a_bound_is_below_it_or_as_chosen_above_it() -> None:
    below, above = Histogram(BOUNDS), Histogram(BOUNDS, bisect_right)
    for histogram in (below, above):
        histogram.add(10.0)
    assert (below.counts, above.counts) == ([0, 1, 0, 0], [0, 0, 1, 0])


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_quantiles_rise_and_stay_within_the_bounds(values: list[float]) -> None:
    histogram = Histogram(BOUNDS)
    for value in values:
        histogram.add(value)
    found = [histogram.quantile(share) or 0.0 for share in (0.0, 0.1, 0.5, 0.95, 1.0)]
    assert all(a <= b for a, b in pairwise(found))
    assert 0.0 <= found[0] <= found[-1] <= BOUNDS[-1]


def test_quantiles_are_interpolated_in_their_bucket() -> None:
    histogram = Histogram(BOUNDS)
    assert histogram.quantile(0.5) is None
    for value in (20.0, 30.0, 40.0, 50.0):
        histogram.add(value)
    assert histogram.quantile(0.5) == pytest.approx(10 * 10**0.5)
