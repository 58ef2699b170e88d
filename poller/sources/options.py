"""How a person wants lines read: the format, where the id is, which accounts there are."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from poller.sources.imports.row import RowOptions

Format = Literal["auto", "text", "jsonl", "csv"]

ID_NAMES = ("task_id", "taskId", "id")  # the first one present counts


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How the lines of one source are read."""

    format: Format = "auto"
    id_column: str | None = None  # key, column or column's number that holds the id; None: the first of `ID_NAMES`
    accounts: frozenset[str]
    default_account: str  # of lines that name none
    rows: "RowOptions | None" = field(default=None, hash=False)  # lines are rows to import; None: they are ids
    max_line_bytes: int = 65_536
    chunk_lines: int = 30_000  # one transaction: 45 ms, 130 ms for ids in random order; polls wait no longer
    chunk_bytes: int = 4 * 2**20  # of lines, after which a chunk ends, too: long rows would fill the memory

    def with_accounts_of(self, other: "ReadOptions") -> "ReadOptions":
        """Return these options for the accounts of others: all that can change within a stream."""
        return replace(self, accounts=other.accounts, default_account=other.default_account)

    @property
    def id_names(self) -> tuple[str, ...]:
        """Keys or columns that may hold the id, the first one present counts."""
        return ID_NAMES if self.id_column is None else (self.id_column,)

    @property
    def id_number(self) -> int | None:
        """The number of the column with the id, from 1, where a person gave a number."""
        text = self.id_column or ""
        return int(text) if text.isascii() and text.isdigit() and 0 < int(text[:9]) <= 10_000 else None
