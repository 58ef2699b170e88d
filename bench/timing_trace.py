"""Reads a trace of an account's imports and prints what each policy costs on it.

One JSON object a line; instants in seconds, from any zero: `fed`, `requested`, `completed` (null: never), optionally
`started`, `attr` (what is fed with the id, by which imports may be grouped) and `skew` (HubSpot's clock minus ours;
`requested`, `started` and `completed` are true instants). An import with `"requested": null` reports no request.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from bench.timing_workloads import Import

if TYPE_CHECKING:
    from bench.timing import Result

EXAMPLE = '{"fed": 2.0, "requested": 1.5, "completed": 31.0}'
COLUMNS = ("polls a task", "mean late s", "p95 s", "worst s", "drained s", "put-offs a task")


def read_trace(path: Path) -> list[Import]:
    """Return the imports by feeding time, the first fed at 0. Raises `SystemExit` for what is not a trace."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}. Give --trace a file that can be read.") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_import(orjson.loads(line)))
            except orjson.JSONDecodeError:
                raise SystemExit(f"{path}, line {number}: it is no JSON. Write it as {EXAMPLE}") from None
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
                raise SystemExit(f"{path}, line {number}: {reason}. Write it as {EXAMPLE}") from None
    if not found:
        raise SystemExit(f"{path} has no import. Write one a line, as {EXAMPLE}")
    found.sort(key=lambda one: one.fed_at)
    zero = found[0].fed_at
    return [one.moved(-zero) for one in found]


def _import(row: dict[str, Any]) -> Import:
    if not isinstance(row, dict):
        raise TypeError("it is no JSON object")
    fed_at = _seconds(row, "fed")
    requested_at = fed_at if row["requested"] is None else _seconds(row, "requested")
    started_at = None if row.get("started") is None else _seconds(row, "started")
    completed_at = float("inf") if row["completed"] is None else _seconds(row, "completed")
    instants = [requested_at, *([] if started_at is None else [started_at]), completed_at]
    if instants != sorted(instants):
        raise ValueError("requested, started and completed must follow one another")
    return Import(
        requested_at=requested_at,
        fed_at=fed_at,
        took_s=completed_at - requested_at,
        started_at=started_at,
        attr=None if row.get("attr") is None else str(row["attr"]),
        skew_s=_seconds(row, "skew") if row.get("skew") else 0.0,
        names_request=row["requested"] is not None,
    )


def _seconds(row: dict[str, Any], name: str) -> float:
    value = row[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}, not a number of seconds")
    return float(value)


def head() -> str:
    return f"{'policy':<28}" + "".join(f"{column:>17}" for column in COLUMNS) + "\n"


def row(name: str, result: "Result") -> str:
    numbers = (result.polls, result.mean_s, result.p95_s, result.worst_s, result.drained_s, result.put_offs)
    return f"{name:<28}" + "".join(f"{number:>17,.2f}" for number in numbers) + "\n"
