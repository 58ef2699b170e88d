"""What callers noted without waiting for its commit."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Unsaved(Generic[T]):
    """Values by name that are not on disk yet. While there are any, exactly one write of them is under way."""

    def __init__(self, write_soon: Callable[[], None]) -> None:
        self.noted: dict[str, T] = {}
        self._written: dict[str, T] = {}
        self._write_soon = write_soon  # starts a write: `begin_write` in its transaction, `end_write` after its commit

    def note(self, name: str, value: T) -> None:
        """Note the latest value of `name`."""
        is_idle = not self.noted
        self.noted[name] = value
        if is_idle:
            self._write_soon()

    def begin_write(self) -> dict[str, T]:
        """Return what to write now. A transaction that is repeated calls it again."""
        self._written = dict(self.noted)
        return self._written

    def end_write(self) -> None:
        """Forget what is on disk now; write what was noted during the transaction."""
        for name, value in self._written.items():
            if self.noted[name] is value:
                del self.noted[name]
        if self.noted:
            self._write_soon()
