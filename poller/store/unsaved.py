"""What callers note without waiting for its commit."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar

from poller.core.accounts import AccountState
from poller.core.fleet import Membership
from poller.core.protocols import Store
from poller.store.leases import Leases

T = TypeVar("T")
Unsaved = tuple[Mapping[str, AccountState], Mapping[str, bytes]]  # accounts and knowledge, by name


class NotingStore(Store):
    """The half of a store that is in memory. While anything noted is not on disk, one write of it is under way."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check  # raises `StoreError` when the store has failed or is closed
        self._leases = Leases()
        self._first_poll_s: dict[str, float] = {}  # by account, where its first polls are put off
        self._noted_accounts: dict[str, AccountState] = {}
        self._noted_knowledge: dict[str, bytes] = {}
        self._saving: Unsaved = {}, {}

    @property
    def fleet(self) -> Membership | None:
        return None

    @abstractmethod
    def _save_soon(self) -> None:
        """Start a write: `_begin_saving` in its transaction, `_end_saving` after its commit."""

    def delay_first_polls(self, account: str, delay_s: float) -> None:
        self._first_poll_s[account] = delay_s

    def save_account(self, name: str, state: AccountState) -> None:
        self._before_noting()
        self._noted_accounts[name] = state

    def save_knowledge(self, name: str, knowledge: bytes) -> None:
        self._before_noting()
        self._noted_knowledge[name] = knowledge

    def _before_noting(self) -> None:
        self._check()
        if not self._noted_accounts and not self._noted_knowledge:
            self._save_soon()

    def _begin_saving(self) -> Unsaved:
        """Return what to write now. A transaction that is repeated calls it again."""
        self._saving = dict(self._noted_accounts), dict(self._noted_knowledge)
        return self._saving

    def _end_saving(self) -> None:
        """Forget what is on disk now; write what was noted during the transaction."""
        accounts, knowledge = self._saving
        _forget(self._noted_accounts, accounts)
        _forget(self._noted_knowledge, knowledge)
        if self._noted_accounts or self._noted_knowledge:
            self._save_soon()


def _forget(noted: dict[str, T], saved: Mapping[str, T]) -> None:
    for name, value in saved.items():
        if noted[name] is value:
            del noted[name]
