"""The work loops: `lane` polls, `delivery` delivers, `service` runs and drains both. No HTTP, SQL or files here."""

from poller.engine.delivery import DeliveryLoop
from poller.engine.give_up import GiveUpRules
from poller.engine.lane import Lane
from poller.engine.recorder import Recorder
from poller.engine.service import Service

__all__ = ["DeliveryLoop", "GiveUpRules", "Lane", "Recorder", "Service"]
