"""Prunes in batches: however many expired records a sink still lacks, examining them holds nothing up."""

from collections.abc import Awaitable, Callable, Sequence

from poller.core.deliveries import BEFORE_ALL, PruneWalk

EXAMINED_AT_ONCE = 2000  # records: 5 ms in SQLite, which the event loop waits for

Place = tuple[float, int]
Examined = Sequence[tuple[float, int, int, bool]]  # seen when, its task's key, number, whether a sink lacks it


async def prune(
    prune_next: Callable[[float, int, Place], Awaitable[tuple[int, Place | None]]],
    before: float,
    limit: int,
    walk: PruneWalk | None,
) -> int:
    """Delete up to `limit` tasks, batch by batch; return how many. `prune_next(before, limit, after)` returns how many
    of the next records it deleted, and the last one that it examined: None at the end."""
    walk, pruned = walk or PruneWalk(), 0
    while pruned < limit:
        latest, after = await prune_next(before, limit - pruned, walk.after)
        pruned, walk.after = pruned + latest, after or BEFORE_ALL
        if after is None:
            break
    return pruned


def chosen(examined: Examined, limit: int) -> tuple[list[tuple[int, int]], Place | None]:
    """Return number and task of the records to delete, and the last record that need not be examined again; None where
    no more are left."""
    free: list[tuple[int, int]] = []
    for seen_at, task, number, is_lacked in examined:
        if is_lacked:
            continue
        free.append((number, task))
        if len(free) == limit:
            return free, (seen_at, task)
    if len(examined) < EXAMINED_AT_ONCE:
        return free, None
    seen_at, task, *_ = examined[-1]
    return free, (seen_at, task)
