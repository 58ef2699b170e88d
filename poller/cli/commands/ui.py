"""`poller ui`: the live page of a state, read-only, also after its run or beside it."""

import os
from typing import Annotated

import typer

from poller.cli.options import Config, State, run_async, settings_of
from poller.core.errors import Exit

EXAMPLES = "\b\nExample:\n  poller ui --state sqlite:///poller.db"
DEFAULT = "127.0.0.1:8321"


def ui(
    config: Config = None,
    state: State = None,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help=f"Where to serve it. [{DEFAULT}, or a free port if that is taken]"),
    ] = None,
) -> Exit:
    """Show a state on the live page, for reading only.

    The state may be finished, stopped, or at work in another process. To change something, use the page of the run.
    Ctrl-C ends it.
    """
    from poller.app.show import show_state

    settings = settings_of(config, state=state, listen=listen or DEFAULT)
    return run_async(show_state(settings, os.environ, is_address_chosen=listen is not None))
