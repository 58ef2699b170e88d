"""The seams of a request: what the engine asks of a token source, a client and a gate, each with its contract.

All methods are called on the event loop. Cancellation of any of them must leave its owner usable.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from poller.core.accounts import AccountState, GateReading, Pause
from poller.core.model import Answer, Task
from poller.core.starts import StartAnswer


class TokenSource(Protocol):
    """The source of one account's bearer token. The token is never logged, stored or put into an exception."""

    @property
    def credentials(self) -> bytes:
        """A hash of what the token that `token()` returned last came from: access tokens of one refresh token share it.
        A state keeps it."""

    async def token(self) -> str:
        """Return the token to use now. Raises `ConfigError` where there is none; the message names the source."""

    def refused(self, token: str) -> None:
        """HubSpot refused `token`: the next `token()` must re-read or refresh it."""

    def has_changed(self) -> bool:
        """Whether a person changed what the next `token()` reads. Cheap, without network; called every few seconds
        while the token is refused, so that a fix works at once."""


class StatusClient(Protocol):
    """Makes one poll. One client an account; all share the connections."""

    async def poll(self, task: Task) -> Answer:
        """Request `task`'s status with at most one HTTP request. Never raises for anything that the network, the
        server or the token source does: those are outcomes. Returns within the request time-out. In a fleet it raises
        `RightLost` where this member may not send requests any more; then none has left."""


class StartClient(Protocol):
    """Starts imports. One client an account; each start has a connection of its own."""

    longest_s: float  # the request time-out

    async def start(self, body: bytes) -> StartAnswer:
        """Send one start call with at most one HTTP request. Never raises for anything that the network, the server or
        the token source does. Returns within the request time-out."""


class Slot(Protocol):
    """The right to send exactly one request."""

    def answered(self, answer: Answer, *, of_witness: bool = False) -> None:
        """Pass in the answer to the request, once, as soon as it is there. A slot that is left without one counts as a
        request that may have reached the server at the moment of leaving. `of_witness`: the request was for a task
        that was answered before, to see whether the account is answered now."""


class Gate(Protocol):
    """Decides when an account's next request may leave. The only part that knows limits and pauses."""

    @property
    def pause(self) -> Pause | None:
        """Why no requests leave now; None while they do. Single probes may leave during a pause."""

    @property
    def workers(self) -> int:
        """How many requests may be in flight at once, at most; grows when a higher limit is learned."""

    @property
    def paused_s(self) -> float:
        """How long the account has been paused, ever, up to this instant. Deadlines do not run meanwhile."""

    def slot(self, subject: object = None) -> AbstractAsyncContextManager[Slot]:
        """Wait for the right to send one request. Raises `GateClosed` on entering once `close` was called.

        `subject` is what it requests, such as a task's key: one task that keeps failing is not an outage.
        """

    @property
    def slot_ages_s(self) -> tuple[float, ...] | None:
        """How long ago each request ended that a window may still count, for another process that takes the account;
        None where any slot may be in use."""

    def state(self) -> AccountState:
        """Return what must survive a restart, as of now."""

    def reading(self) -> GateReading:
        """Return the account's use of its limits, for people and metrics. Cheap."""

    def hold(self, detail: str | None = None) -> None:
        """A person pauses the account: nothing leaves, not even a probe, until `release`. Survives a restart."""

    def release(self) -> None:
        """A person resumes the account. Does nothing where none paused it."""

    def close(self) -> None:
        """Raise `GateClosed` in all that wait and all that come. Slots taken before remain valid."""


class GateClosed(Exception):
    """The gate was closed while waiting: the run drains."""


class RightLost(Exception):
    """This member of a fleet may not send requests now: its last beat is too old. The request has not left."""
