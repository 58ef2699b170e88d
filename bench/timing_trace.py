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

COLUMNS = ("polls a task", "mean late s", "p95 s", "worst s", "drained s", "put-offs a task")


def read_trace(path: Path) -> list[Import]:
    """Return the imports by feeding time, the first fed at 0. Raises `SystemExit` for what is not a trace."""
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                found.append(_import(orjson.loads(line)))
            except (ValueError, TypeError, KeyError) as error:
                raise SystemExit(f"{path}, line {number}: {type(error).__name__} {error}") from None
    if not found:
        raise SystemExit(f"{path} has no import")
    found.sort(key=lambda one: one.fed_at)
    zero = found[0].fed_at
    return [one.moved(-zero) for one in found]


def _import(row: dict[str, Any]) -> Import:
    fed_at = float(row["fed"])
    requested, started, completed = row["requested"], row.get("started"), row["completed"]
    requested_at = fed_at if requested is None else float(requested)
    return Import(
        requested_at=requested_at,
        fed_at=fed_at,
        took_s=float("inf") if completed is None else float(completed) - requested_at,
        started_at=None if started is None else float(started),
        attr=None if row.get("attr") is None else str(row["attr"]),
        skew_s=float(row.get("skew") or 0.0),
        names_request=requested is not None,
    )


def head() -> str:
    return f"{'policy':<28}" + "".join(f"{column:>17}" for column in COLUMNS) + "\n"


def row(name: str, result: "Result") -> str:
    numbers = (result.polls, result.mean_s, result.p95_s, result.worst_s, result.drained_s, result.put_offs)
    return f"{name:<28}" + "".join(f"{number:>17,.2f}" for number in numbers) + "\n"
