"""Feeding: turn the lines of files and standard input into tasks in the store, each line in exactly one place.

`lines` cuts bytes into lines, `records` and `table` read one line or CSV record, `parser` puts them into chunks,
`inputs` opens and reads files and pipes, `feeding` does the whole for one source.
"""

from poller.source.feeding import feed
from poller.source.inputs import STDIN, check_readable
from poller.source.parser import Parser
from poller.source.records import Feeding

__all__ = ["STDIN", "Feeding", "Parser", "check_readable", "feed"]
