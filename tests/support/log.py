"""Restores the log, which a command that runs within the tests' process configures."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from poller.core import log as logs


@contextmanager
def log_restored() -> Iterator[None]:
    """Restore the log as it was before, and forget the secrets that it hides."""
    root, kept = logging.getLogger(), dict(structlog.get_config())
    before = (root.handlers, root.level, logging.raiseExceptions)
    try:
        yield
    finally:
        structlog.configure(**kept)
        root.handlers, root.level, logging.raiseExceptions = before
        logging.captureWarnings(capture=False)
        logs._secrets.clear()
