"""What PostgreSQL's errors mean: which pass by themselves, and what to do about the rest. By SQLSTATE, see the
appendix "PostgreSQL Error Codes" of its manual.
"""

import psycopg

from poller.core.errors import StoreError, StoreUnusable
from poller.store.postgres.dsn import Dsn
from poller.store.rows import LONGEST_TEXT

# Nothing was stored, and a retry is right: a connection that broke, a server that stops, starts, is a standby, is
# full or busy; a deadlock; a password or a database that is being changed.
PASSING_CLASSES = ("08", "28", "3D", "40", "53", "57")
PASSING = {
    "25006",  # read_only_sql_transaction
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
    "55P03",  # lock_not_available
}
DAMAGE = ("XX001", "XX002")

# What a person can do, by SQLSTATE, or by the words of a server that refuses a connection, which has no code then.
_REMEDIES = {
    "25006": "The server takes no writes, as a standby does: name the primary, or all hosts with "
    "target_session_attrs=read-write",
    "53100": "Make room on the server's disk",
    "53300": "Raise max_connections, or run fewer replicas: each needs 4 connections",
    "28P01": "Put the right password into the URL or the file that it is read from",
}
_REFUSED = {"too many clients already": "53300", "remaining connection slots": "53300", "password auth": "28P01"}


def may_pass(error: psycopg.Error) -> bool:
    """Return whether the same work may succeed later. An operational error without a code is a broken connection."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state.startswith(PASSING_CLASSES) or state in PASSING


def error_text(error: BaseException, dsn: Dsn) -> str:
    """Return `error` on one line, bounded, without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in dsn.secrets:
        text = text.replace(secret, "***")
    return text[:LONGEST_TEXT].rstrip(".?")


def remedy(error: BaseException) -> str | None:
    """Return what a person can do about an error of the server; None where that is not known, or it ends by itself."""
    refused = next((state for words, state in _REFUSED.items() if words in str(error)), "")
    state = error.sqlstate if isinstance(error, psycopg.Error) else None
    return _REMEDIES.get(state or refused)


def reason_text(error: BaseException, dsn: Dsn) -> str:
    """Return `error_text`, and the remedy where one is known."""
    known = remedy(error)
    return error_text(error, dsn) if known is None else f"{error_text(error, dsn)}. {known}"


def store_error(error: psycopg.Error, dsn: Dsn) -> StoreError:
    """Return why a state that was open cannot be used any more."""
    if error.sqlstate in DAMAGE:
        return StoreUnusable(f"the state {dsn.shown} is damaged ({error_text(error, dsn)}). Restore a backup of it.")
    name = error.sqlstate or type(error).__name__
    return StoreError(
        f"{dsn.shown} cannot be used any more: {error_text(error, dsn)} ({name}). Start again: what was acknowledged "
        "is stored."
    )


def read_error(error: psycopg.Error, dsn: Dsn) -> StoreError:
    """Return why a read failed for good: where its own values are refused, nothing else is hindered."""
    if isinstance(error, psycopg.DataError):
        return StoreError(f"{dsn.shown} cannot be asked for such a value: {error_text(error, dsn)}.")
    return store_error(error, dsn)


def unusable(error: psycopg.Error, dsn: Dsn) -> StoreError:
    """Return why the state cannot be opened, and the remedy."""
    if error.sqlstate == "42501":
        return StoreUnusable(
            f"no permission for the state {dsn.shown}: {error_text(error, dsn)}. An administrator must run "
            f"`CREATE SCHEMA {dsn.schema} AUTHORIZATION` with this user's name."
        )
    if error.sqlstate in DAMAGE:
        return store_error(error, dsn)
    known = remedy(error) or (
        "Check that the server runs and that host, database, user and password are right, or name another state: "
        "--state"
    )
    return StoreUnusable(f"cannot open the state {dsn.shown}: {error_text(error, dsn)}. {known}.")
