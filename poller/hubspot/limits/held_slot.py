"""A slot of a gate: requested, then held until its request's answer, or until it is left without one."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from poller.core.model import Answer
from poller.hubspot.limits.outage import WITNESS

if TYPE_CHECKING:
    from poller.hubspot.limits.gate import AccountGate


class HeldSlot:
    """A slot: requested, then held until its answer or until it is left without one."""

    __slots__ = ("_gate", "_is_held", "era", "number", "sent_at", "subject")

    def __init__(self, gate: "AccountGate", subject: object) -> None:
        self._gate = gate
        self._is_held = False
        self.subject = self if subject is None else subject
        self.number = 0
        self.sent_at = 0.0
        self.era = 0

    async def __aenter__(self) -> Self:
        if not self._gate.enter_at_once(self):
            await self._gate.enter(self)
        self._is_held = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_held:
            self._is_held = False
            self._gate.abandon(self)

    def answered(self, answer: Answer, *, of_witness: bool = False) -> None:
        if self._is_held:
            self._is_held = False
            self.subject = WITNESS if of_witness else self.subject
            self._gate.learn(self, answer)
