"""The leases that this process holds, in memory: it is the only owner of the state, and its end ends them all."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from poller.core.model import Settled, Task
from poller.store.rows import Row, task_of

RECORDING = -1  # the lease of a task whose poll is recorded but not committed yet


class Leases:
    """Task keys and the numbers of their claims, by account. A poll is recorded at most once a lease."""

    def __init__(self) -> None:
        self._held: defaultdict[str, dict[int, int]] = defaultdict(dict)  # task key → number of its claim
        self._last = 0
        # For each claim under way of an account, the keys whose leases have ended since it began
        self._claims: defaultdict[str, list[set[int]]] = defaultdict(list)

    def held(self, account: str) -> Mapping[int, int]:
        """Return the account's leased tasks, by key."""
        return self._held[account]

    @contextmanager
    def claiming(self, account: str) -> Iterator[set[int]]:
        """Collect the keys of its tasks whose leases end meanwhile. What a claim read of them may be older than the
        commit that ended them: they must not be taken."""
        ended: set[int] = set()
        self._claims[account].append(ended)
        try:
            yield ended
        finally:
            self._claims[account] = [each for each in self._claims[account] if each is not ended]

    def take(self, account: str, due: Sequence[Row]) -> list[Task]:
        """Lease the tasks of these rows; return them."""
        tasks = [task_of(account, row, lease) for lease, row in enumerate(due, start=self._last + 1)]
        self._last += len(tasks)
        self._held[account].update({task.key: task.lease for task in tasks})
        return tasks

    def begin_recording(self, settled: Sequence[Settled]) -> list[Settled]:
        """Return those whose lease is held. Until `end_recording` they can be neither recorded nor released."""
        recorded, held = [], self._held  # `_is_held` is spelled out: one call less a poll
        for each in settled:
            task = each.task
            of_account = held[task.account]
            if task.lease != RECORDING and of_account.get(task.key) == task.lease:
                of_account[task.key] = RECORDING
                recorded.append(each)
        return recorded

    def begin_putting_off(self, put_off: Sequence[tuple[Task, float]]) -> list[tuple[Task, float]]:
        """Return those whose lease is held. Until `end_putting_off` they cannot be claimed."""
        held = []
        for task, due_at in put_off:
            if not self._is_held(task):
                continue
            self._held[task.account][task.key] = RECORDING
            held.append((task, due_at))
        return held

    def end_putting_off(self, put_off: Sequence[tuple[Task, float]]) -> None:
        """Let go of the leases of tasks whose later due times are committed."""
        for task, _ in put_off:
            self._end(task)

    def _is_held(self, task: Task) -> bool:
        return task.lease != RECORDING and self._held[task.account].get(task.key) == task.lease

    def end_recording(self, settled: Sequence[Settled]) -> None:
        """Let go of leases whose polls are committed."""
        held, claims = self._held, self._claims
        for each in settled:
            task = each.task
            held[task.account].pop(task.key, None)
            for ended in claims[task.account]:
                ended.add(task.key)

    def release(self, tasks: Sequence[Task]) -> None:
        """Let go of those of these leases that are held and not being recorded."""
        for task in tasks:
            if self._is_held(task):
                self._end(task)

    def forget(self, account: str) -> None:
        """End all leases of the account: what held them was dropped."""
        held = self._held[account]
        for ended in self._claims[account]:
            ended |= held.keys()
        held.clear()

    def _end(self, task: Task) -> None:
        self._held[task.account].pop(task.key, None)
        for ended in self._claims[task.account]:
            ended.add(task.key)
