"""Finds tasks by filter, for every kind of store: which queries to make, and what to keep of their rows.

`find` is a generator of queries, so that one algorithm serves a database that blocks and one that does not. Tasks come
in the order of their keys. The fastest way there is chosen by counting a few rows: an index whose entries are in that
order (kind, reason), one with few entries (account, waiting, finish), the grams of the rows, or the tasks one by one.
"""

from collections.abc import Callable, Sequence
from heapq import merge
from typing import Any, NamedTuple, Protocol

from poller.core.model import Kind
from poller.core.search import FoundTask, RowMatcher, TaskFilter, TaskPage
from poller.store.find_rows import ROWS_FROM, Row, Steps, find_rows
from poller.store.grams import may_contain, needed_bits
from poller.store.row_text import POSTGRES, SQLITE, RowText, is_latest_attempt, may_match

FEW = 2000  # matches of an index that are read at once
FEW_IN_INDEX = 5_000  # entries that are read for each page
KEYS_AT_ONCE = 256
FIRST_STRETCH, LONGEST_STRETCH = 1000, 16_000  # keys
MOST_REASONS = 200  # that are followed one by one
FEWEST_GRAMS, MOST_GRAMS = 64, 2000  # runs that are read at once: a common text is in the first ones

_COLUMNS = (
    "t.key, a.name, t.task_id, t.ref, t.fed_at, t.due_at, t.polls, t.status, t.kind, t.landed, r.reason, r.seen_at"
)
_REASONS = (
    "WITH RECURSIVE each (reason) AS (SELECT min(reason) FROM record WHERE reason IS NOT NULL UNION ALL"
    " SELECT (SELECT min(r.reason) FROM record r WHERE r.reason IS NOT NULL AND r.reason > each.reason)"
    " FROM each WHERE each.reason IS NOT NULL) SELECT reason FROM each WHERE reason IS NOT NULL"
)


class Stretch(NamedTuple):
    """A part of the tasks to read, as a condition; `upto` is the last key of it."""

    condition: str
    values: Sequence[Any]
    upto: int


class Path(Protocol):
    """A way to the rows."""

    def next(self, after: int) -> Steps[Stretch | None]:
        """Return the stretch that follows the key `after`; None where there is none."""


def find(
    wanted: TaskFilter,
    *,
    after: int,
    limit: int,
    is_late: Callable[[], bool],
    with_bodies: bool = False,
    is_postgres: bool = False,
) -> Steps[TaskPage]:
    """Find up to `limit` tasks, then rows without a task, with keys beyond `after`. Stops early once `is_late`."""
    if limit <= 0 or _is_stored_nowhere(wanted):
        return TaskPage(tasks=[])
    text, page = POSTGRES if is_postgres else SQLITE, TaskPage(tasks=[])
    if after < ROWS_FROM and wanted.may_be_task:
        page = yield from _find_tasks(
            wanted, after=after, limit=limit, is_late=is_late, with_bodies=with_bodies, text=text
        )
    if page.after is not None or not wanted.may_be_unstarted:
        return page
    rows = yield from find_rows(
        wanted,
        after=max(after, ROWS_FROM),
        limit=limit - len(page.tasks),
        is_late=is_late,
        text=text,
    )
    return TaskPage(tasks=page.tasks + rows.tasks, after=rows.after)


def _is_stored_nowhere(wanted: TaskFilter) -> bool:
    """Return whether the filter has text that no database holds or takes: lone surrogates, a NUL in a name."""
    texts = (wanted.account, wanted.host, wanted.reason, wanted.text)
    given = "".join(each for each in texts if each is not None)
    return "\0" in (wanted.account or "") or given.encode("utf-8", "replace") != given.encode("utf-8", "surrogatepass")


def _find_tasks(
    wanted: TaskFilter,
    *,
    after: int,
    limit: int,
    is_late: Callable[[], bool],
    with_bodies: bool,
    text: RowText,
) -> Steps[TaskPage]:
    """Find tasks."""
    reasons: list[str] | None = None
    if wanted.reason is not None:
        reasons = yield from _matching_reasons(wanted.reason)
        if not reasons:
            return TaskPage(tasks=[])
    matcher = RowMatcher(wanted) if wanted.is_of_row else None
    condition, values = _conditions(wanted, reasons)
    if wanted.landed is False:
        condition += is_latest_attempt(text)
    if matcher is not None:
        sql, texts = may_match(matcher.needed, text, ref="coalesce(t.ref, '')", row_id="t.task_id")
        condition, values = condition + sql, [*values, *texts]
    columns = f"{_COLUMNS}, r.body" if with_bodies else _COLUMNS
    path = yield from _path(wanted, reasons, matcher, after, tests_bits=text is POSTGRES)
    found: list[FoundTask] = []
    stretch = yield from path.next(after)
    while stretch is not None:
        # No value is in the text of the query.
        rows = yield (
            f"SELECT {columns} FROM task t JOIN account a ON a.id = t.account LEFT JOIN record r ON r.task = t.key"  # noqa: S608
            f" WHERE {stretch.condition} AND t.key > ?{condition} ORDER BY t.key LIMIT ?",
            (*stretch.values, after, *values, FEW),
        )
        for row in rows:
            if matcher is None or matcher.matches(row[2], row[3]):
                found.append(_found(row))
                if len(found) == limit:
                    return TaskPage(tasks=found, after=row[0])
        is_cut = len(rows) == FEW
        after = rows[-1][0] if is_cut else stretch.upto
        if is_late():
            return TaskPage(tasks=found, after=after)
        stretch = stretch if is_cut else (yield from path.next(after))
    return TaskPage(tasks=found)


def _found(row: Row) -> FoundTask:
    key, account, task_id, ref, fed_at, due_at, polls, status, kind, landed, reason, seen_at, *body = row
    return FoundTask(
        key=key,
        account=account,
        task_id=task_id,
        ref=ref,
        fed_at=fed_at,
        due_at=due_at,
        polls=polls,
        status=status,
        kind=None if kind is None else Kind(kind),
        landed=None if landed is None else bool(landed),
        reason=reason,
        seen_at=seen_at,
        body=body[0] if body else None,
    )


def _matching_reasons(piece: str) -> Steps[list[str]]:
    """Return the reasons that contain the piece."""
    rows = yield _REASONS, ()
    folded = piece.strip().casefold()
    return [reason for (reason,) in rows if folded in reason.casefold()]


def _conditions(wanted: TaskFilter, reasons: Sequence[str] | None) -> tuple[str, list[Any]]:
    """Return what a row must meet besides its text and host."""
    parts: list[tuple[str, Sequence[Any]]] = []
    if wanted.state is not None:
        parts.append((f"t.kind IS {'NOT ' if wanted.state == 'finished' else ''}NULL", ()))
    if wanted.kinds:
        parts.append((f"t.kind IN ({_marks(wanted.kinds)})", sorted(wanted.kinds)))
    if wanted.landed is not None:
        parts.append(("t.landed = ?", (wanted.landed,)))
    if wanted.account is not None:
        parts.append(("a.name = ?", (wanted.account,)))
    if wanted.since is not None:
        parts.append(("r.seen_at >= ?", (wanted.since,)))
    if reasons is not None:
        parts.append((f"r.reason IN ({_marks(reasons)})", reasons))
    return "".join(f" AND {text}" for text, _ in parts), [value for _, values in parts for value in values]


def _marks(values: Sequence[Any] | frozenset[str]) -> str:
    return ", ".join("?" * len(values))


# --- ways to the rows ------------------------------------------------------------------------------------------------


def _path(
    wanted: TaskFilter, reasons: Sequence[str] | None, matcher: RowMatcher | None, after: int, *, tests_bits: bool
) -> Steps[Path]:
    """Return the way that reads fewest rows. `tests_bits`: the database has `get_byte`, so that only few of the rows'
    bits have to come over its connection."""
    streams = _streams(wanted, reasons)
    for stream in streams:
        most = FEW if stream.is_ordered or matcher is not None else FEW_IN_INDEX
        if (yield from _are_few(stream, after, most)):
            return Keys(stream)
    ((last,),) = yield "SELECT coalesce(max(key), 0) FROM task", ()
    if matcher is not None and (test := may_contain(matcher.needed)) is not None:
        return Grams(test, last, needed_bits(matcher.needed) if tests_bits else [])
    if streams and streams[0].is_ordered:
        return Keys(streams[0])
    return DenseOrKeys(last, streams[0]) if streams else Dense(last)


class Stream(NamedTuple):
    """Queries for keys, each `… AND KEY > ?`; together they yield every task that can match."""

    queries: Sequence[tuple[str, Sequence[Any], str]]  # the query, its values, its key; `+` keeps a key's own index out
    is_ordered: bool  # an index has the keys in order: a page costs what it holds


def _streams(wanted: TaskFilter, reasons: Sequence[str] | None) -> list[Stream]:
    """Return the indexes that lead to the tasks, the most selective kind of index first."""
    streams = []
    if reasons is not None and len(reasons) <= MOST_REASONS:
        sql = "SELECT task FROM record WHERE reason = ? AND reason IS NOT NULL"
        streams.append(Stream([(sql, (reason,), "task") for reason in reasons], True))
    if wanted.kinds or wanted.landed is not None or wanted.state == "finished":
        kinds = sorted(wanted.kinds or map(str, Kind))
        pairs = [(kind, landed) for kind in kinds for landed in (False, True) if wanted.landed in (None, landed)]
        sql = "SELECT key FROM task WHERE kind = ? AND landed = ? AND kind IS NOT NULL"
        streams.append(Stream([(sql, pair, "key") for pair in pairs], True))
    if wanted.since is not None:
        streams.append(Stream([("SELECT task FROM record WHERE seen_at >= ?", (wanted.since,), "+task")], False))
    of_account = "account = (SELECT id FROM account WHERE name = ?)"
    account = () if wanted.account is None else (wanted.account,)
    if wanted.state in ("waiting", "underway"):
        sql = f"SELECT key FROM task WHERE kind IS NULL{f' AND {of_account}' if account else ''}"  # noqa: S608 - a constant
        streams.append(Stream([(sql, account, "+key")], False))
    elif account:
        streams.append(Stream([(f"SELECT key FROM task WHERE {of_account}", account, "+key")], False))  # noqa: S608 - a constant
    return streams


def _are_few(stream: Stream, after: int, most: int) -> Steps[bool]:
    """Return whether the stream has at most so many keys."""
    left = most
    for sql, values, name in stream.queries:
        # Without the bound on the key, an index that is not in its order answers at once.
        bound, bounds = (f" AND {name} > ?", (after,)) if stream.is_ordered else ("", ())
        ((count,),) = yield f"SELECT count(*) FROM ({sql}{bound} LIMIT ?) few", (*values, *bounds, left + 1)  # noqa: S608 - constants
        left -= count
        if left < 0:
            return False
    return True


class Keys:
    """By the keys of a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def next(self, after: int) -> Steps[Stretch | None]:
        at_once = KEYS_AT_ONCE if self._stream.is_ordered else FEW
        found: list[list[int]] = []
        for sql, values, name in self._stream.queries:
            rows = yield f"{sql} AND {name} > ? ORDER BY {name} LIMIT ?", (*values, after, at_once)
            found.append([key for (key,) in rows])
        keys = list(merge(*found))[:at_once]
        return Stretch(f"t.key IN ({_marks(keys)})", keys, keys[-1]) if keys else None


class Dense:
    """By the tasks one by one, in stretches that grow."""

    def __init__(self, last: int) -> None:
        self.last = last
        self._size = FIRST_STRETCH

    def next(self, after: int) -> Steps[Stretch | None]:
        yield from ()
        if after >= self.last:
            return None
        upto = min(after + self._size, self.last)
        self._size = min(2 * self._size, LONGEST_STRETCH)
        return Stretch("t.key > ? AND t.key <= ?", (after, upto), upto)


class DenseOrKeys:
    """By the tasks one by one, which may soon fill a page; then by the keys of an index that is not in their order, and
    so must be read as a whole."""

    def __init__(self, last: int, stream: Stream) -> None:
        self._dense, self._keys = Dense(last), Keys(stream)
        self._tries = 4

    def next(self, after: int) -> Steps[Stretch | None]:
        self._tries -= 1
        return (yield from (self._dense if self._tries >= 0 else self._keys).next(after))


class Grams:
    """By the runs of tasks whose bits pass a test; what has no bits yet, one by one."""

    def __init__(self, test: Callable[[bytes], bool], last: int, needed: Sequence[tuple[int, int]]) -> None:
        """`needed` are bits that the database tests."""
        self._test = test
        self._rest = Dense(last)
        self._condition = " AND get_byte(bits, ?) & ? <> 0" * len(needed)
        self._values = [value for place in needed for value in place]
        self._indexed_to: int | None = None  # the last key of all runs, where the database tests them
        self._read_to = 0  # the last key of the runs whose bits were read
        self._runs: list[tuple[int, int]] = []  # first and last key of those that passed, the first one last
        self._is_all_read = False
        self._at_once = FEWEST_GRAMS

    def next(self, after: int) -> Steps[Stretch | None]:
        self._read_to = max(self._read_to, after)
        if self._condition and self._indexed_to is None:
            # Before the runs are read: those that are added meanwhile are read as tasks.
            ((self._indexed_to,),) = yield "SELECT coalesce(max(last), 0) FROM grams", ()
            self._condition += " AND last <= ?"
            self._values.append(self._indexed_to)
        while not self._runs and not self._is_all_read:
            rows = yield (
                f"SELECT first, last, bits FROM grams WHERE last > ?{self._condition} ORDER BY last LIMIT ?",  # noqa: S608 - a constant
                (self._read_to, *self._values, self._at_once),
            )
            self._runs = [(first, last) for first, last, bits in reversed(rows) if self._test(bits)]
            self._read_to = rows[-1][1] if rows else self._read_to
            self._is_all_read = len(rows) < self._at_once
            self._at_once = min(4 * self._at_once, MOST_GRAMS)
        while self._runs:
            first, last = self._runs.pop()
            if after < last:
                return Stretch("t.key >= ? AND t.key <= ?", (first, last), last)
        return (yield from self._rest.next(max(after, self._read_to, self._indexed_to or 0)))
