"""What a poll costs by all clocks, counted in calls: processor time is noisy on a shared machine."""

from collections.abc import Iterator

from poller.core.model import Finished, Outcome, Running, Task
from poller.core.timestamps import iso
from poller.schedule import AccountTiming
from poller.schedule.policy import Polling
from tests.support.calls import calls_of

AT = 1_767_571_200.0
MOST_CALLS = 85  # of a poll, plans left out; 251 before the clocks were made cheaper


def polls(number: int) -> Iterator[tuple[Task, Outcome, float]]:
    """Yield imports worked off in order, one every 0.1 s: a poll in vain, and 6 s later one that finds it done."""
    for key in range(1, number + 1):
        fed_at = AT + key / 10
        task = Task(
            key=key,
            account="main",
            task_id="A",
            ref=None,
            fed_at=fed_at,
            due_at=fed_at + 9.9,
            polls=0,
            errors=0,
            missing_at=None,
            status=None,
            paused_base_s=0.0,
        )
        yield task, Running(status="PROCESSING", requested_at=fed_at - 1, started_at=fed_at + 5), fed_at + 10
        done = Finished(
            status="COMPLETE",
            num_errors=0,
            requested_at=iso(fed_at - 1),
            started_at=iso(fed_at + 5),
            completed_at=iso(fed_at + 15),
        )
        yield _polled(task), done, fed_at + 16


def _polled(task: Task) -> Task:
    fed_at = task.fed_at
    return Task(
        key=task.key,
        account="main",
        task_id="A",
        ref=None,
        fed_at=fed_at,
        due_at=fed_at + 15.9,
        polls=1,
        errors=0,
        missing_at=None,
        status="PROCESSING",
        paused_base_s=0.0,
        requested_at=fed_at - 1,
        seen_at=fed_at + 10,
        started_at=fed_at + 5,
    )


def test_a_poll_makes_few_calls_with_all_clocks() -> None:
    timing = AccountTiming("main", Polling().tradeoff)
    made = sorted(polls(500), key=lambda poll: poll[2])
    for task, outcome, at in made[:-200]:
        timing.learn(task, outcome, asked_at=at, now=at)
        timing.refresh(at)

    def learn_all() -> None:
        for task, outcome, at in made[-200:]:
            timing.learn(task, outcome, asked_at=at, now=at)

    assert calls_of(learn_all) / 200 <= MOST_CALLS
