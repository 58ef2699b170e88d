"""The trial of an import: a few rows first, so that a wrong folder or a dead host does not cost thousands. Pure."""

from collections import Counter

from poller.core.starts import TrialReading

LANDED_ENOUGH = 10  # of the trial; then the others follow


class Trial:
    """Counts the first rows of an import until they have shown that imports land."""

    def __init__(self, size: int, *, landed: int = 0, underway: int = 0) -> None:
        """Imports of the account that an earlier run, or another replica, started: `landed`, or `underway`, those
        included whose start got no answer."""
        self._size = size
        self._enough = min(LANDED_ENOUGH, size)
        self._landed = landed
        self._started = underway
        self._ended = 0
        self._reasons: Counter[str] = Counter()

    @property
    def is_over(self) -> bool:
        """Whether the other rows may follow: enough landed, or all of the trial ended and not for one reason alone."""
        if self._landed >= self._enough:
            return True
        return self._ended >= self._size and self.failed_for is None

    @property
    def holds(self) -> bool:
        """Whether no further row may be started now."""
        return not self.is_over and self._started >= self._size

    @property
    def reading(self) -> TrialReading | None:
        """The trial for people; None where it is over, or has failed."""
        if self.is_over or self.failed_for is not None:
            return None
        return TrialReading(
            rows=self._size, started=min(self._started, self._size), landed=self._landed, needed=self._enough
        )

    @property
    def failed_for(self) -> str | None:
        """Return the one reason for which all of the trial failed; None where that is not so (yet)."""
        if (
            self._size == 0
            or self._ended < self._size
            or self._ended != self._reasons.total()
            or len(self._reasons) != 1
        ):
            return None
        return next(iter(self._reasons))

    def resize(self, size: int) -> None:
        """Use another size; a trial that is over stays so."""
        if not self.is_over:
            self._size = size
            self._enough = min(LANDED_ENOUGH, size)

    def count(self, change: int) -> None:
        """A row is about to be sent for the first time (1), or was certainly not accepted (-1)."""
        self._started += change

    def overtake(self, count: int) -> None:
        """Let other rows go in place of `count` that are under way since before the trial: they may be stuck."""
        self._started -= min(count, max(0, self._started - self._ended))

    def end(self, reason: str | None) -> None:
        """An import ended: landed, or failed for `reason`."""
        if self.is_over:
            return
        self._ended += 1
        if reason is None:
            self._landed += 1
        else:
            self._reasons[reason] += 1
