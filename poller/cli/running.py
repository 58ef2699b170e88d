"""Asks the process that runs on a state, over its server: what changes a run cannot be done from outside it."""

import json
import os
from typing import TYPE_CHECKING, Any

from poller.cli.options import Settings
from poller.core.credentials import secret_in_env, secret_in_file
from poller.core.errors import ConfigError, PollerError
from poller.core.text import redacted_url

if TYPE_CHECKING:
    from poller.app.page_note import Page

TIMEOUT_S = 15.0  # the server itself answers within 8 s


class NotAnswered(PollerError):
    """The running process cannot be asked. The message names the remedy."""

    exit_code = ConfigError.exit_code


async def ask_run(settings: Settings, pid: int, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """Send a POST request to the server of process `pid`; return the status and the JSON. Raises `NotAnswered`."""
    import http.client

    address = await _address(settings, pid)
    headers = {"Content-Type": "application/json"}
    if (token := _token(settings)) is not None:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(address[0], address[1], timeout=TIMEOUT_S)
    try:
        connection.request("POST", path, body=json.dumps(body or {}), headers=headers)
        response = connection.getresponse()
        status, answer = response.status, json.loads(response.read(1_000_000))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotAnswered(f"the server of process {pid} did not answer: {error}. Try again.") from None
    finally:
        connection.close()
    if status in (401, 403):
        raise NotAnswered(
            f"the server of process {pid} requires a token. Use the settings of that run: -c FILE with its "
            "listen_token_file or listen_token_env."
        )
    return status, answer


async def _address(settings: Settings, pid: int) -> tuple[str, int]:
    """Return where the server of the process is: as the run noted in its state, or as the settings have it. Raises
    `NotAnswered` where it has none, or another answers there."""
    from poller.app.page_note import find_page
    from poller.config import address_of

    where = f"process {pid}, which runs on {redacted_url(settings.state)}"
    near, asked = find_page(pid, await page_of(settings, pid), address_of(settings.listen))
    if near is not None:
        return near.host, near.port
    problem = (
        "; ".join(f"is not at {each.address}: {each.health.message}" for each in asked)
        or f"has no address that is known (listen = {settings.listen!r})"
    )
    raise NotAnswered(
        f"{where}, can only be asked over its server, which {problem}. Give its address with POLLER_LISTEN=HOST:PORT "
        "or its settings with -c FILE, or stop it and repeat the command."
    )


async def page_of(settings: Settings, pid: int) -> "Page | None":
    """Return the page that the process which works on the state noted; None where it noted nothing."""
    from poller.app.page_note import noted_page
    from poller.cli.records import open_state

    async with open_state(settings) as store:
        return await noted_page(store, pid)


def _token(settings: Settings) -> str | None:
    if settings.listen_token_file is not None:
        return secret_in_file(settings.listen_token_file)
    variable = settings.listen_token_env
    return None if variable is None else secret_in_env(variable, os.environ)
