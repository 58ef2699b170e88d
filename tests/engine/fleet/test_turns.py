"""Members of one fleet: each account has one owner, no window is exceeded, and each fault costs what it must."""

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from random import Random
from typing import Any

import pytest

from poller.core.errors import ConfigError
from poller.core.model import Outcome, Refused, Running
from poller.core.protocols import Clock
from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.turns import STUCK_S
from tests.engine.fleet.rig import REQUESTS, TIMES, WINDOW_S, Fleet, fleet_of, now

HOLD_S = WINDOW_S * 1.002


def named(events: Sequence[Mapping[str, Any]], event: str) -> list[Mapping[str, Any]]:
    return [each for each in events if each["event"] == event]


async def test_members_share_the_accounts_evenly_and_each_window_is_used(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        await asyncio.sleep(60)
        assert fleet.counts() == {2: 3}
        assert fleet.hubspot.exceeded() == []
        for account in fleet.accounts:
            assert len(fleet.hubspot.times(account)) > 60 / WINDOW_S * REQUESTS * 0.8


async def test_a_new_member_gets_its_part_and_no_window_is_waited_for(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2") as fleet:
        await asyncio.sleep(30)
        await fleet.start("r3")
        await asyncio.sleep(10)
        assert fleet.counts() == {2: 3}
        await asyncio.sleep(30)
        assert fleet.hubspot.exceeded() == []


async def test_a_member_whose_turns_hang_publishes_no_status_though_it_beats(clock: Clock) -> None:
    async with fleet_of(clock, "r1", accounts=1) as fleet:
        r1, published, goes_on = fleet.processes["r1"], fleet.server.status, asyncio.Event()
        r1.member.status = lambda: b"well"
        await asyncio.sleep(2 * TIMES.beat_s)
        assert published.pop(r1.membership.id or 0) == b"well"

        async def hang(_: object) -> None:
            await goes_on.wait()

        r1.turns._show = hang
        await asyncio.sleep(TIMES.lease_s + 2 * TIMES.beat_s)
        published.clear()
        before = r1.membership.beats
        await asyncio.sleep(10)
        assert r1.membership.beats > before
        assert published == {}
        goes_on.set()
        await asyncio.sleep(3 * TIMES.beat_s)
        assert published == {r1.membership.id: b"well"}


async def test_what_a_killed_member_owned_is_owned_again_within_8_s_and_waits_one_window(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        await asyncio.sleep(20)
        lost, killed_at = fleet.processes["r3"].owned, now()
        await fleet.kill("r3")
        await asyncio.sleep(8)
        assert fleet.unowned() == set()
        assert fleet.counts() == {3: 2}
        await asyncio.sleep(20)
        for account in lost:
            first = next(at for at in fleet.hubspot.times(account) if at > killed_at + 1)
            assert TIMES.lease_s - TIMES.beat_s + HOLD_S <= first - killed_at <= 8 + HOLD_S + 0.5
        assert fleet.hubspot.exceeded() == []


async def test_a_member_that_is_cut_off_stops_within_5_s_and_joins_again(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        await asyncio.sleep(20)
        cut, cut_at, before = fleet.processes["r3"], now(), fleet.processes["r3"].membership.id
        cut.membership.is_cut = True
        await asyncio.sleep(30)
        assert fleet.hubspot.sent_by("r3", since=cut_at + TIMES.trust_s) == 0
        assert fleet.unowned() == set()
        cut.membership.is_cut = False
        await asyncio.sleep(15)
        assert cut.membership.id not in (None, before)
        assert fleet.counts() == {2: 3}
        assert fleet.owned_twice() == []
        await asyncio.sleep(30)
        assert fleet.hubspot.exceeded() == []
        assert [event["replica"] for event in named(events, "member.joined")] == ["r1", "r2", "r3", "r3"]
        assert [(event["replica"], event["reason"]) for event in named(events, "member.unheard")] == [("r3", "cut off")]
        assert [event["replica"] for event in named(events, "member.heard")] == ["r3"]


async def test_after_a_silence_each_lane_reads_its_queue_for_hints_may_be_lost(clock: Clock) -> None:
    async with fleet_of(clock, "r1") as fleet:
        woken: list[str] = []
        for account, lane in fleet.processes["r1"].service.lanes.items():
            lane.wake = lambda account=account: woken.append(account)  # type: ignore[method-assign,misc]
        fleet.processes["r1"].membership.is_cut = True
        await asyncio.sleep(3)
        fleet.processes["r1"].membership.is_cut = False
        assert woken == []
        await asyncio.sleep(2)
        assert sorted(woken) == fleet.accounts


async def test_a_short_cut_costs_nothing_but_time(clock: Clock, events: list[MutableMapping[str, Any]]) -> None:
    async with fleet_of(clock, "r1", "r2") as fleet:
        fleet.processes["r2"].membership.is_cut = True
        await asyncio.sleep(4)
        fleet.processes["r2"].membership.is_cut = False
        await asyncio.sleep(20)
        assert named(events, "member.buried") == []
        assert fleet.counts() == {3: 2}
        assert fleet.hubspot.exceeded() == []


async def test_a_server_that_is_down_stops_all_and_buries_no_one(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        fleet.server.is_up, down_at = False, now()
        await asyncio.sleep(60)
        assert all(at < down_at + TIMES.trust_s for at, _, _ in fleet.hubspot.log)
        fleet.server.is_up, up_at = True, now()
        await asyncio.sleep(20)
        assert named(events, "member.buried") == []
        for account in fleet.accounts:
            assert next(at for at in fleet.hubspot.times(account) if at >= up_at) - up_at <= 2.5
        assert fleet.hubspot.exceeded() == []


async def test_a_member_that_leaves_hands_its_windows_over(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        await asyncio.sleep(31)
        left = fleet.processes["r3"].owned
        await fleet.drain("r3")
        gone_at = now()
        await asyncio.sleep(3)
        assert fleet.unowned() == set()
        await asyncio.sleep(30)
        for account in left:
            first = next(at for at in fleet.hubspot.times(account) if at > gone_at)
            assert first - gone_at < HOLD_S  # a full window of slots was in use, one of them is free before
        assert fleet.hubspot.exceeded() == []
        assert len(fleet.server.members) == 2


async def test_a_rolling_restart_exceeds_no_window_and_leaves_all_owned(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        for name in ("r1", "r2", "r3"):
            await fleet.drain(name)
            await fleet.start(name)
            await asyncio.sleep(10)
        assert fleet.counts() == {2: 3}
        assert fleet.hubspot.exceeded() == []


async def test_members_that_leave_at_the_same_time_all_end_at_once(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", "r3") as fleet:
        began_at = now()
        async with asyncio.TaskGroup() as group:
            for delay_s, name in enumerate(("r1", "r2", "r3")):
                group.create_task(_drain_after(fleet, name, delay_s * 0.95))
        assert now() - began_at < 8
        assert fleet.server.members == {}


async def _drain_after(fleet: Fleet, name: str, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    await fleet.drain(name)


async def test_an_account_given_away_during_its_wait_waits_again(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", accounts=4) as fleet:
        await asyncio.sleep(20)
        lost, killed_at = fleet.processes["r2"].owned, now()
        await fleet.kill("r2")
        await asyncio.sleep(8)
        await fleet.start("r3")  # gets half of them, while they wait
        await asyncio.sleep(5)
        moved = fleet.processes["r3"].owned & lost
        await asyncio.sleep(30)
        assert fleet.hubspot.exceeded() == []
        for account in moved:
            assert next(at for at in fleet.hubspot.times(account) if at > killed_at + 1) - killed_at >= 8 + HOLD_S


async def test_the_state_of_a_fleet_that_was_killed_whole_is_taken_by_the_next_one_of_the_same_names(
    clock: Clock,
) -> None:
    async with fleet_of(clock, "r1", "r2") as fleet:
        await fleet.kill("r1")
        await fleet.kill("r2")
        await asyncio.sleep(60)
        await fleet.start("r1")
        await asyncio.sleep(12)
        assert fleet.unowned() == set()
        await fleet.start("r2")
        await asyncio.sleep(12)
        assert fleet.counts() == {3: 2}
        assert len(fleet.server.members) == 2


async def test_a_second_replica_of_a_name_in_use_is_refused(clock: Clock) -> None:
    async with fleet_of(clock, "r1") as fleet:
        twin, began_at = await fleet.make("r1"), now()
        with pytest.raises(ConfigError, match="two replicas are named 'r1'"):
            await twin.member.open()
        assert TIMES.lease_s < now() - began_at <= 9


async def test_a_replica_that_is_restarted_before_it_was_buried_waits_for_that(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2") as fleet:
        await fleet.kill("r2")
        await fleet.start("r2")
        await asyncio.sleep(20)
        assert fleet.counts() == {3: 2}


async def test_members_that_beat_differently_are_refused(clock: Clock) -> None:
    async with fleet_of(clock, "r1") as fleet:
        other = await fleet.make("r2", times=BeatTimes(beat_s=2.0))
        with pytest.raises(ConfigError, match="beat_s = 2 differs from that of replica r1"):
            await other.member.open()
        assert len(fleet.server.members) == 1


async def test_a_stuck_account_is_tried_by_another_member_once(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    def refused_by_r1(account: str, process: str) -> Outcome:
        if account == "a0":
            return Refused(reason="token_refused", detail="")
        return Running(status="PENDING")

    async with fleet_of(clock, "r1", "r2", accounts=2) as fleet:
        fleet.hubspot.outcome = refused_by_r1
        await asyncio.sleep(4 * STUCK_S)
        declined = [event["account"] for event in named(events, "account.declined")]
        assert declined == ["a0"]
        assert fleet.unowned() == set()


async def test_a_reload_while_a_member_announces_what_it_declines_ends_no_turn(clock: Clock) -> None:
    async with fleet_of(clock, "r1", "r2", accounts=2) as fleet:
        fleet.hubspot.outcome = lambda *_: Refused(reason="token_refused", detail="")
        r1, reloads = fleet.processes["r1"], 0
        announce = r1.membership.announce

        async def reload_and_announce(**values: Any) -> None:
            nonlocal reloads
            r1.membership.announce = announce  # type: ignore[method-assign]
            await r1.turns.change(fleet.accounts, {})
            reloads += 1
            await announce(**values)

        r1.membership.announce = reload_and_announce  # type: ignore[method-assign]
        await asyncio.sleep(2 * STUCK_S)
        assert reloads == 1
        assert fleet.unowned() == set()


async def test_an_account_is_served_where_the_settings_name_it(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    fleet = Fleet(clock, ["a0", "a1", "a2"])
    fleet.server.accounts.clear()
    async with fleet._group:
        await fleet.start("r1", accounts=["a0", "a1"])
        await fleet.start("r2", accounts=["a1", "a2"])
        await asyncio.sleep(10)
        assert fleet.processes["r1"].owned >= {"a0"}
        assert fleet.processes["r2"].owned >= {"a2"}
        assert fleet.unowned() == set()
        await fleet.kill("r2")
        await asyncio.sleep(10)
        assert fleet.unowned() == {"a2"}
        assert named(events, "account.unserved")[-1]["accounts"] == ["a2"]
        await fleet.kill("r1")


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_happens_no_window_is_exceeded_and_all_is_owned_in_the_end(clock: Clock, seed: int) -> None:
    rng = Random(seed)
    async with fleet_of(clock, "r0", "r1", "r2") as fleet:
        number = 3
        for _ in range(12):
            await asyncio.sleep(rng.uniform(0.5, 12))
            names = sorted(fleet.processes)
            name = rng.choice(names)
            match rng.choice(["kill", "drain", "start", "cut", "heal", "stall"]):
                case "kill" if len(names) > 1:
                    await fleet.kill(name)
                case "drain" if len(names) > 1 and fleet.server.is_up and not fleet.processes[name].membership.is_cut:
                    await fleet.drain(name)
                case "start" if len(names) < 4:
                    await fleet.start(f"r{number}")
                    number += 1
                case "cut":
                    fleet.processes[name].membership.is_cut = True
                case "heal":
                    for process in fleet.processes.values():
                        process.membership.is_cut = False
                case "stall":
                    fleet.server.is_up = False
                    await asyncio.sleep(rng.uniform(1, 20))
                    fleet.server.is_up = True
        for process in fleet.processes.values():
            process.membership.is_cut = False
        await asyncio.sleep(30)
        assert fleet.hubspot.exceeded() == []
        assert fleet.owned_twice() == []
        assert fleet.unowned() == set()
        assert max(fleet.counts()) - min(fleet.counts()) <= 1
