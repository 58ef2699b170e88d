"""A sink that keeps each finished task in a file of its own: `poller run ids.txt --sink folder:finished`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from poller.sinks.plugin import Delivery, Retry, Written


class FolderSink:
    def __init__(self, folder: Path) -> None:
        self.name = f"folder:{folder}"  # the same after a restart, and without secrets
        self._folder = folder

    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> None:
        """Nothing to open. Writing a file twice makes no duplicate."""

    async def write(self, batch: Sequence[Delivery]) -> Written | Retry:
        try:
            self._folder.mkdir(exist_ok=True)
            for record in batch:
                (self._folder / f"{record.account}.{record.task_id}.json").write_bytes(record.body)
        except OSError as error:
            return Retry(reason=str(error), wait_s=5.0)  # the same batch comes again
        return Written()

    async def close(self) -> None:
        """Nothing to close."""


def make(target: str, options: Mapping[str, object]) -> FolderSink:
    return FolderSink(Path(target))
