"""What this process owns of a fleet's state, as its own commits made it."""

from dataclasses import dataclass, field
from typing import NamedTuple


class OwnedAccount(NamedTuple):
    """An account as it was taken."""

    number: int
    epoch: int


@dataclass(slots=True, kw_only=True)
class Holdings:
    """The membership of this process and all that rests on it. Empty until it joins, and again once it is fenced."""

    name: str
    member: int | None = None
    former: set[int] = field(default_factory=set)  # memberships that ended here; their rows may still be there
    accounts: dict[str, OwnedAccount] = field(default_factory=dict)
    sinks: dict[str, int] = field(default_factory=dict)  # name → epoch

    def end_owning(self, account: str, epoch: int) -> None:
        """Forget the account, unless it was taken again."""
        if (owned := self.accounts.get(account)) is not None and owned.epoch == epoch:
            del self.accounts[account]

    def end_delivering(self, sink: str, epoch: int) -> None:
        """Forget the sink, unless it was taken again."""
        if self.sinks.get(sink) == epoch:
            del self.sinks[sink]

    def end(self) -> None:
        """Forget everything: it is another member's, or free."""
        if self.member is not None:
            self.former.add(self.member)
        self.member = None
        self.accounts.clear()
        self.sinks.clear()
