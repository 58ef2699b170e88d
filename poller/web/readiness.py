"""Whether the state and the sinks can be used, as the probes, the live page and the other replicas see it."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from poller.core.protocols import Store
from poller.engine import DeliveryLoop

Detail = Annotated[str | UnsetType | None, Meta(description="for people; only with the token, where one is set")]


class SinkReadiness(Struct, frozen=True, kw_only=True):
    """Whether a sink accepts records."""

    ready: bool
    state: Literal["delivering", "failing", "stopped"]
    detail: Detail = UNSET


class StoreReadiness(Struct, frozen=True, kw_only=True):
    """Whether the state can be written."""

    ready: bool
    state: Literal["writable", "unwritable"]


def store_readiness(store: Store) -> StoreReadiness:
    """Return whether the state can be written."""
    return StoreReadiness(ready=store.writable, state="writable" if store.writable else "unwritable")


def sink_readiness(loop: DeliveryLoop, *, detailed: bool = True) -> SinkReadiness:
    """Return whether the loop's sink accepts records."""
    failing = loop.backlog_reason is not None
    return SinkReadiness(
        ready=not failing,
        state="stopped" if loop.stopped_by is not None else "failing" if failing else "delivering",
        detail=loop.backlog_reason if detailed else UNSET,
    )
