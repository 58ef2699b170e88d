"""The admin server of one run: health, metrics, feeding, tasks and the live page, over HTTP."""

from poller.web.context import RunContext
from poller.web.routes import make_site
from poller.web.server import listen

__all__ = ["RunContext", "listen", "make_site"]
