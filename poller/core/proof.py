"""What shows that a token is its account's, as a state keeps it: a task whose status HubSpot reported, and by which
credentials. Pure.
"""

from msgspec import DecodeError, Struct, json


class Proof(Struct, frozen=True, kw_only=True):
    """HubSpot reported the status of `task_id` to these credentials, and to no others since."""

    task_id: str
    credentials: bytes  # a hash; empty: an earlier version did not note to which


def proof_key(account: str) -> str:
    """Return the key of an account's proof in the store's knowledge."""
    return f"proof {account}"


def encode_proof(proof: Proof) -> bytes:
    return json.encode(proof)


def decode_proof(knowledge: bytes | None) -> Proof | None:
    """Return the stored proof; None for nothing, and for what cannot be read."""
    try:
        return None if knowledge is None else json.decode(knowledge, type=Proof)
    except DecodeError:
        return None
