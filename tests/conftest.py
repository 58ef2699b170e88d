"""Runs every async test in virtual time, and has the fixtures for clock, chance, log and stores."""

import asyncio
import fcntl
import gc
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, settings

from poller.core.protocols import Clock, Store
from poller.store import open_store
from tests.support.log import log_restored
from tests.support.postgres import fresh_schema, running_server
from tests.support.store_makers import Open
from tests.support.virtual import EPOCH, VirtualLoop, loop_time

HERE = Path(__file__).parent
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # jsonschema's, for formats that no schema here has: 3 s
ROOM_BYTES = 2 << 30  # many times what the tests' files take
SLOW_FOLDERS = ("process", "web", "service", "project", "cli")  # their files have few tests, but slow ones

# Examples take longer on a loaded machine.
settings.register_profile("house", parent=settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")

# A run in virtual time logs every poll; what a terminal gets would cost as much as the polls.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
    ]
)


def pytest_configure() -> None:
    memory = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own in it
    if memory.is_dir() and shutil.disk_usage(memory).free >= ROOM_BYTES:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))  # a state waits for the disk at every commit
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&` does that, and the poller would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers() -> int:
    """Return two workers a core for `-n auto`: tests of real processes mostly wait."""
    return 2 * (os.cpu_count() or 1)


def pytest_collection(session: pytest.Session) -> None:
    """Before a worker collects all tests, import them, each worker from another file on: what pytest compiled for one,
    the others read. In step, each would compile everything, half a minute of processor."""
    worker, count = os.environ.get("PYTEST_XDIST_WORKER"), os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")
    if worker is None or [Path(name).resolve() for name in session.config.args] != [HERE]:
        return
    names = [".".join(path.relative_to(HERE.parent).with_suffix("").parts) for path in sorted(HERE.rglob("test_*.py"))]
    first = len(names) * int(worker.removeprefix("gw")) // int(count)
    for name in names[first:] + names[:first]:
        with suppress(Exception):  # pytest's own import reports it
            import_module(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slow files first, or the last of them would keep one worker busy and the others idle; and a file of
    each folder in turn, so that some wait for real processes while others compute."""
    nth = Counter[str]()
    turn: dict[Path, tuple[bool, int]] = {}
    for path in dict.fromkeys(item.path for item in items):
        folder = path.relative_to(HERE).parts[0]
        is_slow = folder in SLOW_FOLDERS
        turn[path] = (not is_slow, nth[folder] if is_slow else 0)
        nth[folder] += 1
    items.sort(key=lambda item: turn[item.path])


def pytest_collection_finish() -> None:
    """Leave what the tests of all files consist of out of every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # as the program has it


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.get_closest_marker("real_time"):
        return {"real": asyncio.SelectorEventLoop}
    return {"virtual": VirtualLoop}


@pytest.fixture(scope="session", autouse=True)
def _idle_connections_age_in_loop_time() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiohttp.connector.monotonic", loop_time)
        yield


@pytest.fixture(autouse=True)
def _default_ports_alone(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With `-n`, other files run at the same time: the tests marked `default_ports` take turns."""
    if not request.node.get_closest_marker("default_ports"):
        yield
        return
    with (tmp_path_factory.getbasetemp().parent / "ports.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(autouse=True)
def _log_restored() -> Iterator[None]:
    with log_restored():
        yield


@pytest.fixture(scope="session")
def clock() -> Callable[[], float]:
    """Return the wall clock of the test: a fixed epoch plus the running loop's time."""

    def now() -> float:
        return EPOCH + asyncio.get_running_loop().time()

    return now


@pytest.fixture
def rng() -> Random:
    return Random(0)


@pytest.fixture
def events() -> Iterator[list[MutableMapping[str, Any]]]:
    """Return the log events of the test, as dicts with `event` and `log_level`."""
    with structlog.testing.capture_logs() as captured:
        yield captured


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """Return the URL of a PostgreSQL server, started on first use."""
    with running_server() as url:
        yield url


@pytest.fixture
def postgres_url(postgres_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a state in PostgreSQL that does not exist yet. Virtual time waits longer for a busy server."""
    monkeypatch.setattr("tests.support.virtual.SOCKET_GRACE_S", 2.0)
    with fresh_schema(postgres_server) as url:
        yield url


@pytest.fixture(params=["file", "memory", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new state, of each kind in turn."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/poller.db" if request.param == "file" else "sqlite:///:memory:"


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    """Return a new store, of each kind in turn."""
    opened = await open_store(url, clock=clock)
    yield opened
    await opened.close()


@pytest.fixture(params=["file", "postgres"])
def kept_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new state that outlives its process, of each kind in turn."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/poller.db"


@pytest.fixture
async def open_kept(kept_url: str, clock: Clock) -> AsyncIterator[Open]:
    """Return a function that opens the state at `kept_url`; all are closed at the end of the test."""
    opened: list[Store] = []

    async def open_it() -> Store:
        opened.append(await open_store(kept_url, clock=clock))
        return opened[-1]

    yield open_it
    for each in opened:
        await each.close()
