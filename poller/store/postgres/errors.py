"""What PostgreSQL's errors mean: which pass by themselves, and what to do about the rest. By SQLSTATE, see the
appendix "PostgreSQL Error Codes" of its manual.
"""

import psycopg

from poller.core.errors import StoreError, StoreUnusable
from poller.store.postgres.dsn import Dsn

# Nothing was stored, and trying again is right: a connection that broke, a server that stops, starts, is a standby, is
# full or busy; a deadlock; a password or a database that is being changed underneath.
PASSING_CLASSES = ("08", "28", "3D", "40", "53", "57")
PASSING = {
    "25006",  # read_only_sql_transaction
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
    "55P03",  # lock_not_available
}
DAMAGE = ("XX001", "XX002")
LONGEST = 300


def may_pass(error: psycopg.Error) -> bool:
    """Tell whether the same work may succeed later. An operational error without a code is a broken connection."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, psycopg.OperationalError)
    return state.startswith(PASSING_CLASSES) or state in PASSING


def words(error: BaseException, place: Dsn) -> str:
    """Return `error` on one line, bounded, without secrets."""
    text = " ".join(str(error).split()) or type(error).__name__
    for secret in place.secrets:
        text = text.replace(secret, "***")
    return text[:LONGEST].rstrip(".")


def store_error(error: psycopg.Error, place: Dsn) -> StoreError:
    """Return as words for a person why a state that was open cannot be used any more."""
    if error.sqlstate in DAMAGE:
        return StoreUnusable(f"the state {place.shown} is damaged ({words(error, place)}). Restore a backup of it.")
    name = error.sqlstate or type(error).__name__
    return StoreError(
        f"{place.shown} cannot be used any more: {words(error, place)} ({name}). Starting again goes on from what is "
        "stored."
    )


def unusable(error: psycopg.Error, place: Dsn) -> StoreError:
    """Return as words for a person why the state cannot be opened, and the remedy."""
    if error.sqlstate == "42501":
        return StoreUnusable(
            f"no permission for the state {place.shown}: {words(error, place)}. Let an administrator run "
            f"`CREATE SCHEMA {place.schema} AUTHORIZATION` with this user's name."
        )
    if error.sqlstate in DAMAGE:
        return store_error(error, place)
    return StoreUnusable(
        f"cannot open the state {place.shown}: {words(error, place)}. Check that the server runs and that host, "
        "database, user and password are right, or name another state: --state."
    )
