"""Count where one source's lines went in this run, and log the rejected ones without flooding the log."""

from dataclasses import dataclass

import orjson
import structlog

from poller.core.model import Added, Chunk
from poller.core.text import redacted_url
from poller.sources.imports.url import is_share_page

log = structlog.get_logger("poller")

_LOGGED_SINGLY = 20  # rejected lines of a source, each an event
_SAMPLES = 3
_FOLD_SIZE = 1000  # rejected lines after that, folded into one event


@dataclass(frozen=True, slots=True, kw_only=True)
class UnchangedLines:
    """The lines of files that an earlier run read to their end and that are unchanged: none of them was read again."""

    lines: int = 0
    rejected: int = 0
    failed: int = 0  # whose task has an outcome, but not `complete`
    dead: int = 0  # whose record was refused by a sink
    otherwise: int = 0  # whose rows were imported with other options than this run has

    def __add__(self, other: "UnchangedLines") -> "UnchangedLines":
        return UnchangedLines(
            lines=self.lines + other.lines,
            rejected=self.rejected + other.rejected,
            failed=self.failed + other.failed,
            dead=self.dead + other.dead,
            otherwise=self.otherwise + other.otherwise,
        )


class SourceCounts:
    """The sums of one source in this run."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.unchanged = UnchangedLines()  # none where the file was read
        self.rejected = 0
        self.first_reason = ""  # of a rejected line
        self._tasks = self._duplicates = self._blank = 0
        self._other_refs = 0  # not logged yet
        self._share_pages = 0  # not logged yet
        self._pages_shown: list[str] = []  # some of them
        self._folded: list[int] = []  # line numbers not logged yet

    @property
    def usable(self) -> int:
        """Lines with a task, new or known."""
        return self._tasks + self._duplicates

    def add(self, chunk: Chunk, added: Added) -> None:
        """Count a stored chunk."""
        self._tasks += added.tasks
        self._duplicates += added.duplicates
        self._other_refs += added.other_refs
        self._blank += chunk.blank
        for row in chunk.rows:
            if is_share_page(url := orjson.loads(row.body)["url"]):
                self._share_pages += 1
                if len(self._pages_shown) < _SAMPLES:
                    self._pages_shown.append(redacted_url(url))
        for rejection in chunk.rejected:
            self.rejected += 1
            self.first_reason = self.first_reason or f"line {rejection.line}: {rejection.reason}"
            if self.rejected <= _LOGGED_SINGLY:
                log.warning("source.line_rejected", source=self._source, line=rejection.line, reason=rejection.reason)
                continue
            self._folded.append(rejection.line)
            if len(self._folded) >= _FOLD_SIZE:
                self.log_folded()

    def log_folded(self) -> None:
        """Log the rejected lines, share pages and other references that were held back."""
        if self._share_pages:
            log.warning(
                "source.share_pages_found", source=self._source, count=self._share_pages, samples=self._pages_shown
            )
            self._share_pages, self._pages_shown = 0, []
        if self._other_refs:
            log.warning("source.refs_differed", source=self._source, count=self._other_refs)
            self._other_refs = 0
        if not self._folded:
            return
        first, last = self._folded[0], self._folded[-1]
        log.warning(
            "source.lines_rejected", source=self._source, count=len(self._folded), first_line=first, last_line=last
        )
        self._folded.clear()

    def log_end(self) -> None:
        """Log the sums: the source has ended."""
        self.log_folded()
        log.info(
            "source.ended",
            source=self._source,
            lines=self._tasks + self._duplicates + self.rejected + self._blank,
            tasks=self._tasks,
            duplicates=self._duplicates,
            rejected=self.rejected,
            blank=self._blank,
        )


class FaultLog:
    """Logs why a followed source waits: each reason once, until `clear`."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._last: str | None = None

    def warn(self, reason: str) -> None:
        """Log the reason unless it is the last one logged."""
        if reason != self._last:
            log.warning("source.waited_for", source=self._source, reason=reason)
            self._last = reason

    def clear(self) -> None:
        """The source was read: the next fault is a new one."""
        self._last = None
