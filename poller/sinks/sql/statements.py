"""The statements of the `sql` sink's table, which the two databases share but for types and placeholders."""

COLUMNS = ("account", "task_id", "kind", "status", "num_errors", "polls", "seen_at", "record")
Row = tuple[object, ...]  # one value a column


def create_table(table: str, *, instant: str, json: str) -> str:
    """Return the statement that creates the table, given a database's own types."""
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(table)} (account text NOT NULL, task_id text NOT NULL, kind text NOT NULL,"
        f" status text, num_errors bigint, polls bigint, seen_at {instant} NOT NULL, record {json} NOT NULL,"
        " PRIMARY KEY (account, task_id))"
    )


def upsert_row(table: str, *, placeholder: str) -> str:
    """Return the statement that inserts a row, or replaces the one of the same task."""
    values = ", ".join([placeholder] * len(COLUMNS))
    changes = ", ".join(f"{column} = excluded.{column}" for column in COLUMNS[2:])
    return (
        f"INSERT INTO {quoted(table)} ({', '.join(COLUMNS)}) VALUES ({values})"  # noqa: S608 - a checked name
        f" ON CONFLICT (account, task_id) DO UPDATE SET {changes}"
    )


def quoted(table: str) -> str:
    """Return a table's name, which `SqlTable` has checked, for a statement."""
    return ".".join(f'"{part}"' for part in table.split("."))
