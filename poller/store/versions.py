"""Which versions of a state this poller can use, and how far a migration is."""

import structlog

from poller.core.errors import NoState, StoreUnusable

log = structlog.get_logger("poller")

REPORTED_EVERY = 500_000  # tasks: a few seconds each


def refuse_newer(version: int, known: int, state: str) -> None:
    """Raise `StoreUnusable` for a state that a newer poller wrote."""
    if version > known:
        raise StoreUnusable(
            f"the state {state} is of version {version}, this poller knows versions up to {known}. Use the newer "
            "poller that wrote it."
        )


def refuse_older(version: int, known: int, state: str) -> None:
    """Raise `NoState` or `StoreUnusable` for a state that only its writer can create or migrate."""
    if version < known:
        if not version:
            raise NoState(f"the state {state} holds nothing yet. Start a run with it first.")
        raise StoreUnusable(f"the state {state} is of the older version {version}. Start a run with it first.")


class MigrationProgress:
    """Logs how many of the tasks are rewritten; a terminal shows it, too."""

    def __init__(self, state: str, tasks: int) -> None:
        self._state, self._tasks = state, tasks
        self._done = 0

    def add(self, tasks: int) -> None:
        """Count tasks that were just rewritten."""
        before, self._done = self._done, self._done + tasks
        if before // REPORTED_EVERY < self._done // REPORTED_EVERY:
            log.warning("store.migration_advanced", path=self._state, tasks=self._done, of=self._tasks)
