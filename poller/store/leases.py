"""The leases that this process holds. In memory only: what ends them for other processes is up to each store."""

from collections.abc import Sequence

from poller.core.model import Settled, Task

RECORDING = -1  # the lease of a task whose poll is recorded but not committed yet


class Leases:
    """Task keys and their fencing tokens. A poll is recorded at most once a lease."""

    def __init__(self) -> None:
        self.held: dict[int, int] = {}  # task key → fencing token

    def take(self, tasks: Sequence[Task]) -> None:
        """Hold the leases of these tasks."""
        self.held.update({task.key: task.lease for task in tasks})

    def begin_recording(self, settled: Sequence[Settled]) -> list[Settled]:
        """Return those whose lease is held. Until `end_recording` they can be neither recorded nor released."""
        recorded = []
        for each in settled:
            if self._is_held(each.task):
                self.held[each.task.key] = RECORDING
                recorded.append(each)
        return recorded

    def _is_held(self, task: Task) -> bool:
        return task.lease != RECORDING and self.held.get(task.key) == task.lease

    def end_recording(self, settled: Sequence[Settled]) -> None:
        """Let go of leases whose polls are committed."""
        for each in settled:
            if self.held.get(each.task.key) == RECORDING:
                del self.held[each.task.key]

    def release(self, tasks: Sequence[Task]) -> dict[int, int]:
        """Let go of those of these leases that are held and not being recorded; return them."""
        released = {task.key: task.lease for task in tasks if self._is_held(task)}
        for key in released:
            del self.held[key]
        return released

    def renewable(self) -> dict[int, int]:
        """Return the leases that are held and not being recorded."""
        return {key: lease for key, lease in self.held.items() if lease != RECORDING}
