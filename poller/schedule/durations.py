"""How long imports take, as distributions that a person writes on a command line. Pure.

Parsers raise `ValueError` with a message that has what was written and what would be right.
"""

import math
import re
from dataclasses import dataclass
from statistics import NormalDist

DEFAULT_DURATIONS = "lognormal:30,1.2"
LARGEST_EXPONENT = 100.0  # of a factor on the median: beyond all deadlines, and what a float can be


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationPart:
    """One distribution of a mix."""

    share: float
    shape: str  # "fixed", "uniform" or "lognormal"
    first: float  # seconds: the value, the low end, the median
    second: float = 0.0  # the high end in seconds, sigma of the logarithm


@dataclass(frozen=True, slots=True, kw_only=True)
class Durations:
    """How long tasks take, from the start call to their end."""

    parts: tuple[DurationPart, ...]

    def draw_s(self, pick: float, draw: float) -> float:
        """Return a duration in seconds for two numbers in [0, 1): which part, and where in it."""
        part = self.parts[-1]
        for candidate in self.parts:
            if pick < candidate.share:
                part = candidate
                break
            pick -= candidate.share
        if part.shape == "uniform":
            return part.first + draw * (part.second - part.first)
        if part.shape == "lognormal":
            exponent = part.second * NormalDist().inv_cdf(max(draw, 1e-12))
            return part.first * math.exp(min(exponent, LARGEST_EXPONENT))
        return part.first


def parse_durations(spec: str) -> Durations:
    """Read `fixed:S`, `uniform:LOW,HIGH`, `lognormal:MEDIAN,SIGMA` or `mix:SHARE@…,SHARE@…`."""
    if not spec.startswith("mix:"):
        return Durations(parts=(_parse_part(spec, share=1.0),))
    parts = []
    for piece in re.split(r",(?=[\d.]+@)", spec.removeprefix("mix:")):
        share, at, rest = piece.partition("@")
        if not at:
            raise ValueError(
                f"durations {spec!r}: {piece!r} has no share; write it as in mix:0.95@fixed:5,0.05@fixed:90"
            )
        parts.append(_parse_part(rest, share=parse_number(share, f"the share of {piece!r}")))
    if abs(sum(part.share for part in parts) - 1) > 1e-6:
        raise ValueError(f"durations {spec!r}: the shares must add up to 1")
    return Durations(parts=tuple(parts))


def _parse_part(spec: str, share: float) -> DurationPart:
    shape, _, rest = spec.partition(":")
    wanted = {"fixed": 1, "uniform": 2, "lognormal": 2}.get(shape)
    if wanted is None:
        raise ValueError(
            f"durations {spec!r}: unknown shape {shape!r}; use fixed:S, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA "
            "(seconds) or mix:SHARE@…,SHARE@…"
        )
    numbers = [parse_number(text, f"durations {spec!r}") for text in rest.split(",")]
    if len(numbers) != wanted:
        raise ValueError(f"durations {spec!r}: {shape} takes {wanted} number(s), not {len(numbers)}")
    if shape == "uniform" and numbers[0] > numbers[1]:
        raise ValueError(f"durations {spec!r}: the low end must not exceed the high end")
    return DurationPart(share=share, shape=shape, first=numbers[0], second=numbers[1] if wanted == 2 else 0.0)


def parse_number(text: str, where: str) -> float:
    """Read a finite number of at least 0. Raises `ValueError` that begins with `where`."""
    try:
        number = float(text)
    except ValueError:
        raise ValueError(f"{where}: {text!r} is not a number") from None
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{where}: {text!r} must be a finite number of at least 0")
    return number
