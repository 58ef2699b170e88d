"""The Python API starts imports: each row once, with its file and its own keys."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from poller import ConfigError, TooManyFailures
from poller.core.protocols import Clock
from tests.app.embed.pollers import QUICK, SimulatedPoller
from tests.support.simulation import Simulation

IMPORTS = {"options": {"access": "PRIVATE", "folderPath": "/p/{brand}"}, "trial": 0}


def picture(number: int, **more: object) -> dict[str, object]:
    return {"url": f"https://cdn.example.com/{number}.png", "brand": "acorn"} | more


async def streamed(*rows: dict[str, object]) -> AsyncIterator[dict[str, object]]:
    for row in rows:
        yield row


async def test_rows_are_imported_once_each_and_come_with_their_file_and_their_own_keys(simulation: Simulation) -> None:
    rows = [picture(number, sku=number) for number in range(30)]
    async with SimulatedPoller(simulation, imports=IMPORTS) as poller:
        fed = await poller.import_files([*rows, rows[0], {"brand": "acorn"}, 7])
        found = [task async for task in poller.finished()]
        assert (await poller.import_files(rows)).duplicates == 30
    assert (fed.tasks, fed.duplicates, [each.line for each in fed.rejected]) == (30, 1, [32, 33])
    assert sorted(task.ref["sku"] for task in found) == list(range(30))
    assert all(task.landed and task.result["path"].startswith("/p/acorn/") for task in found)
    assert {(task.starts, task.existing, task.earlier) for task in found} == {(1, False, ())}
    assert simulation.api.stats().starts_max == 1


async def test_options_of_a_call_and_of_a_row_go_before_those_of_the_poller(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation, imports=IMPORTS) as poller:
        await poller.import_files(["https://cdn.example.com/1.png"], options={"folderPath": "/q"})
        await poller.import_files([picture(2, folderPath="/r")])
        paths = [task.result["path"] async for task in poller.finished()]
    assert sorted(path.rpartition("/")[0] for path in paths) == ["/q", "/r"]


async def test_ids_are_fed_beside_rows(simulation: Simulation) -> None:
    (task_id,) = simulation.api.preload(1)
    async with SimulatedPoller(simulation, imports=IMPORTS) as poller:
        await poller.feed([task_id])
        await poller.import_files([picture(1)])
        found = {task.task_id: task.row async for task in poller.finished()}
    assert found.pop(task_id) is None
    assert None not in found.values()


async def test_rows_without_access_or_folder_are_a_wrong_option_and_nothing_is_stored(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation, imports={}) as poller:
        for rows in ([picture(1)], streamed(picture(1))):
            with pytest.raises(ConfigError, match="gives the access"):
                await poller.import_files(rows)
        assert poller.waiting == 0
    async with SimulatedPoller(simulation) as poller:
        with pytest.raises(RuntimeError, match=r"Poller\(imports=\{\}\)"):
            await poller.import_files([picture(1)])


async def test_a_trial_that_fails_for_one_reason_is_raised(tmp_path: Path, clock: Clock) -> None:
    failing = Simulation(tmp_path, clock, replace(QUICK, dead_hosts=frozenset({"cdn.example.com"})))
    async with failing.serving(), SimulatedPoller(failing, imports=IMPORTS | {"trial": 20}) as poller:
        await poller.import_files([picture(number) for number in range(60)])
        with pytest.raises(TooManyFailures, match="each failed for one reason"):
            async for _ in poller.finished():
                pass
    assert failing.api.stats().starts_total == 20


async def test_a_program_that_is_killed_again_and_again_imports_each_file_once(
    simulation: Simulation, state: str
) -> None:
    """Leaving the block by an exception, in mid-start as well: no file twice, and none is missing."""
    rows, taken = [picture(number) for number in range(40)], list[str]()
    for kept_s in (0.3, 0.5, 6.0, 9.0, None):
        async with SimulatedPoller(simulation, state=state, imports=IMPORTS) as poller:
            with suppress(TimeoutError):
                async with asyncio.timeout(kept_s):
                    await poller.import_files(rows)
                    async for task in poller.finished():
                        taken.append(str(task.ref["url"]))
    assert {*taken} == {str(row["url"]) for row in rows}
    assert (simulation.api.stats().starts_max, simulation.api.stats().files_twice) == (1, 0)
