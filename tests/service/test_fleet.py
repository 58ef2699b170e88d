"""Whole services as one fleet on one real server: fed anywhere, shown anywhere, buried and back. Beats are short."""

import asyncio
import time
from collections import Counter
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from poller.app.environment import Environment
from poller.app.fleet_replay import LeftToFleet, deliver_beside, has_fleet
from poller.app.replay import Replayed
from poller.app.run import run
from poller.app.tokens import credentials_hash
from poller.cli.commands.reload import reload_fleet
from poller.config import AccountSettings, Settings, load
from poller.core.deliveries import Selection
from poller.core.errors import ConfigError, Exit
from poller.core.request_protocols import TokenSource
from poller.hubspot.client import Connections
from poller.sandbox import parse_durations
from poller.store import ask_to_reload, read_store, replay_beside
from tests.support.fleet_services import ACCOUNTS, BEAT_S, FleetAtWork, at_work

pytestmark = pytest.mark.real_time


async def test_fed_at_one_replica_all_is_polled_by_its_owners_and_any_page_shows_the_fleet_whatever_their_clocks_show(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    ahead_s = {"r1": -7200.0, "r2": 86_400.0}
    async with at_work(tmp_path, postgres_url, events, ahead_s=ahead_s) as fleet:
        moved = [each["by_s"] for each in fleet.logged("clock.jumped")]
        assert moved == [pytest.approx(7200, abs=5), pytest.approx(-86_400, abs=5)]
        ids = await fleet.feed(fleet.pages()[1], 80)
        await fleet.until(lambda: len(fleet.delivered()) == 80, "all outcomes")
        assert fleet.delivered() == Counter(ids)
        assert fleet.api.stats().throttled_total == 0
        costs = set()
        for page in fleet.pages():
            shown = await fleet.overview_with(page, finished=80, delivered=80)
            assert [each["replica"] for each in shown["fleet"]["members"]] == ["r1", "r2"]
            assert [each["accounts"] for each in shown["fleet"]["members"]] == [2, 2]
            assert sorted(lane["account"] for lane in shown["lanes"]) == list(ACCOUNTS)
            assert shown["ledger"]["waiting"] == 0
            assert shown["ledger"]["sinks"][0]["undelivered"] == 0
            costs.add(shown["polls_per_task"])
        assert len(costs) == 1
        assert costs.pop() >= 1
        text, code = await asyncio.to_thread(fleet.command, "status")
        assert (code, "r1: at work, 2 accounts" in text, "r2: at work, 2 accounts" in text) == (0, True, True), text
        text, code = await asyncio.to_thread(fleet.command, "healthcheck")
        assert code == 0, text


async def test_a_buried_replica_joins_again_and_nothing_is_lost_or_doubled(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        ids = await fleet.feed(fleet.pages()[0], 60)
        with fleet.database as database:
            database.execute("DELETE FROM replica WHERE name = 'r1'")
        await fleet.until(lambda: bool(fleet.logged("replica.fenced")), "the end of the membership")
        await fleet.until(lambda: all(len(each.lanes) == 2 for each in fleet.replicas.values()), "an even share")
        ids += await fleet.feed(fleet.pages()[0], 40)
        await fleet.until(lambda: len(fleet.delivered()) == 100, "all outcomes")
        await asyncio.sleep(0.3)
        assert fleet.delivered() == Counter(ids)
        assert fleet.api.stats().throttled_total == 0


async def test_lines_of_a_file_that_a_failover_lost_are_read_again_from_where_the_state_has_it(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    file = tmp_path / "ids.txt"
    own = {"r1": {"sources": [{"path": str(file), "follow": True}]}}
    async with at_work(tmp_path, postgres_url, events, own, durations=parse_durations("fixed:60")) as fleet:
        ids = fleet.api.preload(20)
        with fleet.database as database:

            def stored() -> set[str]:
                return {task_id for (task_id,) in database.execute("SELECT task_id FROM task").fetchall()}

            file.write_text("".join(f"{task_id}\n" for task_id in ids[:12]))
            await fleet.until(lambda: len(stored()) == 12, "the first lines")
            database.execute("CREATE TABLE standby AS SELECT * FROM source")
            with file.open("a") as appended:
                appended.writelines(f"{task_id}\n" for task_id in ids[12:])
            await fleet.until(lambda: len(stored()) == 20, "the other lines")
            with database.transaction():  # as a standby that lacks the latest commits
                database.execute("DELETE FROM replica WHERE name = 'r1'")
                database.execute("DELETE FROM task WHERE task_id = ANY (%s)", (ids[12:],))
                database.execute(
                    'UPDATE source SET (lines, tasks, "offset", line, fingerprint) ='
                    ' (SELECT lines, tasks, "offset", line, fingerprint FROM standby WHERE standby.id = source.id)'
                )
            await fleet.until(lambda: stored() == set(ids), "the lost lines again")
            sums = database.execute("SELECT lines, tasks, duplicates FROM source WHERE name LIKE '%/ids.txt'")
            assert sums.fetchall() == [(20, 20, 0)]


async def test_a_replica_that_is_stopped_leaves_its_accounts_to_the_other_one(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        ids = await fleet.feed(fleet.pages()[0], 40)
        await fleet.replicas["r2"].drain()
        await fleet.until(lambda: len(fleet.replicas["r1"].lanes) == 4, "all accounts")
        await fleet.until(lambda: len(fleet.delivered()) == 40, "all outcomes")
        assert fleet.delivered() == Counter(ids)
        assert all(each["clean"] for each in fleet.logged("account.taken"))
        assert fleet.api.stats().throttled_total == 0
    reader = await read_store(postgres_url)
    assert (await reader.sums()).waiting == 0
    await reader.close()


async def test_a_reload_of_all_shows_what_each_replica_took_what_needs_a_restart_and_who_refused(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        r1, r2 = fleet.replicas.values()
        assert await reload_fleet(r1.settings) == ("r1: changed: nothing\nr2: changed: nothing", Exit.ALL_COMPLETE)
        r1.reread = lambda: r1.settings.model_copy(update={"shutdown_s": 20.0, "sinks": ["stdout"]})
        r2.reread = _refuse
        text, code = await reload_fleet(r1.settings)
        assert text.splitlines() == [
            "r1: changed: shutdown_s; needs a restart: sinks",
            "r2: refused the settings; nothing changed: requests must be above 0.",
        ]
        assert code is Exit.CONFIG
        with fleet.database as database:
            database.execute("UPDATE replica SET is_draining = true WHERE name = 'r1'")
            database.execute(
                "WITH frozen AS (INSERT INTO replica (host, pid, started_at, beat_at, seen_at, name)"
                " VALUES ('away', 1, 0, 0, clock_timestamp(), 'r3') RETURNING id)"
                " INSERT INTO announced (replica, serves, settings) SELECT id, '{}', '{}' FROM frozen"
            )
        text, code = await reload_fleet(r1.settings, within_s=1.0)
        assert "r1: is stopping" in text
        assert "r3: no answer within 1 s" in text


def _refuse() -> Settings:
    raise ConfigError("requests must be above 0.")


async def test_a_replay_beside_the_fleet_is_delivered_by_the_replica_that_has_the_sink_and_all_sums_hold(
    tmp_path: Path, postgres_server: str, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    table = postgres_url.rpartition("=")[2]
    sink = {"kind": "sql", "url": postgres_server, "table": f"public.{table}"}
    sinks = {"sinks": [f"jsonl:{tmp_path}/finished.jsonl", sink]}
    async with at_work(tmp_path, postgres_url, events, {"r1": sinks, "r2": sinks}) as fleet:
        await fleet.feed(fleet.pages()[0], 40)
        settings = fleet.replicas["r2"].settings
        how: dict[str, Any] = {"environ": {}, "clock": time.time}
        with psycopg.connect(postgres_server, autocommit=True) as database:
            rows = f"SELECT count(*) FROM public.{table}".encode()  # noqa: S608 - our own name

            def all_are_there() -> bool:
                return len(fleet.delivered()) == 40 and database.execute(rows).fetchone() == (40,)

            await fleet.until(all_are_there, "all outcomes")
            await fleet.until(lambda: undelivered(fleet) == 0, "the note of the last delivery")
            database.execute(f"DELETE FROM public.{table}".encode())  # noqa: S608 - our own name
            assert await has_fleet(settings)
            (name,) = {each["sink"] for each in fleet.logged("sink.taken") if each["sink"].startswith("sql:")}
            owner, home = owner_and_home(fleet, name)
            left = await deliver_beside(settings, name, Selection(), **how)
            assert left == LeftToFleet(sink=name, replica=owner, records=40)
            await fleet.until(all_are_there, "the replay")
        new = await deliver_beside(settings, f"jsonl:{tmp_path}/new.jsonl", Selection(), **how)
        assert new == Replayed(sink=f"jsonl:{tmp_path}/new.jsonl", delivered=40, refused=0)
        assert len((tmp_path / "new.jsonl").read_bytes().splitlines()) == 40
        with pytest.raises(ConfigError, match=f"of replica {home} has these records"):
            await deliver_beside(settings, f"jsonl:{tmp_path}/finished.jsonl", Selection(), **how)
        assert len(fleet.delivered()) == 40
        await fleet.until(lambda: bool(fleet.logged("sink.given")), "the hint")
        for page in fleet.pages():
            while await delivered_as_shown(fleet, page) != {(40, 0)}:  # noqa: ASYNC110 - a page may be a second old
                await asyncio.sleep(0.2)
    assert not await has_fleet(settings)


async def test_a_sink_whose_secret_is_gone_keeps_no_other_one_from_being_taken(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    """The file has one home: no other replica could deliver it meanwhile."""
    secret = tmp_path / "secret"
    secret.write_text(f"whsec_{'x' * 32}")
    hook = {"kind": "webhook", "url": "http://127.0.0.1:9/", "secret_file": str(secret), "name": "hook"}
    sinks = {"sinks": [f"jsonl:{tmp_path}/finished.jsonl", hook]}
    async with at_work(tmp_path, postgres_url, events, {"r1": sinks, "r2": sinks}) as fleet:
        await fleet.until(lambda: len(fleet.logged("sink.taken")) >= 2, "both sinks")
        secret.unlink()
        await replay_beside(postgres_url, "hook", Selection(dead=True))  # all sinks are given back, and taken again
        await fleet.until(lambda: len(fleet.logged("sink.given")) >= 2, "the hint")
        await fleet.feed(fleet.pages()[0], 12)
        await fleet.until(lambda: len(fleet.delivered()) == 12, "the outcomes in the file")
        assert {event["sink"] for event in fleet.logged("sink.stopped")} == {"hook"}
        secret.write_text(f"whsec_{'y' * 32}")
        taken = fleet.logged("sink.taken")
        await ask_to_reload(postgres_url)
        await fleet.until(lambda: [each["sink"] for each in fleet.logged("sink.taken")[len(taken) :]] == ["hook"], "it")


async def test_a_reload_of_a_replica_opens_a_sink_again_that_had_stopped(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    """Only a restart did."""
    file = tmp_path / "finished.jsonl"
    async with at_work(tmp_path, postgres_url, events) as fleet:
        await fleet.feed(fleet.pages()[0], 4)
        await fleet.until(lambda: len(fleet.delivered()) == 4, "the outcomes")
        lines = file.read_bytes()
        file.write_bytes(b"another program's\n")
        await fleet.feed(fleet.pages()[0], 4)
        await fleet.until(lambda: len(fleet.logged("sink.stopped")) == 1, "the stop")
        file.write_bytes(lines)
        await ask_to_reload(postgres_url)
        await fleet.until(lambda: len(fleet.delivered()) == 8, "all outcomes")
        assert set(fleet.delivered().values()) == {1}


def undelivered(fleet: FleetAtWork) -> int:
    """Return how many deliveries the state has not noted yet: the note comes after the row."""
    with fleet.database as database:
        ((count,),) = database.execute("SELECT count(*) FROM undelivered").fetchall()
        return int(count)


def owner_and_home(fleet: FleetAtWork, name: str) -> tuple[str, str]:
    """Return which replica delivers this sink, and which one has the file: it depends on who was there first."""
    with fleet.database as database:
        query = "SELECT r.name FROM sink s JOIN replica r ON r.id = s.owner WHERE s.name = %s"
        homes = database.execute("SELECT home FROM sink WHERE home IS NOT NULL").fetchall()
        ((owner,), (home,)) = [*database.execute(query, (name,)).fetchall(), *homes]
        return str(owner), str(home)


async def delivered_as_shown(fleet: FleetAtWork, page: str) -> set[tuple[int, int]]:
    ledger = (await fleet.overview(page))["ledger"]
    return {(each["delivered"], each["undelivered"]) for each in ledger["sinks"]}


async def test_a_second_replica_of_the_same_name_ends_with_the_reason(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        first = fleet.replicas["r1"]
        environment = Environment(environ=first._environ, connections=lambda _settings: Connections())
        with pytest.raises(ConfigError, match="two replicas are named 'r1'"):
            await run(first.settings, [], environment)


async def test_a_fleet_on_sqlite_is_refused(tmp_path: Path) -> None:
    settings = load(None, {"fleet": True, "state": f"sqlite:///{tmp_path}/p.db"}, {}, secrets_dir=tmp_path)
    environment = Environment(environ={"HUBSPOT_TOKEN": "t"}, connections=lambda _settings: Connections())
    with pytest.raises(ConfigError, match="a fleet needs a state in PostgreSQL"):
        await run(settings, [], environment)
    assert not (tmp_path / "p.db").exists()


async def test_an_account_that_is_taken_in_the_middle_of_a_reload_has_the_settings_of_the_reload(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that the reload removes is left to the others."""
    async with at_work(tmp_path, postgres_url, events) as fleet:
        r1, r2 = fleet.replicas.values()
        await fleet.until(lambda: len(r1.lanes) == len(r2.lanes) == 2, "an even share")
        lost = min(r2.lanes)
        left = {name: account for name, account in r1.settings.accounts.items() if name != lost}
        r1.reread = lambda: r1.settings.model_copy(update={"give_up_s": 500.0, "accounts": left, "account": min(left)})
        held: list[str] = []

        async def hold(account: AccountSettings, tokens: TokenSource) -> bytes:
            if not held:  # in the middle of the reload of r1
                held.append("r1")
                await r2.drain()
                await asyncio.sleep(4 * BEAT_S)
            return await credentials_hash(account, tokens)

        monkeypatch.setattr("poller.app.build.credentials_hash", hold)
        assert r1.service is not None
        r1.service.reload_asked.set()
        await fleet.until(lambda: bool(fleet.logged("config.reloaded")), "the reload")
        await fleet.until(lambda: r1.lanes == set(left), "all accounts that are left")
        patience = {name: lane._give_up.rules.give_up_s for name, lane in r1.service.lanes.items()}
        assert patience == dict.fromkeys(left, 500.0)
        assert fleet.logged("run.failed") == []
