"""Decides when an account's next request may leave: limits as the server counts them, the day's quota, pauses.

`gate.py` releases requests; `admission.py` queues them; `windows.py`, `quota.py`, `concurrency.py` and `pause.py` each
know one reason to wait.
"""

from poller.hubspot.limits.gate import AccountGate
from poller.hubspot.limits.gate_limits import GateLimits

__all__ = ["AccountGate", "GateLimits"]
