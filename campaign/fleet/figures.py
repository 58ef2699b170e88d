"""`python -m campaign.fleet.figures`: how fast a fleet of real processes is, seen from outside, with the goals beside.

Each part sets a fleet of its own up. Times are the wall's, so the machine should have nothing else to do.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

import orjson

from campaign.fleet.figure import Figure, fullest_window, share
from campaign.fleet.rig import Load, Rig, running
from campaign.fleet.rolling import rolling, wrong_metrics

AT_REST = Load(accounts=40, tasks=0)  # what is fed is polled at once, or it shows
SHORT = Load(accounts=12, tasks=0, durations="fixed:1", requests=100)


# --- the parts -------------------------------------------------------------------------------------------------------


async def kills(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """kill -9 of one of four replicas whose accounts all have full windows of 10 s."""
    owned, first = list[float](), list[float]()
    load = Load(accounts=40)
    async with running(load, folder, replicas=4) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        for number in range(rounds):
            await rig.until_even(*names)
            name = names[1 + number % 3]
            mine = {account for account, owner in (await rig.owners()).items() if owner == name}
            rig.replicas[name].send(signal.SIGKILL)
            killed_at = time.time()
            await rig.replicas[name].ended(5.0)
            taken = await _taken(rig, mine, killed_at)
            owned += [at - killed_at for at in taken.values()]
            first += [at - killed_at for at in (await _first_polls(rig, mine, name, killed_at)).values()]
            await rig.start(name)
        yield share("kill -9: account owned again, s", owned, 8.0)
        yield share("kill -9: first request at a 10 s window, s", first, 18.5)
        yield Figure(
            name=f"kill -9: fullest window of {load.requests}",
            value=fullest_window(rig.hubspot.arrivals, load.window_s),
            goal=load.requests,
            count=len(rig.hubspot.arrivals),
        )


async def _unowned(rig: Rig, since: float) -> list[float]:
    """Return how long each account had no owner, each time."""
    found, freed = [], dict[str, float]()
    for account, at, owner in await rig.rows("SELECT account, at, owner FROM {schema}.owner_audit ORDER BY at"):
        if owner is None and at > since:
            freed[account] = at
        elif owner is not None and account in freed:
            found.append(at - freed.pop(account))
    return found


async def _taken(rig: Rig, accounts: set[str], since: float) -> Mapping[str, float]:
    """Wait until others own these accounts; return when each was taken."""
    while True:
        changes = await rig.rows("SELECT account, at, owner FROM {schema}.owner_audit ORDER BY at DESC")
        taken = {account: at for account, at, owner in changes if at > since and owner and account in accounts}
        if len(taken) == len(accounts):
            return taken
        await asyncio.sleep(0.3)


async def _first_polls(rig: Rig, accounts: set[str], dead: str, since: float) -> Mapping[str, float]:
    while True:
        first: dict[str, float] = {}
        for arrival in rig.arrivals(since):
            if arrival.account in accounts and arrival.replica != dead:
                first.setdefault(arrival.account, arrival.at)
        if len(first) == len(accounts):
            return first
        await asyncio.sleep(0.3)


async def _leave_and_join(rig: Rig, name: str, *, rests_s: float = 0.0) -> tuple[float, float]:
    """Drain a replica and start it again; return how long it took until the others, and then all, were even."""
    names = list(rig.replicas)
    rig.replicas[name].send(signal.SIGTERM)
    stopped_at = time.time()
    left_s = await rig.until_even(*[each for each in names if each != name]) - stopped_at
    await rig.replicas[name].ended(40.0)
    await asyncio.sleep(rests_s)
    await rig.start(name)
    joined_s = await rig.until_even(*names) - rig.joined_at(name)
    await asyncio.sleep(rests_s)
    return left_s, joined_s


async def moves(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """Replicas leave by SIGTERM and join again; 200 accounts with full windows."""
    load = Load(accounts=200, requests=5, tasks=6)
    async with running(load, folder, replicas=4) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        await rig.until_even(*names)
        began_at = time.time()
        took = [await _leave_and_join(rig, names[1 + number % 3], rests_s=3.0) for number in range(rounds)]
        yield share("clean change of owner: without an owner for, s", await _unowned(rig, began_at), 2.5)
        yield share("200 accounts: even after a leave, s", [left_s for left_s, _ in took], 10.0, 1.0)
        yield share("200 accounts: even after a join, s", [joined_s for _, joined_s in took], 10.0, 1.0)


async def many(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """1,000 accounts at rest: replicas leave and join."""
    async with running(Load(accounts=1000, tasks=0), folder, replicas=3) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        await rig.until_even(*names)
        took = [await _leave_and_join(rig, names[-1]) for _ in range(rounds)]
        yield share("1,000 accounts: even after a leave, s", [left_s for left_s, _ in took], 25.0, 1.0)
        yield share("1,000 accounts: even after a join, s", [joined_s for _, joined_s in took], 25.0, 1.0)


async def rest(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """Eight replicas and 200 accounts with a task each that is not due."""
    asks = "SELECT sum(xact_commit)::int, sum(active_time) FROM pg_stat_database"
    async with running(Load(accounts=200, requests=100, tasks=1, gaps_s=(900.0, 900.0)), folder, replicas=8) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        await rig.until_even(*names)
        await asyncio.sleep(15.0)
        (before,), used_s, began_at = await rig.rows(asks), rig.server.processor_s(), time.monotonic()
        await asyncio.sleep(10.0 * rounds)
        lasted_s, used_s = time.monotonic() - began_at, rig.server.processor_s() - used_s
        await asyncio.sleep(1.5)  # the server publishes its counts once a second
        (after,), counted_s = await rig.rows(asks), lasted_s + 1.5
        ((open_,),) = await rig.rows("SELECT count(*) - 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
        transactions, active_ms = (later - earlier for earlier, later in zip(before, after, strict=True))
        yield Figure(name="at rest: transactions a second", value=transactions / counted_s, goal=60.0)
        yield Figure(name="at rest: server executes statements for, ms a second", value=active_ms / counted_s, goal=5.0)
        yield Figure(name="at rest: server's processor time, ms a second", value=used_s / lasted_s * 1e3, goal=5.0)
        yield Figure(name="connections of a replica", value=open_ / len(names), goal=4.0, count=len(names))


async def fed(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """Ids of accounts at rest are fed to replicas that do not own them."""
    after = []
    async with running(AT_REST, folder, replicas=3) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        await rig.until_even(*names)
        owners = await rig.owners()
        for number, (account, owner) in enumerate(sorted(owners.items())[: 10 * rounds]):
            others = [name for name in names if name != owner]
            (task,) = rig.hubspot.accounts[account].preload(1)
            fed_at = time.time()
            if await rig.feed(account, [task], at=others[number % 2]) == 200:
                first = await rig.arrival(fed_at, lambda arrival, task=task: arrival.task_id == task)
                after.append(first.at - fed_at)
        yield share("fed at another replica: first poll, s", after, 2.5, 1.0)


async def shown(folder: Path, rounds: int) -> AsyncIterator[Figure]:
    """Tasks finish one after the other; the page of each replica shows it."""
    ages = []
    async with running(SHORT, folder, replicas=3) as rig:
        names = list(rig.replicas)
        await rig.start(*names[1:])
        await rig.until_even(*names)
        for number in range(4 * rounds):
            account = f"acct{number % SHORT.accounts:03d}"
            began_at = time.time()
            await rig.feed(account, rig.hubspot.accounts[account].preload(1), at=names[number % 3])
            final = await rig.arrival(began_at, lambda arrival: arrival.is_final)
            waiting = set(names)
            while waiting:
                for name in sorted(waiting):
                    page = orjson.loads(await rig.get(name, "/v1/overview"))
                    if page["ledger"]["finished"] > number:
                        waiting.discard(name)
                        ages.append(time.time() - final.at)
                await asyncio.sleep(0.1)
        yield share("a finished task is on the page of any replica, s", ages, 3.0, 1.0)
        wrong = await wrong_metrics(rig)
        print(*wrong, sep="\n", end="\n" if wrong else "")  # noqa: T201 - a command
        yield Figure(name="metrics that are not what was seen", value=len(wrong), goal=0)


PARTS: Mapping[str, Callable[[Path, int], AsyncIterator[Figure]]] = {
    "kills": kills,
    "moves": moves,
    "many": many,
    "fed": fed,
    "shown": shown,
    "rolling": rolling,
    "rest": rest,
}


async def measured(parts: Iterable[str], rounds: int) -> list[Figure]:
    """Measure these parts, one after the other; prints each figure as it comes."""
    figures = []
    for part in parts:
        with tempfile.TemporaryDirectory(prefix="figures-") as folder:
            async for figure in PARTS[part](Path(folder), rounds):
                print(figure, flush=True)  # noqa: T201 - a command
                figures.append(figure)
    return figures


def main() -> None:
    """Measure; exit 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=4, help="how often each blow or step is repeated")
    args = parser.parse_args()
    figures = asyncio.run(measured(args.parts, args.rounds))
    sys.exit(any(figure.value > figure.goal for figure in figures))


if __name__ == "__main__":
    main()
