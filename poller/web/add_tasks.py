"""POST /v1/tasks and POST /v1/imports: the lines of a request become tasks, or rows that the run starts, and the
response comes only when all of them are on disk.

A request is read to its end before its first line is stored: one that is too large, or not JSON, stores nothing.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Annotated

import structlog
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, field
from msgspec.structs import asdict

from poller.core.errors import PollerError
from poller.core.model import Added, Chunk, Rejection
from poller.engine.live_feed import LiveFeed
from poller.sources import ReadOptions
from poller.web.context import RunContext
from poller.web.request_body import HeldBytes, chunks_of, format_of
from poller.web.responses import RequestRefused, json_response, query_of
from poller.web.store_limit import NO_ANSWER, STORE_S

log = structlog.get_logger("poller")

SOURCE = "http"  # the source's name in the ledger
UNWRITABLE_S = 2.0  # how long the client waits for a state that cannot be written
RETRY_AFTER_S = 5
IMPORTS_OFF = (
    'This run starts no imports. Start it with poller import --follow, or set feeds = "imports" in [input] of its '
    "configuration"
)

Count = Annotated[int, Meta(ge=0)]


class FeedQuery(Struct, frozen=True):
    """The query of POST /v1/tasks."""

    account: Annotated[str | UnsetType, Meta(description="The account of lines that name none.")] = UNSET
    id_column: Annotated[
        Annotated[str, Meta(min_length=1)] | UnsetType, Meta(description="The CSV column or JSON key with the id.")
    ] = UNSET


class ImportQuery(Struct, frozen=True):
    """The query of POST /v1/imports."""

    account: Annotated[str | UnsetType, Meta(description="The account of rows that name none.")] = UNSET


class FeedResult(Struct, kw_only=True):
    """Where each line of a request went: lines = accepted + duplicate + blank + rejected."""

    lines: Count = 0
    accepted: Annotated[Count, Meta(description="new tasks, or rows to import; they are on disk")] = 0
    duplicate: Annotated[Count, Meta(description="ids or rows that the account has already")] = 0
    other_refs: Annotated[Count, Meta(description="duplicates with another `ref`; the task keeps its first one")] = 0
    blank: Annotated[Count, Meta(description="blank lines, comments, a CSV's header")] = 0
    rejected: Annotated[list[Rejection], Meta(description="`line` counts from 1, elements for a JSON array")] = field(
        default_factory=list
    )

    def add(self, chunk: Chunk, added: Added) -> None:
        """Count a chunk that is on disk."""
        self.lines += chunk.lines
        self.accepted += added.tasks
        self.duplicate += added.duplicates
        self.other_refs += added.other_refs
        self.blank += chunk.blank
        self.rejected += chunk.rejected


class FeedFailure(FeedResult, kw_only=True):
    """A request of which not all lines are stored: an error, and where the lines went."""

    error: str
    message: str
    pending: Annotated[int | UnsetType, Meta(description="lines that may still be stored")] = UNSET


class Feeder:
    """Stores the lines of requests, many requests at the same time."""

    def __init__(self, run: RunContext) -> None:
        self._run = run
        self._held = HeldBytes()
        self._feed = LiveFeed(run.service, run.service.feed_store, SOURCE)
        self._tasks = asyncio.TaskGroup()
        self._storing: set[asyncio.Task[Exception | None]] = set()

    async def serve(self, _app: web.Application) -> AsyncIterator[None]:
        """While the server is up, store what was read, also for clients that do not wait."""
        async with self._tasks:
            yield
            for storing in self._storing:
                storing.cancel()

    async def post(self, request: web.Request) -> web.Response:
        """Answer POST /v1/tasks."""
        return await self._feed_from(request, self._feeding_of)

    async def post_imports(self, request: web.Request) -> web.Response:
        """Answer POST /v1/imports."""
        return await self._feed_from(request, self._importing_of)

    async def _feed_from(self, request: web.Request, read_as: Callable[[web.Request], ReadOptions]) -> web.Response:
        with self._run.service.feeding():  # a run that is nearly done waits for a body in transit
            try:
                self._refuse_when_closed()
                chunks = await chunks_of(request, read_as(request), self._held)
                self._refuse_when_closed()
            except RequestRefused as refusal:
                message = f"{refusal}. Nothing of this request is stored."
                return _failure(FeedResult(), refusal.error, message, status=refusal.status)
            return await self._store(chunks)

    def _refuse_when_closed(self) -> None:
        if self._run.service.draining or self._run.service.is_ending:
            raise RequestRefused(503, "draining", "The run is ending and accepts no more tasks: ask the next one")
        if not self._run.store.writable:
            raise RequestRefused(503, "unwritable", NO_ANSWER)

    def _feeding_of(self, request: web.Request) -> ReadOptions:
        """Return how the request's lines are read, by its Content-Type and its query."""
        query = query_of(request, FeedQuery)
        own = self._read_as(request, self._run.feeding, query.account)
        return replace(own, id_column=query.id_column or own.id_column)

    def _importing_of(self, request: web.Request) -> ReadOptions:
        if self._run.importing is None:
            raise RequestRefused(409, "imports_off", IMPORTS_OFF)
        return self._read_as(request, self._run.importing, query_of(request, ImportQuery).account)

    def _read_as(self, request: web.Request, own: ReadOptions, account: str | UnsetType) -> ReadOptions:
        accounts, account = self._run.accounts, account or own.default_account
        if account not in accounts:
            known = ", ".join(sorted(accounts))
            raise RequestRefused(400, "unknown_account", f"There is no account of this name; known: {known}")
        return replace(own, format=format_of(request), accounts=accounts, default_account=account)

    async def _store(self, chunks: Sequence[Chunk]) -> web.Response:
        """Store the chunks; wait for it as long as the state can be written, and no longer than `STORE_S`."""
        result = FeedResult()
        storing = self._tasks.create_task(self._feed.add(chunks, result.add))
        self._storing = {each for each in self._storing if not each.done()} | {storing}
        ends_at = asyncio.get_running_loop().time() + STORE_S
        while not storing.done():
            await asyncio.wait({storing}, timeout=UNWRITABLE_S)
            is_over = not self._run.store.writable or asyncio.get_running_loop().time() >= ends_at
            if is_over and not storing.done():
                return _unwritable(result, sum(chunk.lines for chunk in chunks) - result.lines)
        match storing.result():
            case PollerError() as error:
                return _failure(result, "unavailable", f"{str(error).rstrip('.')}. The counted lines are stored.")
            case Exception() as defect:
                raise defect
        log.info(
            "tasks.fed",
            source=SOURCE,
            tasks=result.accepted,
            duplicates=result.duplicate,
            rejected=len(result.rejected),
            blank=result.blank,
        )
        return json_response(result)


def _unwritable(result: FeedResult, pending: int) -> web.Response:
    message = (
        f"{NO_ANSWER}; {result.lines} lines are stored, {pending} may still be. Send them again later: known ids count "
        "as duplicates."
    )
    return _failure(result, "unwritable", message, pending=pending)


def _failure(
    result: FeedResult, error: str, message: str, *, status: int = 503, pending: int | UnsetType = UNSET
) -> web.Response:
    body = FeedFailure(error=error, message=message, pending=pending, **asdict(result))
    response = json_response(body, status=status)
    if status == 503:
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return response
