"""The sinks of one member: which it takes, and which it leaves to others."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest

from poller.core.deliveries import Delivery
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Clock
from poller.engine.delivery import DeliveryLoop
from poller.engine.fleet.sinks import LEFT_TO_OTHERS_S, STOPPED_S, UNUSABLE_S, MemberSinks
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


class SinkThatThisMachineCannotUse(StdoutSink):
    async def open(self, position: bytes | None, following: Sequence[Delivery]) -> bytes | None:  # noqa: ARG002
        raise SinkError("the receiver refuses the secret of this machine")


@pytest.mark.parametrize("other_works", [True, False])
async def test_a_shared_sink_that_stopped_on_one_member_is_handed_on_and_its_reason_is_shown_meanwhile(
    clock: Clock, other_works: bool
) -> None:
    """It stayed with the member whose secret was wrong until a person restarted that one."""
    async with fleet_of(clock, "r1", "r2") as fleet:

        async def take_over(names: Sequence[str]) -> None:
            """Nothing was counted before."""

        def sinks_of(name: str, sink: StdoutSink) -> MemberSinks:
            one, store = fleet.processes[name], fleet.processes[name].store
            sink.name = "webhook"

            def make_loop(_name: str) -> DeliveryLoop:
                return DeliveryLoop(sink, store=store, metrics=Metrics(), clock=clock, give_up_s=None)

            named = {"webhook": True}
            return MemberSinks(
                one.member, one.service, named=named, make_loop=make_loop, take_over=take_over, monotonic=now
            )

        other = StdoutSink() if other_works else SinkThatThisMachineCannotUse()
        both = {"r1": sinks_of("r1", SinkThatThisMachineCannotUse()), "r2": sinks_of("r2", other)}
        owners = list[int | None]()
        for _ in range(int(2 * (STOPPED_S + LEFT_TO_OTHERS_S))):
            for name, sinks in both.items():
                await sinks.turn(await fleet.processes[name].membership.view())
            owners.append(fleet.server.sinks["webhook"].owner)
            await asyncio.sleep(1)
        changes = [owner for owner, after in pairwise(owners) if owner != after]
        assert len(set(owners) - {None}) == 2
        assert owners.count(None) <= 8
        assert len(changes) <= (2 if other_works else 5)
        assert not other_works or owners[-1] == owners[-60]
