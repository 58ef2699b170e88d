"""The Python API: what `from poller import …` offers."""

from poller.app.embed.finished_import import FinishedImport
from poller.app.embed.options import AccountOptions, PollerOptions
from poller.app.embed.poller import Poller
from poller.app.embed.rows import FedRows
from poller.core.errors import (
    ConfigError,
    GaveUp,
    PollerError,
    SinkError,
    StoreError,
    StoreLocked,
    StoreUnusable,
    TokenRefused,
    TooManyFailures,
)
from poller.core.model import Kind, Rejection

__all__ = [
    "AccountOptions",
    "ConfigError",
    "FedRows",
    "FinishedImport",
    "GaveUp",
    "Kind",
    "Poller",
    "PollerError",
    "PollerOptions",
    "Rejection",
    "SinkError",
    "StoreError",
    "StoreLocked",
    "StoreUnusable",
    "TokenRefused",
    "TooManyFailures",
]
