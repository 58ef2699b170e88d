"""Records on their way to the sinks: a delivery, what a sink answers, dead letters, and which to take again. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from msgspec import Struct

LARGEST_PAGE = 8 << 20  # bytes of records that are read at once, but for the last of them, which a poll bounds
BEFORE_ALL = (float("-inf"), 0)  # a place in a walk through the records


class Delivery(Struct, frozen=True, kw_only=True, gc=False):
    """A record to deliver to one sink. `number` grows in the order in which tasks finished."""

    number: int
    account: str
    task_id: str
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The batch is safe at its target, except for the records refused for good (number → reason)."""

    position: bytes | None = None  # the sink's own progress, committed with the delivered rows
    count: int | None = None  # only so many records from the batch's begin were taken; None: all
    refused: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Nothing of the batch counts as written: write the same batch again after `wait_s`."""

    reason: str
    wait_s: float
    position: bytes | None = None  # the sink's position, where it changed all the same


def check_answer(answer: object, batch: Sequence[Delivery]) -> None:
    """Raise `TypeError` where what a sink's `write` returned is not of its contract: a sink may be other people's."""
    match answer:
        case Retry(reason=str(), wait_s=float() | int() as wait_s) if 0 <= wait_s < inf:
            checked_position(answer.position)
        case Retry(reason=str()):
            raise TypeError(f"it returned Retry with wait_s={answer.wait_s!r}, not seconds")
        case Retry():
            raise TypeError(f"it returned Retry with reason={answer.reason!r}, not text")
        case Written(count=int() | None as count) if count is None or count >= 0:
            checked_position(answer.position)
            _check_refused(answer.refused, batch[:count])
        case Written():
            raise TypeError(f"it returned Written with count={answer.count!r}, not a number of records")
        case _:
            raise TypeError(f"it returned {type(answer).__name__}, not Written or Retry")


def _check_refused(refused: object, taken: Sequence[Delivery]) -> None:
    if not isinstance(refused, Mapping):
        raise TypeError(f"it returned Written with refused={refused!r}, not a mapping of record numbers to reasons")
    if not all(isinstance(reason, str) for reason in refused.values()):
        raise TypeError("it returned Written with a reason in refused that is not text")
    if not refused.keys() <= {delivery.number for delivery in taken}:
        raise TypeError("it returned Written with a number in refused that is none of the records it took")


def checked_position(position: object) -> bytes | None:
    """Return a sink's position. Raises `TypeError` where it is none."""
    if position is None or isinstance(position, bytes):
        return position
    raise TypeError(f"it returned the position {position!r}, not bytes or None")


class PruneWalk:
    """How far pruning has come through the expired records, oldest first: what a sink still lacks is examined once a
    walk, however many tasks are deleted in between."""

    def __init__(self) -> None:
        self.after: tuple[float, int] = BEFORE_ALL  # when the last one examined was seen, and its task's key


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that a sink refused for good."""

    sink: str
    reason: str
    refused_at: float
    delivery: Delivery  # its body is empty where bodies were not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which finished records to take; all given conditions must hold."""

    since: float | None = None  # finished at or after this instant
    kinds: frozenset[str] = frozenset()  # empty: any kind
    dead: bool = False  # only dead letters of the sink in question
    task_ids: frozenset[str] | None = None  # only these; None: any
