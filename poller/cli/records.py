"""Finished tasks, read from a state or from the files that a sink wrote."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from poller.config import Settings
from poller.core.deliveries import Delivery
from poller.core.errors import InputError
from poller.core.protocols import Store
from poller.store import StateReader, last_beat, read_store

PAGE = 1000  # records read at a time


@asynccontextmanager
async def open_state(settings: Settings) -> AsyncIterator[StateReader]:
    """Open the state for reading only, also while a poller is running on it."""
    reader = await read_store(settings.state)
    try:
        yield reader
    finally:
        await reader.close()


async def records_of(store: StateReader | Store) -> AsyncIterator[Delivery]:
    """Yield every record in the state, in the order in which the tasks finished."""
    async for page in pages_of(store):
        for record in page:
            yield record


async def pages_of(store: StateReader | Store) -> AsyncIterator[list[Delivery]]:
    """Yield every record in the state, page by page."""
    after = 0
    while page := await store.records(after, PAGE):
        yield page
        after = page[-1].number


def lines_of(files: Sequence[Path]) -> Iterator[bytes]:
    """Yield the lines of the files, without their line breaks. Raises `InputError` for one that cannot be read.

    A pattern such as `finished-%Y%m%d.jsonl` means all files that were written by it.
    """
    from poller.sinks import written_files
    from poller.sinks.files.csv_lines import CSV
    from poller.sources.parsing.content import BEGINNING_BYTES, refuse_other_content

    for path in files:
        for file_path in written_files(path) if "%" in path.name else [path]:
            try:
                with file_path.open("rb") as file:
                    refuse_other_content(file.peek()[:BEGINNING_BYTES], str(file_path))
                    if file.peek().startswith(tuple(each.header for each in (CSV, *CSV.older))):
                        raise InputError(
                            f"{file_path} is a csv sink's: its rows are not whole records; name a jsonl file"
                        )
                    for line in file:
                        yield line.removesuffix(b"\n")
            except OSError as error:
                raise InputError(f"cannot read {file_path}: {error.strerror}") from None


def is_worked_on(settings: Settings) -> bool:
    """Return whether a process, such as any replica of a fleet, polls the tasks of the state."""
    return last_beat(settings.state) is not None
