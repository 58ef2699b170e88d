"""Rows to import in a fleet: fed anywhere, started by the owner of their account alone, once each."""

import asyncio
from collections import Counter
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from poller.reports.ledger import imbalances
from poller.store import read_store
from tests.support.fleet_services import ACCOUNTS, FleetAtWork, at_work

pytestmark = pytest.mark.real_time

OPTIONS = {"access": "PRIVATE", "folderPath": "/p"}
SLOW: Mapping[str, Any] = {"beat_s": 1.0}  # a loaded machine buries no one by accident: the row would be unsure
IMPORTS: Mapping[str, Any] = {**SLOW, "input": {"feeds": "imports"}, "imports": {"options": OPTIONS}}
BOTH = {"r1": IMPORTS, "r2": IMPORTS}


def records(fleet: FleetAtWork) -> list[dict[str, Any]]:
    file = fleet.folder / "finished.jsonl"
    return [orjson.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []


async def assert_the_ledger_balances(url: str) -> None:
    reader = await read_store(url)
    try:
        sums = await reader.sums()
    finally:
        await reader.close()
    assert imbalances(sums) == []
    assert sums.starts is not None
    assert (sums.waiting, sums.starts.unsure) == (0, 0)


async def test_rows_fed_at_any_replica_are_started_once_by_the_owners_of_their_accounts(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events, BOTH) as fleet:
        urls = await fleet.feed_rows(fleet.pages()[0], 0, 40)
        urls += await fleet.feed_rows(fleet.pages()[1], 40, 40)
        ids = await fleet.feed(fleet.pages()[1], 20)
        await fleet.until(lambda: len(fleet.delivered()) == 100, "all outcomes")
        assert fleet.starts() == Counter(urls)
        assert Counter(record["ref"]["url"] for record in records(fleet) if "row" in record) == Counter(urls)
        assert {record["starts"] for record in records(fleet) if "row" in record} == {1}
        assert sum(task_id in fleet.delivered() for task_id in ids) == 20
        assert fleet.api.stats().throttled_total == 0
    await assert_the_ledger_balances(postgres_url)


async def test_an_owner_whose_settings_name_no_imports_starts_the_rows_that_another_replica_reads(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events, {"r1": IMPORTS, "r2": SLOW}) as fleet:
        urls = await fleet.feed_rows(fleet.pages()[0], 0, 24)
        await fleet.until(lambda: len(fleet.delivered()) == 24, "all outcomes")
        assert fleet.starts() == Counter(urls)
        assert fleet.api.stats().throttled_total == 0


async def test_a_hand_over_with_rows_underway_starts_none_twice_and_loses_none(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    async with at_work(tmp_path, postgres_url, events, BOTH) as fleet:
        urls = await fleet.feed_rows(fleet.pages()[0], 0, 200)
        await fleet.until(lambda: len(fleet.starts()) > 40, "some starts")
        await fleet.replicas["r2"].drain()
        await fleet.until(lambda: len(fleet.delivered()) == 200, "all outcomes")
        assert fleet.starts() == Counter(urls)
        assert fleet.api.stats().throttled_total == 0
    await assert_the_ledger_balances(postgres_url)


async def test_the_start_of_a_buried_owner_is_repeated_by_the_next_only_after_its_settle_time(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    hangs: dict[str, Any] = {"faults": {"start_hang": 1.0}, "hang_s": 300.0}
    async with at_work(tmp_path, postgres_url, events, BOTH, **hangs) as fleet:
        urls = await fleet.feed_rows(fleet.pages()[0], 0, 4)
        await fleet.until(lambda: len(fleet.starts()) == 4, "the first starts")
        fleet.api.starts._shares.clear()
        with fleet.database as database:
            database.execute("DELETE FROM replica WHERE name IN ('r1', 'r2')")
            await fleet.until(lambda: len(fleet.logged("replica.fenced")) >= 2, "the end of the memberships")
            await fleet.until(lambda: all(len(each.lanes) == 2 for each in fleet.replicas.values()), "an even share")
            await asyncio.sleep(1.0)
            assert fleet.starts() == Counter(urls)
            unsure = database.execute(
                "SELECT lost, due_at - first_sent_at >= 300 FROM import_row WHERE task IS NULL"
            ).fetchall()
            assert unsure == [(1, True)] * 4
            database.execute("UPDATE import_row SET due_at = first_sent_at")  # the settle time is over
        await fleet.until(lambda: len(fleet.delivered()) == 4, "all outcomes")
        assert fleet.starts() == Counter(urls * 2)
        assert [each["starts"] for each in records(fleet)] == [2] * 4
        assert fleet.api.stats().files_twice == 0
    await assert_the_ledger_balances(postgres_url)


async def test_a_trial_that_fails_pauses_its_account_and_no_replica(
    tmp_path: Path, postgres_url: str, events: list[MutableMapping[str, Any]]
) -> None:
    small = {**IMPORTS, "imports": {"options": OPTIONS, "trial": 3}}
    refused = {"faults": {"start_400": 1.0}}
    async with at_work(tmp_path, postgres_url, events, {"r1": small, "r2": small}, **refused) as fleet:
        await fleet.feed_rows(fleet.pages()[0], 0, 40)
        await fleet.until(lambda: len(fleet.logged("import.trial_failed")) == 4, "the ends of the trials")
        await asyncio.sleep(0.5)
        assert len(fleet.starts()) == 12
        await fleet.overview_of(fleet.pages()[0], ACCOUNTS)
        assert not any(each.service.is_ending for each in fleet.replicas.values() if each.service is not None)
        assert {each["pause"] for each in fleet.logged("lane.paused")} == {"paused_by_person"}
        assert all("trial" in each["detail"] for each in fleet.logged("lane.paused"))
