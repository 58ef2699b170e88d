"""The sinks of one member: which it takes, and which it leaves to others."""

import asyncio
from collections.abc import Sequence

import pytest

from poller.core.deliveries import Delivery
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Clock
from poller.engine.delivery import DeliveryLoop
from poller.engine.fleet.sinks import UNUSABLE_S, MemberSinks
from poller.engine.metrics import Metrics
from poller.sinks.stdout import StdoutSink
from tests.engine.fleet.rig import fleet_of, now


class SinkWithoutItsFile(StdoutSink):
    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002
        raise ConfigError("ca_file cannot be used")


@pytest.mark.parametrize("fails_in", ["make", "factory", "open"])
async def test_a_sink_that_cannot_be_made_is_left_to_others_and_tried_again_later(clock: Clock, fails_in: str) -> None:
    """Such as one whose secret or ca_file is gone since the start: it ended the member, and then the next one."""
    tried_at: list[float] = []

    def make_loop(_name: str) -> DeliveryLoop:
        tried_at.append(now())
        if fails_in == "make":
            raise ConfigError("the file with the secret cannot be read")
        if fails_in == "factory":
            raise SinkError("another package's, against its contract")
        store, metrics = fleet.processes["r1"].store, Metrics()
        return DeliveryLoop(SinkWithoutItsFile(), store=store, metrics=metrics, clock=clock, give_up_s=None)

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
