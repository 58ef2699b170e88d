"""The Python API: what `from poller import …` offers."""

from poller.core.errors import (
    ConfigError,
    GaveUp,
    PollerError,
    SinkError,
    StoreError,
    StoreLocked,
    StoreUnusable,
    TokenRefused,
)
from poller.core.model import Kind, Rejection
from poller.embed.finished_import import FinishedImport
from poller.embed.options import AccountOptions, PollerOptions
from poller.embed.poller import Poller
from poller.embed.rows import FedRows

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
]
