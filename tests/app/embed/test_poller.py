"""The Python API on the whole service, in virtual time: what is fed, what is yielded, and once for each state."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poller import ConfigError, Kind, Poller, PollerError, StoreLocked, StoreUnusable, TokenRefused, TooManyFailures
from poller.app.embed.rows import CHUNK_ROWS, Row, store_all
from poller.app.environment import Environment
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from tests.support.simulation import TOKEN, Simulation

QUICK = Scenario(fates={}, durations=parse_durations("fixed:5"))


class SimulatedPoller(Poller):
    """A Poller whose HubSpot is simulated."""

    def __init__(self, simulation: Simulation, **options: Any) -> None:
        self._simulation = simulation
        super().__init__(**({"token": TOKEN, "base_url": "https://api.hubapi.com"} | options))

    def _environment(self) -> Environment:
        return self._simulation.environment(self._tokens)


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> AsyncIterator[Simulation]:
    simulated = Simulation(tmp_path, clock, QUICK)
    async with simulated.serving():
        yield simulated


@pytest.fixture
def state(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/poller.db"


async def rest_of(poller: Poller) -> list[str]:
    return [task.task_id async for task in poller.finished()]


# --- each finished task once -----------------------------------------------------------------------------------------


async def test_each_fed_task_is_yielded_once_with_its_outcome_and_the_loop_ends(simulation: Simulation) -> None:
    ids = simulation.api.preload(120)
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed(ids)
        found = [task async for task in poller.finished()]
        assert poller.waiting == 0
    assert (fed.rows, fed.tasks, fed.duplicates, fed.rejected) == (120, 120, 0, [])
    assert Counter(task.task_id for task in found) == Counter(ids)
    assert all(task.landed and task.kind is Kind.COMPLETE and task.result["id"] for task in found)


async def test_a_state_yields_each_task_once_over_many_runs(simulation: Simulation, kept_url: str) -> None:
    ids, found = simulation.api.preload(40), list[str]()
    for _ in range(8):
        async with SimulatedPoller(simulation, state=kept_url) as poller:
            await poller.feed(ids)
            async for task in poller.finished():
                found.append(task.task_id)
                if len(found) % 7 == 0:
                    break
    assert Counter(found) == Counter(ids)


async def test_what_finished_in_a_run_of_the_command_is_yielded_too(simulation: Simulation, state: str) -> None:
    ids = simulation.write_ids(20)
    await simulation.run(ids)
    async with SimulatedPoller(simulation, state=state) as poller:
        assert len(await rest_of(poller)) == 20
        assert await rest_of(poller) == []


async def test_a_task_whose_body_fails_is_yielded_again_and_no_other(simulation: Simulation, state: str) -> None:
    ids, found = simulation.api.preload(10), list[str]()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what raises
        async with SimulatedPoller(simulation, state=state) as poller:
            await poller.feed(ids)
            async for task in poller.finished():
                if len(found) == 4:
                    raise ZeroDivisionError
                found.append(task.task_id)
    async with SimulatedPoller(simulation, state=state) as poller:
        found += await rest_of(poller)
    assert Counter(found) == Counter(ids)


async def test_a_task_whose_body_is_cancelled_is_yielded_again_and_no_other(simulation: Simulation, state: str) -> None:
    ids, found = simulation.api.preload(10), list[str]()

    async def work() -> None:
        async with SimulatedPoller(simulation, state=state) as poller:
            await poller.feed(ids)
            async for task in poller.finished():
                if len(found) == 4:
                    await asyncio.sleep(3600)
                found.append(task.task_id)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await work()
    async with SimulatedPoller(simulation, state=state) as poller:
        found += await rest_of(poller)
    assert Counter(found) == Counter(ids)


async def test_two_loops_at_the_same_time_are_refused(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation) as poller:
        await poller.feed(simulation.api.preload(3))
        async with asyncio.TaskGroup() as group:
            group.create_task(rest_of(poller))
            await asyncio.sleep(0)
            with pytest.raises(RuntimeError, match="one at a time"):
                await rest_of(poller)


# --- feeding ---------------------------------------------------------------------------------------------------------


async def test_a_row_is_an_id_a_status_url_a_pair_or_a_mapping_and_its_ref_comes_back(simulation: Simulation) -> None:
    one, two, three, four = simulation.api.preload(4)
    url = f"https://api-na1.hubspot.com/files/v3/files/import-from-url/async/tasks/{two}/status"
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed([one, url, (three, {"row": 3}), {"taskId": four, "url": "https://example.com/4.png"}])
        found = {task.task_id: task.ref async for task in poller.finished()}
    assert fed.tasks == 4
    assert found == {one: {}, two: {}, three: {"row": 3}, four: {"url": "https://example.com/4.png"}}


async def test_every_row_that_cannot_be_used_is_returned_with_its_number_and_reason(simulation: Simulation) -> None:
    odd: list[Any] = [
        "../etc",
        None,
        4.5,
        {"name": "no id"},
        ("AAAAEZ6whGI", "text"),
        ("AAAAEZ6whGI", {"x": {1, 2}}),
        (),
    ]
    (good,) = simulation.api.preload(1)
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed([good, *odd, good])
        assert await rest_of(poller) == [good]
    assert (fed.rows, fed.tasks, fed.duplicates) == (9, 1, 1)
    assert [each.line for each in fed.rejected] == [2, 3, 4, 5, 6, 7, 8]
    assert all(each.reason for each in fed.rejected)


async def test_many_rows_at_once_are_one_argument_and_a_single_id_is_refused(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation) as poller:
        with pytest.raises(TypeError, match="put it into a list"):
            await poller.feed("AAAAEZ6whGI")


async def test_rows_are_numbered_on_over_batches(simulation: Simulation) -> None:
    rows = ["a b"] + ["AAAAEZ6whGI"] * 5_000 + ["c d"]
    async with SimulatedPoller(simulation) as poller:
        fed = await poller.feed(rows)
    assert [each.line for each in fed.rejected] == [1, 5_002]


async def test_rows_of_an_async_source_are_stored_as_they_come_and_the_loop_waits_for_its_end(
    simulation: Simulation,
) -> None:
    ids, fed_at = simulation.api.preload(6), dict[str, float]()
    now = asyncio.get_running_loop().time

    async def slowly() -> AsyncIterator[str]:
        for task_id in ids:
            fed_at[task_id] = now()
            yield task_id
            await asyncio.sleep(600)

    async with SimulatedPoller(simulation) as poller, asyncio.TaskGroup() as group:
        group.create_task(poller.feed(slowly()))  # has not begun when the loop does
        waited = {task.task_id: now() - fed_at[task.task_id] async for task in poller.finished()}
    assert waited.keys() == set(ids)
    assert max(waited.values()) < 600


async def test_a_source_is_read_no_further_ahead_than_the_rows_that_wait() -> None:
    read, stored, room = 0, list[int](), asyncio.Semaphore(2)

    async def endless() -> AsyncIterator[str]:
        nonlocal read
        while True:
            read += 1
            yield f"AAAA{read}"

    async def store(rows: Sequence[Row]) -> None:
        await room.acquire()
        stored.append(len(rows))

    storing = asyncio.create_task(store_all(endless(), store))
    await asyncio.sleep(60)
    storing.cancel()
    await asyncio.wait([storing])
    assert len(stored) == 2
    assert max(stored) <= CHUNK_ROWS
    assert read - sum(stored) <= 2 * CHUNK_ROWS + 1


async def test_an_error_of_the_source_reaches_the_caller_and_the_rows_before_it_are_stored(
    simulation: Simulation,
) -> None:
    ids = simulation.api.preload(5)

    async def broken() -> AsyncIterator[str]:
        for task_id in ids:
            yield task_id
        raise LookupError

    async with SimulatedPoller(simulation) as poller:
        with pytest.raises(LookupError):
            await poller.feed(broken())
        assert sorted(await rest_of(poller)) == sorted(ids)


async def test_a_cancelled_feed_leaves_every_counted_task_and_the_loop_ends(simulation: Simulation) -> None:
    ids = simulation.api.preload(50)
    async with SimulatedPoller(simulation) as poller:
        feeding = asyncio.create_task(poller.feed(ids))
        await asyncio.sleep(0)
        feeding.cancel()
        await asyncio.wait([feeding])
        assert sorted(await rest_of(poller)) in ([], sorted(ids))
        await poller.feed(ids)
        await rest_of(poller)
        assert poller.waiting == 0


@pytest.mark.filterwarnings("ignore:coroutine 'EmbeddedRun.feed' was never awaited")
async def test_a_feed_that_is_never_awaited_does_not_hold_the_loop(simulation: Simulation) -> None:
    async with SimulatedPoller(simulation) as poller:
        poller.feed(["AAAA"])  # type: ignore[unused-coroutine]
        assert await rest_of(poller) == []


async def test_follow_waits_for_more_until_the_block_is_left(simulation: Simulation) -> None:
    ids, found = simulation.api.preload(4), list[str]()

    async def take(poller: Poller) -> None:
        async for task in poller.finished(follow=True):
            found.append(task.task_id)

    async with SimulatedPoller(simulation) as poller:
        taking = asyncio.create_task(take(poller))
        for task_id in ids:
            await poller.feed([task_id])
            await asyncio.sleep(600)
    await taking
    assert found == ids


# --- accounts, errors, the program around it -------------------------------------------------------------------------


async def test_rows_find_their_account_and_each_account_has_its_own_token(simulation: Simulation) -> None:
    one, two, three = simulation.api.preload(3)
    accounts = {"eu": {"token": "pat-eu1-0123456789abcdef"}, "us": {"requests": 50}}
    async with SimulatedPoller(simulation, accounts=accounts, account="us") as poller:
        await poller.feed([one, {"id": two, "account": "eu"}])
        await poller.feed([three], account="eu")
        with pytest.raises(ValueError, match="unknown account 'asia'; known: eu, us"):
            await poller.feed([one], account="asia")
        found = {task.task_id: task.account async for task in poller.finished()}
    assert found == {one: "us", two: "eu", three: "eu"}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"token": "two words"}, ConfigError, "token is not a token"),
        ({"requests": 0}, ConfigError, "requests: must be"),
        ({"base_url": "http://example.com"}, ConfigError, "base_url"),
        ({"token": "x" * 20, "token_env": "X"}, ConfigError, "token and token_env are given together"),
        ({"request": 5}, TypeError, "no option 'request'; did you mean 'requests'"),
        ({"progress": True}, TypeError, "no option 'progress'"),
        (
            {"accounts": {"eu": {"tokn": "x"}}},
            TypeError,
            "'eu'.* no option 'tokn'; did you mean 'token'",
        ),
        ({"accounts": {"eu": {"workers": "many"}}, "account": "eu"}, ConfigError, "accounts.eu.workers"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_at_once_and_named(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Poller(**({"token": TOKEN} | options))


def test_without_a_token_the_error_names_where_it_may_come_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HUBSPOT_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="token=… or token_file=…, or set the environment variable HUBSPOT_TOKEN"):
        Poller()
    monkeypatch.setenv("HUBSPOT_TOKEN", TOKEN)
    Poller()


async def test_variables_of_the_command_do_not_change_a_program_s_poller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLLER_STATE", "sqlite:///elsewhere.db")
    monkeypatch.setenv("POLLER_REQUESTS", "nonsense")
    assert Poller(token=TOKEN)._settings.state == "sqlite:///:memory:"


async def test_a_state_that_cannot_be_opened_is_refused_on_entering() -> None:
    for state in ("mysql://host/name", "sqlite:////no/such/folder/poller.db"):
        with pytest.raises(PollerError):
            await Poller(token=TOKEN, state=state).__aenter__()


async def test_a_state_that_another_poller_uses_is_refused_on_entering(simulation: Simulation, state: str) -> None:
    async with SimulatedPoller(simulation, state=state):
        with pytest.raises(StoreLocked):
            await SimulatedPoller(simulation, state=state).__aenter__()


async def test_entering_that_is_cancelled_leaves_the_state_to_others(simulation: Simulation, state: str) -> None:
    for turns in range(12):
        entering = asyncio.create_task(SimulatedPoller(simulation, state=state).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        entering.cancel()
        await asyncio.wait([entering])
        if not entering.cancelled():
            await entering.result().__aexit__(None, None, None)
    async with SimulatedPoller(simulation, state=state):
        pass


async def test_a_feed_after_the_run_ended_raises_why_and_leaving_does_not_raise_it_again(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, tokens=frozenset({"another"})))
    async with simulation.serving(), SimulatedPoller(simulation) as poller:
        await poller.feed(simulation.api.preload(5))
        await asyncio.sleep(600)
        with pytest.raises(TokenRefused):
            await poller.feed(["AAAA"])


async def test_a_refused_token_ends_the_loop_with_its_error_and_nothing_is_lost(
    tmp_path: Path, clock: Clock, state: str
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, tokens=frozenset({"another"})))
    ids = simulation.api.preload(5)
    async with simulation.serving():
        with pytest.raises(TokenRefused):  # noqa: PT012 - as above
            async with SimulatedPoller(simulation, state=state) as poller:
                await poller.feed(ids)
                await rest_of(poller)
        async with SimulatedPoller(simulation, state=state, token="another") as poller:
            assert sorted(await rest_of(poller)) == sorted(ids)


async def test_a_state_that_is_lost_ends_the_loop_or_the_block_with_its_error(
    simulation: Simulation, state: str, tmp_path: Path
) -> None:
    ids = simulation.api.preload(20)
    for leaves in (False, True):
        with pytest.raises(StoreUnusable):  # noqa: PT012 - the block is what raises
            async with SimulatedPoller(simulation, state=state) as poller:
                await poller.feed(ids)
                async for _ in poller.finished(follow=True):
                    (tmp_path / "poller.db").rename(tmp_path / "moved.db")
                    await asyncio.sleep(60)
                    if leaves:
                        break
        (tmp_path / "moved.db").rename(tmp_path / "poller.db")


async def test_what_ended_the_run_is_raised_on_leaving_where_no_loop_saw_it(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, tokens=frozenset({"another"})))
    async with simulation.serving():
        with pytest.raises(TokenRefused):  # noqa: PT012 - as above
            async with SimulatedPoller(simulation) as poller:
                await poller.feed(simulation.api.preload(5))
                await asyncio.sleep(600)
        with pytest.raises(LookupError):  # noqa: PT012 - as above
            async with SimulatedPoller(simulation) as poller:
                await poller.feed(simulation.api.preload(5))
                await asyncio.sleep(600)
                raise LookupError  # not hidden by the run's own error


async def test_outside_its_block_a_poller_explains_its_use() -> None:
    poller = Poller(token=TOKEN)
    with pytest.raises(RuntimeError, match="async with Poller"):
        await poller.feed(["AAAA"])
    with pytest.raises(RuntimeError, match="async with Poller"):
        await anext(poller.finished())


async def test_leaving_with_work_left_stops_in_time_and_the_next_run_goes_on(
    simulation: Simulation, state: str
) -> None:
    ids = simulation.api.preload(150)
    async with SimulatedPoller(simulation, state=state) as poller:
        await poller.feed(ids)
        await asyncio.sleep(12)
        left_at = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - left_at < 5
    async with SimulatedPoller(simulation, state=state) as poller:
        assert Counter(await rest_of(poller)) == Counter(ids)


async def test_two_pollers_work_side_by_side_in_one_loop(simulation: Simulation) -> None:
    ids = simulation.api.preload(20)
    async with SimulatedPoller(simulation) as one, SimulatedPoller(simulation) as other:
        await one.feed(ids[:10])
        await other.feed(ids[10:])
        assert sorted(await rest_of(one)) == sorted(ids[:10])
        assert sorted(await rest_of(other)) == sorted(ids[10:])


# --- importing -------------------------------------------------------------------------------------------------------

IMPORTS = {"options": {"access": "PRIVATE", "folderPath": "/p/{brand}"}, "trial": 0}


def picture(number: int, **more: object) -> dict[str, object]:
    return {"url": f"https://cdn.example.com/{number}.png", "brand": "acorn"} | more


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
        with pytest.raises(ConfigError, match="gives the access"):
            await poller.import_files([picture(1)])
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
