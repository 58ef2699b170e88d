"""The Python API: accounts, what ends a run and how the program learns it, and the program around it."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from poller import ConfigError, Poller, PollerError, StoreLocked, StoreUnusable, TokenRefused
from poller.core.protocols import Clock
from poller.sandbox import Scenario
from tests.app.embed.pollers import SimulatedPoller, rest_of
from tests.support.simulation import TOKEN, Simulation


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
        ({"token": b"pat-na1"}, ConfigError, "token must be a str, not bytes: decode it"),
        (
            {"accounts": {"eu": {"token": SecretStr("a")}}},
            ConfigError,
            "accounts.eu.token must be a str, not SecretStr",
        ),
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
