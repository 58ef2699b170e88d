"""Decides when an account's next request may leave: limits as the server counts them, the day's quota, pauses.

`account.py` lets requests through; `window.py`, `quota.py`, `pause.py` and `weather.py` each know one reason to wait.
"""

from poller.hubspot.limits.gate import AccountGate, GateLimits, enough_workers

__all__ = ["AccountGate", "GateLimits", "enough_workers"]
