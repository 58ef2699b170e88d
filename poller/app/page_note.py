"""Where the page of a run is: noted in its state, so that other commands on this machine find it; and whether that run
answers there. Imports little: health checks use it."""

import json
import time
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import DecodeError, Struct
from msgspec.json import decode, encode

from poller.config import Address, address_of
from poller.core.protocols import StateReader, Store

NOTED_AS = "page"
TIMEOUT_S = 5.0
PATH = "/healthz"


class PageNote(Struct, frozen=True, kw_only=True):
    """The latest run that owned the state alone. A process id is no identity: in containers it is always 1."""

    pid: int
    run: str = ""  # the random word with which its server answers
    address: str | None = None  # None: it has no page


class Page(NamedTuple):
    """The page of a run as noted in its state."""

    run: str
    address: Address | None  # None: it has none, or none on this machine's own addresses


class Health(NamedTuple):
    """How a server answered."""

    message: str
    pid: int | None = None  # None: it is not alive, or no poller
    run: str | None = None

    def is_of(self, pid: int, page: Page | None) -> bool:
        """Return whether process `pid`, of which `page` is noted, answered."""
        return self.pid == pid and (page is None or self.run == page.run)


def note_page(store: Store, pid: int, run: str, address: Address | None) -> None:
    """Note where this machine reaches the page of process `pid`, which owns the state."""
    near = None if address is None else str(address.near())
    store.save_knowledge(NOTED_AS, encode(PageNote(pid=pid, run=run, address=near)))


async def forget_page(store: Store, pid: int) -> None:
    """Process `pid` begins and may have no page: an earlier run's is gone, whose process id may be the same."""
    if await store.knowledge(NOTED_AS) is not None:
        note_page(store, pid, "", None)


async def noted_page(store: StateReader, pid: int) -> Page | None:
    """Return the page of process `pid`; None where it noted nothing, as a replica. Only this machine's own addresses
    count: a token is sent to no other host than the settings name."""
    noted = await store.knowledge(NOTED_AS)
    with suppress(DecodeError, ValueError):
        note = decode(noted or b"null", type=PageNote)
        if note.pid != pid:
            return None
        address = None if note.address is None else address_of(note.address)
        return Page(note.run, address if address is not None and address.is_loopback else None)
    return None


def request_health(url: str) -> Health:
    """Return who answers at `url`. Blocks for up to `TIMEOUT_S`."""
    import http.client

    began = time.monotonic()
    try:
        status, body = _get(url)
        answer = json.loads(body) if status == 200 else {"pid": None}
        pid, run = answer["pid"], answer.get("run")
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError) as error:
        return Health(f"{url} does not answer as a poller: {_reason(error)}")
    if not isinstance(pid, int):
        return Health(f"{url} answered {status}")
    return Health(f"process {pid} answered at {url} within {time.monotonic() - began:.3f} s", pid, run)


class Asked(NamedTuple):
    """An address at which a poller was asked for, and how that answered."""

    address: Address
    health: Health


def find_page(pid: int, page: Page | None, listen: Address | None = None) -> tuple[Address | None, list[Asked]]:
    """Return where process `pid` answers: where its page is noted, or else at `listen`; None where at neither. Also all
    that were asked. Blocks for up to `TIMEOUT_S` each."""
    asked: list[Asked] = []
    places = (None if page is None else page.address, listen)
    for near in dict.fromkeys(place.near() for place in places if place is not None and place.port):
        asked.append(Asked(near, request_health(f"http://{near}")))
        if asked[-1].health.is_of(pid, page):
            return near, asked
    return None, asked


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
