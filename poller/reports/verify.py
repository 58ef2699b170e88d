"""Compares a file with the state: it must contain each record exactly once, byte for byte, and nothing else. Pure.

Both normally have the same order, so both are streamed, and only differences are held in memory.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import orjson

from poller.core.deliveries import Delivery
from poller.core.text import without_controls


@dataclass(slots=True)
class Comparison:
    """What differs between the lines and records added so far."""

    lines: int = 0
    records: int = 0
    _unmatched: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))  # line → its numbers
    _unseen: dict[bytes, Delivery] = field(default_factory=dict)  # records without a line so far

    def add_line(self, line: bytes) -> None:
        """Add the file's next line, without its line break."""
        self.lines += 1
        if self._unseen.pop(line, None) is None:
            self._unmatched[line].append(self.lines)

    def add_record(self, record: Delivery) -> None:
        """Add the state's next record."""
        self.records += 1
        numbers = self._unmatched.get(record.body)
        if not numbers:
            self._unseen[record.body] = record
            return
        numbers.pop(0)
        if not numbers:
            del self._unmatched[record.body]

    @property
    def is_equal(self) -> bool:
        return not self._unmatched and not self._unseen

    def suspects(self) -> set[tuple[str, str]]:
        """Return the (account, task_id) of every line without a record; the caller finds which of them are finished."""
        return {identity for line in self._unmatched if (identity := identity_of(line)) is not None}

    def differences(self, finished: set[tuple[str, str]]) -> Iterator[str]:
        """Yield each difference as text. `finished`: those of `suspects` that have a record in the state."""
        altered = {(record.account, record.task_id) for record in self._unseen.values()}
        for line, numbers in self._unmatched.items():
            identity = identity_of(line)
            for number in numbers:
                yield f"line {number}: {_problem(identity, altered, finished)}"
        named = self.suspects()
        for record in self._unseen.values():
            if (record.account, record.task_id) not in named:
                yield f"missing: task {record.task_id} of account {record.account} (record {record.number})"


def _problem(identity: tuple[str, str] | None, altered: set[tuple[str, str]], finished: set[tuple[str, str]]) -> str:
    if identity is None:
        return "is not a record: cut off, or written by another program"
    account, task_id = identity
    task = without_controls(f"task {task_id} of account {account}")
    if identity in altered:
        return f"{task} differs from its record"
    return f"{task} is in the file twice" if identity in finished else f"{task} is not in the state"


def identity_of(line: bytes) -> tuple[str, str] | None:
    """Return the (account, task_id) of a line; None where it is no record."""
    try:
        record = orjson.loads(line)
        account, task_id = record["account"], record["task_id"]
    except (ValueError, TypeError, LookupError):
        return None
    return (account, task_id) if isinstance(account, str) and isinstance(task_id, str) else None


async def compare(lines: Iterator[bytes], records: AsyncIterator[Delivery]) -> Comparison:
    """Compare both side by side, so that equal ones need no memory."""
    comparison = Comparison()
    async for record in records:
        line = next(lines, None)
        if line is None or line != record.body:
            comparison.add_record(record)
            if line is not None:
                comparison.add_line(line)
            continue
        comparison.lines += 1
        comparison.records += 1
    for line in lines:
        comparison.add_line(line)
    return comparison
