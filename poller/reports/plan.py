"""What a run would take: polls, time and quota, from what is known of the account's imports. Pure."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from poller.config import AccountSettings
from poller.core.accounts import AccountState
from poller.core.errors import ConfigError
from poller.core.learned_limit import LearnedLimit
from poller.core.model import JsonObject
from poller.core.sums import StartSums
from poller.core.text import counted, duration
from poller.hubspot.limits.quota import DailyQuota
from poller.hubspot.limits.window import CLOCK_DRIFT
from poller.schedule import (
    Course,
    KnowledgeUnreadable,
    KnownLine,
    PollPlanner,
    SimulatedRun,
    SurvivalCurve,
    explanation_of,
    line_of,
    planner_from,
)
from poller.schedule.durations import DEFAULT_DURATIONS, parse_durations
from poller.schedule.forecast import LaneOutlook, forecast
from poller.schedule.simulate import simulate_run
from poller.schedule.simulate_imports import ImportTiming, simulate_imports
from poller.schedule.starts import StartRules, backlog_tradeoff, settle_s

DEFAULT_REQUESTS, DEFAULT_WINDOW_S = 100, 10.0  # until HubSpot's answers contain the limits
ANSWER_S = 0.1  # a slot is held until the answer, and a window more
ENOUGH_FINISHED = 100  # imports, from which on what was learned is better than an assumption
ENOUGH_STARTS = 100  # to know the share of lost answers
SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownAccount:
    """What a state has of an account."""

    timing: bytes | None = None  # how long its imports took
    state: AccountState = AccountState()  # noqa: RUF009 - frozen
    limit: LearnedLimit | None = None  # that HubSpot's answers showed
    lost_share: float = 0.0  # of the starts until now, those whose answer was lost


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPlan:
    """What one account's part of a run would take."""

    account: str
    tasks: int
    starts: int  # requests that start imports
    underway: int  # rows among the tasks that are started already; they are only polled
    polls: int
    polls_per_task: float
    lasts_s: float
    ends_at: str
    per_second: float
    limit_from: str  # where the limit comes from
    mean_late_s: float
    timed_out: int
    based_on: str  # where the durations come from
    quota: int | None  # requests left today; None: not known
    quota_share: float | None  # of the day's requests
    fits: bool
    tasks_that_fit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What a run would find in its input, and what each account's part would take."""

    lines: int
    duplicates: int
    rejected: int
    ended: int = 0  # lines whose task has its outcome in the state: they cost nothing
    accounts: tuple[AccountPlan, ...]

    @property
    def tasks(self) -> int:
        return sum(each.tasks for each in self.accounts)

    @property
    def fits(self) -> bool:
        """Every account's part fits into what is left of today's quota."""
        return all(each.fits for each in self.accounts)

    def to_json(self) -> JsonObject:
        counts = {name: getattr(self, name) for name in ("lines", "ended", "tasks", "duplicates", "rejected", "fits")}
        return counts | {"accounts": [asdict(each) for each in self.accounts]}

    def to_text(self) -> str:
        counts = ((self.tasks + self.ended, "task"), (self.duplicates, "duplicate"), (self.rejected, "rejected line"))
        head = f"input      {', '.join(counted(count, noun) for count, noun in counts)}"
        left = f"{counted(self.tasks, 'is left', 'are left')}" if self.tasks else "nothing is left to do"
        known = [f"state      {counted(self.ended, 'has its', 'have their')} outcome: {left}"] if self.ended else []
        return "\n".join([head, *known, *(line for each in self.accounts for line in _lines(each))])


def plan_account(
    name: str,
    account: AccountSettings,
    tasks: int,
    known: KnownAccount,
    durations: str | None,
    now: float,
    starts: StartRules | None = None,
    underway: int = 0,
) -> AccountPlan:
    """Simulate the account's part of the run, at its limits; with `starts`, its tasks are rows to import, of which
    `underway` are started already. Raises `ConfigError` for durations that cannot be read."""
    rules = account.polling_rules()
    learned = _learned(account, known.timing)
    courses, based_on = _courses(learned, durations)
    based_on += "" if durations is not None else _explained(known.timing, learned)
    per_second, limit_from = _limit(account, known.limit)
    planner, to_start = learned if rules.policy == "learned" else None, tasks - underway if starts else 0
    first_wait_s = settle_s(planner)  # before the simulation teaches it
    simulated = _simulate(account, to_start or tasks, courses, per_second, planner, starts if to_start else None)
    posts, waits_s = 0, (first_wait_s, settle_s(planner))
    if to_start:
        posts, simulated = _with_others(simulated, to_start, underway, per_second, known.lost_share, waits_s)
    line = line_of(known.timing) if durations is None and rules.policy == "learned" and starts is None else None
    if line is not None:
        simulated = _in_line(tasks, line, per_second)
    requests = simulated.polls + posts
    outlook, pace = _outlook(account, known.state, now), tasks / max(simulated.lasts_s, 1e-9)
    done = forecast(now=now, waiting=tasks, paces=[pace], lanes=[outlook], polls_per_task=requests / tasks)
    quota = _quota(outlook, simulated, now)
    fits = quota is None or requests <= quota
    return AccountPlan(
        account=name,
        tasks=tasks,
        starts=posts,
        underway=underway if starts else 0,
        polls=simulated.polls,
        polls_per_task=round(simulated.polls / tasks, 2),
        lasts_s=round(simulated.lasts_s, 1),
        ends_at=datetime.fromtimestamp(done.at or now + simulated.lasts_s, UTC).isoformat(timespec="seconds"),
        per_second=round(per_second, 2),
        limit_from=limit_from,
        mean_late_s=round(simulated.mean_late_s, 1),
        timed_out=simulated.timed_out,
        based_on=based_on,
        quota=quota,
        quota_share=round(requests / account.daily_limit, 4) if account.daily_limit else None,
        fits=fits,
        tasks_that_fit=None if quota is None else min(tasks, int(quota * tasks / requests)),
    )


def _explained(timing: bytes | None, learned: PollPlanner) -> str:
    """Return what else was learned of the account; empty where that is nothing."""
    if (explanation := explanation_of(timing)) is None:
        return ""
    is_used = learned.hazard.finished >= ENOUGH_FINISHED
    return f" ({explanation})" if is_used else f". The few that finished so far show: {explanation}"


def lost_share(starts: StartSums | None) -> float:
    """Return the share of a state's starts whose answer was lost; 0 where they are too few to show it."""
    if starts is None or starts.starts < ENOUGH_STARTS:
        return 0.0
    return min(1.0, max(starts.lost, starts.repeated) / starts.starts)


def _with_others(
    simulated: SimulatedRun, started: int, underway: int, per_second: float, lost: float, waits_s: Sequence[float]
) -> tuple[int, SimulatedRun]:
    """Return all starts of a run, and the run with what its simulation leaves out: imports that are under way already,
    and starts that are repeated since their answer was lost: the first time after `waits_s[0]`, then after the next."""
    repeats = round(started * (lost + lost * lost))
    waited_s = sum(wait_s for number, wait_s in enumerate(waits_s, 1) if started * lost**number >= 1)
    polls = round(simulated.polls * (1 + underway / started))
    lasts_s = simulated.lasts_s + (repeats + polls - simulated.polls) / per_second + waited_s
    return started + repeats, replace(simulated, polls=polls, lasts_s=lasts_s)


def _simulate(
    account: AccountSettings,
    tasks: int,
    courses: Callable[[int], list[Course]],
    per_second: float,
    learned: PollPlanner | None,
    starts: StartRules | None,
) -> SimulatedRun:
    rules, gap_s = account.polling_rules(), _plain_gap_s(account)
    if starts is None:
        return simulate_run(
            tasks, courses, per_second=per_second, deadline_s=rules.deadline_s, gap_s=gap_s, learned=learned
        )
    timing = ImportTiming(gap_s=gap_s, learned=learned, price=partial(backlog_tradeoff, rules))
    return simulate_imports(
        tasks, courses, per_second=per_second, deadline_s=rules.deadline_s, rules=starts, timing=timing
    )


def _in_line(tasks: int, line: KnownLine, per_second: float) -> SimulatedRun:
    """Return what imports that are worked off in order take: as many polls and as late as the latest, at the line's
    pace or, where that is lower, the limit's."""
    polls = round(tasks * max(line.polls, 1.0))
    lasts_s = max(tasks / line.per_second, polls / per_second)
    behind_s = (lasts_s - tasks / line.per_second) / 2
    return SimulatedRun(polls=polls, lasts_s=lasts_s, mean_late_s=line.late_s + behind_s, timed_out=0)


def _learned(account: AccountSettings, knowledge: bytes | None) -> PollPlanner:
    tradeoff = account.polling_rules().tradeoff
    try:
        return PollPlanner(tradeoff) if knowledge is None else planner_from(tradeoff, knowledge)
    except KnowledgeUnreadable:
        return PollPlanner(tradeoff)


def _courses(learned: PollPlanner, durations: str | None) -> tuple[Callable[[int], list[Course]], str]:
    """Return the simulated tasks, evenly spread over the durations in a random order; and what the durations are
    based on."""
    if durations is None and learned.hazard.finished >= ENOUGH_FINISHED:
        lifetimes = SurvivalCurve(learned.hazard.rates()[0])
        age_s = learned.usual_feeding_age_s

        def known(played: int) -> list[Course]:
            (shares,) = _spread(played, 1)
            return [Course(age_s=age_s, took_s=lifetimes.quantile_s(share)) for share in shares]

        return known, f"{learned.hazard.finished:,} finished tasks of this account"
    spec = durations or DEFAULT_DURATIONS
    try:
        drawn = parse_durations(spec)
    except ValueError as error:
        raise ConfigError(f"--durations: {error}") from None

    def assumed(played: int) -> list[Course]:
        picks, draws = _spread(played, 2)
        return [Course(age_s=0.0, took_s=drawn.draw_s(*each)) for each in zip(picks, draws, strict=True)]

    if durations is not None:
        return assumed, f"durations {spec}, given"
    return assumed, f"an assumption: half of the imports take under 30 s ({spec}); --durations sets another"


def _spread(count: int, times: int) -> list[list[float]]:
    """Return numbers spread evenly over 0 to 1, each time in another order; the seed is fixed."""
    rng = random.Random(SEED)  # noqa: S311 - spreads, keeps no secret
    evenly = [(number + 0.5) / count for number in range(count)]
    return [rng.sample(evenly, count) for _ in range(times)]


def _plain_gap_s(account: AccountSettings) -> Callable[[float], float]:
    rules = account.polling_rules()
    if rules.policy == "fixed":
        return lambda _age_s: rules.ceiling_s
    return lambda age_s: min(max(age_s * rules.age_share, rules.first_gap_s), rules.ceiling_s)


def _limit(account: AccountSettings, learned: LearnedLimit | None) -> tuple[float, str]:
    """Return how many requests a second leave at most, and the limit behind it: that of the settings or of HubSpot's
    answers, whichever is tighter. A slot is held until the answer and a window more."""
    limits: list[tuple[int, float, str]] = []
    if account.requests is not None or (account.window_s or 0.0) > DEFAULT_WINDOW_S:
        limits.append((account.requests or DEFAULT_REQUESTS, account.window_s or DEFAULT_WINDOW_S, "as set"))
    if learned is not None:
        limits.append((learned.requests, learned.window_s, "as HubSpot's answers showed in an earlier run"))
    if not limits:
        limits.append((DEFAULT_REQUESTS, DEFAULT_WINDOW_S, "assumed; HubSpot's answers will show the account's own"))
    requests, window_s, why = min(limits, key=lambda each: each[0] / each[1])
    per_second = requests / (window_s * (1 + CLOCK_DRIFT) + ANSWER_S)
    return per_second, f"{counted(requests, 'request')} per {window_s:g} s, {why}"


def _outlook(account: AccountSettings, state: AccountState, now: float) -> LaneOutlook:
    """Return how many requests are left today and usable in a whole day, and when the day ends."""
    quota = DailyQuota(
        limit=account.daily_limit,
        reserve=account.daily_reserve,
        time_zone=account.time_zone,
        clock=lambda: now,
        day=state.day,
        day_requests=state.day_requests,
    )
    if account.daily_limit is None:
        return LaneOutlook(resets_at=quota.resets_at)
    left, usable = max(0, int(quota.configured_left())), max(0, int(quota.usable))
    return LaneOutlook(daily_left=left, daily_usable=usable, resets_at=quota.resets_at)


def _quota(outlook: LaneOutlook, simulated: SimulatedRun, now: float) -> int | None:
    """Return how many requests the run may send until it ends; None: not known."""
    if outlook.daily_left is None or outlook.daily_usable is None:
        return None
    later_s = max(0.0, simulated.lasts_s - (outlook.resets_at - now))  # requests after midnight count for the next days
    return outlook.daily_left + math.ceil(later_s / 86_400) * outlook.daily_usable


def _rounded(number: float) -> int:
    """Return a forecast with two digits: it is no more exact."""
    unit: int = 10 ** max(0, len(str(int(number))) - 2)
    return int(number / unit + 0.5) * unit


def _minute(instant: str) -> str:
    at = datetime.fromisoformat(instant) + timedelta(seconds=59)
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _requests(plan: AccountPlan) -> list[str]:
    polls = f"polls      about {_rounded(plan.polls):,}, {plan.polls_per_task:.2g} per task"
    if not plan.starts:
        return [polls]
    a_file = (plan.starts + plan.polls) / plan.tasks
    to_start, repeated = plan.tasks - plan.underway, plan.starts - plan.tasks + plan.underway
    again = f", and {repeated:,} again: answers are lost, as in this state until now" if repeated else ""
    polled = f"; {plan.underway:,} are under way and only polled" if plan.underway else ""
    return [f"starts     {to_start:,}, one a row{again}{polled}", polls, f"requests   {a_file:.3g} a file"]


def _lines(plan: AccountPlan) -> list[str]:
    lines = [
        f"account    {plan.account}: {counted(plan.tasks, 'task')}",
        f"limit      {plan.limit_from}",
        *_requests(plan),
        f"time       about {duration(_rounded(plan.lasts_s))}: started now, finished at about {_minute(plan.ends_at)}",
        f"lateness   about {_rounded(plan.mean_late_s):g} s from a task's end to the poll that sees it, on average",
        f"based on   {plan.based_on}",
    ]
    if plan.timed_out:
        lines.append(f"timed out  about {counted(plan.timed_out, 'task')}: not finished before the deadline")
    if plan.quota is None or plan.quota_share is None:
        return [*lines, "quota      not known before the first answer; set it with --daily N"]
    lines.append(f"quota      {plan.quota_share:.1%} of a day's requests; {plan.quota:,} are left for the run")
    if not plan.fits:
        lines.append(
            f"NO         it does not fit into today's quota; about {counted(plan.tasks_that_fit or 0, 'task')} would. "
            "Feed fewer, or set polling.poll_cost_s higher; a run that is started now continues on the next day"
        )
    return lines
