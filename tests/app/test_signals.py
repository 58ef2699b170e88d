"""What a person reads after Ctrl-C where there is no display: what the end waits for, at once and every few seconds."""

import asyncio
from pathlib import Path

from poller.app.messages import Again
from poller.app.signals import Signals
from poller.core.errors import Exit, GaveUp
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from tests.support.simulation import Simulation


async def test_a_drain_reports_what_it_waits_for_until_it_is_over(tmp_path: Path, clock: Clock) -> None:
    scenario = Scenario(durations=parse_durations("fixed:100"), latency_s=(12, 12))
    simulation = Simulation(tmp_path, clock, scenario)
    written: list[str] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(simulation.write_ids(5)))
        for _ in range(100):
            await asyncio.sleep(0.5)
            if simulation.api.stats().requests_total:
                break
        signals = Signals()
        signals._service, signals.write = simulation.service, written.append
        signals._stop()
        assert written == [
            "poller: stopping: waiting for 1 poll in flight, at most 30 s more. Nothing is lost; Ctrl-C or a second "
            "signal stops at once"
        ]
        await asyncio.sleep(11)
        assert written[1:] == [
            "poller: stopping: waiting for 1 poll in flight, at most 25 s more",
            "poller: stopping: waiting for 1 poll in flight, at most 20 s more",
        ]
    assert running.result() is Exit.WORK_LEFT
    await asyncio.sleep(60)
    assert len(written) == 3


def test_the_command_to_continue_has_no_secret_and_no_input_that_was_read() -> None:
    def text(*words: str, is_fed: bool = False) -> str:
        return Again(command=("poller", "run", *words)).text(is_fed=is_fed)

    assert text("a b.txt", "--state", "sqlite:///x.db") == (
        "Run it again to continue: poller run 'a b.txt' --state sqlite:///x.db"
    )
    assert text("-") == "Run it again with the same standard input to continue: poller run -"
    assert text("-", is_fed=True) == "Run it again to continue: poller run"
    for secret in (
        "webhook:https://me:secret@example.com/",
        "sql:postgresql://me:secret@host/db",
        "--state=postgresql://me:secret@host/db",
        "https://example.com/?key=secret",
    ):
        assert text("ids.txt", secret) == "Run the same command again to continue"
    assert text(*["x" * 200] * 3) == "Run the same command again to continue"
    assert Again().text() == "Run the same command again to continue"


async def test_the_first_signal_after_an_error_has_begun_to_end_the_run_does_not_stop_it_at_once(
    tmp_path: Path, clock: Clock
) -> None:
    """The person may not have seen the error yet: a start in flight must not become unsure for that."""
    scenario = Scenario(durations=parse_durations("fixed:100"), latency_s=(12, 12))
    simulation = Simulation(tmp_path, clock, scenario)
    written: list[str] = []
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(simulation.write_ids(5)))
        await asyncio.sleep(5)
        assert simulation.api.stats().requests_total == 1
        signals = Signals()
        signals._service, signals.write = simulation.service, written.append
        assert simulation.service is not None
        simulation.service.end_with(GaveUp("the sink is down"))
        signals._task = running
        signals._stop()
        assert "waiting for 1 poll in flight" in written[0]
    assert running.result() is Exit.UNREACHABLE
    assert (await simulation.sums()).polls == 1
