"""Bugs of what an outcome decides and of forecasts, to plant; those of when to poll are in `timing`."""

from campaign.planted.bug import Bug

SCHEDULE_BUGS = (
    Bug(
        name="tasks-of-blocked-accounts-in-the-forecast",
        file="poller/schedule/forecast.py",
        old="(waiting := waiting - blocked) <= 0",
        new="waiting - blocked <= 0",
        tests=("schedule/test_forecast",),
    ),
    Bug(
        name="the-age-by-a-wrong-clock-ends-tasks",
        file="poller/engine/lane.py",
        old="            followed_s=now - self._began_at,\n",
        new="",
        tests=("service/test_clock",),
    ),
    Bug(
        name="404-believed-at-once",
        file="poller/schedule/policy.py",
        old="    if task.missing_at is not None and now - first_at >= polling.missing_again_s and not holds_unknown:",
        new="    if True:",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="unreachable-is-an-outcome",
        file="poller/schedule/policy.py",
        old="            if overdue and others_answered and task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:",
        new="            if others_answered and task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="deadline-runs-during-pauses",
        file="poller/schedule/policy.py",
        old="paused_s = paused_s - task.paused_base_s if paused_s > task.paused_base_s else 0.0",
        new="paused_s = 0.0",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="failure-forgets-the-404",
        file="poller/schedule/policy.py",
        old="errors=task.errors + 1, missing_at=task.missing_at,",
        new="errors=task.errors + 1, missing_at=None,",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="errors-branch-on-numErrors-only",
        file="poller/schedule/policy.py",
        old="    if outcome.has_errors or outcome.num_errors > 0:",
        new="    if outcome.num_errors > 0:",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="a-failed-poll-ends-a-task-though-no-other-is-answered",
        file="poller/schedule/policy.py",
        old="            if overdue and others_answered and task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:",
        new="            if overdue and task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:",
        tests=("schedule/test_policy", "service/test_who_answered"),
    ),
    Bug(
        name="a-429d-request-goes-back-at-once",
        file="poller/schedule/policy.py",
        old="            return _poll_again_unchanged(task, at=now + _throttled_gap_s(outcome, rng))",
        new="            return _poll_again_unchanged(task, at=now)",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="429-costs-the-task-an-error",
        file="poller/schedule/policy.py",
        old='        case Throttled() if is_paused or outcome.policy != "migrating":\n',
        new="        case Throttled():\n            return PollAgain(at=now, errors=task.errors + 1)\n",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="a-477-of-one-task-waits-for-what-it-asks",
        file="poller/schedule/policy.py",
        old='        case Throttled() if is_paused or outcome.policy != "migrating":\n',
        new="        case Throttled():\n",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="each-accident-doubles-the-gap",
        file="poller/schedule/policy.py",
        old="    return max(FEWEST_DOUBLINGS, math.log(failed_share) / math.log(RARE_FAILURES))",
        new="    return 1.0",
        tests=("schedule/test_policy",),
    ),
)
