"""Notices that HubSpot knows none of an account's ids: then its token may be another account's, from the start on or
since a person replaced it.
"""

import math

from msgspec.structs import replace

from poller.core.model import REPORTING, Answer, Missing, Refused, Task
from poller.core.text import printable

ALL_UNKNOWN = 50  # ids in a row that are all unknown, before this is no accident
DOUBTFUL = ALL_UNKNOWN // 2  # from which on the witness is polled
FORGOTTEN_AFTER_S = 3600.0  # no status is forgotten sooner: a task of another account is unknown at once
DETAIL = (
    f"HubSpot knows none of the latest {ALL_UNKNOWN} ids: the token is another account's, or these imports are too old "
    "to be known. Use the token of the account that started them; if they are old, set polling.trust_unknown"
)
DETAIL_OF_WITNESS = (
    "HubSpot does not know a task any more whose status it reported within the last hour, to the same token. "
    "Unknown ids wait until it knows one again, or the hour is over"
)
DETAIL_OF_OTHER = (
    "HubSpot knows no id by this token, though it knew some by the one before: the token is another account's, or "
    "these imports are too old to be known. Use the token of the account that started them; if it is, set "
    "polling.trust_unknown"
)


class KnownIds:
    """Holds "unknown id" back as an outcome until HubSpot has shown since that it knows an id of the account.

    The witness is a task whose status it reported before: in doubt the lane polls that one.
    """

    def __init__(self, shown_by: bytes = b"") -> None:
        """`shown_by`: the credentials to which HubSpot reported a status last, in an earlier run or by other settings;
        empty: none are known. By others no unknown id is believed before it has reported one."""
        self.shown_by = shown_by
        self._shown_at = -math.inf  # when the latest poll left to which HubSpot reported a status, by these settings
        self._unknown: set[int] = set()  # ids that were unknown since
        self._latest_new_at = -math.inf
        self._is_witness_unknown = False
        self._is_decided = False  # an id was unknown twice since, or the witness
        self.is_witness_silent = False  # its latest poll brought neither a status nor that it is unknown

    def doubts_all(self) -> bool:
        """Return whether so many ids in a row are unknown that the witness should show whether any is known."""
        return len(self._unknown) >= DOUBTFUL and not self._is_witness_unknown

    def needs_proof(self, task: Task) -> bool:
        """Return whether the witness must show that ids are known before `task`, once unknown, is polled again."""
        is_shown = task.missing_at is None or self._shown_at >= task.missing_at
        return not is_shown and not self._is_witness_unknown

    def check(self, task: Task, answer: Answer, *, asked_at: float, now: float, of_witness: bool = False) -> Answer:
        """Return `answer` to a poll that left at `asked_at`, or a refusal of the account in its place."""
        if of_witness:
            self.is_witness_silent = not isinstance(answer.outcome, Missing)
        if isinstance(answer.outcome, REPORTING) and answer.outcome.status is not None:
            self._note_status(answer.credentials, asked_at)
            return answer
        if not isinstance(answer.outcome, Missing):
            return answer
        if task.key not in self._unknown:
            self._unknown.add(task.key)
            self._latest_new_at = now
        self._is_witness_unknown |= of_witness
        self._is_decided |= of_witness or task.missing_at is not None
        detail = self._why_wrong(answer, now)
        return answer if detail is None else replace(answer, outcome=_refused(detail, answer.outcome))

    def _note_status(self, credentials: bytes, asked_at: float) -> None:
        if asked_at >= self._shown_at:  # by the token of then
            self._shown_at, self.shown_by = asked_at, credentials
        self.is_witness_silent = self._is_witness_unknown = self._is_decided = False
        self._unknown.clear()

    def _why_wrong(self, answer: Answer, now: float) -> str | None:
        """Return why an unknown id shows that the account is a wrong one; None where it does not."""
        if self._is_decided and self.shown_by and answer.credentials != self.shown_by:
            return DETAIL_OF_OTHER
        if len(self._unknown) >= ALL_UNKNOWN:
            return DETAIL
        is_too_soon = self._is_witness_unknown and now - self._shown_at < FORGOTTEN_AFTER_S
        return DETAIL_OF_WITNESS if is_too_soon else None

    def holds(self, task: Task, now: float, missing_again_s: float) -> bool:
        """Return whether the unknown id of `task` is no outcome yet: nothing shows since that HubSpot knows ids of the
        account, and more of them are being polled for the first time."""
        is_shown = self._shown_at >= (now if task.missing_at is None else task.missing_at)
        return not is_shown and now - self._latest_new_at < missing_again_s / 2


def _refused(detail: str, unknown: Missing) -> Refused:
    """Return the refusal with HubSpot's own words: it may be that the account is closed, or the request is wrong."""
    words = "" if unknown.message is None else f' (HubSpot: "{printable(unknown.message)}")'
    return Refused(reason="wrong_account", detail=f"{detail}{words}")
