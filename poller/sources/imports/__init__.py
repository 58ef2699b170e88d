"""Reads rows to import: a URL and its options a line, checked before anything is sent, each with its identity."""

from poller.sources.imports.row import RowOptions

__all__ = ["RowOptions"]
