"""The live page of a real run, or of a state, and what a test reads from it."""

import asyncio
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page

from poller.core.sums import Sums
from poller.store import read_store
from tests.support.processes import Running, environ, running, wait_until

PATIENCE_MS = 30_000
ENDED = re.compile("the run has ended")
LIVE = re.compile("^live")
HOSTILE = """<img src=x onerror="document.title='broken into'">"""


@contextmanager
def listening(
    *args: str,
    folder: Path,
    command: str = "run",
    listen: str = "127.0.0.1:0",
    stdin: int = subprocess.DEVNULL,
    **env: str,
) -> Iterator[tuple[Running, str]]:
    """Run the poller; yields it with the address of its page."""
    flags = ("--listen", listen, "--no-progress", *args)
    with running(command, *flags, folder=folder, env=environ(**env), stdin=stdin) as poller:
        wait_until(poller.logged("web.started"), "the page's server")
        (started,) = [event for event in poller.events() if event["event"] == "web.started"]
        yield poller, started["url"]


@contextmanager
def shown(*args: str, folder: Path) -> Iterator[str]:
    """Show a state with `poller ui`; yields the address of its page."""
    address = re.compile(r"http://127\.0\.0\.1:\d+/")
    with running("ui", "--listen", "127.0.0.1:0", *args, folder=folder) as ui:
        wait_until(lambda: bool(address.search(ui.log())), "the state's page")
        match = address.search(ui.log())
        assert match is not None
        yield match[0]
        ui.signal(signal.SIGINT)
        assert ui.ended() == 0


def sums_of(folder: Path) -> Sums:
    async def read() -> Sums:
        reader = await read_store(f"sqlite:///{folder}/poller.db")
        try:
            return await reader.sums()
        finally:
            await reader.close()

    with ThreadPoolExecutor(1) as pool:  # playwright has a loop in this thread
        return pool.submit(asyncio.run, read()).result()


def number(text: str | None) -> int:
    return int((text or "").replace(",", ""))


def rows(page: Page, table: str) -> list[list[str]]:
    """Return the cells of a table's body."""
    return [row.locator("th, td").all_text_contents() for row in page.locator(f"#{table} tbody tr").all()]


VIEWS: list[tuple[Literal["light", "dark"], int]] = [("light", 360), ("dark", 1440), ("light", 1440), ("dark", 360)]


def assert_readable(page: Page, views: int = 2) -> None:
    """At the width of a phone and of a desk, light and dark: no sideways scrolling, no violation that axe finds."""
    for scheme, width in VIEWS[:views]:
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        violations: list[dict[str, Any]] = Axe().run(page).response["violations"]
        found = [(each["id"], each["impact"], [node["html"] for node in each["nodes"]]) for each in violations]
        assert not found, f"{scheme}, {width} px: {found}"
