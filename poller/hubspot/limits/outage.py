"""Distinguishes what concerns the account from what concerns one task, by the latest polls of a lane: an outage, a
refusal, a rate limit.
"""

import math
from collections import deque

REMEMBERED = 30  # polls by which the API is judged
FAILED_OF_REMEMBERED = 24
FAILED_IN_A_ROW = 5  # more where many polls failed before: there such a row comes by chance
BY_CHANCE = 0.0001  # how likely a row of failures may be by chance and still be an outage
DIFFERENT = 3  # tasks that must have failed: one broken task only backs off itself
REFUSED_IN_A_ROW = 3  # requests, of at least two tasks, before the account counts as refused …
REFUSED_AT_START = 2  # … and before any good answer
WITNESS = "a task that was answered before"  # subject of polls that only check whether the account is answered
FEW_ERRORS = 15
FEW_ERRORS_SHARE = 0.045  # of all requests; HubSpot asks for less than 5 % a day

FREQUENT_429, ANSWERS_429 = 0.2, 20  # of that many latest answers: more are no accident
GOOD_FOR_SHORTER = 20  # good answers after which the next pause for 429s is shorter again


class RequestCounts:
    """Requests that this run sent, and those that failed: time-outs and answers without the task's status. An unknown
    id is not a failure."""

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0

    @property
    def errors_are_few(self) -> bool:
        """Whether failed requests are well below the share that HubSpot tolerates."""
        return self.failed < max(FEW_ERRORS, FEW_ERRORS_SHARE * self.sent)


class OutageDetector:
    """The latest polls of a lane, failed or not, in the order in which they were sent: polls that time out together,
    long after later ones were answered, are no outage. Until the first good answer nothing shows that a task is to
    blame."""

    def __init__(self) -> None:
        self._latest: list[tuple[int, bool, object]] = []  # number, failed, subject; by number
        self.usual_failed_share = 0.0  # before the latest row of failures
        self._enough_in_a_row = FAILED_IN_A_ROW
        self._failed_share = 0.0  # of the polls outside of pauses, the latest weighing most
        self._had_success = False

    def note(
        self, subject: object, *, failed: bool, succeeded: bool = False, is_probe: bool = False, number: int = 0
    ) -> None:
        """Note the end of a poll of `subject`, the request `number`; neither: it was refused or throttled. `is_probe`:
        during a pause."""
        if failed and not self._in_a_row:
            self.usual_failed_share = self._failed_share
            self._enough_in_a_row = _enough_in_a_row(self._failed_share)
        if not is_probe:
            self._failed_share += (failed - self._failed_share) / REMEMBERED
        self._had_success |= succeeded
        latest = self._latest
        place = len(latest)
        while place and latest[place - 1][0] > number:  # seldom
            place -= 1
        latest.insert(place, (number, failed, subject))
        if len(latest) > REMEMBERED:
            del latest[0]

    def clear(self) -> None:
        """Forget all polls, as after a pause."""
        self._latest.clear()

    @property
    def is_outage(self) -> bool:
        """Whether most polls of several tasks fail, or also the witness's: the last 5, or 24 of the last 30."""
        failed = [subject for _, failed, subject in self._latest if failed]
        in_a_row = self._in_a_row
        if in_a_row < self._enough_in_a_row and len(failed) < FAILED_OF_REMEMBERED:
            return False
        if len(failed) < FAILED_OF_REMEMBERED:
            failed = failed[-in_a_row:]
        return len(set(failed)) >= DIFFERENT or WITNESS in failed or not self._had_success

    @property
    def _in_a_row(self) -> int:
        """How many of the latest polls failed in a row, the last one included."""
        return next(
            (back for back, (_, failed, _) in enumerate(reversed(self._latest)) if not failed), len(self._latest)
        )


def _enough_in_a_row(failed_share: float) -> int:
    """Return how many failures in a row are no chance where `failed_share` of the polls before them failed."""
    if failed_share < BY_CHANCE:
        return FAILED_IN_A_ROW
    enough = math.log(BY_CHANCE) / math.log(min(failed_share, 0.99))
    return min(max(FAILED_IN_A_ROW, math.ceil(enough)), FAILED_OF_REMEMBERED)


class RefusalDetector:
    """The refusals since the last other answer. One task that is refused while others are answered is that task's own
    failure; until the first good answer nothing shows that."""

    def __init__(self) -> None:
        self._had_success = False
        self._reason = ""
        self._subjects: list[object] = []

    def note(self, subject: object, reason: str) -> None:
        """Note a refusal of `subject`."""
        if reason != self._reason:
            self._reason, self._subjects = reason, []
        self._subjects.append(subject)

    def succeed(self) -> None:
        """Note a good answer."""
        self._had_success = True
        if self._subjects:
            self._subjects = []

    def fail(self) -> None:
        """Note a poll without an answer."""
        self._subjects = []

    @property
    def is_account(self) -> bool:
        """Whether the account is refused: three requests in a row, of two tasks, for the same reason. Before the first
        good answer two are enough, and there may be one task only."""
        if not self._had_success:
            return len(self._subjects) >= REFUSED_AT_START
        return len(self._subjects) >= REFUSED_IN_A_ROW and len(set(self._subjects)) > 1


class ThrottleWatch:
    """The latest answers of a lane, 429 or not, and how much longer than the first its pauses for 429s are by now."""

    def __init__(self) -> None:
        self.relapses = 0
        self._latest: deque[bool] = deque(maxlen=ANSWERS_429)
        self._good = 0

    def note(self, *, throttled: bool) -> None:
        """Note an answer."""
        self._latest.append(throttled)
        self._good += not throttled
        if self._good >= GOOD_FOR_SHORTER:
            self._good, self.relapses = 0, max(0, self.relapses - 1)

    def relapse(self) -> None:
        """A pause for 429s begins or goes on: its answers are judged afresh afterwards, and the next is longer."""
        self.relapses += 1
        self._good = 0
        self._latest.clear()

    @property
    def is_frequent(self) -> bool:
        """Whether too many of the latest answers are 429s to be sporadic ones."""
        return sum(self._latest) > FREQUENT_429 * ANSWERS_429
