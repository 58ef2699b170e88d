"""The accounts of an SQLite state."""

import sqlite3
from collections.abc import Mapping

from poller.core.accounts import AccountState


def account_base(connection: sqlite3.Connection, name: str, noted: Mapping[str, AccountState]) -> tuple[int, float]:
    """Return the account's number, made as needed, and its latest paused time: the base of its new tasks."""
    connection.execute("INSERT INTO account (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    number, paused_s = connection.execute("SELECT id, paused_s FROM account WHERE name = ?", (name,)).fetchone()
    return number, noted[name].paused_s if name in noted else paused_s
