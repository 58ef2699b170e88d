"""The live page in a real Chromium, with real runs: right numbers, no request elsewhere, accessible."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import opened
from tests.support.page import (
    ENDED,
    HOSTILE,
    LIVE,
    PATIENCE_MS,
    VIEWS,
    assert_readable,
    listening,
    number,
    rows,
    shown,
    sums_of,
)
from tests.support.processes import hubspot, run_here, running, wait_until

pytestmark = pytest.mark.real_time
PAGE_TOKEN = "the-right-one-of-this-page"
NAMES_OF_CLOSE_MARKS = """import('/page/spread-chart.js').then(({drawSpread, bands}) => {
  const spread = {counts: [0, 9, 0], bounds_s: [10, 20], total: 9, median_s: 13, p95_s: 14};
  const host = document.getElementById("took-chart");
  drawSpread(host, spread, bands(spread));
  return [...host.querySelectorAll(".mark-name")].map((each) => [each.textContent, Number(each.getAttribute("x"))]);
})"""


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of the page of a run that waits for input."""
    folder = tmp_path_factory.mktemp("idle")
    (folder / "ids.txt").touch()
    with listening("ids.txt", "--follow", "--base-url", "http://127.0.0.1:9", folder=folder) as (_, url):
        yield url


@pytest.fixture(scope="module")
def with_token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a page that asks for `PAGE_TOKEN`."""
    folder = tmp_path_factory.mktemp("with-token")
    (folder / "config.toml").write_text('listen_token_env = "PAGE_TOKEN"\nfollow = true\n')
    args = ("-c", "config.toml", "--base-url", "http://127.0.0.1:9")
    with listening(*args, folder=folder, PAGE_TOKEN=PAGE_TOKEN) as (_, url):
        yield url


def test_during_a_run_the_page_equals_the_store_and_sends_no_request_elsewhere(
    browser: Browser, tmp_path: Path
) -> None:
    flags = ("--durations", "uniform:0.2,6", "--fate", "complete=0.6", "--fate", "canceled=0.4")
    with hubspot(*flags, imports=200) as simulated:
        quoted = HOSTILE.replace('"', '""')
        ids = "task_id,name\n" + "".join(f'{task_id},"{quoted}"\n' for task_id in simulated.take(200))
        args = ("-", "--format", "csv", "--base-url", simulated.url)
        with (
            listening(*args, folder=tmp_path, stdin=subprocess.PIPE) as (poller, url),
            opened(browser, url) as (page, seen),
        ):
            expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
            with poller.stdin as stdin:  # only now, so that the page sees the run from its first task to its end
                stdin.write(ids.encode())
            expect(page.locator("#line-text")).to_have_text(ENDED, timeout=PATIENCE_MS)
            assert poller.ended() == 1
            sums = sums_of(tmp_path)
            assert page.locator("#state").text_content() == "finished"
            assert page.locator("#done-text").text_content() == "200 of 200 tasks have their outcome"
            kinds = {kind: number(page.locator(f"#kinds li[data-key={kind}] .n").text_content()) for kind in sums.kinds}
            assert kinds == {"complete": sums.kinds["complete"], "canceled": sums.kinds["canceled"]}
            assert page.locator("#reasons .n").first.text_content() == (
                f"{sums.kinds['canceled']} · {sums.kinds['canceled'] / 2:.1f} %"
            )
            assert rows(page, "sinks-table") == [["jsonl:finished.jsonl", "200", "0", "0"]]
            assert rows(page, "sources-table") == [["-", "201", "200", "0", "0", "1"]]
            assert sum(number(took) for _, took, _ in rows(page, "took-table")) == 200
            page.locator("#reasons summary").click()
            sample = page.locator("#reasons .samples li").first
            assert HOSTILE in (sample.text_content() or "")
            assert page.locator("#reasons img").count() == 0
            assert page.title() == "100 % finished – poller"
            assert_readable(page, len(VIEWS))
            page.wait_for_timeout(100)
            assert seen.hosts == {urlsplit(url).netloc}
            assert seen.console == []


def test_a_finished_state_has_its_page_with_values_under_the_pointer(browser: Browser, tmp_path: Path) -> None:
    with hubspot("--fate", "complete=0.6", "--fate", "canceled=0.4", imports=120) as simulated:
        run_here("run", str(simulated.ids_file(tmp_path, 120)), "--base-url", simulated.url, folder=tmp_path)
    sums = sums_of(tmp_path)
    with shown(folder=tmp_path) as url, opened(browser, url) as (page, seen):
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        assert page.locator("#state").text_content() == "finished"
        assert page.locator("#done-text").text_content() == "120 of 120 tasks have their outcome"
        assert number(page.locator("#kinds li[data-key=canceled] .n").text_content()) == sums.kinds["canceled"]
        assert rows(page, "sinks-table") == [["jsonl:finished.jsonl", "120", "0", "0"]]
        expect(page.locator("#foot")).to_contain_text("for reading only")
        expect(page.locator("#pace-now")).to_have_text("outcomes per second, by when they were seen: all of this state")
        spread = page.locator("#took-chart svg")
        box = spread.bounding_box()
        assert box is not None
        for x in range(0, round(box["width"]), 8):  # up to a bar
            spread.hover(position={"x": x, "y": box["height"] / 2})
            if "100 % of all" in (page.locator("#took-chart .tip").text_content() or ""):
                break
        expect(page.locator("#took-chart .tip")).to_contain_text("120 imports")
        page.locator("#pace-chart svg").hover()
        expect(page.locator("#pace-chart .tip")).to_contain_text("outcomes per s")
        assert_readable(page)
        (half, half_at), (nearly, nearly_at) = page.evaluate(NAMES_OF_CLOSE_MARKS)
        assert (half, nearly) == ("half", "95 %")
        assert nearly_at - half_at >= 44
        assert seen.console == []


def test_opening_a_table_does_not_stretch_the_card_beside_it(browser: Browser, idle: str) -> None:
    with opened(browser, idle) as (page, _):
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        tall = "document.querySelector('.side').getBoundingClientRect().height"
        before = page.evaluate(tall)
        page.evaluate("document.getElementById('pace-table').style.height = '900px'")
        page.get_by_text("Pace as a table").click()
        assert page.evaluate(tall) <= before


def test_a_refused_token_is_shown_with_its_remedy(browser: Browser, tmp_path: Path) -> None:
    with hubspot("--token", "another", imports=5) as simulated:
        ids = simulated.ids_file(tmp_path, 5)
        with (
            listening(str(ids), "--follow", "--base-url", simulated.url, folder=tmp_path) as (_, url),
            opened(browser, url) as (page, seen),
        ):
            expect(page.locator("#state")).to_have_text("needs you", timeout=PATIENCE_MS)
            expect(page.locator("#notices")).to_contain_text("Paused: token refused")
            expect(page.locator("#notices")).to_contain_text("replace it, then polling resumes by itself")
            expect(page.locator("#when")).to_have_text("no forecast")
            assert_readable(page)
            assert seen.console == []


def test_dead_letters_and_unfinished_tasks_are_shown_beside_the_figures(browser: Browser, tmp_path: Path) -> None:
    with hubspot("--durations", "mix:0.9@fixed:0.2,0.1@fixed:900", imports=40) as simulated:
        refusing = "command:sh -c 'cat >/dev/null; echo no such column >&2; exit 65'"
        ids = simulated.ids_file(tmp_path, 40)
        with (
            listening(str(ids), "--sink", refusing, "--base-url", simulated.url, folder=tmp_path) as (_, url),
            opened(browser, url) as (page, seen),
        ):
            notices = page.locator("#notices")
            expect(notices).to_contain_text("records for good", timeout=PATIENCE_MS)
            expect(notices).to_contain_text("The latest: Exit status 65: no such column.")
            expect(notices.get_by_role("link", name="See each one and its reason")).to_be_visible()
            expect(page.locator("#took-now")).to_contain_text("of those finished so far: half under")
            shares = "import('/page/text.js').then(({share}) => [[579, 10000], [3, 1e5], [0, 9], [99996, 1e5], [9, 9]]"
            shown = page.evaluate(f"{shares}.map(([part, all]) => share(part, all)))")
            assert shown == ["5.8 %", "under 0.1 %", "0.0 %", "99.9 %", "100 %"]
            assert_readable(page)
            assert seen.console == []


def test_it_shows_a_lost_connection_and_reconnects_by_itself(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    args = ("ids.txt", "--follow", "--base-url", "http://127.0.0.1:9")
    with listening(*args, folder=tmp_path, listen=listen) as (poller, url):
        context = opened(browser, url)
        page, _ = context.__enter__()
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        expect(page.locator("#done-text")).to_have_text("no task has been fed yet")
        poller.process.kill()
        expect(page.locator("#line-text")).to_have_text(re.compile("^no connection"), timeout=PATIENCE_MS)
        expect(page.locator("#state")).to_have_text("connection lost")
        poller.ended()
    with listening(*args, folder=tmp_path, listen=listen):
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        expect(page.locator("#state")).to_have_text("waiting for input")
        context.__exit__(None, None, None)


def test_where_a_run_takes_the_place_of_a_state_the_page_shows_it(browser: Browser, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        listen = f"127.0.0.1:{free.getsockname()[1]}"
    with hubspot("--durations", "fixed:0.5", imports=20) as simulated:
        args = (str(simulated.ids_file(tmp_path, 20)), "--base-url", simulated.url)
        run_here("run", *args, folder=tmp_path)
        with running("ui", "--listen", listen, folder=tmp_path) as ui:
            wait_until(lambda: "for reading only" in ui.log(), "the state's page")
            context = opened(browser, f"http://{listen}/")
            page, seen = context.__enter__()
            expect(page.locator("#read-only")).to_be_visible(timeout=PATIENCE_MS)
            expect(page.locator("#pace-table tbody tr")).not_to_have_count(0)
            ui.process.kill()
            ui.ended()
        with listening(*args, "--follow", folder=tmp_path, listen=listen):
            expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
            expect(page.locator("#read-only")).to_be_hidden()
            expect(page.locator("#pace-table th[scope=col]")).to_have_text(
                ["from", "outcomes per s", "polls per s", "pauses"], timeout=PATIENCE_MS
            )
            assert {len(row) for row in rows(page, "pace-table")} == {4}
            assert [text for text in seen.console if "ERR_CONNECTION" not in text and "INCOMPLETE" not in text] == []
            context.__exit__(None, None, None)


def test_it_asks_for_the_token_and_keeps_it_for_the_tab(browser: Browser, with_token: str) -> None:
    with opened(browser, with_token) as (page, _):
        expect(page.locator("#ask")).to_be_visible(timeout=PATIENCE_MS)
        assert_readable(page)
        page.get_by_role("textbox", name="Token").fill("der-schlüssel…")  # a browser cannot send it
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="Token").fill("a-wrong-one")
        page.keyboard.press("Enter")
        expect(page.locator("#ask-why")).to_contain_text("refused")
        page.get_by_role("textbox", name="Token").fill(PAGE_TOKEN)
        page.get_by_role("button", name="Show the page").click()
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        page.reload()
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        expect(page.locator("#ask")).to_be_hidden()
        assert page.evaluate("localStorage.length") == 0
        assert PAGE_TOKEN not in page.content()


def test_a_browser_that_lets_pages_store_nothing_shows_the_page(browser: Browser, with_token: str) -> None:
    refusing = (
        "Object.defineProperty(window, 'sessionStorage', { get() { throw new DOMException('', 'SecurityError') } })"
    )
    with opened(browser, "about:blank") as (page, _):
        page.add_init_script(refusing)
        page.goto(with_token)
        page.get_by_role("textbox", name="Token").fill(PAGE_TOKEN, timeout=PATIENCE_MS)
        page.keyboard.press("Enter")
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)


def test_a_hidden_tab_sends_no_request(browser: Browser, idle: str) -> None:
    with opened(browser, idle) as (page, seen):
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        page.evaluate(
            "hidden => {"
            " Object.defineProperty(document, 'hidden', {configurable: true, get: () => hidden});"
            " document.dispatchEvent(new Event('visibilitychange')) }",
            True,
        )
        expect(page.locator("#line-text")).to_have_text("paused while this tab is hidden")
        asked = len(seen.paths)
        page.wait_for_timeout(2500)
        assert len(seen.paths) == asked
        page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        assert len(seen.paths) == asked + 1


def test_a_run_of_imports_shows_how_many_rows_are_to_be_started_and_are_under_way(
    browser: Browser, tmp_path: Path
) -> None:
    lines = [f"https://cdn.example.com/{number:02}.png,{number:02}" for number in range(30)]
    (tmp_path / "rows.csv").write_text("\n".join(["url,sku", *lines]) + "\n")
    with hubspot("--durations", "fixed:3600", imports=1) as simulated:
        flags = ("--set", "access=PRIVATE", "--set", "folderPath=/p", "--trial", "20", "--base-url", simulated.url)
        with (
            listening("rows.csv", *flags, command="import", folder=tmp_path) as (_, url),
            opened(browser, url) as (page, seen),
        ):
            expect(page.locator("#lanes")).to_contain_text("10 rows to start, 20 under way.", timeout=PATIENCE_MS)
            waiting = "10 not started yet · 20 under way"
            assert page.locator("#done-text").text_content() == f"0 of 30 tasks have their outcome · {waiting}"
            assert [row[1:] for row in rows(page, "sources-table")] == [["31", "30", "0", "0", "1"]]
            starts = sums_of(tmp_path).starts
            assert starts is not None
            assert (starts.unstarted, starts.underway, starts.starts) == (10, 20, 20)
            assert_readable(page)
            page.locator("#kinds li[data-key=waiting] a").click()
            expect(page.locator("#tasks-now")).to_have_text("30 tasks", timeout=PATIENCE_MS)
            page.get_by_label("Show").select_option("not started yet")
            expect(page.locator("#tasks-now")).to_have_text("10 tasks", timeout=PATIENCE_MS)
            assert {row[2] for row in rows(page, "tasks-table")} == {"not started yet"}
            page.locator("#tasks-table a.id").first.click()
            expect(page.locator("#task-body")).to_contain_text("HubSpot has not accepted its import yet.")
            assert '"folderPath": "/p"' in page.locator("#task-body").inner_text()
            assert_readable(page)
            assert seen.console == []
