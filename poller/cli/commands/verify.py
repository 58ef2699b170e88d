"""`poller verify`: compares JSONL files with the state."""

import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from poller.cli.options import Config, Settings, State, run_async, settings_of
from poller.core.errors import Exit
from poller.core.sums import Sums
from poller.core.text import counted, without_controls

EXAMPLES = "\b\nExample:\n  poller verify finished.jsonl --state sqlite:///poller.db"
MOST_SHOWN = 50  # differences


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="JSONL files, in the order of their writing.")],
    config: Config = None,
    state: State = None,
) -> Exit:
    """Verify a JSONL file against the state.

    Each finished task must be in it exactly once, byte for byte, and nothing else. Exit code 0 where they are equal; 1
    with the differences listed.
    """
    return run_async(verify_files(settings_of(config, state=state), files))


async def verify_files(settings: Settings, files: Sequence[Path]) -> Exit:
    """Print each difference between the files, read one after the other, and the state. Raises `InputError`."""
    from poller.cli.records import lines_of, open_state, records_of
    from poller.reports.verify import compare

    async with open_state(settings) as store:
        compared = await compare(lines_of(files), records_of(store))
        finished = set()
        if suspects := compared.suspects():
            finished = {key async for each in records_of(store) if (key := (each.account, each.task_id)) in suspects}
        sums = await store.sums()
    if not compared.is_equal and (note := _other_files(files, sums)):
        sys.stderr.write(note)
    pruned = sums.pruned
    if pruned and not compared.is_equal:
        outcomes = counted(pruned, "outcome is", "outcomes are")
        sys.stdout.write(f"{outcomes} past retention, with lines that cannot be checked any more\n")
    differences = compared.differences(finished)
    sys.stdout.writelines(f"{difference}\n" for difference in islice(differences, MOST_SHOWN))
    if more := sum(1 for _ in differences):
        sys.stdout.write(f"and {counted(more, 'more difference')}\n")
    answer = "equal" if compared.is_equal else "DIFFERENT"
    sys.stdout.write(f"{counted(compared.lines, 'line')}, {counted(compared.records, 'finished task')}: {answer}\n")
    return Exit.ALL_COMPLETE if compared.is_equal else Exit.NOT_ALL_COMPLETE


def _other_files(files: Sequence[Path], sums: Sums) -> str:
    """Return which files the sinks of the state wrote, where none of `files` is one of them."""
    written = [sink.name.partition(":")[2] for sink in sums.sinks if sink.name.startswith("jsonl:")]
    if not written or {path.absolute() for path in files} & {Path(name).absolute() for name in written}:
        return ""
    names = ", ".join(map(without_controls, written))
    return f"no sink of this state wrote to {', '.join(map(str, files))}; its jsonl sinks wrote to {names}\n"
