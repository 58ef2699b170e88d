"""The sinks of one member: which it takes, and which it leaves to others."""

import asyncio
from collections.abc import Sequence

from poller.core.errors import ConfigError
from poller.core.protocols import Clock
from poller.engine.delivery import DeliveryLoop
from poller.engine.fleet.sinks import UNUSABLE_S, MemberSinks
from tests.engine.fleet.rig import fleet_of, now


async def test_a_sink_that_cannot_be_made_is_left_to_others_and_tried_again_later(clock: Clock) -> None:
    """Such as one whose secret file is gone since the start: it ended the member, and then the next one."""
    tried_at: list[float] = []

    def make_loop(_name: str) -> DeliveryLoop:
        tried_at.append(now())
        raise ConfigError("the file with the secret cannot be read")

    async def take_over(names: Sequence[str]) -> None:
        """Nothing was counted before."""

    async with fleet_of(clock, "r1") as fleet:
        one = fleet.processes["r1"]
        sinks = MemberSinks(
            one.member, one.service, named={"webhook": True}, make_loop=make_loop, take_over=take_over, monotonic=now
        )
        began_at = now()
        while now() < began_at + 1.5 * UNUSABLE_S:
            await sinks.turn(await one.membership.view())
            assert fleet.server.sinks["webhook"].owner is None
            await asyncio.sleep(1)
        assert len(tried_at) == 2
        assert tried_at[1] - tried_at[0] >= UNUSABLE_S
