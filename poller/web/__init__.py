"""The admin server: health, metrics, feeding, answers and the live page of one run, over HTTP.

`running` is what it knows of the run, `site` the routes, `guard` who may ask, `listening` the socket.
"""

from poller.web.listening import listen
from poller.web.overview import Overview
from poller.web.running import Run
from poller.web.site import make_site

__all__ = ["Overview", "Run", "listen", "make_site"]
