"""By a token other than the one to which HubSpot reported a status last, unknown ids wait until it knows one."""

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Callable, MutableMapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poller.core.accounts import Pause
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.engine.known_ids import ALL_UNKNOWN, FORGOTTEN_AFTER_S
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest, unknown_id
from tests.support.simulation import Simulation, named

Events = list[MutableMapping[str, Any]]
pytestmark = pytest.mark.usefixtures("events")

SHORT = Scenario(seed=3, durations=parse_durations("uniform:5,60"), fates={}, latency_s=(0.05, 0.3))
FIRST, OTHER = "pat-na1-0123456789abcdef", "pat-na1-another-account"


def knows_none(if_asked: Callable[[SandboxRequest], bool]) -> Callable[[SandboxRequest, SandboxReply], SandboxReply]:
    """Return a stage on which HubSpot does not know the ids of such requests."""
    return lambda ask, answer: replace(unknown_id("x", "c"), wait_s=0.1) if if_asked(ask) else answer


class TwoRuns(Simulation):
    """A first run of 5 tasks, by the token FIRST in a file; then a second one."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        super().__init__(folder, clock, SHORT)
        self.token = folder / "token"
        self.token.write_text(FIRST)

    async def finish_first(self) -> None:
        assert await self.again(self.write_ids(5)) is Exit.ALL_COMPLETE

    async def again(self, ids: Path) -> Exit:
        return await self.run(ids, {"token_file": str(self.token)})

    def write_unknown(self, count: int) -> Path:
        path = self.folder / "unknown.txt"
        path.write_text("".join(f"AAAAunknown{number:05}\n" for number in range(count)))
        return path

    def append_known(self, path: Path, count: int) -> None:
        lines = self.write_ids(count).read_text().splitlines()[1:]
        with path.open("a") as file:
            file.writelines(f"{line.partition(',')[0]}\n" for line in lines)

    def rotate_and_forget(self) -> None:
        """From now on HubSpot no longer knows the tasks so far, and the token is another one of the account."""
        earlier = {record["task_id"] for record in self.records()}
        self.api.stage = knows_none(lambda ask: any(task_id in ask.path for task_id in earlier))
        self.token.write_text("pat-na1-rotated")

    def kinds(self) -> Counter[str]:
        return Counter(record["kind"] for record in self.records())


@pytest.mark.parametrize("count", [1, 5])
async def test_few_ids_are_not_ended_by_another_accounts_token_in_a_later_run_and_the_right_one_heals_it(
    tmp_path: Path, clock: Clock, events: Events, capsys: pytest.CaptureFixture[str], count: int
) -> None:
    simulation = TwoRuns(tmp_path, clock)
    await simulation.finish_first()
    ids = simulation.write_ids(count)
    simulation.api.stage = knows_none(lambda ask: ask.token == OTHER)
    simulation.token.write_text(OTHER)
    assert await simulation.again(ids) is Exit.CONFIG
    assert "polling.trust_unknown" in capsys.readouterr().err
    assert [event["pause"] for event in named(events, "lane.paused")] == [Pause.WRONG_ACCOUNT]
    assert (await simulation.sums()).finished == 5
    simulation.token.write_text(FIRST)
    assert await simulation.again(ids) is Exit.ALL_COMPLETE
    assert simulation.kinds() == {"complete": 5 + count}


@pytest.mark.parametrize("token", [FIRST, "pat-na1-rotated"])
async def test_unknown_ids_are_not_found_by_a_new_token_of_the_account_that_still_knows_an_earlier_task(
    tmp_path: Path, clock: Clock, events: Events, token: str
) -> None:
    simulation = TwoRuns(tmp_path, clock)
    await simulation.finish_first()
    simulation.token.write_text(token)
    assert await simulation.again(simulation.write_unknown(3)) is Exit.NOT_ALL_COMPLETE
    assert simulation.kinds() == {"complete": 5, "not_found": 3}
    assert named(events, "lane.paused") == []


async def test_a_new_token_needs_one_known_id_where_hubspot_has_forgotten_the_earlier_tasks(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = TwoRuns(tmp_path, clock)
    await simulation.finish_first()
    simulation.rotate_and_forget()
    unknown = simulation.write_unknown(3)
    simulation.append_known(unknown, 3)
    assert await simulation.again(unknown) is Exit.NOT_ALL_COMPLETE
    assert simulation.kinds() == {"complete": 8, "not_found": 3}
    assert named(events, "lane.paused") == []


async def test_the_token_of_the_earlier_run_ends_unknown_ids_though_hubspot_has_forgotten_its_tasks(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = TwoRuns(tmp_path, clock)
    await simulation.finish_first()
    simulation.api.stage = knows_none(lambda _: True)
    assert await simulation.again(simulation.write_unknown(3)) is Exit.NOT_ALL_COMPLETE
    assert simulation.kinds() == {"complete": 5, "not_found": 3}
    assert named(events, "lane.paused") == []


async def test_an_account_that_waits_for_proof_of_a_new_token_continues_with_the_first_known_id(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = TwoRuns(tmp_path, clock)
    await simulation.finish_first()
    simulation.rotate_and_forget()
    unknown, waited = simulation.write_unknown(2), list[float]()

    async def feed() -> None:
        await asyncio.sleep(900)
        assert {event["pause"] for event in named(events, "lane.paused")} == {Pause.WRONG_ACCOUNT}
        began = asyncio.get_running_loop().time()
        simulation.append_known(unknown, 5)
        while not named(events, "lane.resumed"):  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        waited.append(asyncio.get_running_loop().time() - began)
        await asyncio.sleep(300)
        simulation.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        await simulation.run(unknown, {"token_file": str(simulation.token), "follow": True})
    assert simulation.kinds() == {"complete": 10, "not_found": 2}
    assert waited[0] < 240


async def test_a_state_of_an_earlier_version_shows_by_its_finished_tasks_that_the_account_is_the_right_one(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    """It has no proof: 50 unknown ids in a row ended the first run after an update with 78."""
    simulation = TwoRuns(tmp_path, clock)
    await simulation.finish_first()
    with closing(sqlite3.connect(tmp_path / "poller.db", isolation_level=None)) as state:
        assert state.execute("DELETE FROM knowledge WHERE name = 'proof default'").rowcount == 1
    assert await simulation.again(simulation.write_unknown(ALL_UNKNOWN)) is Exit.NOT_ALL_COMPLETE
    assert simulation.kinds() == {"complete": 5, "not_found": ALL_UNKNOWN}
    assert named(events, "lane.paused") == []


async def test_a_tail_of_unknown_ids_waits_an_hour_at_most_where_hubspot_forgets_tasks_sooner(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = TwoRuns(tmp_path, clock)
    ids = simulation.write_ids(5)
    ids.write_text(ids.read_text() + simulation.write_unknown(3).read_text())
    simulation.api.stage = knows_none(lambda _: asyncio.get_running_loop().time() > 70)
    assert await simulation.again(ids) is Exit.NOT_ALL_COMPLETE
    assert simulation.kinds() == {"complete": 5, "not_found": 3}
    assert asyncio.get_running_loop().time() < FORGOTTEN_AFTER_S + 600
