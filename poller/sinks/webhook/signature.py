"""Headers of the Standard Webhooks specification 1.0 (symmetric, `v1`), signed by its own library. Pure."""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

from poller.core.deliveries import Delivery

PREFIX = "whsec_"
LEAST_KEY_BYTES, MOST_KEY_BYTES = 24, 64  # the specification's own bounds


def key_of(secret: str) -> bytes:
    """Return the key in a secret such as `whsec_MfKQ9r8G…`. Raises `ValueError` with a remedy."""
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST_KEY_BYTES <= len(key) <= MOST_KEY_BYTES:
        raise ValueError(
            f"must be {PREFIX} and {LEAST_KEY_BYTES} to {MOST_KEY_BYTES} bytes in base64; "
            f'make one with: echo "{PREFIX}$(openssl rand -base64 32)"'
        )
    return key


def message_id(batch: Sequence[Delivery]) -> str:
    """Return an id that the same records always get and others never, by which a receiver recognizes duplicates."""
    digest = hashlib.sha256()
    for delivery in batch:
        for part in (delivery.account.encode(), delivery.task_id.encode(), delivery.body):
            digest.update(b"%d:" % len(part) + part)
    return f"msg_{digest.hexdigest()[:40]}"


def signed_headers(key: bytes | None, message: str, sent_at: float, body: bytes) -> dict[str, str]:
    """Return the specification's headers for `body`, which is UTF-8; without a key, unsigned."""
    headers = {"webhook-id": message, "webhook-timestamp": str(int(sent_at))}
    if key is not None:
        headers["webhook-signature"] = Webhook(key).sign(message, datetime.fromtimestamp(sent_at, UTC), body.decode())
    return headers
