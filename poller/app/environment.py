"""What a run takes from outside itself: time, chance, network, terminal."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web

from poller.app.messages import Again
from poller.config import Address, Settings
from poller.core.protocols import Clock
from poller.engine import Service
from poller.hubspot.client import Connections
from poller.web import listen

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from poller.app.live_block import LiveBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a run takes from outside itself. Tests pass their own time, chance and network."""

    clock: Clock = time.time
    monotonic: Clock | None = None  # never jumps; None: the event loop's clock
    since_boot: Clock | None = (
        None  # as `monotonic`, but goes on while the machine is suspended; None: the event loop's
    )
    rng: random.Random = field(default_factory=random.SystemRandom)
    stdin: int = 0  # file descriptor
    environ: Mapping[str, str]
    connections: Callable[[Settings], Connections]  # to HubSpot, not opened yet
    terminal: "LiveBlock | None" = None  # shows the progress display; None: no display
    again: Again = field(default_factory=Again)  # how a person continues the run once it has stopped
    tracer: "Tracer | None" = None  # gets a span for each poll; None: no spans
    on_start: Callable[[Service], None] = lambda _service: None  # called before work begins
    open_site: Callable[[web.Application, Address], AbstractAsyncContextManager[Address]] = listen
    read_settings: Callable[[], Settings] | None = None  # reads them for a reload; None: they cannot change
    apply_to_log: Callable[[Settings], None] = lambda _settings: None
