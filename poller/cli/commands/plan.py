"""What a run would take, told before it begins: polls, time and quota, from what is known of the account's imports."""

import math
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import orjson

from poller.config import AccountSettings, Settings
from poller.core import log as logs
from poller.core.errors import ConfigError, Exit, StoreUnusable
from poller.core.model import AccountState, Added, Chunk, Position
from poller.core.text import duration
from poller.hubspot.limits.window import CLOCK_DRIFT
from poller.sandbox.scenario import DEFAULT_DURATIONS, parse_durations
from poller.schedule import (
    Course,
    KnowledgeUnreadable,
    PollPlanner,
    SimulatedRun,
    SurvivalCurve,
    knowledge_key,
    planner_from,
)
from poller.schedule.forecast import LaneOutlook, forecast
from poller.schedule.simulate import simulate_run
from poller.sources import ReadOptions, feed
from poller.store import read_store

DEFAULT_REQUESTS, DEFAULT_WINDOW_S = 100, 10.0  # until the answers say otherwise
ANSWER_S = 0.1  # a slot is held until the answer, and a window more
FEW = 100  # finished imports, from which on what was learned beats an assumption
SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountPlan:
    """What one account's part of a run would take."""

    account: str
    tasks: int
    polls: int
    polls_per_task: float
    lasts_s: float
    ends_at: str
    per_second: float
    mean_late_s: float
    timed_out: int
    rests_on: str  # where the durations come from
    quota: int | None  # requests that today still has for it; None: not known
    quota_share: float | None  # of the day's requests
    fits: bool
    tasks_that_fit: int | None


class Census:
    """An intake that only counts: what a run would find in its input."""

    def __init__(self) -> None:
        self.tasks: dict[str, int] = {}
        self.duplicates = self.rejected = self.lines = 0
        self._seen: set[tuple[str, str]] = set()

    async def open_source(self, _name: str) -> tuple[int, Position] | None:
        return None

    async def new_source(self, _name: str, _fingerprint: str = "") -> int:
        return 1

    async def was_read(self, _position: Position) -> bool:
        return False

    async def add(self, _source: int, chunk: Chunk) -> Added:
        tasks = 0
        for fed in chunk.fed:
            who = (fed.account, fed.task_id)
            if who not in self._seen:
                self._seen.add(who)
                self.tasks[fed.account] = self.tasks.get(fed.account, 0) + 1
                tasks += 1
        self.duplicates += len(chunk.fed) - tasks
        self.rejected += len(chunk.rejected)
        self.lines += len(chunk.fed) + len(chunk.rejected) + chunk.blank
        return Added(tasks=tasks, duplicates=len(chunk.fed) - tasks)


async def print_plan(
    settings: Settings, inputs: Sequence[str], *, durations: str | None, as_json: bool, now: float | None = None
) -> Exit:
    """Print what a run over `inputs` would take. Exit code 1 where it does not fit into what is left of today's quota.

    Raises `InputError` for what cannot be read, `ConfigError` for durations that nobody can read.
    """
    at = time.time() if now is None else now
    logs.configure(format=settings.log.format, level="warning", clock=time.time)
    census = await _count(settings, inputs)
    known = await _known(settings)
    plans = []
    for name, tasks in census.tasks.items():
        knowledge, state = known.get(name, (None, AccountState()))
        account = settings.account_settings()[name]
        plans.append(plan_account(name, account, tasks, knowledge, state, durations, at))
    sys.stdout.write((_json(census, plans) if as_json else _text(census, plans)) + "\n")
    if not plans:
        return Exit.NO_INPUT
    return Exit.ALL_COMPLETE if all(each.fits for each in plans) else Exit.NOT_ALL_COMPLETE


async def _count(settings: Settings, inputs: Sequence[str]) -> Census:
    census = Census()
    feeding = ReadOptions(
        format=settings.input.format,
        id_column=settings.input.id_column,
        accounts=frozenset(settings.account_settings()),
        default_account=settings.account,
        max_line_bytes=settings.input.max_line_bytes,
    )
    for spec in inputs:
        await feed(spec, census, feeding)
    return census


async def _known(settings: Settings) -> Mapping[str, tuple[bytes | None, AccountState]]:
    """Return what the state knows of each account; a state that does not exist knows nothing."""
    try:
        store = await read_store(settings.state)
    except StoreUnusable:
        return {}
    try:
        return {
            name: (await store.knowledge(knowledge_key(name, account.status_path)), await store.account(name))
            for name, account in settings.account_settings().items()
        }
    finally:
        await store.close()


# --- one account -----------------------------------------------------------------------------------------------------


def plan_account(
    name: str,
    account: AccountSettings,
    tasks: int,
    knowledge: bytes | None,
    state: AccountState,
    durations: str | None,
    now: float,
) -> AccountPlan:
    """Play the account's part of the run through, at its limits."""
    rules = account.polling_rules()
    learned = _learned(account, knowledge)
    courses, rests_on = _courses(learned, durations)
    per_second = _per_second(account)
    cast = simulate_run(
        tasks,
        courses,
        per_second=per_second,
        deadline_s=rules.deadline_s,
        gap_s=_plain_gap_s(account),
        learned=learned if rules.policy == "learned" else None,
    )
    outlook, pace = _outlook(account, state, now), tasks / max(cast.lasts_s, 1e-9)
    done = forecast(now=now, waiting=tasks, paces=[pace], lanes=[outlook], polls_per_task=cast.polls / tasks)
    quota = _quota(outlook, cast, now)
    fits = quota is None or cast.polls <= quota
    per_task = cast.polls / tasks
    return AccountPlan(
        account=name,
        tasks=tasks,
        polls=cast.polls,
        polls_per_task=round(per_task, 2),
        lasts_s=round(cast.lasts_s, 1),
        ends_at=datetime.fromtimestamp(done.at or now + cast.lasts_s, UTC).isoformat(timespec="seconds"),
        per_second=round(per_second, 2),
        mean_late_s=round(cast.mean_late_s, 1),
        timed_out=cast.timed_out,
        rests_on=rests_on,
        quota=quota,
        quota_share=round(cast.polls / account.daily_limit, 4) if account.daily_limit else None,
        fits=fits,
        tasks_that_fit=None if quota is None else min(tasks, int(quota / per_task)),
    )


def _learned(account: AccountSettings, knowledge: bytes | None) -> PollPlanner:
    tradeoff = account.polling_rules().tradeoff
    try:
        return PollPlanner(tradeoff) if knowledge is None else planner_from(tradeoff, knowledge)
    except KnowledgeUnreadable:
        return PollPlanner(tradeoff)


def _courses(learned: PollPlanner, durations: str | None) -> tuple[Callable[[int], list[Course]], str]:
    """Return what becomes of the tasks played, evenly spread over the durations in a random order; and what the
    durations rest on."""
    if durations is None and learned.hazard.finished >= FEW:
        lifetimes = SurvivalCurve(learned.hazard.rates()[0])
        age_s = learned.usual_feeding_age_s

        def known(played: int) -> list[Course]:
            (places,) = _spread(played, 1)
            return [Course(age_s=age_s, took_s=lifetimes.quantile_s(place)) for place in places]

        return known, f"what {learned.hazard.finished:,} finished tasks of this account taught"
    spec = durations or DEFAULT_DURATIONS
    try:
        drawn = parse_durations(spec)
    except ValueError as error:
        raise ConfigError(f"--durations: {error}") from None

    def assumed(played: int) -> list[Course]:
        picks, draws = _spread(played, 2)
        return [Course(age_s=0.0, took_s=drawn.draw_s(*each)) for each in zip(picks, draws, strict=True)]

    return assumed, f"durations {spec}, {'as assumed' if durations is None else 'as given'}"


def _spread(count: int, times: int) -> list[list[float]]:
    """Return numbers spread evenly over 0 to 1, each time in another order; the same ones every day."""
    rng = random.Random(SEED)  # noqa: S311 - spreads, keeps no secret
    evenly = [(number + 0.5) / count for number in range(count)]
    return [rng.sample(evenly, count) for _ in range(times)]


def _plain_gap_s(account: AccountSettings) -> Callable[[float], float]:
    rules = account.polling_rules()
    if rules.policy == "fixed":
        return lambda _age_s: rules.ceiling_s
    return lambda age_s: min(max(age_s * rules.age_share, rules.first_gap_s), rules.ceiling_s)


def _per_second(account: AccountSettings) -> float:
    """A slot is held until the answer and a window more, so that is how often each can be used."""
    window_s = account.window_s or DEFAULT_WINDOW_S
    return (account.requests or DEFAULT_REQUESTS) / (window_s * (1 + CLOCK_DRIFT) + ANSWER_S)


def _outlook(account: AccountSettings, state: AccountState, now: float) -> LaneOutlook:
    """Return how many requests are left today and usable in a whole day, and when the day ends."""
    zone = ZoneInfo(account.time_zone)
    today = datetime.fromtimestamp(now, zone)
    midnight = datetime.combine(today.date() + timedelta(days=1), datetime.min.time(), zone).timestamp()
    if (limit := account.daily_limit) is None:
        return LaneOutlook(resets_at=midnight)
    usable = int(limit - (account.daily_reserve * limit if account.daily_reserve < 1 else account.daily_reserve))
    used = state.day_requests if state.day == today.date().isoformat() else 0
    return LaneOutlook(daily_left=max(0, usable - used), daily_usable=usable, resets_at=midnight)


def _quota(outlook: LaneOutlook, cast: SimulatedRun, now: float) -> int | None:
    """Return how many requests the run may send until it ends; None: not known."""
    if outlook.daily_left is None or outlook.daily_usable is None:
        return None
    later_s = max(0.0, cast.lasts_s - (outlook.resets_at - now))  # requests after midnight count for the next days
    return outlook.daily_left + math.ceil(later_s / 86_400) * outlook.daily_usable


# --- telling ---------------------------------------------------------------------------------------------------------


def _json(census: Census, plans: Sequence[AccountPlan]) -> str:
    counted = {
        "lines": census.lines,
        "tasks": sum(census.tasks.values()),
        "duplicates": census.duplicates,
        "rejected": census.rejected,
        "fits": all(each.fits for each in plans),
        "accounts": [asdict(each) for each in plans],
    }
    return orjson.dumps(counted, option=orjson.OPT_INDENT_2).decode()


def _text(census: Census, plans: Sequence[AccountPlan]) -> str:
    tasks = sum(census.tasks.values())
    head = f"input      {tasks:,} tasks, {census.duplicates:,} duplicates, {census.rejected:,} rejected lines"
    return "\n".join([head, *(line for each in plans for line in _told(each))])


def _told(plan: AccountPlan) -> list[str]:
    lines = [
        f"account    {plan.account}: {plan.tasks:,} tasks, at most {plan.per_second:g} requests a second",
        f"polls      about {plan.polls:,}, {plan.polls_per_task:g} per task",
        f"time       about {duration(plan.lasts_s)}: started now, finished at {plan.ends_at}",
        f"lateness   {plan.mean_late_s:g} s from a task's end to the poll that sees it, on average",
        f"rests on   {plan.rests_on}",
    ]
    if plan.timed_out:
        lines.append(f"timed out  about {plan.timed_out:,} tasks that do not finish before the deadline")
    if plan.quota is None or plan.quota_share is None:
        return [*lines, "quota      not known before the first answer; --daily N tells it"]
    lines.append(f"quota      {plan.quota_share:.1%} of a day's requests; {plan.quota:,} are left for the run")
    if not plan.fits:
        lines.append(
            f"NO         it does not fit: about {plan.tasks_that_fit:,} tasks would. Feed fewer, wait for the next day,"
            " or set polling.poll_cost_s higher. A run started all the same waits for the next day by itself"
        )
    return lines
