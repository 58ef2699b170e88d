"""What is noted while the notes before it are being written is written next."""

from poller.core.accounts import AccountState
from poller.store.unsaved import NotingStore


class Notes(NotingStore):
    """The half in memory, without a disk: counts the writes that it starts."""

    def __init__(self) -> None:
        super().__init__(lambda: None)
        self.writes = 0

    def _save_soon(self) -> None:
        self.writes += 1


EARLIER, LATER = AccountState(active_at=1.0), AccountState(active_at=2.0)


def test_what_is_noted_during_a_write_starts_another_one() -> None:
    """Otherwise nothing was ever written again: a crash would forget the window of every account."""
    notes = Notes()  # type: ignore[abstract]  # what the test does not call
    notes.save_account("one", EARLIER)
    notes.save_account("two", EARLIER)
    assert notes.writes == 1
    assert notes._begin_saving() == ({"one": EARLIER, "two": EARLIER}, {})
    notes.save_account("two", LATER)
    notes.save_knowledge("limit", b"100")
    notes._end_saving()
    assert notes.writes == 2
    assert notes._begin_saving() == ({"two": LATER}, {"limit": b"100"})
    notes._end_saving()
    assert notes.writes == 2
    assert notes._begin_saving() == ({}, {})
