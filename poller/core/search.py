"""What a search for tasks asks for, and what it finds. Pure."""

from typing import Literal
from urllib.parse import quote, unquote

from msgspec import Struct

from poller.core.columns import LONGEST_NAME, source_file
from poller.core.model import Kind

SAFE_IN_URL = "/:?#[]@!$&'()*+,;=%-._~"

State = Literal["waiting", "underway", "unstarted", "unsure", "finished"]
UnstartedState = Literal["unstarted", "unsure"]


class TaskFilter(Struct, frozen=True, kw_only=True):
    """Which tasks to find, and which rows without a task; all given conditions must hold.

    `waiting` has no outcome: it is `underway` (a task), `unstarted` or `unsure` (rows whose start HubSpot has not
    accepted, or that may have been accepted).
    """

    state: State | None = None
    kinds: frozenset[str] = frozenset()  # empty: any
    landed: bool | None = None  # False: of a row that was tried again, only the latest attempt
    reason: str | None = None  # a piece of the reason, in any case
    account: str | None = None
    host: str | None = None  # of the row's URL, whole, in any case
    text: str | None = None  # a piece of the id or of a value of the row, in any case
    since: float | None = None  # finished at or after this instant

    @property
    def is_of_finished(self) -> bool:
        """Whether only finished tasks can match."""
        of_outcome = self.kinds or self.landed is not None or self.reason is not None or self.since is not None
        return self.state == "finished" or bool(of_outcome)

    @property
    def may_be_unstarted(self) -> bool:
        """Whether rows without a task can match."""
        return self.state not in ("underway", "finished") and not self.is_of_finished

    @property
    def may_be_task(self) -> bool:
        """Whether tasks can match."""
        return self.state not in ("unstarted", "unsure") and not (
            self.state in ("waiting", "underway") and self.is_of_finished
        )

    @property
    def is_of_row(self) -> bool:
        """Whether the id or the row must be read."""
        return self.text is not None or self.host is not None


class FoundTask(Struct, frozen=True, kw_only=True):
    """One task, or one row without a task, as a list shows it."""

    key: int  # tasks first, then rows
    account: str
    task_id: str
    ref: bytes | None
    fed_at: float
    due_at: float  # of its next poll; without meaning once the task is finished
    polls: int
    status: str | None
    kind: Kind | None = None  # None: waiting
    landed: bool | None = None
    reason: str | None = None
    seen_at: float | None = None
    body: bytes | None = None  # its record, where bodies were asked for
    start: UnstartedState | None = None  # of a row without a task; `due_at` is of its next start


class TaskPage(Struct, frozen=True, kw_only=True):
    """Tasks in the order in which they were fed, then rows without a task in theirs. A search that took too long has
    fewer than were asked for, or none."""

    tasks: list[FoundTask]
    after: int | None = None  # where the next page begins; None: there is no more


class RowMatcher:
    """Decides whether a task's id and row match the `text` and the `host` of a filter."""

    def __init__(self, wanted: TaskFilter) -> None:
        self.pieces = () if wanted.text is None else spellings(wanted.text)
        self._host = None if wanted.host is None else wanted.host.strip().lower()[:LONGEST_NAME]

    @property
    def needed(self) -> list[tuple[str, ...]]:
        """Texts of which each group must have one in the searchable text of a matching task."""
        return [group for group in (self.pieces, () if self._host is None else (self._host,)) if group]

    def matches(self, task_id: str, ref: bytes | None) -> bool:
        """Return whether both match."""
        if self.pieces and not any(piece in text for text in [searchable(task_id, ref)] for piece in self.pieces):
            return False
        return self._host is None or (source_file(row_of(ref)).host or "").lower() == self._host


def spellings(text: str) -> tuple[str, ...]:
    """Return `text` without case, also with and without the escapes of a URL: a browser shows `my file.png` where the
    row has `my%20file.png`."""
    folded = text.strip().casefold()
    escaped = quote(text.strip(), safe=SAFE_IN_URL).casefold()
    return tuple(dict.fromkeys((folded, unquote(folded), escaped)))


def searchable(task_id: str, ref: bytes | None) -> str:
    """Return what a search reads of a task, without case: its id and the values of its row, one a line."""
    import orjson  # each command imports this module, and few of them need it

    values = [value if isinstance(value, str) else orjson.dumps(value).decode() for value in row_of(ref).values()]
    return "\n".join((task_id, *values)).casefold()


def row_of(ref: bytes | None) -> dict[str, object]:
    """Return what was fed with an id, as an object; empty where it was nothing."""
    try:
        import orjson

        row = orjson.loads(ref) if ref is not None else {}
    except ValueError:  # a number that no float can hold
        return {"": ref.decode("utf-8", "replace")} if ref is not None else {}
    return row if isinstance(row, dict) else {}
