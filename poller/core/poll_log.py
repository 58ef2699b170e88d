"""A task's trail: its looks as text, a JSON array a line, so that a store adds one without reading the others. Pure."""

import orjson

from poller.core.model import Look

LONGEST = 1500  # characters a store keeps of a trail, the latest: some twenty looks


def trace(look: Look) -> str:
    """Return the line that adds `look` to a trail."""
    says = look.says.encode("utf-8", "replace").decode() if isinstance(look.says, str) else look.says
    words = orjson.dumps((look.outcome, says)).decode()[1:-1]
    again_in_s = "null" if look.again_in_s is None else f"{look.again_in_s:.3f}"
    return f"[{look.at:.3f},{look.gate_s:.3f},{look.took_s:.3f},{words},{again_in_s}]\n"


def looks(trail: str) -> tuple[Look, ...]:
    """Return the looks of a trail, oldest first. A first line that was cut is left out."""
    return tuple(_look(line) for line in trail.splitlines() if line.startswith("[") and line.endswith("]"))


def _look(line: str) -> Look:
    at, gate_s, took_s, outcome, says, again_in_s = orjson.loads(line)
    return Look(at=at, gate_s=gate_s, took_s=took_s, outcome=outcome, says=says, again_in_s=again_in_s)
