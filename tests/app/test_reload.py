"""The promises of a reload: live settings are applied at once and nothing is lost, the others are reported, and wrong
settings change nothing."""

import asyncio
import os
import re
import signal
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence, Set
from contextlib import asynccontextmanager, closing
from datetime import tzinfo
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any, cast

import aiohttp
import orjson
import pytest
from aiohttp import web
from pydantic import BaseModel
from yarl import URL

from poller.app.reload import differences, result_name
from poller.app.tokens import credentials_hash
from poller.config import AccountSettings, PollingTable, Settings
from poller.config.settings import ImportsTable, InputTable, LogTable
from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import Exit, StoreError
from poller.core.protocols import Clock, Store
from poller.core.request_protocols import TokenSource
from poller.engine.history import History
from poller.engine.metrics import Metrics
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import unknown_id
from poller.store import SqliteStore, read_store
from poller.web import RunContext, make_site
from tests.support.processes import environ, hubspot, run, running, wait_until, whole_lines
from tests.support.simulation import TOKEN, Simulation, named, settings_for
from tests.support.site import BASE
from tests.support.virtual import MemoryConnector

Events = list[MutableMapping[str, Any]]

CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBbTCCAROgAwIBAgIUWiV5WwCY9bQmnQ+pWMyi4fFWzrowCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBeDAeFw0yNjExMjgxMTEwMTlaFw0zNjExMjUxMTEwMTlaMAwx
CjAIBgNVBAMMAXgwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATaT6VWxA7IzHBQ
fDKCoFHULnQtleeKr22Pk7+Yx/SclrT9lPU7tcfqv1F1TEGQvmY08mivFONVafO1
DW4B3NWVo1MwUTAdBgNVHQ4EFgQU2/Ibfr/u5VRIL9V+DLWEcLLJVMIwHwYDVR0j
BBgwFoAU2/Ibfr/u5VRIL9V+DLWEcLLJVMIwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNIADBFAiEAr4JsVVxozOaAN3cb8tXDvluWNXk2WmwMbhoT/MrQWxIC
IF5jYx/iSszMNJjv/Vg9XhrVIpYdmq04g6UgYXesmCXY
-----END CERTIFICATE-----
"""

WORKED = {Exit.ALL_COMPLETE, Exit.NOT_ALL_COMPLETE, Exit.WORK_LEFT}

QUICK = Scenario(fates={}, durations=parse_durations("fixed:5"), requests=1000)


class Reloaded(Simulation):
    """A service whose settings a test changes while it runs."""

    def __init__(self, folder: Path, clock: Clock, scenario: Scenario = QUICK, **flags: Any) -> None:
        super().__init__(folder, clock, scenario)
        self.flags: dict[str, Any] = {"follow": True, **flags}
        self.reread = lambda: settings_for(folder, self.flags)
        self.environ = {"HUBSPOT_TOKEN": TOKEN}

    @asynccontextmanager
    async def at_work(self, ids: Path | None = None, *, ends: Set[Exit] = WORKED) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(self.run(ids, self.flags, environ=self.environ))
            await asyncio.sleep(3)
            yield
            self.drain()
        assert running.result() in ends

    async def reload(self, **changes: Any) -> dict[str, Any]:
        """Reload with these settings; return the result."""
        self.flags = {name: value for name, value in (self.flags | changes).items() if value is not None}
        before = await self._result()
        assert self.service is not None
        self.service.reload_asked.set()
        async with asyncio.timeout(300):
            while True:
                await asyncio.sleep(0.05)
                if (after := await self._result()) != before:
                    return after

    async def _result(self) -> dict[str, Any]:
        reader = await read_store(f"sqlite:///{self.folder}/poller.db")
        try:
            return dict(orjson.loads(await reader.knowledge(result_name(settings_for(self.folder))) or b"{}"))
        finally:
            await reader.close()

    def append(self, count: int, name: str = "ids.txt") -> list[str]:
        """Start imports, and write their ids to a file."""
        fresh = self.api.preload(count)
        with (self.folder / name).open("a") as file:
            file.write("".join(f"{task_id}\n" for task_id in fresh))
        return fresh

    def delivered(self, pattern: str) -> Counter[str]:
        names = written(self.folder, pattern)
        return Counter(record["task_id"] for name in names for record in self.records(name))


def written(folder: Path, pattern: str) -> list[str]:
    return [path.name for path in folder.glob(pattern)]


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_replaced", [False, True])
async def test_unknown_ids_are_held_after_a_reload_with_another_accounts_token_only(
    tmp_path: Path, clock: Clock, events: Events, is_replaced: bool
) -> None:
    simulation = Reloaded(tmp_path, clock)
    simulation.api.stage = lambda ask, answer: unknown_id("x", "c") if ask.token == "pat-na1-second" else answer
    (tmp_path / "token").write_text("pat-na1-first\n")
    simulation.flags["token_file"] = str(tmp_path / "token")
    simulation.append(5)
    async with simulation.at_work(tmp_path / "ids.txt"):
        await asyncio.sleep(30)
        if is_replaced:
            (tmp_path / "token").write_text("pat-na1-second\n")
        await simulation.reload(deadline_s=5000)
        with (tmp_path / "ids.txt").open("a") as file:
            file.writelines(f"AAAAunknown{number}\n" for number in range(60))
        await asyncio.sleep(120)
        finished = (await simulation.sums()).finished
    pauses = [event["pause"] for event in named(events, "lane.paused")]
    assert (finished, pauses) == ((5, ["wrong_account"]) if is_replaced else (65, []))


async def test_an_unknown_id_is_not_found_after_a_reload_with_another_status_path_that_knows_no_earlier_task(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = Reloaded(tmp_path, clock)
    simulation.api.stage = lambda ask, answer: unknown_id("x", "c") if "/folders/" in ask.path else answer
    simulation.append(5)
    async with simulation.at_work(tmp_path / "ids.txt"):
        await asyncio.sleep(30)
        await simulation.reload(status_path="/files/v3/folders/update/async/tasks/{task_id}/status")
        with (tmp_path / "ids.txt").open("a") as file:
            file.write("AAAAunknown1\n")
        await asyncio.sleep(120)
        finished = (await simulation.sums()).finished
    assert (finished, named(events, "lane.paused")) == (6, [])


async def test_accounts_that_share_a_token_are_named_at_the_start_and_when_a_reload_makes_them_share_one(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    accounts = {"one": {"token_env": "ONE"}, "two": {"token_env": "TWO"}, "three": {"token_env": "THREE"}}
    simulation = Reloaded(tmp_path, clock, account="one", accounts=accounts)
    simulation.environ = {"ONE": "pat-na1-first", "TWO": "pat-na1-second", "THREE": "pat-na1-first"}
    simulation.append(3)
    async with simulation.at_work(tmp_path / "ids.txt"):
        shared = [{event["account"], event["other"]} for event in named(events, "lane.token_shared")]
        assert shared == [{"one", "three"}]
        await simulation.reload(accounts=accounts | {"four": {"token_env": "TWO"}})
    assert [event["account"] for event in named(events, "lane.token_shared")][1:] == ["four"]
    assert "pat-na1" not in str(events)


# --- sinks -----------------------------------------------------------------------------------------------------------


async def test_a_sink_that_is_added_gets_everything_and_one_that_is_removed_ends(tmp_path: Path, clock: Clock) -> None:
    one, two = f"jsonl:{tmp_path}/finished.jsonl", f"jsonl:{tmp_path}/two.jsonl"
    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(50)
    async with simulation.at_work(tmp_path / "ids.txt"):
        await asyncio.sleep(30)
        answer = await simulation.reload(sinks=[one, two])
        assert (answer["changed"], answer["needs_restart"]) == (["sinks"], [])
        ids += simulation.append(50)
        await asyncio.sleep(30)
        await simulation.reload(sinks=[two])
        ids_of_two = simulation.append(50)
        await asyncio.sleep(30)
    assert simulation.delivered("finished.jsonl") == Counter(ids)
    assert simulation.delivered("two.jsonl") == Counter(ids + ids_of_two)
    assert [(sink.name, sink.attached) for sink in (await simulation.sums()).sinks] == [(one, False), (two, True)]


async def test_a_sink_whose_options_change_continues_where_it_was(tmp_path: Path, clock: Clock) -> None:
    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(100)
    table = {"kind": "jsonl", "path": f"{tmp_path}/finished.jsonl"}
    async with simulation.at_work(tmp_path / "ids.txt"):
        await simulation.reload(sinks=[{**table, "rotate_bytes": 20_000, "name": f"jsonl:{tmp_path}/finished.jsonl"}])
        await asyncio.sleep(30)
        ids += simulation.append(100)
        await asyncio.sleep(30)
    assert len(written(tmp_path, "finished*.jsonl")) > 2
    assert simulation.delivered("finished*.jsonl") == Counter(ids)


async def test_a_sink_that_is_exchanged_while_another_program_locks_the_state_loses_nothing(
    tmp_path: Path, clock: Clock
) -> None:
    """Its last note, which was still to be committed, moved the position beyond what it then wrote from the one before:
    30 of 80 lines were gone from its file."""
    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(20)
    name = f"jsonl:{tmp_path}/finished.jsonl"
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert simulation.service is not None
        (loop,), store = simulation.service.deliveries.loops, simulation.service.feed_store
        assert isinstance(store, SqliteStore)
        store._connection.execute("PRAGMA busy_timeout = 0")  # no real waiting
        with closing(sqlite3.connect(tmp_path / "poller.db", isolation_level=None)) as program:
            write, locked = loop.sink.write, asyncio.Event()

            async def write_and_lock(batch: Sequence[Delivery]) -> Written | Retry:
                program.execute("BEGIN IMMEDIATE")
                locked.set()
                return await write(batch)

            loop.sink.write = write_and_lock  # type: ignore[method-assign]
            await locked.wait()
            asyncio.get_running_loop().call_later(15, program.execute, "ROLLBACK")
            rotating = {"kind": "jsonl", "path": f"{tmp_path}/finished.jsonl", "name": name, "rotate_bytes": 1 << 20}
            simulation.flags["sinks"] = [rotating]
            simulation.service.reload_asked.set()
            await asyncio.sleep(16)
        ids += simulation.append(20)
        await asyncio.sleep(20)
        assert simulation.service.deliveries.loops[0].undelivered == 0
    assert simulation.delivered("finished.jsonl") == Counter(ids)


async def test_a_sink_that_a_reload_opened_is_closed_where_the_run_ends_before_it_is_at_work(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_names: Sequence[str]) -> Mapping[str, bytes | None]:
        await asyncio.Event().wait()
        return {}

    simulation = Reloaded(tmp_path, clock, shutdown_s=5)
    simulation.append(5)
    two = f"jsonl:{tmp_path}/two.jsonl"
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert simulation.service is not None
        monkeypatch.setattr(simulation.service.feed_store, "attach_sinks", hang)
        simulation.flags["sinks"] = [two]
        simulation.service.reload_asked.set()
        await asyncio.sleep(1)
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert simulation.service.pauses() == {}, "its file was still locked"


async def test_a_sink_that_a_reload_adds_after_tasks_were_pruned_shows_no_backlog(tmp_path: Path, clock: Clock) -> None:
    one, two = f"jsonl:{tmp_path}/finished.jsonl", f"jsonl:{tmp_path}/two.jsonl"
    simulation = Reloaded(tmp_path, clock, retention_s=60)
    simulation.append(5)
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert simulation.service is not None
        for sinks in ([one], [one, two], [one], [one, two]):  # tasks are pruned while `two` is away, too
            await simulation.reload(sinks=sinks)
            simulation.append(1)
            await asyncio.sleep(125)
            shown = {loop.sink.name: loop.undelivered for loop in simulation.service.deliveries.loops}
            assert shown == dict.fromkeys(sinks, 0)
            assert shown == {sink.name: sink.undelivered for sink in (await simulation.sums()).sinks if sink.attached}


async def test_an_account_that_is_added_leaves_sinks_at_work_that_see_no_variables(
    tmp_path: Path, clock: Clock
) -> None:
    """Each was opened again: a line of stdout that its reader had half of began once more within that line, and a
    webhook forgot how often it had tried a record."""
    simulation = Reloaded(tmp_path, clock)
    simulation.environ["OTHER"] = "pat-na1-second"
    async with simulation.at_work(simulation.folder / "ids.txt"):
        assert simulation.service is not None
        (loop,) = simulation.service.deliveries.loops
        await simulation.reload(accounts={"default": {"token_env": "HUBSPOT_TOKEN"}, "b": {"token_env": "OTHER"}})
        assert sorted(simulation.service.lanes) == ["b", "default"]
        assert simulation.service.deliveries.loops == [loop]


async def test_a_state_that_fails_while_sinks_are_exchanged_refuses_the_reload_and_all_is_as_it_was(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_names: Sequence[str]) -> Mapping[str, bytes | None]:
        monkeypatch.undo()
        raise StoreError("the state cannot be written.")

    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(20)
    table = {"kind": "jsonl", "path": f"{tmp_path}/finished.jsonl", "name": f"jsonl:{tmp_path}/finished.jsonl"}
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert simulation.service is not None
        monkeypatch.setattr(simulation.service.feed_store, "attach_sinks", fail)
        answer = await simulation.reload(sinks=[{**table, "rotate_bytes": 5000}])
        assert "cannot be written" in answer["refused"]
        ids += simulation.append(20)
        await asyncio.sleep(30)
        assert simulation.delivered("finished.jsonl") == Counter(ids)


async def test_a_state_that_fails_at_the_end_of_an_exchange_leaves_the_removed_sink_at_work(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulation = Reloaded(tmp_path, clock)
    both = [f"jsonl:{tmp_path}/finished.jsonl", f"jsonl:{tmp_path}/two.jsonl"]
    simulation.flags["sinks"] = both
    ids = simulation.append(20)
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert simulation.service is not None
        store = cast("Store", simulation.service.feed_store)
        attach = store.attach_sinks

        async def fail_without_two(names: Sequence[str]) -> Mapping[str, bytes | None]:
            if len(names) == 2:
                return await attach(names)
            monkeypatch.undo()
            raise StoreError("the state cannot be written.")

        monkeypatch.setattr(store, "attach_sinks", fail_without_two)
        assert "cannot be written" in (await simulation.reload(sinks=both[:1], requests=500))["refused"]
        assert [loop.sink.name for loop in simulation.service.deliveries.loops] == both
        ids += simulation.append(20)
        await asyncio.sleep(30)
        assert simulation.delivered("two.jsonl") == Counter(ids)
        assert "sinks" in (await simulation.reload(sinks=both[:1]))["changed"]


async def test_a_run_that_only_waits_for_a_sink_takes_another_one_and_leaves_all_else_to_a_restart(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Reloaded(tmp_path, clock, follow=False)
    simulation.flags["sinks"] = [f"jsonl:{tmp_path}/finished.jsonl", "webhook:http://127.0.0.1:9/"]
    ids = simulation.append(20)
    async with asyncio.timeout(3600), asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(tmp_path / "ids.txt", simulation.flags, environ=simulation.environ))
        await asyncio.sleep(600)
        assert simulation.service is not None
        assert simulation.service.is_ending
        instead = f"jsonl:{tmp_path}/two.jsonl"
        answer = await simulation.reload(sinks=[f"jsonl:{tmp_path}/finished.jsonl", instead], requests=7)
    assert (answer["changed"], answer["needs_restart"]) == (["sinks"], ["requests"])
    assert running.result() is Exit.ALL_COMPLETE
    assert simulation.delivered("two.jsonl") == simulation.delivered("finished.jsonl") == Counter(ids)


async def test_a_run_that_is_stopping_refuses_a_reload_by_name(tmp_path: Path, clock: Clock) -> None:
    simulation = Reloaded(tmp_path, clock, follow=False)
    simulation.flags["sinks"] = ["webhook:http://127.0.0.1:9/"]
    simulation.append(5)
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(tmp_path / "ids.txt", simulation.flags, environ=simulation.environ))
        await asyncio.sleep(8)
        simulation.drain()
        answer = await simulation.reload(sinks=[])
    assert "the run is stopping" in answer["refused"]


async def test_a_sink_that_cannot_be_opened_refuses_the_reload_and_all_is_as_it_was(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    one = f"jsonl:{tmp_path}/finished.jsonl"
    (tmp_path / "foreign.jsonl").write_text("a stranger's line\n")
    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(20)
    async with simulation.at_work(tmp_path / "ids.txt"):
        sinks = [{"kind": "jsonl", "path": f"{tmp_path}/finished.jsonl", "name": one, "rotate_bytes": 5000}]
        answer = await simulation.reload(sinks=[*sinks, f"jsonl:{tmp_path}/foreign.jsonl"], requests=7)
        assert "foreign.jsonl" in answer["refused"]
        ids += simulation.append(20)
        await asyncio.sleep(30)
        assert simulation.service is not None
        assert [delivery_loop.sink.name for delivery_loop in simulation.service.deliveries.loops] == [one]
    assert simulation.delivered("finished.jsonl") == Counter(ids)
    assert next((sink.name, sink.attached) for sink in (await simulation.sums()).sinks) == (one, True)
    assert len(named(events, "config.refused")) == 1


@pytest.mark.parametrize("gone", ["ca_file", "secret_file"])
async def test_a_sink_whose_file_is_gone_stops_by_name_and_the_others_of_a_refused_reload_go_on(
    tmp_path: Path, clock: Clock, events: Events, gone: str
) -> None:
    """What was closed to be exchanged could not be opened again: neither could the sinks after it, and none was shown
    as stopped."""
    one = f"jsonl:{tmp_path}/finished.jsonl"
    (tmp_path / "foreign.jsonl").write_text("a stranger's line\n")
    (tmp_path / "ca_file").write_text(CERTIFICATE)
    (tmp_path / "secret_file").write_text(f"whsec_{'x' * 32}")
    hook = {"kind": "webhook", "url": "http://127.0.0.1:9/", gone: str(tmp_path / gone), "name": "hook"}
    simulation = Reloaded(tmp_path, clock)
    simulation.flags["sinks"] = [hook, one]
    ids = simulation.append(20)
    async with simulation.at_work(tmp_path / "ids.txt", ends={Exit.CONFIG}):
        (tmp_path / gone).unlink()
        hook = {"kind": "webhook", "url": "http://127.0.0.1:9/", "name": "hook"}
        rotated = {"kind": "jsonl", "path": f"{tmp_path}/finished.jsonl", "name": one, "rotate_bytes": 5000}
        answer = await simulation.reload(sinks=[hook, rotated, f"jsonl:{tmp_path}/foreign.jsonl"])
        assert "foreign.jsonl" in answer["refused"]
        ids += simulation.append(20)
        await asyncio.sleep(30)
        assert simulation.service is not None
        stopped = {loop.sink.name: loop.stopped_by is not None for loop in simulation.service.deliveries.loops}
        assert stopped == {"hook": True, one: False}
        assert simulation.delivered("finished.jsonl") == Counter(ids)
    assert [(event["sink"], gone in event["reason"]) for event in named(events, "sink.stopped")] == [("hook", True)]


async def test_a_stopped_sink_is_opened_again(tmp_path: Path, clock: Clock, events: Events) -> None:
    simulation = Reloaded(tmp_path, clock)
    simulation.flags["sinks"] = [f"jsonl:{tmp_path}/one.jsonl", f"jsonl:{tmp_path}/two.jsonl"]
    ids = simulation.append(5)
    async with simulation.at_work(tmp_path / "ids.txt"):
        await asyncio.sleep(30)
        (tmp_path / "one.jsonl").unlink()
        (tmp_path / "one.jsonl").mkdir()
        ids += simulation.append(5)
        await asyncio.sleep(30)
        stopped = len(named(events, "sink.stopped"))
        (tmp_path / "one.jsonl").rmdir()
        await simulation.reload()
        await asyncio.sleep(30)
    assert stopped == 1 or not named(events, "sink.stopped")
    assert simulation.delivered("two.jsonl") == Counter(ids)
    assert set(simulation.delivered("one.jsonl")) >= set(ids[5:])


# --- accounts --------------------------------------------------------------------------------------------------------


async def test_a_higher_limit_and_more_workers_are_used_at_once_and_a_lower_one_is_kept(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Reloaded(tmp_path, clock, requests=10, window_s=10.0)
    simulation.append(3000)
    async with simulation.at_work(tmp_path / "ids.txt"):

        async def polls_in(seconds: float) -> int:
            before = simulation.api.stats().requests_total
            await asyncio.sleep(seconds)
            return simulation.api.stats().requests_total - before

        assert 15 <= await polls_in(20) <= 21
        await simulation.reload(requests=200, workers=32)
        assert await polls_in(30) >= 400
        await simulation.reload(requests=10, workers=2)
        await asyncio.sleep(11)
        assert await polls_in(20) <= 21
    assert simulation.api.stats().throttled_total == 0


async def test_an_account_that_is_added_works_and_one_that_is_removed_leaves_its_tasks_waiting(
    tmp_path: Path, clock: Clock
) -> None:
    slow = Scenario(fates={}, durations=parse_durations("fixed:500"), requests=1000)
    simulation = Reloaded(tmp_path, clock, slow, accounts={"main": {"workers": 4}}, account="main")
    ids = simulation.append(3)
    accounts = {"main": {"workers": 4}, "eu": {"workers": 4}}
    async with simulation.at_work(tmp_path / "ids.txt"):
        assert (await simulation.reload(accounts=accounts))["changed"] == ["accounts.eu"]
        (fresh,) = simulation.api.preload(1)
        with (tmp_path / "ids.txt").open("a") as file:
            file.write(f'{{"id": "{fresh}", "account": "eu"}}\n')
        await asyncio.sleep(60)
        answer = await simulation.reload(accounts={"main": {"workers": 4}})
        assert answer["left_waiting"] == ["eu"]
        await asyncio.sleep(600)
        assert simulation.delivered("finished.jsonl") == Counter(ids)
        await simulation.reload(accounts=accounts)
        await asyncio.sleep(60)
    assert simulation.delivered("finished.jsonl") == Counter([*ids, fresh])


async def test_an_account_that_is_given_away_during_a_reload_is_left_out(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a turn of a fleet's member does."""
    accounts = {"main": {"workers": 4}, "eu": {"workers": 4}}
    simulation = Reloaded(tmp_path, clock, QUICK, accounts=accounts, account="main")

    async def give_the_other(account: AccountSettings, tokens: TokenSource) -> bytes:
        if simulation.service is not None and "eu" in simulation.service.lanes:
            await simulation.service.end_lane("eu")
        return await credentials_hash(account, tokens)

    async with simulation.at_work(simulation.write_ids(3)):
        monkeypatch.setattr("poller.app.build.credentials_hash", give_the_other)
        answer = await simulation.reload(accounts={name: {"workers": 5} for name in accounts})
        assert answer["changed"] == ["accounts.eu.workers", "accounts.main.workers"]


async def test_another_token_file_is_read_and_tried_at_once(tmp_path: Path, clock: Clock) -> None:
    one, two = tmp_path / "token-one", tmp_path / "token-two"
    one.write_text("pat-na1-not-the-right-one")
    two.write_text(TOKEN)
    good = Scenario(fates={}, durations=parse_durations("fixed:1"), tokens=frozenset({TOKEN}))
    simulation = Reloaded(tmp_path, clock, good, token_file=str(one))
    ids = simulation.append(3)
    async with simulation.at_work(tmp_path / "ids.txt"):
        await asyncio.sleep(300)
        assert (await simulation.reload(token_file=str(two)))["changed"] == ["token_file"]
        await asyncio.sleep(10)
        assert simulation.delivered("finished.jsonl") == Counter(ids)
        answer = await simulation.reload(token_file=str(tmp_path / "none"))
        assert "none" in answer["refused"]
        ids += simulation.append(3)
        await asyncio.sleep(30)
    assert simulation.delivered("finished.jsonl") == Counter(ids)


async def test_other_polling_rules_apply_from_the_next_poll_on(tmp_path: Path, clock: Clock) -> None:
    slow = Scenario(fates={}, durations=parse_durations("fixed:100000"), requests=1000)
    simulation = Reloaded(tmp_path, clock, slow, polling={"policy": "fixed", "longest_gap_s": 100.0})
    simulation.append(1)
    async with simulation.at_work(tmp_path / "ids.txt"):
        await asyncio.sleep(1000)
        seldom = simulation.api.stats().requests_total
        answer = await simulation.reload(polling={"policy": "fixed", "longest_gap_s": 10.0})
        assert answer["changed"] == ["polling.longest_gap_s"]
        await asyncio.sleep(1000)
        often = simulation.api.stats().requests_total - seldom
    assert seldom <= 12
    assert often >= 80


async def test_a_run_that_ends_with_its_work_keeps_its_accounts(tmp_path: Path, clock: Clock) -> None:
    accounts = {"main": {"workers": 4}, "eu": {"workers": 4}}
    simulation = Reloaded(tmp_path, clock, follow=False, accounts=accounts, account="main")
    (fresh,) = simulation.api.preload(1)
    (tmp_path / "ids.txt").write_text(f'{{"id": "{fresh}", "account": "eu"}}\n')
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(tmp_path / "ids.txt", simulation.flags))
        await asyncio.sleep(2)
        answer = await simulation.reload(accounts={"main": {"workers": 4}})
    assert (answer["changed"], answer["needs_restart"]) == ([], ["accounts.eu"])
    assert running.result() is Exit.ALL_COMPLETE


# --- sources ---------------------------------------------------------------------------------------------------------


async def test_sources_come_and_go_and_each_line_counts_once(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "in").mkdir()
    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(5, "a.txt")
    async with simulation.at_work():
        await simulation.reload(sources=[str(tmp_path / "a.txt"), {"folder": str(tmp_path / "in")}])
        ids += simulation.append(5, "in/dropped.txt")
        await asyncio.sleep(10)
        await simulation.reload(sources=[{"folder": str(tmp_path / "in")}])
        left_out = simulation.append(5, "a.txt")
        await asyncio.sleep(30)
        assert simulation.delivered("finished.jsonl") == Counter(ids)
        await simulation.reload(sources=[str(tmp_path / "a.txt")])
        await asyncio.sleep(30)
    assert simulation.delivered("finished.jsonl") == Counter(ids + left_out)
    assert sum(source.lines for source in (await simulation.sums()).sources) == 15


@pytest.mark.parametrize("follow", [True, False])
async def test_a_stream_is_read_on_for_the_accounts_that_there_are_now(
    tmp_path: Path, clock: Clock, follow: bool
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    simulation = Reloaded(tmp_path, clock, accounts={"main": {"workers": 4}}, account="main")
    simulation.flags["sources"] = [{"path": str(pipe), "follow": follow}]
    first, cut, other = simulation.api.preload(3)
    writing = os.open(pipe, os.O_RDWR)
    try:
        async with simulation.at_work():
            os.write(writing, f"task_id,account\n{first},\n{cut[:5]}".encode())
            await asyncio.sleep(10)
            answer = await simulation.reload(accounts={"main": {"workers": 4}, "eu": {"workers": 4}})
            assert (answer["changed"], answer["needs_restart"]) == (["accounts.eu"], [])
            os.write(writing, f"{cut[5:]},\n{other},eu\n".encode())
            await asyncio.sleep(30)
            answer = await simulation.reload(input={"id_column": "account"})
            assert answer["needs_restart"] == [f"how file {pipe} is read"]
            answer = await simulation.reload(input=None)
            assert answer["needs_restart"] == []
        assert simulation.delivered("finished.jsonl") == Counter([first, cut, other])
        assert [source.lines for source in (await simulation.sums()).sources] == [4]
    finally:
        os.close(writing)


# --- what is reported -------------------------------------------------------------------------------------------------


async def test_what_cannot_change_is_named_and_stays_named_until_a_restart(
    tmp_path: Path, clock: Clock, events: Events
) -> None:
    simulation = Reloaded(tmp_path, clock)
    async with simulation.at_work():
        for _ in range(2):
            answer = await simulation.reload(state="sqlite:///other.db", proxy="http://127.0.0.1:9", give_up_s=100.0)
            assert answer["needs_restart"] == ["proxy", "state"]
        answer = await simulation.reload(state=f"sqlite:///{tmp_path}/poller.db", proxy=None)
        assert (answer["changed"], answer["needs_restart"]) == ([], [])
    assert [event["changed"] for event in named(events, "config.reloaded")] == [["give_up_s"], [], []]


async def test_broken_settings_change_nothing(tmp_path: Path, clock: Clock, events: Events) -> None:
    simulation = Reloaded(tmp_path, clock)
    ids = simulation.append(5)
    async with simulation.at_work(tmp_path / "ids.txt"):
        answer = await simulation.reload(sinks=[f"jsonl:{tmp_path}/two.jsonl"], workers=0)
        assert "workers" in answer["refused"]
        answer = await simulation.reload(workers=None, sources=[{"path": str(tmp_path / "none"), "follow": False}])
        assert "no such file" in answer["refused"]
        await asyncio.sleep(30)
    assert simulation.delivered("finished.jsonl") == Counter(ids)
    assert [event["log_level"] for event in named(events, "config.refused")] == ["error", "error"]


def test_differences_have_the_names_that_people_write() -> None:
    old = {"log": {"level": "info"}, "accounts": {"eu": {"requests": 5}, "us": {}}, "sinks": []}
    new = {"log": {"level": "debug"}, "accounts": {"eu": {"requests": 6}, "asia": {}}, "sinks": ["stdout"]}
    assert differences(old, new) == ["accounts.asia", "accounts.eu.requests", "accounts.us", "log.level", "sinks"]


# --- the server ------------------------------------------------------------------------------------------------------


async def test_a_status_path_that_a_run_of_imports_cannot_have_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    imports = {"options": {"access": "PRIVATE", "folderPath": "/p"}}
    simulation = Reloaded(tmp_path, clock, input={"feeds": "imports"}, imports=imports)
    rows = tmp_path / "rows.txt"
    rows.write_text("https://example.com/a.png\n")
    async with simulation.at_work(rows):
        await asyncio.sleep(30)
        both = [f"jsonl:{tmp_path}/{name}.jsonl" for name in ("finished", "two")]
        answer = await simulation.reload(sinks=both, status_path="/crm/v3/exports/async/tasks/{task_id}/status")
        assert "imports cannot be started" in answer["refused"]
        assert simulation.service is not None
        assert [loop.sink.name for loop in simulation.service.deliveries.loops] == both[:1]
        with rows.open("a") as file:
            file.write("https://example.com/b.png\n")
        await asyncio.sleep(120)
        simulation.flags = {name: value for name, value in simulation.flags.items() if name != "status_path"}
    sums = await simulation.sums()
    assert (sums.finished, sums.landed["complete"]) == (2, 2), "polls and starts go where they went"


async def test_lines_over_http_and_the_deadline_on_the_page_follow_the_settings(tmp_path: Path, clock: Clock) -> None:
    slow = Scenario(fates={}, durations=parse_durations("fixed:5000"))
    accounts = {"eu": {"workers": 4}, "us": {"workers": 4}}
    simulation = Reloaded(tmp_path, clock, slow, listen="127.0.0.1:8321", accounts=accounts, account="eu")
    (first, second) = simulation.api.preload(2)
    async with simulation.at_work():
        assert simulation.site is not None
        async with aiohttp.ClientSession(BASE, connector=MemoryConnector(simulation.site)) as session:

            async def post(body: str) -> dict[str, Any]:
                async with session.post("/v1/tasks", data=body, headers={"Content-Type": "text/csv"}) as response:
                    return dict(await response.json())

            async def latest_at() -> float:
                async with session.get("/v1/overview") as response:
                    return float((await response.json())["forecast"]["latest_at"])

            assert (await post(f"import,id\nnone,{first}\n"))["accepted"] == 1
            before, fed_at = await latest_at(), clock()
            await simulation.reload(account="us", input={"id_column": "import"}, deadline_s=1000.0)
            await asyncio.sleep(2)
            assert before == pytest.approx(fed_at + 86_400, abs=5)
            assert await latest_at() == pytest.approx(fed_at + 1000, abs=5)
            assert (await post(f"import,id\n{second},none\n"))["accepted"] == 1
            async with session.get(f"/v1/tasks/{second}") as response:
                assert (await response.json())["account"] == "us"


# --- every setting ---------------------------------------------------------------------------------------------------

TABLES: dict[str, type[BaseModel]] = {
    "polling": PollingTable,
    "input": InputTable,
    "imports": ImportsTable,
    "log": LogTable,
}
CHANGES: dict[str, Any] = {  # another value of each setting
    "account": "other",
    "accounts": {"default": {"workers": 16}, "eu": {"workers": 16}},
    "allow_http": True,  # changes nothing without `base_url`
    "base_url": "https://api.example.com",
    "beat_s": 2.0,
    "ca_file": "ca.pem",
    "daily_limit": 1000,
    "daily_reserve": 0.5,
    "deadline_s": 1000.0,
    "expect_result": False,
    "fleet": True,
    "follow": False,
    "give_up_s": 100.0,
    "imports.columns": {"url": "link"},
    "imports.key": "id",
    "imports.options": {"access": "PRIVATE", "folderPath": "/q"},
    "imports.retries": 2,
    "imports.trial": 3,
    "imports.underway": 7,
    "imports.unsure": "hold",
    "input.feeds": "imports",
    "input.format": "csv",
    "input.id_column": "import",
    "input.max_line_bytes": 1000,
    "listen": "127.0.0.1:1",
    "listen_token_env": "OTHER",
    "listen_token_file": "token",
    "log.format": "json",
    "log.level": "debug",
    "max_body_bytes": 2048,
    "oauth": {"client_id": "me", "client_secret_env": "OTHER", "refresh_token_env": "OTHER"},
    "polling.age_share": 0.5,
    "polling.failure_gap_s": 3.0,
    "polling.first_gap_s": 3.0,
    "polling.jitter": 0.5,
    "polling.line_by": "host",
    "polling.longest_failure_gap_s": 99.0,
    "polling.longest_gap_s": 99.0,
    "polling.missing_again_s": 99.0,
    "polling.policy": "backoff",
    "polling.poll_cost_s": 9.0,
    "polling.trust_unknown": True,
    "progress": False,
    "proxy": "http://127.0.0.1:9",
    "replica": "r2",
    "request_timeout_s": 5.0,
    "requests": 50,
    "retention_s": 1000.0,
    "shutdown_s": 5.0,
    "sinks": ["stdout"],
    "sources": [{"glob": "*.txt", "follow": True}],
    "state": "sqlite:///other.db",
    "status_path": "/crm/v3/exports/export/async/tasks/{task_id}/status",
    "stop_on_failures": 5.0,
    "summary_every_s": 5.0,
    "time_zone": "Europe/Berlin",
    "token_env": "OTHER",
    "token_file": "token",
    "traces": "on",
    "window_s": 20.0,
    "workers": 3,
}


InForce = Callable[[str, dict[str, Any], dict[str, Any]], Awaitable[tuple[dict[str, Any], set[tuple[str, str]]]]]
ROOMS = ("app", "engine", "hubspot", "schedule", "sinks", "sources", "web")
LIVE = (*(f"poller.{room}." for room in ROOMS), "poller.core.columns")
COUNTS = (Metrics, History)
COUNTED = frozenset({"_workers", "word"})  # started workers of a lane: idle ones stay; what is random in each run


STARTED: dict[str, set[tuple[str, str]]] = {}  # the values of a run that was not reloaded, by its flags


def flags_of(name: str) -> dict[str, Any]:
    """Return flags that change one setting."""
    table, dot, key = name.rpartition(".")
    if name == "allow_http":
        return {"allow_http": True, "base_url": "http://example.com"}
    return {table: start_of(name).get(table, {}) | {key: CHANGES[name]}} if dot else {name: CHANGES[name]}


def start_of(name: str) -> dict[str, Any]:
    """Return the flags of a run in which the setting matters."""
    if name == "window_s":  # alone it raises nothing
        return {"requests": 50}
    if not name.startswith("imports."):
        return {}
    return {"input": {"feeds": "imports"}, "imports": {"options": {"access": "PUBLIC_INDEXABLE", "folderPath": "/p"}}}


def every_setting() -> set[str]:
    return {
        f"{name}.{key}" if key else name
        for name in Settings.model_fields
        for key in (TABLES[name].model_fields if name in TABLES else [""])
    }


def values_in(part: object, path: str = "", seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, str]]:
    """Yield every plain value that a live part of the poller reaches, with its path; no counts, instants or caches."""
    if isinstance(part, str | int | float | Path | URL | tzinfo | None):
        yield path, repr(part)
    elif isinstance(part, Mapping):
        for key, value in part.items():
            yield from values_in(value, f"{path}[{key}]", seen)
    elif isinstance(part, Sequence | Set | deque):
        numbers = {value for value in part if isinstance(value, int | float)}  # what is learned has ten thousands
        yield f"{path}[]", repr(sorted(numbers))
        others = (value for value in part if not isinstance(value, int | float))
        yield from chain.from_iterable(values_in(value, f"{path}[]", seen) for value in others)
    elif type(part).__module__.startswith(LIVE) and not isinstance(part, COUNTS) and id(part) not in seen:
        names = chain(getattr(part, "__dict__", ()), *(getattr(base, "__slots__", ()) for base in type(part).__mro__))
        for name in names:
            if name not in COUNTED and not name.endswith(("_at", "_until")):
                yield from values_in(getattr(part, name), f"{path}.{name}", seen | {id(part)})


@pytest.fixture
def in_force(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> InForce:
    """Return a function that starts with some settings and reloads with others; it returns the answer of the reload and
    the values in all parts of the run."""
    sites: list[object] = []
    logged: list[LogTable] = []

    def record_site(site: RunContext, tokens: TokenSource | None) -> web.Application:
        sites[:] = [site]
        return make_site(site, tokens)

    monkeypatch.setattr("poller.app.compose.make_site", record_site)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token").write_text(TOKEN)

    async def start_and_reload(
        folder: str, start: dict[str, Any], later: dict[str, Any]
    ) -> tuple[dict[str, Any], set[tuple[str, str]]]:
        (tmp_path / folder).mkdir()
        simulation = Reloaded(tmp_path / folder, clock, listen="127.0.0.1:8321", **start)
        simulation.environ["OTHER"] = "a-token-of-another-variable"
        simulation.apply_to_log = lambda settings: logged.append(settings.log)
        async with simulation.at_work():
            answer = await simulation.reload(**later)
            parts = [simulation.service, *sites, logged[-1].model_dump()]
            own = re.compile(f"{re.escape(str(tmp_path))}/|{folder}")
            return answer, {(own.sub("", path), own.sub("", value)) for path, value in values_in(parts)}

    return start_and_reload


def test_every_setting_has_another_value_here() -> None:
    assert CHANGES.keys() == every_setting()


@pytest.mark.parametrize("name", sorted(every_setting()))
async def test_a_reload_has_the_effect_of_a_restart_or_reports_that_it_needs_one(in_force: InForce, name: str) -> None:
    start, changed = start_of(name), flags_of(name)
    if repr(start) not in STARTED:
        _, STARTED[repr(start)] = await in_force("run-before", start, {})
    before = STARTED[repr(start)]
    answer, after = await in_force("run-reloaded", start, changed)
    if name.partition(".")[0] in Settings.fixed() or name == "input.feeds":
        assert (answer["changed"], after) == ([], before)
        assert [each[: len(name)] for each in answer["needs_restart"]] == [name]
    else:
        _, restarted = await in_force("run-restarted", start | changed, {})
        assert answer["needs_restart"] == []
        assert after != before
        assert after ^ restarted == set()


async def test_a_command_sink_does_not_get_the_tokens_of_accounts_that_a_reload_adds(in_force: InForce) -> None:
    start = {"sinks": ["command:cat"]}
    _, reloaded = await in_force("run-reloaded", start, {"token_env": "OTHER"})
    _, restarted = await in_force("run-restarted", start | {"token_env": "OTHER"}, {})
    assert reloaded ^ restarted == set()


# --- nothing is lost, nothing is doubled -----------------------------------------------------------------------------


async def test_reloaded_at_random_while_at_work_every_line_and_every_outcome_counts_once(
    tmp_path: Path, clock: Clock
) -> None:
    rng = Random(9)
    simulation = Reloaded(tmp_path, clock, Scenario(fates={}, durations=parse_durations("uniform:1,20"), requests=100))
    one, two = (f"jsonl:{tmp_path}/{name}.jsonl" for name in ("one", "two"))
    rotating = {"kind": "jsonl", "path": f"{tmp_path}/one.jsonl", "name": one, "rotate_bytes": 50_000}
    followed = {"path": str(tmp_path / "ids.txt"), "follow": True}
    dropped = {"folder": str(tmp_path / "in"), "follow": True, "settle_s": 0.5}
    (tmp_path / "in").mkdir()
    simulation.flags |= {"sinks": [one], "sources": [followed]}
    ids = simulation.append(50)
    async with simulation.at_work():
        for number in range(25):
            ids += simulation.append(rng.randrange(20))
            if rng.random() < 0.3:
                ids += simulation.append(rng.randrange(20), f"in/{number}.txt")
            await asyncio.sleep(rng.choice([0, 0.01, rng.uniform(0, 3)]))
            await simulation.reload(
                sinks=rng.choice([[one], [one, two], [rotating], [two, rotating]]),
                sources=rng.choice([[followed], [dropped], [followed, dropped], []]),
                requests=rng.choice([20, 50, 100]),
                polling={"longest_gap_s": rng.choice([5.0, 30.0])},
            )
        await simulation.reload(sinks=[rotating, two], sources=[followed, dropped], requests=100)
        await asyncio.sleep(120)
    assert simulation.delivered("one*.jsonl") == Counter(ids)
    assert simulation.delivered("two.jsonl") == Counter(ids)
    sums = await simulation.sums()
    assert sum(source.lines for source in sums.sources) == sum(source.tasks for source in sums.sources) == len(ids)
    assert simulation.api.stats().throttled_total == 0


# --- as a process ----------------------------------------------------------------------------------------------------


@pytest.mark.real_time
def test_poller_reload_applies_a_changed_file_and_prints_the_result(tmp_path: Path) -> None:
    config, flags = tmp_path / "config.toml", ("-c", "config.toml")
    config.write_text('listen = "off"\nsources = ["ids.txt"]\nfollow = true\nsinks = ["jsonl:one.jsonl"]\n')
    assert run("reload", *flags, folder=tmp_path).returncode == 1
    with hubspot("--fate", "complete=1", imports=20) as one:
        (tmp_path / "ids.txt").write_text("".join(f"{task_id}\n" for task_id in one.take(10)))
        with running("run", *flags, "--base-url", one.url, folder=tmp_path, env=environ()) as service:
            wait_until((tmp_path / "one.jsonl").exists, "the first sink")
            wait_until(lambda: whole_lines(tmp_path / "one.jsonl") == 10, "ten records")
            config.write_text(config.read_text().replace('"jsonl:one.jsonl"', '"jsonl:one.jsonl", "jsonl:two.jsonl"'))
            done = run("reload", *flags, folder=tmp_path)
            assert (done.returncode, "changed: sinks" in done.stdout) == (0, True), done.stdout + done.stderr
            wait_until(lambda: whole_lines(tmp_path / "two.jsonl") == 10, "the new sink has everything")
            config.write_text("sinks = 5\n" + config.read_text())
            done = run("reload", "--state", "sqlite:///poller.db", folder=tmp_path)
            assert (done.returncode, "nothing changed" in done.stderr) == (Exit.CONFIG, True), done.stderr
            service.signal(signal.SIGTERM)
            assert service.ended() == Exit.ALL_COMPLETE
