"""Whole services as one fleet on one real server: fed anywhere, shown anywhere, buried and back. Beats are short."""

import asyncio
from collections import Counter
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest

from poller.app.environment import Environment
from poller.app.run import run
from poller.config import load
from poller.core.errors import ConfigError
from poller.hubspot.client import Connections
from poller.store import read_store
from tests.support.fleet_services import ACCOUNTS, at_work

pytestmark = pytest.mark.real_time


async def test_fed_at_one_replica_all_is_polled_by_its_owners_and_any_page_shows_the_fleet(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events) as fleet:
        ids = await fleet.feed(fleet.pages()[1], 80)
        await fleet.until(lambda: len(fleet.delivered()) == 80, "all outcomes")
        assert fleet.delivered() == Counter(ids)
        assert fleet.api.stats().throttled_total == 0
        for page in fleet.pages():
            shown = await fleet.overview_with(page, finished=80, delivered=80)
            assert [each["replica"] for each in shown["fleet"]["members"]] == ["r1", "r2"]
            assert [each["accounts"] for each in shown["fleet"]["members"]] == [2, 2]
            assert sorted(lane["account"] for lane in shown["lanes"]) == list(ACCOUNTS)
            assert shown["ledger"]["waiting"] == 0
            assert shown["ledger"]["sinks"][0]["undelivered"] == 0
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
