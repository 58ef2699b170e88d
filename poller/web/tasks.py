"""Reads tasks: one by its id, or all finished ones, page by page."""

import asyncio
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from poller.core.deliveries import Delivery
from poller.core.starts import NO_TASK
from poller.core.task_id import is_task_id
from poller.reports.task import TaskView, task_view, unstarted_view
from poller.web.context import RUN, STATE, RunContext, StateContext
from poller.web.responses import MAX_SEND_S, ErrorBody, error_response, json_response, query_of
from poller.web.store_limit import store_limit

MAX_BYTES = 8 * 2**20  # a page; at least one record all the same
BATCH = 100  # records read from the store before other coroutines run
CHECK_S = 0.25  # how often a waiting client's run is checked for a finished task


class TaskQuery(Struct, frozen=True):
    """The query of GET /v1/tasks/{task_id}."""

    account: Annotated[str | None, Meta(description="Needed where several accounts have the id.")] = None


class FinishedQuery(Struct, frozen=True):
    """The query of GET /v1/finished."""

    after: Annotated[int, Meta(ge=0, le=2**63 - 1, description="X-Next-After of the page before.")] = 0
    limit: Annotated[int, Meta(ge=1, le=10_000, description="Records of the page, at most.")] = 1000
    wait_s: Annotated[float, Meta(ge=0, le=60, description="How long to wait for a first record.")] = 0.0


class AmbiguousTask(ErrorBody, kw_only=True):
    """Several accounts have a task with this id."""

    accounts: list[str]


async def get_task(request: web.Request) -> web.Response:
    """Answer GET /v1/tasks/{task_id}."""
    state, account, task_id = request.app[STATE], request.query.get("account"), request.match_info["task_id"]
    async with store_limit():
        views = await _views(state, task_id)
    found = [view for view in views if account in (None, view.account)]
    if not found:
        return error_response(404, "not_found", "No task with this id was fed, or it is past its retention.")
    if len(found) > 1:
        message = "Several accounts have a task with this id. Add ?account=NAME."
        accounts = [task.account for task in found]
        return json_response(AmbiguousTask(error="ambiguous", message=message, accounts=accounts), status=409)
    return json_response(found[0])


async def _views(state: StateContext, task_id: str) -> list[TaskView]:
    """Return what the state holds of the tasks with this id, or of the rows without a task."""
    is_row = task_id.startswith(NO_TASK) and task_id.isprintable()
    tasks = await state.store.task_details(task_id) if is_row or is_task_id(task_id) else ()
    views = [task_view(task, await state.account_state(task.account)) for task in tasks]
    rows = await state.store.rows_without_task(task_id.removeprefix(NO_TASK)) if is_row else ()
    return views + [unstarted_view(row, await state.account_state(row.account)) for row in rows]


async def get_finished(request: web.Request) -> web.StreamResponse:
    """Answer GET /v1/finished: finished tasks in the order in which they finished, as NDJSON."""
    run, query = request.app[RUN], query_of(request, FinishedQuery)
    page = await _page(run, query.after, query.limit) or await _wait_for_page(run, query)
    last = page[-1].number if page else query.after
    headers = {
        "Content-Type": "application/x-ndjson",
        "X-Next-After": str(last),
        "Link": f'</v1/finished?after={last}&limit={query.limit}>; rel="next"',
    }
    return await _send(request, web.Response(body=b"".join(record.body + b"\n" for record in page), headers=headers))


async def _page(run: RunContext, after: int, limit: int) -> list[Delivery]:
    """Return up to `limit` records, fewer where they are large."""
    page: list[Delivery] = []
    size = 0
    while len(page) < limit:
        async with store_limit():
            batch = await run.store.records(page[-1].number if page else after, min(BATCH, limit - len(page)))
        for record in batch:
            size += len(record.body)
            if page and size > MAX_BYTES:
                return page
            page.append(record)
        if not batch:
            break
        await asyncio.sleep(0)
    return page


async def _wait_for_page(run: RunContext, query: FinishedQuery) -> list[Delivery]:
    """Wait for a task to finish; return nothing when none does in time, or the run ends."""
    loop, seen = asyncio.get_running_loop(), -1
    ends_at = loop.time() + query.wait_s
    while loop.time() < ends_at and not run.service.is_ending:
        if run.metrics.finished != seen:
            seen = run.metrics.finished
            if page := await _page(run, query.after, query.limit):
                return page
        await asyncio.sleep(CHECK_S)
    return []


async def _send(request: web.Request, response: web.Response) -> web.Response:
    """Send a response that may be large; a client that receives it too slowly is disconnected."""
    try:
        async with asyncio.timeout(MAX_SEND_S):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response
