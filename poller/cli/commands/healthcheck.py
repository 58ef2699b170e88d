"""Is a run alive? Asks its server's /healthz, with the standard library only: a health check must be light."""

import http.client
import time
from urllib.parse import urlsplit

import orjson

PATIENCE_S = 5.0
PATH = "/healthz"


def ask(url: str) -> tuple[str, int | None]:
    """Return what came of asking the server at `url`, for people, and its process id; None where it is not alive."""
    began = time.monotonic()
    try:
        status, body = _get(url)
        pid = orjson.loads(body)["pid"] if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
        return f"{url} does not answer as a poller: {_why(error)}", None
    if not isinstance(pid, int):
        return f"{url} answered {status}", None
    return f"process {pid} answered at {url} within {time.monotonic() - began:.3f} s", pid


def _get(url: str) -> tuple[int, bytes]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is no URL such as http://127.0.0.1:8321")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", PATH if parts.path in ("", "/") else parts.path)
        response = connection.getresponse()
        return response.status, response.read(10_000)
    finally:
        connection.close()


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
