"""Count where one source's lines went in this run, and tell of the rejected ones without flooding the log."""

import structlog

from poller.core.model import Added, Chunk

log = structlog.get_logger()

_TOLD_SINGLY = 20  # rejected lines of a source, each an event
_TOLD_AT_ONCE = 1000  # rejected lines after that, folded into one event


class Counts:
    """The sums of one source in this run."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tasks = self._duplicates = self._rejected = self._blank = 0
        self._folded: list[int] = []  # line numbers not told yet

    def add(self, chunk: Chunk, added: Added) -> None:
        """Count a stored chunk."""
        self._tasks += added.tasks
        self._duplicates += added.duplicates
        self._blank += chunk.blank
        for rejection in chunk.rejected:
            self._rejected += 1
            if self._rejected <= _TOLD_SINGLY:
                log.warning("source.line_rejected", source=self._source, line=rejection.line, reason=rejection.reason)
            else:
                self._fold(rejection.line)

    def end(self) -> None:
        """Tell the sums: the source has ended."""
        self.tell_folded()
        log.info(
            "source.ended",
            source=self._source,
            lines=self._tasks + self._duplicates + self._rejected + self._blank,
            tasks=self._tasks,
            duplicates=self._duplicates,
            rejected=self._rejected,
            blank=self._blank,
        )

    def _fold(self, line: int) -> None:
        self._folded.append(line)
        if len(self._folded) >= _TOLD_AT_ONCE:
            self.tell_folded()

    def tell_folded(self) -> None:
        """Tell of the rejected lines that were held back."""
        if self._folded:
            log.warning(
                "source.lines_rejected",
                source=self._source,
                count=len(self._folded),
                first_line=self._folded[0],
                last_line=self._folded[-1],
            )
            self._folded.clear()
