"""GET /v1/tasks: tasks by filter, page by page or as a file. GET /v1/resubmit: start call bodies for them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC
from typing import Annotated, Literal

import orjson
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType, field, structs

from poller.core.columns import Columns, named_pairs
from poller.core.model import JsonObject, Kind
from poller.core.moments import moment
from poller.core.search import State, TaskFilter, TaskPage
from poller.core.start_options import OPTIONS
from poller.reports.finished_task import read_record
from poller.reports.resubmit import kept_starts, start_body
from poller.reports.retryable import retry_advice
from poller.reports.task_list import TaskList, head_of, lines_of, task_summary
from poller.web.context import STATE
from poller.web.responses import RequestRefused, json_response, query_of, send_file
from poller.web.store_limit import SEARCH_S, late_after, store_limit

DAY = "20[0-9]{2}-0[1-9]-(0[1-9]|1[0-9]|2[0-8])"  # what the description promises; others are read, too
SINCE = f"^([1-9][0-9]{{0,2}}[hd]|yesterday|{DAY}(T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z)?)$"
SET = "^(access=(PRIVATE|PUBLIC_INDEXABLE|PUBLIC_NOT_INDEXABLE)|(name|folderPath)=/?[A-Za-z0-9_-]{1,100})$"
AT_ONCE = 500  # tasks of a file that are read before other coroutines run
BODIES_AT_ONCE = 50  # a record may have a megabyte
TYPES = {"csv": ("csv", "text/csv"), "jsonl": ("jsonl", "application/x-ndjson"), "ids": ("txt", "text/plain")}


class FilterQuery(Struct, frozen=True):
    """Which tasks; all given conditions must hold."""

    state: Annotated[
        State | UnsetType,
        Meta(
            description="waiting: without an outcome. Of these, underway: a task; unstarted: a row to import that"
            " HubSpot has not accepted; unsure: one that it may have accepted."
        ),
    ] = UNSET
    kind: Annotated[list[Kind], Meta(description="Of this kind; repeatable.")] = field(default_factory=list)
    landed: Annotated[
        bool | UnsetType,
        Meta(
            description="Whether a file is there; only finished tasks. Of rows tried again, `false` finds the latest"
            " attempt."
        ),
    ] = UNSET
    reason: Annotated[str | UnsetType, Meta(description="A piece of the reason, in any case.")] = UNSET
    account: Annotated[str | UnsetType, Meta(description="Of this account.")] = UNSET
    host: Annotated[str | UnsetType, Meta(description="The host of the URL in the row.")] = UNSET
    q: Annotated[
        str | UnsetType, Meta(description="A piece of the id, or of a value of the row such as its URL, in any case.")
    ] = UNSET
    since: Annotated[
        str | UnsetType,
        Meta(
            description="Finished since this instant: RFC 3339, or such as `2h`, `yesterday` (UTC).",
            extra_json_schema={"pattern": SINCE},
        ),
    ] = UNSET

    def task_filter(self, now: float) -> TaskFilter:
        """Return the filter. An empty parameter is none. Raises `RequestRefused`."""
        try:
            since = moment(self.since, now=now, zone=UTC) if self.since else None
        except ValueError as error:
            raise RequestRefused(400, "bad_query", f"The query parameter since cannot be used: {error}") from None
        return TaskFilter(
            state=self.state or None,
            kinds=frozenset(map(str, self.kind)),
            landed=None if self.landed is UNSET else self.landed,
            reason=self.reason or None,
            account=self.account or None,
            host=self.host or None,
            text=self.q or None,
            since=since,
        )


class FindQuery(FilterQuery, frozen=True):
    """The query of GET /v1/tasks."""

    limit: Annotated[int, Meta(ge=1, le=1000, description="Tasks of a page, at most.")] = 100
    cursor: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z")] | UnsetType,
        Meta(description="`next_cursor` of a page."),
    ] = UNSET
    format: Annotated[
        Literal["json", "csv", "jsonl", "ids"],
        Meta(description="json: a page. The others: a file with all tasks that match, without limit and cursor."),
    ] = "json"


class ResubmitQuery(FilterQuery, frozen=True):
    """The query of GET /v1/resubmit."""

    set: Annotated[
        list[Annotated[str, Meta(extra_json_schema={"pattern": SET})]],
        Meta(description="OPTION=VALUE for bodies whose row has no such column, as `access=PRIVATE`; repeatable."),
    ] = field(default_factory=list)


async def find_tasks(request: web.Request) -> web.StreamResponse:
    """Answer GET /v1/tasks."""
    query, state = query_of(request, FindQuery), request.app[STATE]
    wanted = query.task_filter(state.clock())
    if query.format != "json":
        extension, content_type = TYPES[query.format]
        return await send_file(request, f"tasks.{extension}", content_type, _lines(request, wanted, query.format))
    after = int(query.cursor) if query.cursor else 0
    async with store_limit():
        page = await state.store.find_tasks(wanted, after=after, limit=query.limit, is_late=late_after(SEARCH_S))
    return json_response(
        TaskList(
            tasks=[task_summary(task) for task in page.tasks],
            next_cursor=None if page.after is None else str(page.after),
        )
    )


async def get_resubmit(request: web.Request) -> web.StreamResponse:
    """Answer GET /v1/resubmit: a body a line for each task that matches, can be retried and has a URL in its row."""
    query, state = query_of(request, ResubmitQuery), request.app[STATE]
    wanted = structs.replace(query.task_filter(state.clock()), state="finished")
    try:
        defaults = named_pairs(query.set, OPTIONS)
    except ValueError as error:
        raise RequestRefused(400, "bad_query", f"The query parameter set cannot be used: {error}") from None
    accounts = {task.account async for page in _pages(request, wanted, AT_ONCE) for task in page.tasks}
    if len(accounts) > 1:
        names = ", ".join(sorted(accounts))
        message = f"Tasks of several accounts match, each with another token. Add account=NAME, one of: {names}"
        raise RequestRefused(409, "several_accounts", message)
    return await send_file(request, "resubmit.jsonl", TYPES["jsonl"][1], _bodies(request, wanted, defaults))


async def _lines(request: web.Request, wanted: TaskFilter, written_as: str) -> AsyncIterator[str]:
    yield head_of(written_as)
    async for page in _pages(request, wanted, AT_ONCE):
        yield lines_of(page.tasks, written_as)


async def _bodies(request: web.Request, wanted: TaskFilter, defaults: Mapping[str, str]) -> AsyncIterator[str]:
    columns = Columns()
    async for page in _pages(request, wanted, BODIES_AT_ONCE, with_bodies=True):
        lines = []
        records = ((task.key, task.account, task.body or b"") for task in page.tasks)
        kept = await kept_starts(request.app[STATE].store, records)
        for task in page.tasks:
            if task.key in kept.tried_again:
                continue
            finished = read_record(task.body or b"", columns)
            if finished.reason is not None and retry_advice(finished).retryable:
                with suppress(ValueError):  # its row has no URL, or a value that HubSpot does not take
                    lines.append(_line(start_body(finished, columns, defaults, kept.bodies.get(task.key))))
        yield "".join(lines)


def _line(body: JsonObject) -> str:
    return orjson.dumps(body).decode() + "\n"


async def _pages(
    request: web.Request, wanted: TaskFilter, at_once: int, *, with_bodies: bool = False
) -> AsyncIterator[TaskPage]:
    """Yield all tasks that match, page by page."""
    after: int | None = 0
    while after is not None:
        async with store_limit():
            page = await request.app[STATE].store.find_tasks(
                wanted, after=after, limit=at_once, is_late=late_after(1.0), with_bodies=with_bodies
            )
        yield page
        after = page.after
