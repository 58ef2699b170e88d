"""Simulated accounts whose imports are not independent: a server that works off a line, an incident, a timetable.

Beside them what else a policy may meet: clocks that differ, phases with durations of their own, kinds, long tails.
"""

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random

from bench.timing_workloads import USUAL, Draw, Import, lognormal

Rate = Callable[[float], float]  # completions per second at an instant


def _fed(count: int, per_second: float, *, asked_s: float = 0.5) -> list[Import]:
    """Return imports fed evenly, each requested shortly before, that never finish."""
    fed_at = [number / per_second for number in range(count)]
    return [Import(requested_at=at - asked_s, fed_at=at, took_s=math.inf) for at in fed_at]


def _done(one: Import, completed_at: float, started_at: float | None = None) -> Import:
    return replace(one, took_s=completed_at - one.requested_at, started_at=started_at)


def in_order(imports: Iterable[Import], rate: Rate) -> list[Import]:
    """Complete them one after the other."""
    free_at, done = 0.0, []
    for one in imports:
        begun_at = max(free_at, one.requested_at)
        free_at = begun_at + 1 / rate(begun_at)
        done.append(_done(one, free_at, begun_at))
    return done


def _by_workers(imports: Iterable[Import], workers: int, service_s: Draw, rng: Random) -> list[Import]:
    """Start them in order, each on the worker that is free first."""
    free_at, done = [0.0] * workers, []
    for one in imports:
        begun_at = max(heapq.heappop(free_at), one.requested_at)
        took_s = service_s(rng)
        heapq.heappush(free_at, begun_at + took_s)
        done.append(_done(one, begun_at + took_s, begun_at))
    return done


def _without_starts(imports: Iterable[Import]) -> list[Import]:
    return [replace(one, started_at=None) for one in imports]


def _wave(low: float, high: float, period_s: float) -> Rate:
    return lambda at: (low + high) / 2 + (high - low) / 2 * math.sin(2 * math.pi * at / period_s)


def fifo(rng: Random) -> list[Import]:
    phase_s = rng.uniform(0, 3600)
    wave = _wave(1.5, 6.0, 5400)
    return _without_starts(in_order(_fed(20_000, 5.0), lambda at: wave(at + phase_s)))


def burst(rng: Random) -> list[Import]:
    """20,000 at once: 5 % out of order, 1 % stuck."""
    count, per_second = 20_000, 8.0
    order = list(range(count))
    loose = rng.sample(order, count // 20)
    places = {number: float(number) for number in order} | {number: rng.uniform(0, count) for number in loose}
    stuck = set(rng.sample(order, count // 100))
    return [
        Import(
            requested_at=-0.5,
            fed_at=0.0,
            took_s=math.inf if number in stuck else (places[number] + 1) / per_second + 0.5,
        )
        for number in order
    ]


def workers(count: int, service_s: float) -> Callable[[Random], list[Import]]:
    return lambda rng: _without_starts(_by_workers(_fed(10_000, 4.0), count, lognormal(service_s, 0.6), rng))


def night_and_day(_rng: Random) -> list[Import]:
    return _without_starts(in_order(_fed(12_000, 3.0), lambda at: 8.0 if at % 3600 < 1200 else 1.5))


def incident(rng: Random) -> list[Import]:
    """Half an hour as usual, then nothing finishes for two hours, then all that piled up does within two minutes."""
    begins_at, ends_at = 1800.0, 9000.0
    done = []
    for one in _fed(9000, 1.0):
        at = one.requested_at + lognormal(30, 0.8)(rng)
        done.append(_done(one, ends_at + rng.uniform(0, 120) if begins_at <= at <= ends_at else at))
    return done


def pareto(rng: Random) -> list[Import]:
    return [_done(one, one.requested_at + 5 * rng.paretovariate(1.1)) for one in _fed(4000, 4.0)]


def quarter_hours(rng: Random) -> list[Import]:
    return [
        _done(one, math.ceil((one.requested_at + rng.uniform(1, 20)) / 900) * 900 + rng.uniform(0, 2))
        for one in _fed(7000, 1.5)
    ]


def phases(pending: Draw, processing: Draw, count: int = 4000) -> Callable[[Random], list[Import]]:
    def made(rng: Random) -> list[Import]:
        done = []
        for one in _fed(count, 4.0):
            started_at = one.requested_at + pending(rng)
            done.append(_done(one, started_at + processing(rng), started_at))
        return done

    return made


def pending_in_line(rng: Random) -> list[Import]:
    processing = lognormal(5, 0.2)
    begun = in_order(_fed(10_000, 4.0), _wave(2.0, 5.0, 3600))
    return [_done(one, one.completed_at + processing(rng), one.completed_at) for one in begun]


def by_attribute(decides: bool) -> Callable[[Random], list[Import]]:
    def made(rng: Random) -> list[Import]:
        done = []
        for one in _fed(4000, 4.0):
            quick = rng.random() < 0.8
            took_s = lognormal(5, 0.3)(rng) if quick else lognormal(300, 0.3)(rng)
            attr = ("quick" if quick else "slow") if decides else rng.choice("abcd")
            done.append(replace(_done(one, one.requested_at + took_s), attr=attr))
        return done

    return made


def few(rng: Random) -> list[Import]:
    return [_done(one, one.requested_at + USUAL(rng)) for one in _fed(50, 4.0)]


def usual(rng: Random, **changes: object) -> list[Import]:
    return [replace(_done(one, one.requested_at + USUAL(rng)), **changes) for one in _fed(4000, 4.0)]  # type: ignore[arg-type]


def shuffled(rng: Random) -> list[Import]:
    """A line of imports that were requested at 20 a second, fed an hour later in a random order."""
    done = in_order(
        [Import(requested_at=-900 + n / 20, fed_at=0.0, took_s=math.inf) for n in range(10_000)], lambda _at: 6.0
    )
    moved = [replace(one, took_s=one.took_s, started_at=None) for one in done]
    rng.shuffle(moved)
    return moved


def three_lines(rng: Random) -> list[Import]:
    """Three lines side by side, each of its own pace."""
    imports = [replace(one, attr=rng.choice("abc")) for one in _fed(12_000, 5.0)]
    paces = {"a": _wave(0.8, 2.5, 3000), "b": _wave(0.6, 1.8, 4000), "c": lambda _at: 1.4}
    done = [each for name, pace in paces.items() for each in in_order((i for i in imports if i.attr == name), pace)]
    return sorted(_without_starts(done), key=lambda one: one.fed_at)


def at_once(rng: Random) -> list[Import]:
    """20,000 independent imports of some minutes, fed at once."""
    took_s = lognormal(300, 0.8)
    return [Import(requested_at=-0.5, fed_at=0.0, took_s=took_s(rng)) for _ in range(20_000)]


def newest_first(_rng: Random) -> list[Import]:
    waiting: list[int] = []
    imports = _fed(6000, 4.0)
    done: dict[int, Import] = {}
    at, fed = 0.0, 0
    while len(done) < len(imports):
        while fed < len(imports) and imports[fed].requested_at <= at:
            waiting.append(fed)
            fed += 1
        if waiting:
            at += 1 / 3
            number = waiting.pop()
            done[number] = _done(imports[number], at)
        else:
            at = imports[fed].requested_at
    return [done[number] for number in range(len(imports))]


def chunks(_rng: Random) -> list[Import]:
    """A line that completes 200 at a time."""
    done = in_order(_fed(12_000, 5.0), lambda _at: 4.0)
    ends = [done[min(number // 200 * 200 + 199, len(done) - 1)].completed_at for number in range(len(done))]
    return [_done(one, end) for one, end in zip(done, ends, strict=True)]


def fast_lane(rng: Random) -> list[Import]:
    imports = _fed(12_000, 5.0)
    quick = {number for number in range(len(imports)) if rng.random() < 0.1}
    slow = iter(in_order((one for number, one in enumerate(imports) if number not in quick), lambda _at: 4.0))
    return [
        _done(one, one.requested_at + lognormal(5, 0.3)(rng))
        if number in quick
        else replace(next(slow), started_at=None)
        for number, one in enumerate(imports)
    ]


def line_breaks(rng: Random) -> list[Import]:
    """A line for most of an hour; then the server has grown, and each import takes a time of its own."""
    imports = _fed(12_000, 3.0)
    line = in_order(imports[:6000], lambda _at: 2.0)
    ends_at = line[-1].completed_at
    free = [_done(one, max(one.requested_at, ends_at - 600) + lognormal(40, 0.8)(rng)) for one in imports[6000:]]
    return _without_starts([*line, *free])


def ordered_burst(_rng: Random) -> list[Import]:
    return [Import(requested_at=-0.5, fed_at=0.0, took_s=(number + 1) / 6 + 0.5) for number in range(3000)]


def batches(_rng: Random) -> list[Import]:
    """A tool uploads 500 every quarter of an hour; each batch is worked off, and the line runs empty."""
    imports = [one.moved(900.0 * batch) for batch in range(12) for one in _fed(500, 500.0)]
    return _without_starts(in_order(imports, lambda _at: 4.0))


def two_priorities(rng: Random) -> list[Import]:
    """A line that is worked off slower than it is fed, and three of ten go before all others."""
    imports = _fed(6000, 4.0)
    first = {number for number in range(len(imports)) if rng.random() < 0.3}
    waiting: tuple[list[int], list[int]] = ([], [])
    done: dict[int, Import] = {}
    at, fed = 0.0, 0
    while len(done) < len(imports):
        while fed < len(imports) and imports[fed].requested_at <= at:
            waiting[fed not in first].append(fed)
            fed += 1
        if any(waiting):
            at += 1 / 3
            number = (waiting[0] or waiting[1]).pop(0)
            done[number] = _done(imports[number], at)
        else:
            at = imports[fed].requested_at
    return [done[number] for number in range(len(imports))]


def stuck_in_line(rng: Random) -> list[Import]:
    """A line in which one of ten never finishes."""
    imports = _fed(6000, 4.0)
    stuck = {number for number in range(len(imports)) if rng.random() < 0.1}
    others = (one for number, one in enumerate(imports) if number not in stuck)
    done = iter(in_order(others, _wave(2.0, 5.0, 3000)))
    return [one if number in stuck else replace(next(done), started_at=None) for number, one in enumerate(imports)]


LINES: Mapping[str, Callable[[Random], list[Import]]] = {
    "1 in order, pace drifting": fifo,
    "2 burst of 20,000": burst,
    "3 four workers": workers(4, 1.0),
    "3b forty workers": workers(40, 10.0),
    "4 fast night, slow day": night_and_day,
    "5 nothing finishes for two hours": incident,
    "6 Pareto tail": pareto,
    "7 quarter hours": quarter_hours,
    "8 PENDING 2 min, PROCESSING 6 s": phases(lognormal(120, 0.5), lognormal(6, 0.15)),
    "8b PENDING 1 min, PROCESSING 3 min": phases(lognormal(60, 0.8), lognormal(180, 0.05)),
    "8c PENDING in a line": pending_in_line,
    "9 an attribute decides": by_attribute(True),
    "9n an attribute decides nothing": by_attribute(False),
    "10 fifty tasks": few,
    "11+ server's clock ahead": lambda rng: usual(rng, skew_s=300.0),
    "11- server's clock behind": lambda rng: usual(rng, skew_s=-300.0),
    "12 no requestedAt": lambda rng: usual(rng, names_request=False),
    "13 in order, fed shuffled": shuffled,
    "14 three lines": three_lines,
    "15 newest first": newest_first,
    "16 chunks of 200": chunks,
    "17 fast lane": fast_lane,
    "18 line breaks": line_breaks,
    "19 four hundred workers": workers(400, 100.0),
    "20 20,000 at once": at_once,
    "21 batches each quarter of an hour": batches,
    "22 two priorities": two_priorities,
    "23 in order, a tenth never finishes": stuck_in_line,
    "B burst in order": ordered_burst,
}
