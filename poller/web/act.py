"""Changes a run on a person's word: pauses and resumes accounts, tries dead letters again.

Needs the token where one is set, and is refused to pages of other sites; see auth.py.
"""

from typing import Annotated

from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from poller.core.deliveries import DeadLetter
from poller.core.errors import ConfigError
from poller.core.timestamps import iso
from poller.engine import Lane
from poller.reports.status import account_view
from poller.reports.task import Instant
from poller.web.context import RUN, STATE
from poller.web.responses import RequestRefused, body_of, json_response, query_of
from poller.web.store_limit import store_limit

MOST_LISTED = 1000


class DeadLetterView(Struct, frozen=True, kw_only=True):
    """A record that a sink refused for good."""

    task_id: str
    account: str
    sink: str
    reason: str
    refused_at: Instant


class DeadLettersQuery(Struct, frozen=True):
    """The query of GET /v1/dead-letters."""

    sink: Annotated[str | UnsetType, Meta(description="Only of this sink.")] = UNSET


class DeadLetters(Struct, frozen=True, kw_only=True):
    """The dead letters of the state, oldest first."""

    dead_letters: list[DeadLetterView]
    total: Annotated[int, Meta(description="of all; at most 1,000 are listed")]


class RetryRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/dead-letters/retry."""

    sink: Annotated[str, Meta(description="The sink's name, as in GET /v1/dead-letters.")]
    task_ids: Annotated[list[str] | None, Meta(description="Only of these tasks; null: all of the sink.")] = None


class Retried(Struct, frozen=True, kw_only=True):
    """How many dead letters are in the sink's outbox again."""

    sink: str
    retried: int


def dead_letter_view(letter: DeadLetter) -> DeadLetterView:
    """Return a dead letter without its record, which GET /v1/tasks/{task_id} has."""
    delivery = letter.delivery
    return DeadLetterView(
        task_id=delivery.task_id,
        account=delivery.account,
        sink=letter.sink,
        reason=letter.reason,
        refused_at=iso(letter.refused_at),
    )


async def get_dead_letters(request: web.Request) -> web.Response:
    """Answer GET /v1/dead-letters."""
    query = query_of(request, DeadLettersQuery)
    async with store_limit():
        store, sink = request.app[STATE].store, query.sink or None
        letters, total = await store.dead_letters(sink, limit=MOST_LISTED), await store.count_dead(sink)
    listed = [dead_letter_view(letter) for letter in letters]
    return json_response(DeadLetters(dead_letters=listed, total=total))


async def retry_dead_letters(request: web.Request) -> web.Response:
    """Answer POST /v1/dead-letters/retry: the sink gets them once more, after what is in its outbox."""
    wanted = await body_of(request, RetryRequest)
    task_ids = None if wanted.task_ids is None else frozenset(wanted.task_ids)
    try:
        async with store_limit():
            retried = await request.app[RUN].service.deliveries.retry_dead_letters(wanted.sink, task_ids)
    except ConfigError as error:
        raise RequestRefused(404, "unknown_sink", str(error).rstrip(".")) from None
    return json_response(Retried(sink=wanted.sink, retried=retried))


async def pause_account(request: web.Request) -> web.Response:
    """Answer POST /v1/accounts/{name}/pause: no request leaves until it is resumed, also after a restart."""
    lane = _lane(request)
    async with store_limit():
        await lane.hold()
    return json_response(account_view(lane.gate.state()))


async def resume_account(request: web.Request) -> web.Response:
    """Answer POST /v1/accounts/{name}/resume."""
    lane = _lane(request)
    async with store_limit():
        await lane.release()
    return json_response(account_view(lane.gate.state()))


def _lane(request: web.Request) -> Lane:
    run, name = request.app[RUN], request.match_info["name"]
    lanes = run.service.lanes
    if name not in lanes and run.fleet is not None and (owner := run.fleet.owner(name)) is not None:
        raise RequestRefused(409, "other_replica", f"The account is polled by {owner}: ask that one")
    if name not in lanes:
        known = ", ".join(sorted(lanes))
        raise RequestRefused(404, "unknown_account", f"There is no account of this name; known: {known}")
    return lanes[name]
