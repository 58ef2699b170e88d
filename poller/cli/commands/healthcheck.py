"""`poller healthcheck`: is a poller running and alive? Imports little, since it runs every few seconds."""

import json
import time
from typing import Annotated
from urllib.parse import urlsplit

import typer

from poller.cli.options import Config, Settings, State, settings_of
from poller.core.errors import Exit
from poller.core.text import redacted_url

EXAMPLES = "\b\nExample:\n  poller healthcheck --state sqlite:////data/poller.db"
TIMEOUT_S = 5.0
PATH = "/healthz"


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
    from poller.config import address_of
    from poller.store import last_beat

    if url is not None:
        message, answered_by = request_health(url)
        return message, answered_by is not None
    beat = last_beat(settings.state, settings.own_replica)
    if beat is None:
        return f"no poller is running on {redacted_url(settings.state)}", False
    pid, at = beat
    address = address_of(settings.listen)
    if address is not None and address.port:
        message, answered_by = request_health(f"http://{address.near()}")
        if answered_by == pid:
            return message, True
    age_s = time.time() - at
    return f"process {pid}: last heartbeat {age_s:.0f} s ago", age_s <= max_age_s


def request_health(url: str) -> tuple[str, int | None]:
    """Return a message on the server at `url`, and its process id; None where it is not alive."""
    import http.client

    began = time.monotonic()
    try:
        status, body = _get(url)
        pid = json.loads(body)["pid"] if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        return f"{url} does not answer as a poller: {_reason(error)}", None
    if not isinstance(pid, int):
        return f"{url} answered {status}", None
    return f"process {pid} answered at {url} within {time.monotonic() - began:.3f} s", pid


def _get(url: str) -> tuple[int, bytes]:
    import http.client

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is not a URL such as http://127.0.0.1:8321")
    connection_type = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = connection_type(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", PATH if parts.path in ("", "/") else parts.path)
        response = connection.getresponse()
        return response.status, response.read(10_000)
    finally:
        connection.close()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
