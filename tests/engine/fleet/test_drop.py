"""A lane that is dropped ends, also where a library swallowed its first cancellation."""

import asyncio
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

import pytest

from poller.core.fleet import Beat, FleetView
from poller.core.protocols import Clock
from tests.engine.fleet.rig import WINDOW_S, fleet_of


async def test_a_lane_that_missed_its_cancellation_is_cancelled_again(clock: Clock) -> None:
    async with fleet_of(clock, "r1") as fleet:
        service = fleet.processes["r1"].service
        lane = service.lanes["a0"]
        ended = service._at_work[lane]

        async def deaf() -> None:
            with suppress(asyncio.CancelledError):
                await ended
            await asyncio.sleep(3600)

        service._at_work[lane] = asyncio.create_task(deaf())
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await service.drop_lane("a0")
        assert ended.done()


async def test_a_lane_on_its_way_out_is_dropped_with_the_others_and_gives_no_account_of_a_later_membership(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    async with fleet_of(clock, "r1", accounts=2) as fleet:
        fleet.hubspot.takes_s = 100.0
        await asyncio.sleep(WINDOW_S)  # each worker waits for an answer now
        await fleet.start("r2")
        one = fleet.processes["r1"]
        await asyncio.sleep(6)
        assert len(one.turns._giving) == 1
        fleet.server.delete(one.membership.id or 0)
        await fleet.kill("r2")
        fleet.hubspot.takes_s = 0.2
        await asyncio.sleep(20)
        assert one.owned == {"a0", "a1"}
        assert set(one.service._at_work) == set(one.service.lanes.values())
        await asyncio.sleep(200)
        assert [event for event in events if event["event"] == "account.given"] == []
        assert fleet.server.owners() == dict.fromkeys(("a0", "a1"), one.membership.id)


async def test_an_account_that_is_dropped_before_it_could_be_ended_is_no_error(clock: Clock) -> None:
    async with fleet_of(clock, "r1") as fleet:
        one = fleet.processes["r1"]
        one.turns._begin_to_give("a0")
        await one.turns._drop_all()
        assert one.owned == set()
        await asyncio.sleep(1)


async def test_a_member_whose_heartbeats_ended_by_a_defect_ends_its_run(clock: Clock) -> None:
    """It would lose its trust, be buried, join, and be buried again: for all accounts, and without a word."""

    async def fails(_status: bytes = b"") -> Beat:
        raise RuntimeError("a defect")

    async def run() -> None:
        async with fleet_of(clock, "r1") as fleet:
            fleet.processes["r1"].membership.beat = fails  # type: ignore[method-assign,assignment]
            await asyncio.sleep(5)
            pytest.fail("it went on")

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(RuntimeError, match="a defect")


async def test_a_view_that_is_older_than_a_hand_over_finds_nothing_and_loses_nothing(
    clock: Clock, events: list[MutableMapping[str, Any]]
) -> None:
    async with fleet_of(clock, "r1", accounts=2) as fleet:
        one = fleet.processes["r1"]
        view = one.membership.seen

        async def late() -> FleetView:
            seen = await view()
            while one.turns._giving:  # noqa: ASYNC110 - the answer of the server is on its way
                await asyncio.sleep(0.01)
            return seen

        one.membership.seen = late  # type: ignore[method-assign]
        fleet.hubspot.takes_s = 8.0  # a hand-over waits for what is in flight
        await asyncio.sleep(WINDOW_S)
        await fleet.start("r2")
        await asyncio.sleep(40)
        assert fleet.counts() == {1: 2}
        assert [event["event"] for event in events if event["event"] in ("account.found", "account.lost")] == []
