"""What became of the tasks: one by its id, or all that finished, page by page. Only reads."""

import asyncio
from typing import Any

import orjson
from aiohttp import web

from poller.core.model import Delivery, Poll, TaskDetails
from poller.core.task_id import is_task_id
from poller.core.timestamps import iso
from poller.web.auth import answer, as_json
from poller.web.context import RUN, Run

USUAL_LIMIT, MOST_LIMIT = 1000, 10_000  # records a page
MOST_BYTES = 8 * 2**20  # a page; at least one record all the same
AT_ONCE = 100  # records read from the store without letting others run
MOST_WAIT_S = 60.0
WATCH_S = 0.25  # how soon a waiting reader hears of a finished task
SLOWEST_S = 120.0  # for a page to be taken
LATEST_NUMBER = 2**63 - 1


async def one_task(request: web.Request) -> web.Response:
    """Answer GET /v1/tasks/{task_id}."""
    account, task_id = request.query.get("account"), request.match_info["task_id"]
    task_details = await request.app[RUN].store.task_details(task_id) if is_task_id(task_id) else []
    found = [story for story in task_details if account in (None, story.account)]
    if not found:
        return answer(404, "not_found", "no task with this id was fed, or it is past its retention")
    if len(found) > 1:
        accounts = [story.account for story in found]
        return answer(
            409, "ambiguous", "several accounts have a task with this id: add ?account=NAME", accounts=accounts
        )
    return as_json(_told(found[0]))


def _told(story: TaskDetails) -> dict[str, Any]:
    is_finished = story.kind is not None
    return {
        "task_id": story.task_id,
        "account": story.account,
        "state": "finished" if is_finished else "waiting",
        "kind": story.kind,
        "status": story.status,
        "polls": story.polls,
        "errors": story.errors,
        "fed_at": iso(story.fed_at),
        "requested_at": None if story.requested_at is None else iso(story.requested_at),
        "due_at": None if is_finished else iso(story.due_at),
        "ref": _spliced(story.ref),
        "record": None if story.record is None else _spliced(story.record.body),
        "deliveries": dict(story.deliveries),
        "poll_log": [_poll(poll) for poll in story.poll_log],
    }


def _spliced(json: bytes | None) -> orjson.Fragment | None:
    return None if json is None else orjson.Fragment(json)


def _poll(poll: Poll) -> dict[str, Any]:
    return {
        "at": iso(poll.at),
        "gate_s": poll.gate_s,
        "took_s": poll.took_s,
        "outcome": poll.outcome,
        "says": poll.detail,
        "again_in_s": poll.again_in_s,
    }


async def finished(request: web.Request) -> web.StreamResponse:
    """Answer GET /v1/finished: finished tasks in the order in which they finished, as NDJSON."""
    try:
        after = _number(request, "after", 0, LATEST_NUMBER)
        limit = max(1, _number(request, "limit", USUAL_LIMIT, MOST_LIMIT))
        wait_s = _seconds(request, "wait_s", MOST_WAIT_S)
    except ValueError as fault:
        return answer(400, "bad_query", str(fault))
    run = request.app[RUN]
    page = await _page(run, after, limit) or await _page_to_come(run, after, limit, wait_s)
    last = page[-1].number if page else after
    headers = {
        "Content-Type": "application/x-ndjson",
        "X-Next-After": str(last),
        "Link": f'</v1/finished?after={last}&limit={limit}>; rel="next"',
    }
    return await _send(request, b"".join(record.body + b"\n" for record in page), headers)


async def _page(run: Run, after: int, limit: int) -> list[Delivery]:
    """Return up to `limit` records, fewer where they are large. Others run between portions."""
    page: list[Delivery] = []
    size = 0
    while len(page) < limit:
        portion = await run.store.records(page[-1].number if page else after, min(AT_ONCE, limit - len(page)))
        for record in portion:
            size += len(record.body)
            if page and size > MOST_BYTES:
                return page
            page.append(record)
        if len(portion) < AT_ONCE:
            break
        await asyncio.sleep(0)
    return page


async def _page_to_come(run: Run, after: int, limit: int, wait_s: float) -> list[Delivery]:
    """Wait for a task to finish; empty when none does in time, or the run ends."""
    ends_at, seen = asyncio.get_running_loop().time() + wait_s, -1
    while asyncio.get_running_loop().time() < ends_at and not run.service.is_ending:
        if run.metrics.finished != seen:
            seen = run.metrics.finished
            if page := await _page(run, after, limit):
                return page
        await asyncio.sleep(WATCH_S)
    return []


async def _send(request: web.Request, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Send a body that may be large; who takes it too slowly is cut off."""
    response = web.StreamResponse(headers=headers)
    response.content_length = len(body)
    try:
        async with asyncio.timeout(SLOWEST_S):
            await response.prepare(request)
            if request.method != "HEAD":
                await response.write(body)
            await response.write_eof()
    except TimeoutError:
        if request.transport is not None:
            request.transport.abort()
    return response


def _number(request: web.Request, name: str, usual: int, most: int) -> int:
    text = request.query.get(name, str(usual))
    if not text.isascii() or not text.isdigit() or len(text) > 19 or int(text) > most:
        raise ValueError(f"{name} must be a whole number from 0 to {most}")
    return int(text)


def _seconds(request: web.Request, name: str, most: float) -> float:
    try:
        seconds = float(request.query.get(name, "0"))
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= most:
        raise ValueError(f"{name} must be a number of seconds from 0 to {most:.0f}")
    return seconds
