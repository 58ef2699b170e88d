"""Polls HubSpot's async import-from-URL tasks in bulk until each has exactly one outcome.

The Python API is importable from here: `from poller import Poller`; docs/how-to/use-from-python.md shows it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # imported on first use: the command line starts without it
    from poller.app.embed import (
        AccountOptions,
        ConfigError,
        FedRows,
        FinishedImport,
        GaveUp,
        Kind,
        Poller,
        PollerError,
        PollerOptions,
        Rejection,
        SinkError,
        StoreError,
        StoreLocked,
        StoreUnusable,
        TokenRefused,
        TooManyFailures,
    )

__version__ = "0.1.0"

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
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("poller.app.embed"), name)
    raise AttributeError(f"module 'poller' has no attribute {name!r}")
