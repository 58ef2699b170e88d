"""The admin server: health, metrics, feeding, answers and the live page of one run, over HTTP.

`running` is what it knows of the run, `site` the routes, `guard` who may ask, `listening` the socket.
"""

from poller.web.context import Run
from poller.web.dashboard.overview import Overview
from poller.web.routes import make_site
from poller.web.server import listen

__all__ = ["Overview", "Run", "listen", "make_site"]
