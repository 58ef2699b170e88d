"""Wires virtual time into every async test, and gives tests their clock, their chance and their log."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from random import Random
from typing import Any

import pytest
import structlog

from tests.virtual import EPOCH, VirtualLoop, loop_time


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # stands here only until pyproject.toml says asyncio_default_fixture_loop_scope = "function"
    config._inicache.setdefault("asyncio_default_fixture_loop_scope", "function")
    config.addinivalue_line("markers", "real_time: run this async test on the normal loop and the real clock")


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
