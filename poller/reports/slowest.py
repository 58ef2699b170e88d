"""Until when the slowest waiting task of a state may take, by what its run keeps there."""

from collections.abc import Mapping
from dataclasses import dataclass

from poller.core.protocols import StateReader
from poller.core.sums import Sums
from poller.schedule.slowest import SlowestTask, stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Slowest:
    """Instants."""

    at: float
    times_out_at: float  # of the youngest task


async def slowest_in(
    store: StateReader, sums: Sums, *, timings: Mapping[str, str], deadline_s: float, now: float
) -> Slowest | None:
    """Return it; None where no task waits. `timings` has by account the key of what its polls taught; paused accounts
    do not count, as in the forecast."""
    fed_at = await store.last_fed_at() if sums.waiting else None
    if fed_at is None:
        return None
    keys = [timings[name] for name, state in sums.accounts.items() if name in timings and not state.pause]
    slowest = SlowestTask(deadline_s)
    slowest.see(sums.waiting + sums.finished, now=now, fed_at=fed_at)
    durations = [stored(await store.knowledge(key)) for key in keys]
    return Slowest(at=slowest.at(now, waiting=sums.waiting, durations=durations), times_out_at=slowest.times_out_at)
