"""A lane that starts imports, on its own: what a member of a fleet needs of it."""

import asyncio
from collections.abc import MutableMapping
from random import Random
from typing import Any

import orjson
import pytest

from poller.core.accounts import AccountState, Pause
from poller.core.model import Answer, Chunk, FedRow, Position, Refused, Running, Task, Unreachable
from poller.core.protocols import Clock, StartStore, Store
from poller.core.request_protocols import RightLost
from poller.core.starts import RIGHT_LOST, NotSent, Row, StartAnswer, Started, Unsure
from poller.engine import GiveUpRules, Recorder
from poller.engine.import_lane import ImportLane
from poller.engine.import_progress import STUCK_AFTER_S
from poller.engine.metrics import Metrics
from poller.hubspot.classify_start import not_sent
from poller.hubspot.limits import AccountGate, GateLimits
from poller.schedule.policy import Polling
from poller.schedule.starts import StartRules
from poller.store import open_store


class Down:
    """A HubSpot that is down: starts do not reach it. The right to send the first probe is lost on the way."""

    longest_s = 30.0

    def __init__(self) -> None:
        self.is_up = False
        self.probes = 0

    async def start(self, _body: bytes) -> StartAnswer:
        await asyncio.sleep(0.1)
        shows = Running(status="PENDING") if self.is_up else Unreachable(reason="refused")
        return StartAnswer(outcome=NotSent(reason="refused", left=False), shows=shows)

    async def poll(self, _task: Task) -> Answer:
        self.probes += 1
        if self.probes == 1:
            raise RightLost
        self.is_up = True
        return Answer(outcome=Running(status="PENDING"))


async def store_of_rows(clock: Clock, count: int = 40) -> Store:
    store = await open_store("sqlite:///:memory:", clock=clock)
    rows = tuple(FedRow(account="a", row=f"{n}", body=b"{}", ref=orjson.dumps({"n": n})) for n in range(count))
    source = await store.new_source("rows")
    await store.add(source, Chunk(fed=(), rows=rows, rejected=(), blank=0, position=Position(line=count)))
    return store


def lane_of(
    store: Store,
    hubspot: Down,
    clock: Clock,
    *,
    state: AccountState | None = None,
    starts: StartStore | None = None,
    trial: int = 0,
) -> ImportLane:
    gate = AccountGate(
        "a",
        GateLimits(workers=4),
        state=state or AccountState(),
        clock=clock,
        monotonic=asyncio.get_running_loop().time,
        rng=Random(1),
    )
    return ImportLane(
        "a",
        starts=starts or store.starts,
        starter=hubspot,
        start_rules=StartRules(trial=trial),
        on_trial_failed=None,
        store=store,
        gate=gate,
        client=hubspot,
        polling=Polling(),
        recorder=Recorder("a", store=store, metrics=Metrics(), on_recorded=lambda _records: None),
        clock=clock,
        rng=Random(1),
        limits=GiveUpRules(),
    )


async def test_a_probe_whose_right_ends_on_the_way_is_made_again_and_the_lane_lives(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    store, hubspot = await store_of_rows(clock), Down()
    lane = lane_of(store, hubspot, clock)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(lane.run())
        await asyncio.sleep(120)
        assert any(each["pause"] == Pause.OUTAGE for each in events if each["event"] == "lane.paused")
        assert not running.done()
        assert hubspot.probes >= 2
        assert lane.gate.pause is None
        lane.stop()
    await store.close()


class Untrusted(Down):
    """A member's client while its beats get no answer: no start leaves."""

    async def start(self, _body: bytes) -> StartAnswer:
        await asyncio.sleep(0.1)
        return not_sent(RIGHT_LOST)


async def test_starts_that_this_member_may_not_send_are_no_outage_of_hubspot(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    store = await store_of_rows(clock)
    lane = lane_of(store, Untrusted(), clock)
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(60)
        lane.stop()
    assert [each for each in events if each["event"] == "lane.paused"] == []
    sums = await store.sums()
    assert sums.starts is not None
    assert (sums.starts.starts, sums.starts.unstarted) == (0, 40)
    await store.close()


class Accepting(Down):
    """Every start is accepted."""

    accepted = polls = 0

    async def start(self, _body: bytes) -> StartAnswer:
        self.accepted += 1
        return StartAnswer(outcome=Started(task_id=f"TASK{self.accepted:07}"), shows=Running(status="PENDING"))

    async def poll(self, _task: Task) -> Answer:
        self.polls += 1
        return Answer(outcome=Running(status="PENDING"))


async def test_rows_to_start_and_those_under_way_are_of_one_age(clock: Clock) -> None:
    store = await store_of_rows(clock)
    lane = lane_of(store, Accepting(), clock)
    seen: set[int] = set()
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        for _ in range(1000):
            await asyncio.sleep(0.01)
            if reading := lane.imports.underway:
                assert lane.imports.unstarted == 40 - reading
                seen.add(reading)
        lane.stop()
    assert len(seen) > 10
    await store.close()


@pytest.mark.parametrize("is_restarted", [True, False])
async def test_rows_of_a_trial_that_are_under_way_count_after_a_restart_and_after_a_persons_pause(
    clock: Clock, is_restarted: bool
) -> None:
    """Each restart, and each hand-over in a fleet, started as many rows more before one had landed."""
    store, hubspot = await store_of_rows(clock, 100), Accepting()
    lane = lane_of(store, hubspot, clock, trial=20)
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(lane.run())
            await asyncio.sleep(60)
            assert hubspot.accepted == 20
            assert lane.imports.trial is not None
            if not is_restarted:
                await lane.hold()
                await lane.release()
                await asyncio.sleep(60)
            lane.stop()
            await asyncio.sleep(1)
            lane = lane_of(store, hubspot, clock, trial=20)
    assert hubspot.accepted == 20
    await store.close()


class Full(Down):
    """An account whose storage is full: each start is refused; polls are answered."""

    starts = 0

    async def start(self, _body: bytes) -> StartAnswer:
        self.starts += 1
        refused = Refused(reason="import_refused", detail="storage is full")
        return StartAnswer(outcome=refused, shows=refused)

    async def poll(self, _task: Task) -> Answer:
        return Answer(outcome=Running(status="PENDING"))


async def test_an_account_that_stays_full_ends_no_row_however_often_the_run_begins(clock: Clock) -> None:
    store = await store_of_rows(clock, 3)
    for _ in range(4):
        hubspot = Full()
        lane = lane_of(store, hubspot, clock, state=await store.account("a"))
        async with asyncio.TaskGroup() as group:
            group.create_task(lane.run())
            await asyncio.sleep(60)
            lane.stop()
        assert hubspot.starts > 0
    sums = await store.sums()
    assert sums.starts is not None
    assert (dict(sums.kinds), sums.starts.unstarted) == ({}, 3)
    await store.close()


class Losing(Down):
    """Takes starts, whose answers are lost."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.started_at: list[float] = []

    async def start(self, _body: bytes) -> StartAnswer:
        self.started_at.append(self._clock())
        await asyncio.sleep(1)
        return StartAnswer(outcome=Unsure(reason="timeout"), shows=Running(status="PENDING"))

    async def poll(self, _task: Task) -> Answer:
        return Answer(outcome=Running(status="PENDING"))


class Stuck:
    """The rows of a state whose disk is full until `has_room` is set: no start can be stored."""

    def __init__(self, starts: StartStore) -> None:
        self._starts = starts
        self.has_room = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._starts, name)

    async def intend(self, row: Row, *, sent_at: float, due_at: float) -> Row:
        await self.has_room.wait()
        return await self._starts.intend(row, sent_at=sent_at, due_at=due_at)


class Counted(Stuck):
    """Counts how often rows are asked for."""

    claims = 0

    async def claim(self, account: str, limit: int, *, unsure: bool = False) -> list[Row]:
        self.claims += 1
        return await self._starts.claim(account, limit, unsure=unsure)


async def test_where_no_row_is_left_a_poll_asks_for_one_at_most_once(clock: Clock) -> None:
    """On PostgreSQL each asking is a round trip, for which all workers wait."""
    store, hubspot = await store_of_rows(clock, 40), Accepting()
    counted = Counted(store.starts)
    counted.has_room.set()
    lane = lane_of(store, hubspot, clock, starts=counted)
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(60)
        polls, claims = hubspot.polls, counted.claims
        await asyncio.sleep(300)
        lane.stop()
    assert hubspot.accepted == 40
    assert hubspot.polls - polls > 300
    assert counted.claims - claims < 1.2 * (hubspot.polls - polls)
    await store.close()


async def test_a_start_that_a_full_disk_held_up_is_repeated_no_earlier_than_any_other(clock: Clock) -> None:
    store, hubspot = await store_of_rows(clock, 1), Losing(clock)
    stuck = Stuck(store.starts)
    lane = lane_of(store, hubspot, clock, starts=stuck)
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(1800)
        stuck.has_room.set()
        await asyncio.sleep(1800)
        lane.stop()
    first, second = hubspot.started_at
    assert second - first >= 1230
    sums = await store.sums()
    assert sums.starts is not None
    assert (sums.starts.starts, sums.starts.lost, sums.starts.unsure) == (2, 2, 1), "the one not sent counts nowhere"
    await store.close()


class Slow(Stuck):
    """The rows of a state that takes 6 s to store each start."""

    async def intend(self, row: Row, *, sent_at: float, due_at: float) -> Row:
        await asyncio.sleep(6)
        return await self._starts.intend(row, sent_at=sent_at, due_at=due_at)


async def test_a_state_that_is_too_slow_for_starts_is_named_once_a_minute(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    """Each start is stored, not sent, and taken back: else it would show nowhere why none begins."""
    store, hubspot = await store_of_rows(clock, 1), Losing(clock)
    lane = lane_of(store, hubspot, clock, starts=Slow(store.starts))
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(200)
        lane.stop()
    assert hubspot.started_at == []
    held_up = [each for each in events if each["event"] == "start.held_up"]
    assert 2 <= len(held_up) <= 4
    assert held_up[0]["account"] == "a"
    assert 6 <= held_up[0]["took_s"] < 7
    await store.close()


async def test_a_start_that_was_held_up_until_a_person_paused_the_account_is_not_sent(clock: Clock) -> None:
    store, hubspot = await store_of_rows(clock, 1), Losing(clock)
    stuck = Stuck(store.starts)
    lane = lane_of(store, hubspot, clock, starts=stuck)
    async with asyncio.TaskGroup() as group:
        group.create_task(lane.run())
        await asyncio.sleep(1)
        await lane.hold()
        stuck.has_room.set()
        await asyncio.sleep(60)
        assert hubspot.started_at == []
        await lane.release()
        await asyncio.sleep(60)
        assert len(hubspot.started_at) == 1
        lane.stop()
    await store.close()


async def test_imports_that_are_stuck_since_before_a_trial_hold_its_rows_for_ten_minutes_only(clock: Clock) -> None:
    """A person corrected the file, and its rows waited for those of the wrong one until their deadline."""
    store, hubspot = await store_of_rows(clock, 100), Accepting()
    async with asyncio.TaskGroup() as group:
        for seconds, accepted in ((60, 20), (STUCK_AFTER_S - 60, 20), (STUCK_AFTER_S - 60, 20), (4000, 40)):
            lane = lane_of(store, hubspot, clock, trial=20)
            group.create_task(lane.run())
            await asyncio.sleep(seconds)
            assert hubspot.accepted == accepted
            lane.stop()
            await asyncio.sleep(1)
    await store.close()
