"""A person pauses and resumes an account over HTTP, and by command on a stopped state."""

import asyncio
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import typer

from poller.app import page_note, show
from poller.app.page_note import Health, Page, note_page, noted_page
from poller.cli.commands import pause as pause_command
from poller.cli.commands import resume as resume_command
from poller.cli.commands.pause import change_pause
from poller.cli.running import NotAnswered, ask_run
from poller.config import Address
from poller.core.errors import Exit, StoreUnusable
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.store import open_store, read_store
from tests.support.processes import run
from tests.support.simulation import Simulation, settings_for
from tests.support.site import json_of, visited

SLOW = Scenario(durations=parse_durations("fixed:30"), fates={})
LONG_S = 1000.0


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, SLOW)


async def pause_of(simulation: Simulation) -> str | None:
    reader = await read_store(f"sqlite:///{simulation.folder}/poller.db")
    try:
        return (await reader.account("default")).pause
    finally:
        await reader.close()


async def test_a_paused_account_sends_nothing_until_it_is_resumed_and_no_deadline_passes(
    simulation: Simulation,
) -> None:
    async with visited(simulation, simulation.write_ids(5), {"deadline_s": 600}) as session:
        await asyncio.sleep(10)
        async with session.post("/v1/accounts/default/pause") as response:
            assert (response.status, (await json_of(response))["pause"]) == (200, "paused_by_person")
        assert await pause_of(simulation) == "paused_by_person"  # on disk
        requests = simulation.api.stats().requests_total
        await asyncio.sleep(LONG_S)
        assert simulation.api.stats().requests_total == requests
        async with session.get("/readyz") as response:
            ready = await json_of(response)
        assert (response.status, ready["accounts"]["default"]["pause"]) == (200, "paused_by_person")
        async with session.get("/metrics") as response:
            metrics = await response.text()
        assert 'poller_account_paused{account="default",reason="paused_by_person"} 1.0' in metrics
        async with session.get("/v1/overview") as response:
            overview = await json_of(response)
        assert overview["state"] == "paused"
        assert "resume" in overview["lanes"][0]["meaning"]
        for _ in range(2):
            async with session.post("/v1/accounts/default/resume") as response:
                assert (response.status, (await json_of(response))["pause"]) == (200, None)
        await asyncio.sleep(60)
        assert [record["kind"] for record in simulation.records()] == ["complete"] * 5
    assert await pause_of(simulation) is None


@pytest.mark.parametrize("action", ["pause", "resume"])
async def test_an_unknown_account_is_404_with_those_that_are_known(simulation: Simulation, action: str) -> None:
    async with visited(simulation) as session, session.post(f"/v1/accounts/other%20one/{action}") as response:
        assert response.status == 404
        assert "default" in (await json_of(response))["message"]


async def test_a_pause_made_on_a_stopped_state_holds_the_next_run_until_it_is_resumed(simulation: Simulation) -> None:
    ids, settings = simulation.write_ids(5), settings_for(simulation.folder)
    await simulation.run_for(5, ids)
    await change_pause(settings, "default", is_paused=True, clock=simulation.clock)
    await change_pause(settings, "default", is_paused=True, clock=simulation.clock)
    await asyncio.sleep(LONG_S)
    requests = simulation.api.stats().requests_total
    await simulation.run_for(LONG_S, ids, {"deadline_s": 600})
    assert simulation.api.stats().requests_total == requests
    assert await pause_of(simulation) == "paused_by_person"
    await asyncio.sleep(LONG_S)
    await change_pause(settings, "default", is_paused=False, clock=simulation.clock)
    assert await simulation.run(ids, {"deadline_s": 600}) is Exit.ALL_COMPLETE
    assert [record["kind"] for record in simulation.records()] == ["complete"] * 5


async def test_a_command_on_a_stopped_state_prints_its_answer_and_no_log_event(simulation: Simulation) -> None:
    await simulation.run_for(5, simulation.write_ids(1))
    paused = await asyncio.to_thread(run, "pause", "default", folder=simulation.folder)
    resumed = await asyncio.to_thread(run, "resume", "default", folder=simulation.folder)
    assert (paused.stdout, paused.stderr) == ("account default is paused: poller resume default\n", "")
    assert resumed.stdout.startswith("account default is resumed")
    assert (resumed.stdout.count("\n"), resumed.stderr) == (1, "")
    not_paused = await asyncio.to_thread(run, "resume", "default", folder=simulation.folder)
    assert not_paused.stdout.startswith("account default was not paused by a person")


@pytest.mark.parametrize("command", [pause_command, resume_command])
def test_the_commands_name_a_state_without_its_password(
    command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = "postgresql://poller:pw-1@db/poller"
    monkeypatch.setattr(command, "settings_of", lambda *_, **__: SimpleNamespace(state=dsn))
    monkeypatch.setattr(command, "run_async", lambda change: change.close() or True)
    getattr(command, command.__name__.rpartition(".")[2])("default", None, dsn)
    assert "pw-1" not in (said := capsys.readouterr().out)
    assert "@db/poller" in said or "//db/poller" in said


async def test_an_unknown_account_and_a_missing_state_change_nothing(simulation: Simulation) -> None:
    settings = settings_for(simulation.folder)
    with pytest.raises(StoreUnusable, match="there is no state"):
        await change_pause(settings, "default", is_paused=True, clock=simulation.clock)
    await simulation.run_for(5, simulation.write_ids(1))
    with pytest.raises(typer.BadParameter, match="known: default"):
        await change_pause(settings, "eu", is_paused=True, clock=simulation.clock)


async def test_a_run_without_a_page_is_named_with_the_remedy(simulation: Simulation) -> None:
    await simulation.run_for(5, simulation.write_ids(1))
    settings = settings_for(simulation.folder, {"listen": "off"})
    with pytest.raises(NotAnswered, match=r"over its server, which has no address that is known .* or stop it"):
        await ask_run(settings, 1, "/v1/accounts/default/pause")


async def test_a_run_without_a_page_leaves_no_note_of_an_earlier_one(simulation: Simulation) -> None:
    """In a container both are process 1."""
    state = f"sqlite:///{simulation.folder}/poller.db"
    store = await open_store(state, clock=simulation.clock)
    note_page(store, os.getpid(), "word", Address(host="127.0.0.1", port=8322))
    await store.close()
    await simulation.run_for(5, simulation.write_ids(1))
    store = await open_store(state, clock=simulation.clock)
    assert await noted_page(store, os.getpid()) == Page("", None)
    await store.close()


async def test_a_page_is_found_by_its_process_and_on_this_machine_alone(clock: Clock) -> None:
    store = await open_store("sqlite:///:memory:", clock=clock)
    assert await noted_page(store, 7) is None
    note_page(store, 7, "word", Address(host="0.0.0.0", port=8322))  # noqa: S104 - not bound
    assert await noted_page(store, 7) == Page("word", Address(host="127.0.0.1", port=8322))
    assert await noted_page(store, 8) is None
    note_page(store, 7, "word", Address(host="192.168.1.5", port=8322))
    found = await noted_page(store, 7)
    assert found == Page("word", None), "a token is sent to no host that the settings do not name"
    await store.close()


@pytest.mark.parametrize(("run", "is_named"), [("word", True), ("another", False), (None, False)])
async def test_a_page_is_named_only_where_the_run_itself_answers(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, run: str | None, is_named: bool
) -> None:
    """Another container's run may have the same process id, and another machine's run the same address."""
    monkeypatch.setattr(page_note, "request_health", lambda _url: Health("", 7, run))
    store = await open_store("sqlite:///:memory:", clock=clock)
    note_page(store, 7, "word", Address(host="127.0.0.1", port=8322))
    assert (await show.page_at_work(store, 7) is not None) is is_named
    note_page(store, 7, "", None)
    assert await show.page_at_work(store, 7) is None
    await store.close()


def test_a_run_without_a_page_is_taken_for_no_other_of_the_same_process_id() -> None:
    assert not Health("", 1, "word").is_of(1, Page("", None))
    assert not Health("", 1).is_of(1, Page("", None)), "a poller of an older version"
    assert Health("", 1).is_of(1, None), "a replica"
