"""The work: `lane` looks, `outlet` delivers, `service` runs and drains them together. No HTTP, SQL or file here."""

from poller.engine.delivery import Outlet
from poller.engine.lane import Lane, Limits
from poller.engine.service import Service

__all__ = ["Lane", "Limits", "Outlet", "Service"]
