"""The trial of an import as a state keeps it: for those who watch a run of another process."""

from typing import Protocol

from msgspec import DecodeError, json

from poller.core.starts import ImportsReading


class _Knowledge(Protocol):
    def save_knowledge(self, name: str, knowledge: bytes) -> None: ...


class TrialNote:
    """Notes an account's rows while a trial runs, and that none runs."""

    def __init__(self, account: str, store: _Knowledge) -> None:
        self._key = trial_key(account)
        self._store = store
        self._kept: bytes | None = None  # not written by this run: an earlier one may have left a note

    def keep(self, imports: ImportsReading) -> None:
        """Note the rows where the note differs."""
        note = json.encode(None if imports.trial is None else imports)
        if note != self._kept:
            self._kept = note
            self._store.save_knowledge(self._key, note)


def trial_key(account: str) -> str:
    """Return the key of an account's trial in the store's knowledge."""
    return f"trial {account}"


def decode_trial(knowledge: bytes | None) -> ImportsReading | None:
    """Return the rows of an account on trial; None for no trial, and for what cannot be read."""
    try:
        return None if knowledge is None else json.decode(knowledge, type=ImportsReading | None)
    except DecodeError:
        return None
