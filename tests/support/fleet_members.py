"""Members of a fleet for the stores' tests: several stores of this process on one PostgreSQL state."""

from collections.abc import Awaitable, Callable

from poller.core.fleet import FleetView, Taken
from poller.store.postgres.fleet.store import FleetStore

Open = Callable[..., Awaitable[FleetStore]]

ACCOUNTS = ("one", "two", "three", "four")


async def see(store: FleetStore) -> FleetView:
    return await store.fleet.view()


async def take(store: FleetStore, *names: str) -> dict[str, Taken]:
    return {taken.account: taken for taken in await store.fleet.take(names or ACCOUNTS, 99)}


async def give(store: FleetStore, name: str, *, is_clean: bool = True, ages: tuple[float, ...] = ()) -> bool:
    epoch = store._holdings.accounts[name].epoch
    return await store.fleet.give(name, epoch, slot_ages_s=ages, is_clean=is_clean)


async def bury(by: FleetStore, dead: FleetStore) -> None:
    (seen,) = [member for member in (await see(by)).members if member.id == dead.fleet.id]
    assert await by.fleet.bury({seen.id: seen.beats}) == [seen.id]
