"""The admin server of a run, and the read-only one of a state: health, metrics, tasks and the page, over HTTP."""

from poller.web.context import RunContext, StateContext
from poller.web.routes import make_site, make_state_site
from poller.web.server import listen, refuse_taken

__all__ = ["RunContext", "StateContext", "listen", "make_site", "make_state_site", "refuse_taken"]
