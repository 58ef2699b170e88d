"""Decides whom a poll concerns that brought no status: the account, or its task alone while others are answered."""

import math

from msgspec.structs import replace

from poller.core.accounts import Pause
from poller.core.model import Answer, Finished, Missing, Outcome, Refused, Running, Task, Throttled, Unreachable

BROKEN_AFTER = 3  # failed polls in a row, others' succeeding meanwhile, after which a task is no sign of an outage
BROKEN = "tasks that are broken by themselves"
REMEMBERED = 50  # polls over which the share of failed ones, and that of unknown ids, is averaged
JUST_FED_S = 3600.0  # HubSpot forgets no status so soon: an id that it reported and that is unknown now is an error
EMPTY = "empty_body"  # a reason of `Unreachable`
MISTAKEN = 1e-6  # how likely it may be that HubSpot knows an id that was unknown at each of its polls
MOST_MISTAKEN = 0.63  # share of answers; beyond it, too, thirty polls of an unknown id are enough


class Witness:
    """Follows which tasks of a lane are answered, and keeps one of them to ask when in doubt: where all waiting tasks
    are broken, only that one shows that the API answers the account."""

    def __init__(self) -> None:
        self.task: Task | None = None  # the latest with a status from HubSpot
        self.failed_share = 0.0  # of the latest polls, those of tasks that are broken by themselves left out
        self._unknown_share = 0.0  # of the latest polls of ids whose status was known before: those that were unknown
        self._known_polls = 0  # these polls, up to `REMEMBERED`
        self._began_at = math.inf  # with the first poll
        self._repeated: dict[int, int] = {}  # by task: polls in a row at which it was unknown again
        self._answered = 0  # good answers so far
        self._failing: dict[int, tuple[int, int]] = {}  # by task: good answers at its first and its latest failed poll
        self.is_in_doubt = False  # the latest poll failed
        self._is_turn = False

    def note(self, task: Task, outcome: Outcome, *, now: float) -> None:
        """Note the outcome of a poll of `task`."""
        self._began_at = min(self._began_at, now)
        match outcome:
            case Running() | Finished() | Missing():
                self._answered += 1
                self.is_in_doubt = False
                if self._failing:
                    self._failing.pop(task.key, None)
                self.failed_share -= self.failed_share / REMEMBERED
                if not isinstance(outcome, Missing) and outcome.status is not None:
                    self.task = task
                self._note_whether_unknown(task, is_unknown=isinstance(outcome, Missing), now=now)
            case Refused() | Unreachable() | Throttled(policy="migrating"):
                if self.subject(task) is not BROKEN:
                    self.failed_share += (1.0 - self.failed_share) / REMEMBERED
                self.is_in_doubt = True
                first, _ = self._failing.get(task.key, (self._answered, 0))
                self._failing[task.key] = first, self._answered

    def _note_whether_unknown(self, task: Task, *, is_unknown: bool, now: float) -> None:
        if task.missing_at is None:
            if task.status is not None and now - task.fed_at < JUST_FED_S:
                self._known_polls = min(self._known_polls + 1, REMEMBERED)
                self._unknown_share += (is_unknown - self._unknown_share) / self._known_polls
        elif is_unknown:
            self._repeated[task.key] = self._repeated.get(task.key, 0) + 1
        else:
            self._repeated.pop(task.key, None)

    def renewed(self) -> "Witness":
        """Return one for other settings, perhaps of another status path: it keeps its task, as of an earlier run."""
        renewed = Witness()
        renewed.task = self.task and known_task(self.task.account, self.task.task_id)
        return renewed

    def forget(self, task: Task) -> None:
        """Forget a task that is not polled any more."""
        self._failing.pop(task.key, None)
        self._repeated.pop(task.key, None)

    def others_answered(self, task: Task) -> bool:
        """Return whether other tasks were answered since this one's latest failed poll."""
        return task.key in self._failing and self._answered > self._failing[task.key][1]

    def doubts_unknown(self, task: Task) -> bool:
        """Return whether `task`, unknown again, may be known: where some answers are wrong, such as those of one server
        of many, more polls must agree. A poll of an earlier run does not count: how often they were wrong is forgotten.
        """
        if task.missing_at is None:
            return False
        polls = 2
        if self._unknown_share > MISTAKEN**0.5:  # else two agree by accident seldom enough
            polls = math.ceil(math.log(MISTAKEN) / math.log(min(self._unknown_share, MOST_MISTAKEN)))
        return (task.missing_at >= self._began_at) + self._repeated.get(task.key, 0) + 1 < polls

    def subject(self, task: Task) -> object:
        """Return whose failure a failed poll of `task` would be: the same one for all that are broken by themselves."""
        if not self._failing:
            return task.key
        is_broken = task.key in self._failing and self._answered > self._failing[task.key][0]
        return BROKEN if is_broken and task.errors >= BROKEN_AFTER else task.key

    def instead_of(self, task: Task, pause: Pause | None, *, is_doubted: bool = False, must_show: bool = False) -> Task:
        """Return the task to poll: while it is open whether the account is answered, every other time the witness.
        `is_doubted`: it is open whether HubSpot knows any id of the account. `must_show`: what the task's next answer
        means depends on that; then it is polled each time."""
        if self.task is None:
            return task
        is_other = self.task.key != task.key
        if must_show and is_other:
            return self.task
        is_open = pause is not None and pause not in (Pause.THROTTLED, Pause.DAILY_QUOTA)
        is_suspect = self.is_in_doubt and task.errors > 0 and not self.others_answered(task)
        if not (is_open or is_suspect or (is_doubted and is_other)):
            return task
        self._is_turn = not self._is_turn
        return self.task if self._is_turn else task


def doubted(answer: Answer, asked: Task, *, is_witness: bool, is_overdue: bool) -> Answer:
    """Return a failed poll in place of an empty answer that means nothing: HubSpot has named the status of `asked`
    before, or `asked` would be given up by it. Any host can answer 200 or 204 without a body."""
    outcome = answer.outcome
    if not isinstance(outcome, Running) or outcome.status is not None:
        return answer
    if not (is_witness or is_overdue or asked.status is not None):
        return answer
    return replace(answer, outcome=Unreachable(reason=EMPTY, correlation_id=outcome.correlation_id))


def known_task(account: str, task_id: str) -> Task:
    """Return a finished task of an earlier run, to be polled as a witness only."""
    return Task(
        key=0,
        account=account,
        task_id=task_id,
        ref=None,
        fed_at=0.0,
        due_at=0.0,
        polls=0,
        errors=0,
        missing_at=None,
        status=None,
        paused_base_s=0.0,
    )
