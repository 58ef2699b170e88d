"""A member trusts itself for a short time after the sending of its last good beat, by the clock that shows more."""

import math

import pytest

from poller.engine.fleet.times import BeatTimes
from poller.engine.fleet.trust import Trust


class Machine:
    """A machine's two clocks, moved by hand."""

    def __init__(self) -> None:
        self.since_boot_s = 1000.0
        self.wall_at = 1_800_000_000.0
        self.trust = Trust(BeatTimes().trust_s, since_boot=lambda: self.since_boot_s, wall=lambda: self.wall_at)

    def elapse(self, seconds: float) -> None:
        self.since_boot_s += seconds
        self.wall_at += seconds

    def beat(self, *, answer_after_s: float = 0.0) -> None:
        sent = self.trust.mark()
        self.elapse(answer_after_s)
        self.trust.renew(sent)


def test_a_member_stops_before_others_may_bury_it() -> None:
    for beat_s in (0.1, 1.0, 10.0):
        times = BeatTimes(beat_s=beat_s)
        assert times.trust_s < times.lease_s


def test_it_trusts_nothing_before_its_first_beat() -> None:
    machine = Machine()
    assert not machine.trust()
    assert machine.trust.age_s == math.inf


def test_trust_ends_five_seconds_after_the_beat_was_sent() -> None:
    machine = Machine()
    machine.beat()
    machine.elapse(4.99)
    assert machine.trust()
    machine.elapse(0.01)
    assert not machine.trust()
    machine.beat()
    assert machine.trust()


def test_trust_counts_from_before_the_beat_was_sent() -> None:
    machine = Machine()
    machine.beat(answer_after_s=4.5)
    assert machine.trust()
    machine.elapse(0.5)
    assert not machine.trust()


def test_a_beat_whose_answer_took_too_long_gives_no_trust() -> None:
    machine = Machine()
    machine.beat(answer_after_s=5.0)
    assert not machine.trust()


def test_an_answer_that_overtook_an_older_one_counts() -> None:
    machine = Machine()
    older = machine.trust.mark()
    machine.elapse(3.0)
    machine.beat()
    machine.trust.renew(older)
    assert machine.trust.age_s == 0.0


@pytest.mark.parametrize("jump_s", [3600.0, 5.0])
def test_a_wall_clock_that_jumps_forward_ends_trust_until_the_next_beat(jump_s: float) -> None:
    machine = Machine()
    machine.beat()
    machine.wall_at += jump_s
    assert not machine.trust()
    machine.beat()
    assert machine.trust()


def test_a_wall_clock_that_jumps_back_lengthens_nothing() -> None:
    machine = Machine()
    machine.beat()
    machine.wall_at -= 3600
    machine.elapse(4.9)
    assert machine.trust()
    machine.elapse(0.1)
    assert not machine.trust()


def test_a_suspended_machine_wakes_without_trust() -> None:
    machine = Machine()
    machine.beat()
    machine.since_boot_s += 600  # the wall clock is not set yet
    assert not machine.trust()


def test_a_virtual_machine_whose_clock_since_boot_stood_still_wakes_without_trust() -> None:
    machine = Machine()
    machine.beat()
    machine.wall_at += 600
    assert not machine.trust()


def test_a_buried_member_trusts_nothing() -> None:
    machine = Machine()
    machine.beat()
    machine.trust.end()
    assert not machine.trust()
