"""A rolling restart of all replicas of a fleet under full load, and what monitoring shows meanwhile."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from campaign.fleet.figure import Figure, fullest_window, gaps_of_moves, longest_gap, longest_true, share
from campaign.fleet.rig import Load, Rig, running

FULL = Load(accounts=60)
FED_EVERY_S = 0.1

Samples = Mapping[str, float]  # by name and labels; empty where the replica did not answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What all replicas showed at an instant."""

    at: float
    replicas: Mapping[str, Samples]

    def values(self, name: str) -> list[float]:
        """Return a metric's values of all replicas that answered, with any labels."""
        found = [samples for samples in self.replicas.values() if samples]
        return [value for samples in found for key, value in samples.items() if key.partition("{")[0] == name]


@dataclass(slots=True)
class Watch:
    """Scrapes each second, and feeds."""

    rig: Rig
    scrapes: list[Scrape] = field(default_factory=list)
    accepted_s: list[float] = field(default_factory=list)  # from the first try to feed an id until its 200
    tries: list[int] = field(default_factory=list)

    async def scrape(self) -> None:
        while True:
            found = {name: await scraped(self.rig, name) for name in self.rig.replicas}
            self.scrapes.append(Scrape(at=time.time(), replicas=found))
            await asyncio.sleep(1.0)

    async def feed(self, rng: random.Random) -> None:
        """Feed an id to some replica, and to the next one where that refuses it or is gone."""
        rig, names = self.rig, list(self.rig.replicas)
        while True:
            account = rng.choice(list(rig.hubspot.accounts))
            ids, began_at, tries = rig.hubspot.accounts[account].preload(1), time.time(), 1
            first = rng.randrange(len(names))
            while await rig.feed(account, ids, at=names[(first + tries) % len(names)]) != 200:
                tries += 1
                await asyncio.sleep(0.1 * (tries > len(names)))
            self.accepted_s.append(time.time() - began_at)
            self.tries.append(tries)
            await asyncio.sleep(FED_EVERY_S)

    def alerts(self) -> Iterable[Figure]:
        """Return for how long the condition of each alert of deploy/prometheus-alerts.yaml was true that a restart may
        raise, with the time from which on it fires."""
        most = max(max(scrape.values("poller_fleet_members"), default=0) for scrape in self.scrapes)
        conditions = {
            ("PollerReplicaGone", 180.0): lambda scrape: max(scrape.values("poller_fleet_members"), default=0) < most,
            ("PollerAccountUnowned", 120.0): lambda scrape: min(scrape.values("poller_fleet_accounts_unowned")) > 0,
            ("PollerStoreUnwritable", 60.0): lambda scrape: 0 in scrape.values("poller_store_writable"),
            ("PollerSettingsDiffer", 1800.0): lambda scrape: max(scrape.values("poller_fleet_settings_differ")) > 0,
            ("PollerLags", 600.0): lambda scrape: max(scrape.values("poller_event_loop_lag_seconds")) > 1,
        }
        for (alert, for_s), is_true in conditions.items():
            longest_s = longest_true((scrape.at, is_true(scrape)) for scrape in self.scrapes)
            yield Figure(name=f"{alert}: true for, s", value=longest_s, goal=for_s, count=len(self.scrapes))
        gone_s = [
            longest_true((scrape.at, not scrape.replicas[name]) for scrape in self.scrapes)
            for name in self.rig.replicas
        ]
        yield Figure(name="PollerGone: true for, s", value=max(gone_s), goal=300.0, count=len(gone_s))


async def scraped(rig: Rig, name: str) -> Samples:
    """Return what a replica's /metrics shows; nothing where it does not answer."""
    with suppress(aiohttp.ClientError, TimeoutError):
        text = (await rig.get(name, "/metrics")).decode()
        return {
            sample.name + ("{" + ",".join(sample.labels.values()) + "}" if sample.labels else ""): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    return {}


async def rolling(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """Each of four replicas is stopped and started again, once all own equally many accounts."""
    async with running(FULL, folder, replicas=4) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        await rig.until_even(*names)
        watch, began_at = Watch(rig), time.time()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(watch.scrape()), group.create_task(watch.feed(random.Random(1)))]  # noqa: S311
            for name in names * max(1, rounds // 4):
                rig.replicas[name].send(signal.SIGTERM)
                await rig.replicas[name].ended(40.0)
                await rig.start(name)
                await rig.until_even(*names)
            for task in tasks:
                task.cancel()
        arrivals = rig.arrivals(began_at)
        yield share("rolling restart: nothing is sent at a change of owner for, s", gaps_of_moves(arrivals), 2.5)
        yield Figure(
            name="rolling restart: longest silence of an account, s", value=longest_gap(arrivals), goal=FULL.window_s
        )
        fullest = fullest_window(rig.hubspot.arrivals, FULL.window_s)
        yield Figure(name=f"rolling restart: fullest window of {FULL.requests}", value=fullest, goal=FULL.requests)
        yield share("rolling restart: an id is accepted after, s", watch.accepted_s, 1.0, 1.0)
        yield share("rolling restart: replicas asked until an id is accepted", watch.tries, 2.0, 1.0)
        for figure in watch.alerts():
            yield figure


async def wrong_metrics(rig: Rig) -> list[str]:
    """Return what a fleet at rest shows in its metrics that is not so."""
    names, wrong = list(rig.replicas), []
    ((waiting, finished),) = await rig.rows(
        "SELECT count(*) FILTER (WHERE kind IS NULL), count(*) FILTER (WHERE kind IS NOT NULL) FROM {schema}.task"
    )
    found = {name: await scraped(rig, name) for name in names}
    for name, samples in found.items():
        sent = sum(arrival.replica == name for arrival in rig.hubspot.arrivals)
        polls = sum(value for key, value in samples.items() if key.startswith("poller_polls_total{"))
        shown = {**samples, "polls": polls}
        due = {
            "polls": sent,
            "poller_tasks{waiting}": waiting,
            "poller_tasks{finished}": finished,
            "poller_fleet_members": len(names),
            "poller_fleet_accounts_unowned": 0,
        }
        wrong += [
            f"{name}: {key} {shown.get(key)}, not {value}" for key, value in due.items() if shown.get(key) != value
        ]
    owned = sum(samples.get("poller_fleet_accounts_owned", 0) for samples in found.values())
    if owned != rig.load.accounts:
        wrong.append(f"poller_fleet_accounts_owned is {owned} in all, not {rig.load.accounts}")
    return wrong
