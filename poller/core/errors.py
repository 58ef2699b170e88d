"""Errors that a person must act on, each with the exit code of the run that it ends.

Messages are for people: what happened, where, what to do. They never contain a token.
"""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `poller` (values from 64 on follow BSD sysexits)."""

    ALL_COMPLETE = 0
    NOT_ALL_COMPLETE = 1  # every task has an outcome, some are not `complete`, or lines or files were rejected
    USAGE = 2
    NO_INPUT = 65  # nothing usable in the input
    UNREACHABLE = 69  # a sink or the API out of reach for longer than `give_up_s`
    INTERNAL = 70  # a defect of the poller: the ledger does not balance, or an exception that no code expects
    CANNOT_CREATE = 73  # an output or state file cannot be used
    WORK_LEFT = 75  # stopped with work left: run again to continue
    TOKEN_REFUSED = 77
    CONFIG = 78


class PollerError(Exception):
    """An error that ends a run with a message for a person and `exit_code`."""

    exit_code: Exit = Exit.WORK_LEFT


class ConfigError(PollerError):
    """A setting, flag or variable that cannot be used. The message names it and the remedy."""

    exit_code = Exit.CONFIG


class InputError(PollerError):
    """An input file that cannot be read at all (a bad line is not an error but a `Rejection`)."""

    exit_code = Exit.NO_INPUT


class UnreadableInput(InputError):
    """The system could not open or read an input file. It may pass: a disk, permissions, too many open files."""


class UnfitInput(InputError, ConfigError):
    """An input whose columns the options of imports do not fit. Another input may fit them."""

    exit_code = Exit.CONFIG


class StoreError(PollerError):
    """The state cannot be trusted or used any more: a failed fsync, corruption, a lost lock."""


class StoreLocked(StoreError):
    """Another process uses the state. The message names it."""

    exit_code = Exit.CANNOT_CREATE


class StoreUnusable(StoreError):
    """The state cannot be opened: read-only, not a database, corrupted, or of a newer version."""

    exit_code = Exit.CANNOT_CREATE


class NoState(StoreUnusable):
    """There is no state yet: no run has created it."""


class SinkError(PollerError):
    """A sink that cannot be used as configured, or whose target was changed by another program."""

    exit_code = Exit.CANNOT_CREATE


class FolderGone(PollerError):
    """The working folder was deleted."""

    exit_code = Exit.CANNOT_CREATE


class Defect(PollerError):
    """An exception that the code does not expect."""

    exit_code = Exit.INTERNAL


class OutputClosed(PollerError):
    """The reader of our standard output is gone; undelivered records stay in the store."""


class TokenRefused(PollerError):
    """HubSpot refused the token before any poll of a finite run succeeded."""

    exit_code = Exit.TOKEN_REFUSED


class TooManyFailures(PollerError):
    """More tasks failed than `stop_on_failures` allows; the run drained."""


class GaveUp(PollerError):
    """The API or a sink was out of reach for longer than `give_up_s`."""

    exit_code = Exit.UNREACHABLE


def raise_error(error: PollerError) -> None:
    """Raise it: what becomes of an error where a run has not defined it."""
    raise error
