"""What a file costs in requests while rows wait, in short: `python -m bench.imports` plays 40,000 rows of each."""

import pytest

from bench.imports import FIRST_WITHIN_S, play_imports
from bench.timing_workloads import Draw, lognormal


@pytest.mark.parametrize(
    ("took_s", "most"), [(lognormal(30, 1.2), 2.55), (lognormal(5, 0.5), 2.1)], ids=["usual", "quick"]
)
def test_while_rows_wait_a_file_costs_few_polls_and_the_limit_is_used(took_s: Draw, most: float) -> None:
    cost = play_imports(took_s, rows=3000)
    assert cost.requests_a_file <= most
    assert cost.used >= 0.97
    assert cost.first_late_s <= FIRST_WITHIN_S
