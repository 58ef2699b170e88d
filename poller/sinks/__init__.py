"""Sinks: where finished tasks go, one kind a module or package. A spec, `KIND:TARGET`, or a table names a sink."""

from poller.sinks.files.rotation import written_files
from poller.sinks.registry import (
    SinkSpec,
    check_sinks,
    check_targets,
    is_shared,
    make_sink,
    make_sinks,
    refuse_alike,
)
from poller.sinks.table import SinkEnvironment

__all__ = [
    "SinkEnvironment",
    "SinkSpec",
    "check_sinks",
    "check_targets",
    "is_shared",
    "make_sink",
    "make_sinks",
    "refuse_alike",
    "written_files",
]
