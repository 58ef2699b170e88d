"""What a run takes from outside itself: time, chance, network, terminal."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aiohttp import web
from rich.console import Console

from poller.config import Address, Settings
from poller.core.protocols import Clock
from poller.engine import Service
from poller.hubspot.client import Connections
from poller.web import listen

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What a run takes from outside itself. Tests bring their own time, chance and network."""

    clock: Clock = time.time
    monotonic: Clock | None = None  # never jumps; None: the loop's clock
    rng: random.Random = field(default_factory=random.SystemRandom)
    stdin: int = 0
    environ: Mapping[str, str]
    connections: Callable[[Settings], Connections]
    console: Console | None = None  # where the progress display is drawn; None: nowhere
    tracer: "Tracer | None" = None  # who is told of every poll; None: nobody
    on_service: Callable[[Service], None] = lambda _service: None  # told before work begins
    open_site: Callable[[web.Application, Address], AbstractAsyncContextManager[Address]] = listen
    reread: Callable[[], Settings] | None = None  # the settings as they are now; None: they cannot change
    set_log: Callable[[Settings], None] = lambda _settings: None  # told of the settings' log
