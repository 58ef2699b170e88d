"""What only planted bugs (`make bugs`) showed to be untested."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from poller.store.commits import GroupCommit
from poller.store.schema import open_writing


async def test_a_commit_that_failed_halfway_is_undone_before_it_is_tried_again(
    tmp_path: Path, clock: Callable[[], float]
) -> None:
    connection = open_writing(tmp_path / "poller.db")
    commits = GroupCommit(connection, place="poller.db", linger_s=0.0, clock=clock, committed=lambda: None)
    full = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    failures = [full, full]

    def insert() -> None:
        connection.execute("INSERT INTO source (name) VALUES ('ids.txt')")
        if failures:
            raise failures.pop()

    await commits.run(insert)
    assert connection.execute("SELECT count(*) FROM source").fetchone() == (1,)
    commits.close()
    connection.close()
