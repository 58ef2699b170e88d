"""How a state stands, for programs and as one line for those who wait. Pure."""

from collections.abc import Sequence
from dataclasses import asdict

from poller.core.model import AccountState, JsonObject, Kind, Sums
from poller.core.text import duration, printable
from poller.core.timestamps import iso


def standing_json(sums: Sums, *, differences: Sequence[str], owner: tuple[int, float] | None, now: float) -> JsonObject:
    """Return the ledger for programs; docs/answers.md describes the shape, which only grows.

    `differences` are the sums that do not hold; `owner` is the process at work on the state and its last sign of life.
    """
    tasks = sums.waiting + sums.finished
    return {
        "at": iso(now),
        "balanced": not differences,
        "differences": list(differences),
        "tasks": tasks,
        "waiting": sums.waiting,
        "finished": sums.finished,
        "complete": sums.kinds.get(Kind.COMPLETE, 0),
        "kinds": {str(kind): sums.kinds.get(kind, 0) for kind in Kind},
        "pruned": sums.pruned,
        "polls": sums.polls,
        "polls_per_task": round(sums.polls / tasks, 3) if tasks else None,
        "sources": [asdict(source) for source in sums.sources],
        "sinks": [asdict(sink) for sink in sums.sinks],
        "accounts": {name: _account_json(state) for name, state in sums.accounts.items()},
        "reasons": [{"reason": reason, "count": count} for reason, count in sums.reasons],
        "run": None if owner is None else {"pid": owner[0], "showed_life_at": iso(owner[1])},
    }


def _account_json(state: AccountState) -> JsonObject:
    return {
        "pause": state.pause,
        "pause_detail": state.pause_detail,
        "resume_at": None if state.resume_at is None else iso(state.resume_at),
        "paused_s": round(state.paused_s, 3),
        "day": state.day or None,
        "requests_of_day": state.day_requests,
    }


def standing_line(sums: Sums, *, now: float, before: tuple[float, int] | None, at_work: bool = True) -> str:
    """Return one line; `before` is an earlier instant with the number of finished tasks then."""
    tasks = sums.waiting + sums.finished
    bad = sums.finished - sums.kinds.get(Kind.COMPLETE, 0)
    share = f" ({sums.finished / tasks:.1%})" if tasks else ""
    parts = [f"{sums.finished:,} of {tasks:,} finished{share}", f"{bad:,} not complete", f"{sums.polls:,} polls"]
    parts += [pace] if at_work and (pace := _pace(sums, now, before)) else []
    undelivered = sum(sink.undelivered for sink in sums.sinks if sink.attached)
    parts += [f"{undelivered:,} undelivered"] if undelivered else []
    parts += [
        f"account {name} is paused: {printable(state.pause)}" for name, state in sums.accounts.items() if state.pause
    ]
    parts += [] if at_work else ["no run is at work"]
    return f"{iso(now)[:19]}Z  {', '.join(parts)}"


def _pace(sums: Sums, now: float, before: tuple[float, int] | None) -> str:
    if before is None or now <= before[0] or not sums.waiting:
        return ""
    rate = (sums.finished - before[1]) / (now - before[0])
    return f"{rate:.3g} a second, {duration(sums.waiting / rate)} left at this pace" if rate > 0 else ""
