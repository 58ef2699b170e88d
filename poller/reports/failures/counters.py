"""Counters in bounded memory, for any number of records. Pure."""

from collections import Counter

LONGEST_TIMELINE = 240  # spans
FIRST_SPAN_S = 10.0
TOP = 10


class BoundedCounter:
    """Counts at most `most` names: beyond, the rarer half is dropped."""

    def __init__(self, most: int) -> None:
        self.counts: Counter[str] = Counter()
        self._most = most

    def add(self, name: str) -> None:
        """Count `name` once."""
        self.counts[name] += 1
        if len(self.counts) > self._most:
            latest_first = reversed(list(self.counts.items()))
            self.counts = Counter(dict(sorted(latest_first, key=lambda pair: -pair[1])[: self._most // 2]))

    def top(self) -> list[tuple[str, int]]:
        """Return the `TOP` most frequent names with their counts."""
        return sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]


class Timeline:
    """Counts successes and failures in equal spans of time, which double when there are too many."""

    def __init__(self) -> None:
        self.span_s = FIRST_SPAN_S
        self._spans: dict[int, list[int]] = {}

    def add(self, at: float, *, good: bool) -> None:
        """Count one outcome at that instant."""
        span = self._spans.setdefault(int(at // self.span_s), [0, 0])
        span[0 if good else 1] += 1
        if len(self._spans) > LONGEST_TIMELINE:
            self._widen()

    def _widen(self) -> None:
        self.span_s *= 2
        spans: dict[int, list[int]] = {}
        for number, (good, bad) in self._spans.items():
            span = spans.setdefault(number // 2, [0, 0])
            span[0] += good
            span[1] += bad
        self._spans = spans

    def spans(self) -> tuple[tuple[float, int, int], ...]:
        """Return begin, successes and failures of each span, empty spans included."""
        if not self._spans:
            return ()
        while max(self._spans) - min(self._spans) >= LONGEST_TIMELINE:
            self._widen()
        first, last = min(self._spans), max(self._spans)
        counts = ((number, self._spans.get(number, [0, 0])) for number in range(first, last + 1))
        return tuple((number * self.span_s, good, bad) for number, (good, bad) in counts)
