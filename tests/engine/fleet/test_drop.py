"""A lane that is dropped ends, also where a library swallowed its first cancellation."""

import asyncio
from contextlib import suppress

from poller.core.protocols import Clock
from tests.engine.fleet.rig import fleet_of


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
