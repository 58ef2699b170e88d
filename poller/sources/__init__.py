"""Sources: read the ids from files, folders and standard input into the store, each line into exactly one place.

`source` lists the kinds of source and reads each. `files/` opens, follows and recognizes files; `parsing/` turns bytes
into lines and lines into tasks, without I/O; `options` is how a person wants them read.
"""

from poller.sources.counts import UnchangedLines
from poller.sources.files.open_file import STDIN, stat_of
from poller.sources.files.read import feed
from poller.sources.files.registry import FileRegistry
from poller.sources.intake import ChunkWriter
from poller.sources.options import ReadOptions
from poller.sources.parsing.content import Content
from poller.sources.parsing.line import read_json
from poller.sources.parsing.lines import excerpt
from poller.sources.parsing.parser import Parser
from poller.sources.source import Reader, Source, check_beginnings, check_sources

__all__ = [
    "STDIN",
    "ChunkWriter",
    "Content",
    "FileRegistry",
    "Parser",
    "ReadOptions",
    "Reader",
    "Source",
    "UnchangedLines",
    "check_beginnings",
    "check_sources",
    "excerpt",
    "feed",
    "read_json",
    "stat_of",
]
