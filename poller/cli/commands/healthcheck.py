"""`poller healthcheck`: is a poller running and alive? Imports little, since it runs every few seconds."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.options import Config, Settings, State, settings_of
from poller.core.errors import Exit, PollerError
from poller.core.text import redacted_url

if TYPE_CHECKING:
    from poller.app.page_note import Page

EXAMPLES = "\b\nExample:\n  poller healthcheck --state sqlite:////data/poller.db"


def healthcheck(
    config: Config = None,
    state: State = None,
    max_age_s: Annotated[float, typer.Option(metavar="S", help="Oldest acceptable heartbeat.")] = 30.0,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Check only this server, such as http://127.0.0.1:8321, not the state."),
    ] = None,
) -> Exit:
    """Exit 0 while a poller is running and alive, else 1.

    Requests /healthz of its server where it listens; else its last heartbeat must be recent. For the container's health
    check.
    """
    message, healthy = check_health(settings_of(config, state=state), max_age_s, url)
    typer.echo(message)
    return Exit.ALL_COMPLETE if healthy else Exit.NOT_ALL_COMPLETE


def check_health(settings: Settings, max_age_s: float, url: str | None = None) -> tuple[str, bool]:
    """Return a message and whether the poller that serves `url`, or that runs on the state, is alive.

    Its server is requested where it has one; where that fails or belongs to another run, its last heartbeat must not be
    older than `max_age_s`.
    """
    import asyncio

    from poller.app.page_note import find_page, request_health
    from poller.config import address_of
    from poller.store import last_beat

    if url is not None:
        health = request_health(url)
        return health.message, health.pid is not None
    beat = last_beat(settings.state, settings.own_replica)
    if beat is None:
        return f"no poller is running on {redacted_url(settings.state)}", False
    pid, at = beat
    near, asked = find_page(pid, asyncio.run(_page_of(settings, pid)), address_of(settings.listen))
    if near is not None:
        return asked[-1].health.message, True
    age_s = time.time() - at
    return f"process {pid}: last heartbeat {age_s:.0f} s ago", age_s <= max_age_s


async def _page_of(settings: Settings, pid: int) -> "Page | None":
    """Return what the process noted; None where the state cannot be read now: its heartbeat shows whether it lives."""
    from poller.cli.running import page_of

    with suppress(PollerError):
        return await page_of(settings, pid)
    return None
