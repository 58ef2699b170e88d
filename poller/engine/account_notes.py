"""What a lane notes of its account for the runs after it, beside its window: the limit, and whom HubSpot answers."""

from poller.core.accounts import GateReading
from poller.core.learned_limit import LearnedLimit, encode_limit, limit_key
from poller.core.proof import Proof, encode_proof, proof_key
from poller.core.protocols import Clock, PollStore

PROOF_AGAIN_S = 600.0  # for a younger task, which HubSpot knows for longer


class AccountNotes:
    """Notes what changed of an account; the store writes it with its next commit."""

    def __init__(self, account: str, store: PollStore, clock: Clock) -> None:
        self._account, self._store, self._clock = account, store, clock
        self._limit: LearnedLimit | None = None
        self._proof: Proof | None = None
        self._proof_at = 0.0

    def note_limit(self, reading: GateReading) -> None:
        """Note the limit that HubSpot's answers show: for forecasts by others, and for the account's next owner."""
        if reading.reported is None:
            return
        limit = LearnedLimit(requests=reading.window_limit, window_s=reading.window_s)
        if reading.reported != limit.reported:
            limit = limit.beside(*reading.reported)
        if limit != self._limit:
            self._limit = limit
            self._store.save_knowledge(limit_key(self._account), encode_limit(limit))

    def note_proof(self, proof: Proof, *, at_once: bool = False) -> None:
        """Note a task whose status HubSpot reported: other credentials at once, another task after a while."""
        kept, now = self._proof, self._clock()
        is_due = kept is None or kept.credentials != proof.credentials or now - self._proof_at >= PROOF_AGAIN_S
        if proof != kept and (is_due or at_once):
            self._proof, self._proof_at = proof, now
            self._store.save_knowledge(proof_key(self._account), encode_proof(proof))
