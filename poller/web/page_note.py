"""Where the page of a run is: noted in its state, so that other commands on this machine find it."""

from contextlib import suppress

from msgspec import DecodeError, Struct
from msgspec.json import decode, encode

from poller.config import Address, address_of
from poller.core.protocols import StateReader, Store

NOTED_AS = "page"


class PageNote(Struct, frozen=True, kw_only=True):
    """The latest run that had a page."""

    pid: int
    address: str


def note_page(store: Store, pid: int, address: Address) -> None:
    """Note where this machine reaches the page of process `pid`, which owns the state."""
    store.save_knowledge(NOTED_AS, encode(PageNote(pid=pid, address=str(address.near()))))


async def forget_page(store: Store) -> None:
    """A run begins that may have no page: that of an earlier one is gone, and in a container its process had the same
    number."""
    if await store.knowledge(NOTED_AS) is not None:
        store.save_knowledge(NOTED_AS, b"null")


async def noted_page(store: StateReader, pid: int) -> Address | None:
    """Return where the page of process `pid` is; None where it noted none on this machine's own addresses: a token is
    sent to no other host than the settings name."""
    noted = await store.knowledge(NOTED_AS)
    with suppress(DecodeError, ValueError):
        note = decode(noted or b"null", type=PageNote)
        address = address_of(note.address)
        return address if note.pid == pid and address is not None and address.is_loopback else None
    return None
