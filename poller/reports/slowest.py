"""What a forecast needs of a state without its run: until when the slowest task may take, limits and trials."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from poller.core.accounts import AccountState
from poller.core.learned_limit import LearnedLimit, decode_limit, limit_key
from poller.core.protocols import StateReader
from poller.core.starts import ImportsReading
from poller.core.sums import Sums
from poller.core.trial_note import decode_trial, trial_key
from poller.schedule.forecast import LaneOutlook
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


async def limits_in(store: StateReader, accounts: Iterable[str]) -> dict[str, LearnedLimit]:
    """Return the rate limits that HubSpot's answers showed, by account, as far as they are known."""
    found = {name: decode_limit(await store.knowledge(limit_key(name))) for name in accounts}
    return {name: limit for name, limit in found.items() if limit is not None}


async def trials_in(store: StateReader, sums: Sums) -> dict[str, ImportsReading]:
    """Return the rows of the accounts whose import is on trial, as the run at work noted them some seconds ago."""
    if sums.starts is None or not sums.waiting:
        return {}
    found = {name: decode_trial(await store.knowledge(trial_key(name))) for name in sums.accounts}
    return {name: imports for name, imports in found.items() if imports is not None}


def outlooks(accounts: Mapping[str, AccountState], limits: Mapping[str, LearnedLimit]) -> list[LaneOutlook]:
    """Return what bounds a forecast of a state: each account's pause and its rate limit."""
    return [
        LaneOutlook(
            rate_per_s=limits[name].requests / limits[name].window_s if name in limits else None,
            is_paused=bool(state.pause),
            resume_at=state.resume_at,
        )
        for name, state in accounts.items()
    ]
