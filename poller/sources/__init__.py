"""Feeding: turn the lines of files and standard input into tasks in the store, each line in exactly one place.

`lines` cuts bytes into lines, `records` and `table` read one line or CSV record, `parser` puts them into chunks,
`inputs` opens and reads files and pipes, `feeding` does the whole for one source that ends. For one that is followed,
`following` does: `rotation` finds the file to read, `generation` reads it, `tail` proves what was read. `kinds` tells
what a person may name as a source: a file, standard input, a pattern (`matches`), a `folder` that is emptied.
"""

from poller.sources.files.follow import follow
from poller.sources.files.open_file import STDIN, check_readable, source_name
from poller.sources.files.read import feed
from poller.sources.files.registry import Claims
from poller.sources.intake import Valve
from poller.sources.parsing.line import Feeding
from poller.sources.parsing.parser import Parser
from poller.sources.source import Reader, Source, check_sources

__all__ = [
    "STDIN",
    "Claims",
    "Feeding",
    "Parser",
    "Reader",
    "Source",
    "Valve",
    "check_readable",
    "check_sources",
    "feed",
    "follow",
    "source_name",
]
