"""What the polls of an account follow from, as a sentence for people."""

import math
from collections.abc import Sequence

from poller.core.text import duration
from poller.schedule.hazard import OLDEST_S, Hazard
from poller.schedule.standstill import Standstill
from poller.schedule.survival import SurvivalCurve

ENOUGH_FINISHED = 30  # imports, from which on their durations are worth a sentence


def explain(standstill: Standstill, paces: Sequence[float], hazard: Hazard, now: float) -> str:
    """Return the sentence. `paces`: the imports that each line completes per second; none where ages decide."""
    if standstill.lasts(now):
        return (
            f"nothing finished for {duration(standstill.length_s(now))}: one task is polled every "
            f"{duration(standstill.gap_s(now))}, at random"
        )
    if paces:
        pace = sum(paces)
        each = f"{pace:.2g} a second" if pace >= 1 else f"one every {duration(1 / pace)}"
        sides = f", {len(paces)} lines side by side" if len(paces) > 1 else ""
        return f"HubSpot works the imports off in order, about {each}{sides}"
    if hazard.finished < ENOUGH_FINISHED:
        return f"how long imports take is being learned, from {hazard.finished:,} finished ones so far"
    half_s = SurvivalCurve(hazard.rates()[0]).quantile_s(0.5)
    if math.isinf(half_s):  # most have hung for very long, and newer ones finish
        return f"more than half of the imports have not finished after {duration(OLDEST_S)}"
    return f"half of the imports finish within {duration(half_s)} of their request"
