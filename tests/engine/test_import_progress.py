"""The counts of one account's imports, and the trial in them."""

from collections.abc import MutableMapping
from typing import Any

from poller.core.model import Kind, Record
from poller.core.protocols import Clock
from poller.engine.import_progress import ImportProgress
from poller.schedule.starts import StartRules
from poller.store import open_store


async def test_a_trial_fails_once_also_where_more_imports_than_its_rows_end_for_the_one_reason(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    """Those of an earlier run may be more than the trial has rows."""
    store = await open_store("sqlite:///:memory:", clock=clock)
    progress = ImportProgress("a", store.starts, StartRules(trial=3), clock)
    await progress.begin()
    gone = Record(
        body=b"{}", kind=Kind.NOT_FOUND, landed=False, reason="HTTP 404", seen_at=0.0, account="a", task_id="t"
    )
    assert [progress.land(gone) for _ in range(6)] == [None, None, "HTTP 404", None, None, None]
    assert [event["event"] for event in events if "trial" in event["event"]] == [
        "import.trial_began",
        "import.trial_failed",
    ]
    await store.close()
