"""Sinks: where finished tasks go. One file a kind; a sink is named by a spec, `KIND:TARGET`, or by a table."""

from poller.sinks.files.jsonl import written_files
from poller.sinks.registry import SinkEnvironment, SinkSpec, check_sinks, make_sink, make_sinks

__all__ = ["SinkEnvironment", "SinkSpec", "check_sinks", "make_sink", "make_sinks", "written_files"]
