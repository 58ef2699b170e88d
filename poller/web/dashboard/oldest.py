"""The task that has waited longest, read at little cost: a finished task never waits again, so the search continues."""

from msgspec import Struct

from poller.core.protocols import StateReader
from poller.core.search import TaskFilter
from poller.web.store_limit import SEARCH_S, late_after


class OldestView(Struct, frozen=True, kw_only=True):
    """The task that has waited longest for its outcome."""

    task_id: str
    account: str
    fed_at: float
    status: str | None  # that HubSpot returned last


class OldestWaiting:
    """Finds the oldest waiting task of a state."""

    def __init__(self, store: StateReader) -> None:
        self._store = store
        self._after = 0  # no task up to this key waits
        self._found: OldestView | None = None

    async def read(self) -> OldestView | None:
        """Return it, None where no task waits. A search that takes too long continues with the next call."""
        wanted = TaskFilter(state="underway")
        page = await self._store.find_tasks(wanted, after=self._after, limit=1, is_late=late_after(SEARCH_S))
        if page.tasks:
            first = page.tasks[0]
            self._after = first.key - 1
            self._found = OldestView(
                task_id=first.task_id, account=first.account, fed_at=first.fed_at, status=first.status
            )
        elif page.after is not None:
            self._after = page.after
        else:
            self._after, self._found = 0, None  # keys below may be used again once their tasks are pruned
        return self._found
