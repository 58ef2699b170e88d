"""Notices that HubSpot knows none of an account's first ids: then its token may be another account's."""

import math

from msgspec.structs import replace

from poller.core.model import REPORTING, Answer, Missing, Refused, Task

ALL_UNKNOWN = 50  # first ids that are all unknown, before this is no accident
DETAIL = (
    f"HubSpot knows none of the first {ALL_UNKNOWN} ids: the token is another account's, or these imports are too old "
    "to be known. Use the token of the account that started them; if they are old, set polling.trust_unknown"
)


class FirstAnswers:
    """Holds "unknown id" back as an outcome until HubSpot has shown that it knows an id of the account."""

    def __init__(self) -> None:
        self.is_known = False  # HubSpot has reported the status of one of the account's tasks
        self._unknown: set[int] = set()
        self._latest_new_at = -math.inf

    def check(self, task: Task, answer: Answer, now: float) -> Answer:
        """Return `answer`, or a refusal of the account in its place."""
        if isinstance(answer.outcome, REPORTING):
            self.is_known = True
            self._unknown.clear()
        if self.is_known or not isinstance(answer.outcome, Missing):
            return answer
        if task.key not in self._unknown:
            self._unknown.add(task.key)
            self._latest_new_at = now
        if len(self._unknown) < ALL_UNKNOWN:
            return answer
        return replace(answer, outcome=Refused(reason="wrong_account", detail=DETAIL))

    def holds(self, now: float, missing_again_s: float) -> bool:
        """Return whether an unknown id has no outcome yet: more ids are being polled for the first time."""
        return not self.is_known and now - self._latest_new_at < missing_again_s / 2
