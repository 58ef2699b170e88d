"""Compare what a file holds with what the state holds: each record once, byte for byte, and nothing else. Pure.

Both come in the same order where all is well, so both are streamed, and only what differs is held in memory.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import orjson

from poller.core.model import Delivery


@dataclass(slots=True)
class Comparison:
    """Feed it lines and records; then ask what differs."""

    lines: int = 0
    records: int = 0
    _unmatched: dict[bytes, list[int]] = field(default_factory=lambda: defaultdict(list))  # line → its numbers
    _unseen: dict[bytes, Delivery] = field(default_factory=dict)  # records no line had yet

    def add_line(self, line: bytes) -> None:
        """Take the file's next line, without its line break."""
        self.lines += 1
        if self._unseen.pop(line, None) is None:
            self._unmatched[line].append(self.lines)

    def add_record(self, record: Delivery) -> None:
        """Take the state's next record."""
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
        """Return the (account, task_id) of every line that matched no record; whoever knows says which are finished."""
        return {identity for line in self._unmatched if (identity := identity_of(line)) is not None}

    def differences(self, finished: set[tuple[str, str]]) -> Iterator[str]:
        """Yield each difference as a sentence. `finished` are those of `suspects` that the state has a record of."""
        altered = {(record.account, record.task_id) for record in self._unseen.values()}
        for line, numbers in self._unmatched.items():
            identity = identity_of(line)
            for number in numbers:
                yield f"line {number}: {_trouble(identity, altered, finished)}"
        named = self.suspects()
        for record in self._unseen.values():
            if (record.account, record.task_id) not in named:
                yield f"missing: task {record.task_id} of account {record.account} (record {record.number})"


def _trouble(identity: tuple[str, str] | None, altered: set[tuple[str, str]], finished: set[tuple[str, str]]) -> str:
    if identity is None:
        return "is not a record: torn, or written by something else"
    account, task_id = identity
    task = f"task {task_id} of account {account}"
    if identity in altered:
        return f"{task} differs from its record"
    return f"{task} stands here a second time" if identity in finished else f"{task} is not in the state"


def identity_of(line: bytes) -> tuple[str, str] | None:
    """Return whose record a line is; None where it is none."""
    try:
        record = orjson.loads(line)
        account, task_id = record["account"], record["task_id"]
    except (ValueError, TypeError, LookupError):
        return None
    return (account, task_id) if isinstance(account, str) and isinstance(task_id, str) else None


async def compare(lines: Iterator[bytes], records: AsyncIterator[Delivery]) -> Comparison:
    """Walk both in step, so that equal ones meet and are forgotten."""
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
