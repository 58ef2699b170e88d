"""What can go wrong in a way a person must act on. Each error knows the exit code it ends a run with.

Messages are written for people: what happened, where, and what to do. They never hold a token.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `poller` (values from 64 on follow BSD sysexits)."""

    ALL_COMPLETE = 0
    NOT_ALL_COMPLETE = 1  # every task has an outcome, some are not `complete`
    USAGE = 2
    NO_INPUT = 65  # nothing usable in the input
    UNREACHABLE = 69  # a sink or the API out of reach past the limit the person set
    INTERNAL = 70  # the ledger does not balance: a defect of the poller
    CANNOT_CREATE = 73  # an output or state file cannot be used
    WORK_LEFT = 75  # stopped with work left: run again to go on
    TOKEN_REFUSED = 77
    CONFIG = 78


class PollerError(Exception):
    """Ends a run with a message for a person and `exit_code`."""

    exit_code: Exit = Exit.WORK_LEFT


class ConfigError(PollerError):
    """A setting, flag or variable that cannot be used; the message names it and the remedy."""

    exit_code = Exit.CONFIG


class InputError(PollerError):
    """An input file that cannot be read at all (a bad line is not an error but a `Rejection`)."""

    exit_code = Exit.NO_INPUT


class StoreError(PollerError):
    """The state cannot be trusted or used any more: a failed fsync, corruption, a lost lock."""


class StoreLocked(StoreError):
    """Another process owns the state; the message names it."""

    exit_code = Exit.CANNOT_CREATE


class StoreUnusable(StoreError):
    """The state cannot be opened: read-only, not a database, corrupted, or of a newer version."""

    exit_code = Exit.CANNOT_CREATE


class SinkError(PollerError):
    """A sink that cannot be used as configured, or found its target changed underneath."""

    exit_code = Exit.CANNOT_CREATE


class OutputClosed(PollerError):
    """Whoever read our standard output went away; undelivered records stay in the store."""

    exit_code = Exit.WORK_LEFT


class TokenRefused(PollerError):
    """HubSpot refused the token before any poll of a finite run succeeded."""

    exit_code = Exit.TOKEN_REFUSED


class TooManyFailures(PollerError):
    """So many tasks failed that the run drained, as `stop_on_failures` wants it."""

    exit_code = Exit.WORK_LEFT


class GaveUp(PollerError):
    """The API or a sink stayed out of reach for longer than `give_up_s`."""

    exit_code = Exit.UNREACHABLE
