"""A real Chromium for tests of the live page, where this machine has one."""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium, or skip the test with the reason."""
    found = os.environ.get("POLLER_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no Chromium on this machine (searched for {', '.join(NAMES)}): apt-get install chromium")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root cannot have one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # playwright's own, on newer Pythons
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=found, args=[*FLAGS, *sandbox])
            yield browser
            browser.close()


@dataclass
class Seen:
    """What a page did that its user does not see."""

    console: list[str] = field(default_factory=list)  # errors and warnings
    hosts: set[str] = field(default_factory=set)  # that it sent requests to
    paths: list[str] = field(default_factory=list)

    def note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.console.append(message.text)

    def count(self, request: Request) -> None:
        parts = urlsplit(request.url)
        self.hosts.add(parts.netloc)
        self.paths.append(parts.path)


@contextmanager
def opened(browser: Browser, url: str, **context: Any) -> Iterator[tuple[Page, Seen]]:
    """Open `url` in a fresh browser context."""
    fresh = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | context))
    page, seen = fresh.new_page(), Seen()
    page.on("console", seen.note)
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("request", seen.count)
    page.goto(url)
    yield page, seen
    fresh.close()
