"""The work loops: `lane` polls, `delivery` delivers, `service` runs and drains both. No HTTP, SQL or file here."""

from poller.engine.delivery import DeliveryLoop
from poller.engine.lane import GiveUpRules, Lane
from poller.engine.service import Service

__all__ = ["DeliveryLoop", "GiveUpRules", "Lane", "Service"]
