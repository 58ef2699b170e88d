"""The stable names for sinks in packages of your own. Import from here only: everything else may move.

A package's entry point in the group `poller.sinks` is a `SinkFactory`; its name is KIND in `--sink KIND:TARGET`. The
poller imports its module only when such a sink is configured. `Sink` documents each method: `open` once, then `write`
with at most 500 records at a time, then `close`. After a crash records may come again, with the same bytes: `account`
and `task_id` identify them. `Delivery.body` is the record: one JSON object in UTF-8 without line breaks.

In a fleet, a sink whose attribute `shared` is True is delivered by any replica, one at a time; another one only by the
replica that named it first, because its target may be on that machine.

Return `Retry` for a failure that may pass; name records refused for good in `Written.refused`. Raise `SinkError`
where a person must act (the other sinks continue), and `ConfigError` in the factory for a wrong target or option.
"""

from collections.abc import Callable, Mapping
from typing import Any

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Sink

# Makes a sink of its target (what follows the colon, may be empty) and of the other keys of its [[sinks]] table.
SinkFactory = Callable[[str, Mapping[str, Any]], Sink]

__all__ = ["ConfigError", "Delivery", "Retry", "Sink", "SinkError", "SinkFactory", "Written"]
