"""POST /v1/tasks: the lines of a request become tasks, and the answer comes only when all of them are on disk.

A request is read to its end before its first line is stored: one that is too large, or no JSON, stores nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog
from aiohttp import web

from poller.core.errors import PollerError
from poller.core.model import Added, Chunk, Position, Rejection
from poller.sources import ReadOptions
from poller.web.auth import answer, as_json
from poller.web.context import Run
from poller.web.request_body import Held, RequestRefused, chunks_of, format_of

log = structlog.get_logger()

SOURCE = "http"  # the name under which the ledger has what came this way
UNWRITABLE_S = 2.0  # a disk that is full may be so for this long before the asker is told
RETRY_AFTER_S = 5


@dataclass(slots=True)
class Outcome:
    """What became of a request's lines so far."""

    accepted: int = 0
    duplicate: int = 0
    blank: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    failed: PollerError | None = None  # why the rest will not be stored

    @property
    def lines(self) -> int:
        return self.accepted + self.duplicate + self.blank + len(self.rejected)

    def add(self, chunk: Chunk, added: Added) -> None:
        """Count a chunk that is on disk."""
        self.accepted += added.tasks
        self.duplicate += added.duplicates
        self.blank += chunk.blank
        self.rejected += chunk.rejected

    def told(self) -> dict[str, object]:
        return {
            "lines": self.lines,
            "accepted": self.accepted,
            "duplicate": self.duplicate,
            "blank": self.blank,
            "rejected": [{"line": each.line, "reason": each.reason, "excerpt": each.excerpt} for each in self.rejected],
        }


class Feeder:
    """Takes requests with lines, many at a time."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._held = Held()
        self._opening = asyncio.Lock()
        self._number: int | None = None  # the store's own, of the source
        self._line = 0  # the last line of the source that was given out
        self._staff = asyncio.TaskGroup()
        self._storing: set[asyncio.Task[None]] = set()

    async def work(self, _app: web.Application) -> AsyncIterator[None]:
        """While the server is up: store what was read, also for askers who do not wait."""
        async with self._staff:
            yield
            for task in self._storing:
                task.cancel()

    async def post(self, request: web.Request) -> web.Response:
        """Answer POST /v1/tasks."""
        with self._run.service.feeding() as on_stored:  # a run that is nearly done waits for what is on its way
            try:
                self._refuse_when_closed()
                chunks = await chunks_of(request, self._feeding_of(request), self._held)
                self._refuse_when_closed()
            except RequestRefused as refusal:
                return _refused(refusal)
            return await self._store(chunks, on_stored)

    def _refuse_when_closed(self) -> None:
        if self._run.service.draining or self._run.service.is_ending:
            raise RequestRefused(503, "draining", "the run is ending and takes no more tasks: ask the next one")
        if not self._run.store.writable:
            raise RequestRefused(503, "unwritable", "the state cannot be written now: its disk is full or out of reach")

    def _feeding_of(self, request: web.Request) -> ReadOptions:
        """Return how the request's lines are to be read, by its Content-Type and its query."""
        own, accounts = self._run.feeding, frozenset(self._run.service.lanes)
        account = request.query.get("account", own.default_account)
        if account not in accounts:
            known = ", ".join(sorted(accounts))
            raise RequestRefused(400, "unknown_account", f"there is no account of this name; known: {known}")
        return replace(
            own,
            format=format_of(request),
            id_column=request.query.get("id_column", own.id_column),
            accounts=accounts,
            default_account=account,
        )

    async def _store(self, chunks: Sequence[Chunk], on_stored: Callable[[Chunk, Added], None]) -> web.Response:
        """Have the chunks stored; wait for it as long as the state can be written."""
        outcome = Outcome()
        storing = self._staff.create_task(self._store_all(chunks, outcome, on_stored))
        self._storing = {task for task in self._storing if not task.done()} | {storing}
        while not storing.done():
            await asyncio.wait({storing}, timeout=UNWRITABLE_S)
            if not storing.done() and not self._run.store.writable:
                return _unfinished(outcome, sum(map(_lines, chunks)) - outcome.lines)
        if outcome.failed is not None:
            return answer(503, "unavailable", f"{outcome.failed}; the lines told here are stored", **outcome.told())
        log.info(
            "tasks.fed",
            source=SOURCE,
            tasks=outcome.accepted,
            duplicates=outcome.duplicate,
            rejected=len(outcome.rejected),
            blank=outcome.blank,
        )
        return as_json(outcome.told())

    async def _store_all(
        self, chunks: Sequence[Chunk], outcome: Outcome, on_stored: Callable[[Chunk, Added], None]
    ) -> None:
        with self._run.service.feeding():
            try:
                number = await self._source()
                before, self._line = self._line, self._line + chunks[-1].position.line
                for chunk in chunks:
                    added = await self._run.store.add(number, _placed(chunk, before))
                    on_stored(chunk, added)
                    outcome.add(chunk, added)
            except PollerError as error:
                outcome.failed = error

    async def _source(self) -> int:
        """Return the store's number of the source; it goes on where an earlier run left it."""
        async with self._opening:
            if self._number is None:
                known = await self._run.store.open_source(SOURCE)
                self._number, position = known or (await self._run.store.new_source(SOURCE), Position())
                self._line = position.line
            return self._number


def _lines(chunk: Chunk) -> int:
    return len(chunk.fed) + len(chunk.rejected) + chunk.blank


def _placed(chunk: Chunk, before: int) -> Chunk:
    """Return the chunk with its lines counted on from what all requests brought before."""
    rejected = tuple(replace(each, line=before + each.line) for each in chunk.rejected)
    return replace(chunk, rejected=rejected, position=Position(line=before + chunk.position.line))


def _refused(refusal: RequestRefused) -> web.Response:
    message = f"{refusal}; nothing of this request is stored"
    return _later(answer(refusal.status, refusal.error, message, **Outcome().told()))


def _unfinished(outcome: Outcome, pending: int) -> web.Response:
    message = (
        f"the state cannot be written now: its disk is full or out of reach. {outcome.lines} lines are stored; "
        f"{pending} wait and may still be: send them again later, known ids count as duplicates"
    )
    return _later(answer(503, "unwritable", message, pending=pending, **outcome.told()))


def _later(response: web.Response) -> web.Response:
    if response.status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
