"""Asks the process that runs on a state, over its server: what changes a run cannot be done from outside it."""

import json
import os
from typing import Any

from poller.cli.options import Settings
from poller.core.credentials import secret_in_env, secret_in_file
from poller.core.errors import ConfigError, PollerError
from poller.core.text import redacted_url

TIMEOUT_S = 15.0  # the server itself answers within 8 s


class NotAnswered(PollerError):
    """The running process cannot be asked. The message names the remedy."""

    exit_code = ConfigError.exit_code


def ask_run(settings: Settings, pid: int, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    """Send a POST request to the server of process `pid`; return the status and the JSON. Raises `NotAnswered`."""
    import http.client

    address = _address(settings, pid)
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


def _address(settings: Settings, pid: int) -> tuple[str, int]:
    """Return where the server of the process is. Raises `NotAnswered` where it has none, or another answers there."""
    from poller.cli.commands.healthcheck import request_health
    from poller.config import address_of

    where = f"process {pid}, which runs on {redacted_url(settings.state)}"
    address = address_of(settings.listen)
    if address is None or not address.port:
        raise NotAnswered(
            f"{where}, can only be asked over its server, whose address is not known (listen = {settings.listen!r}). "
            "Give its address with POLLER_LISTEN=HOST:PORT or its settings with -c FILE, or stop it and repeat the "
            "command."
        )
    near = address.near()
    message, answered_by = request_health(f"http://{near}")
    if answered_by != pid:
        raise NotAnswered(
            f"{where}, can only be asked over its server, which is not at {near}: {message}. Give its address with "
            "POLLER_LISTEN=HOST:PORT or its settings with -c FILE, or stop it and repeat the command."
        )
    return near.host, near.port


def _token(settings: Settings) -> str | None:
    if settings.listen_token_file is not None:
        return secret_in_file(settings.listen_token_file)
    variable = settings.listen_token_env
    return None if variable is None else secret_in_env(variable, os.environ)
