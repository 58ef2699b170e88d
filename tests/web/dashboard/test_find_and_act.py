"""From the page alone: find what did not land, read why, download it, pause and resume an account, try a dead letter
again. Each number is the store's."""

import csv
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.browser import Seen, opened
from tests.support.page import LIVE, PATIENCE_MS, assert_readable, listening, number, rows, shown, sums_of
from tests.support.processes import Hubspot, hubspot, records, run_here, wait_until

pytestmark = pytest.mark.real_time

TASKS = 150
HOSTS = ("assets.example.com", "cdn.shop.example", "img.old-site.example")
FATES = ("--fate", "complete=0.6", "--fate", "canceled=0.25", "--fate", "complete_with_errors=0.15")
REFUSING = "command:sh -c 'cat >/dev/null; test ! -e refuse || { echo no such column >&2; exit 65; }'"


def write_rows(simulated: Hubspot, folder: Path) -> Path:
    ids = folder / "ids.csv"
    lines = [
        f"{task_id},https://{HOSTS[n % 3]}/catalogue/{n:05}.png" for n, task_id in enumerate(simulated.take(TASKS))
    ]
    ids.write_text("\n".join(["task_id,url", *lines, ""]))
    return ids


def host_of(record: dict[str, Any]) -> str:
    return str(urlsplit(record["ref"]["url"]).hostname)


def listed(page: Page) -> set[str]:
    """Return the ids of the task table."""
    return {row[0] for row in rows(page, "tasks-table")}


def expect_tasks(page: Page, wanted: list[dict[str, Any]]) -> None:
    """The table has exactly these tasks, all of them on the page."""
    assert wanted
    for so_far in range(100, len(wanted), 100):
        expect(page.locator("#tasks-table tbody tr")).to_have_count(so_far, timeout=PATIENCE_MS)
        page.locator("#tasks-more").click()
    expect(page.locator("#tasks-table tbody tr")).to_have_count(len(wanted), timeout=PATIENCE_MS)
    expect(page.locator("#tasks-more")).to_be_hidden()
    assert listed(page) == {record["task_id"] for record in wanted}


def downloaded(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text("utf-8-sig")


def assert_quiet(seen: Seen, url: str) -> None:
    """The page had no error, and sent no request elsewhere."""
    assert seen.console == []
    assert {host for host in seen.hosts if host} == {urlsplit(url).netloc}


def test_from_the_page_alone_what_did_not_land_is_found_read_downloaded_and_a_dead_letter_retried(
    browser: Browser, tmp_path: Path
) -> None:
    (tmp_path / "refuse").touch()
    with hubspot(*FATES, imports=TASKS) as simulated:
        args = (str(write_rows(simulated, tmp_path)), "--follow", "--sink", "jsonl:finished.jsonl", "--sink", REFUSING)
        with (
            listening(*args, "--base-url", simulated.url, folder=tmp_path) as (_, url),
            opened(browser, url) as (page, seen),
        ):
            expect(page.locator("#state")).to_have_text("waiting for input", timeout=PATIENCE_MS)
            expect(page.locator("#dead-count")).to_have_text(str(TASKS), timeout=PATIENCE_MS)
            done, sums = records(tmp_path / "finished.jsonl"), sums_of(tmp_path)
            not_landed = [record for record in done if not record["landed"]]

            # the headline, and from it the tasks
            there = sum(sums.landed.values())
            assert number(page.locator("#landed [data-key=landed] strong").text_content()) == there
            assert number(page.locator("#landed [data-key=not] strong").text_content()) == TASKS - there
            page.locator("#landed [data-key=not] a").click()
            expect_tasks(page, not_landed)
            assert_readable(page)

            # of one host; the address has it, so that the back button works
            page.set_viewport_size({"width": 1440, "height": 900})
            page.locator("#tasks-table").get_by_role("link", name=HOSTS[1]).first.click()
            of_host = [record for record in not_landed if host_of(record) == HOSTS[1]]
            expect_tasks(page, of_host)
            page.go_back()
            expect_tasks(page, not_landed)
            page.go_forward()
            expect_tasks(page, of_host)
            page.reload()
            expect_tasks(page, of_host)
            assert page.get_by_label("Host", exact=True).input_value() == HOSTS[1]

            # why one failed
            canceled = next(record for record in of_host if record["kind"] == "canceled")
            page.get_by_role("link", name=canceled["task_id"]).click()
            drawer = page.get_by_role("dialog", name=canceled["task_id"])
            expect(drawer).to_contain_text("HubSpot canceled the import")
            expect(drawer).to_contain_text("No file is there.")
            expect(drawer.locator(".polls li")).to_have_count(canceled["polls"])
            expect(drawer).to_contain_text("dead: exit status 65: no such column")
            expect(drawer).to_contain_text(canceled["ref"]["url"])
            assert_readable(page)
            page.keyboard.press("Escape")
            expect(drawer).to_be_hidden()
            page.set_viewport_size({"width": 1440, "height": 900})

            # as files
            table = list(csv.DictReader(downloaded(page, "Download CSV").splitlines()))
            assert {row["task_id"] for row in table} == {record["task_id"] for record in of_host}
            ids = downloaded(page, "Download ids").split()
            assert sorted(ids) == sorted(record["task_id"] for record in of_host)
            bodies = downloaded(page, "Download what to resubmit").splitlines()
            assert all(HOSTS[1] in body for body in bodies)

            # a piece of a file's URL, an outcome
            page.get_by_role("button", name="Reset filters").click()
            page.get_by_label("Search").fill("CATALOGUE/00007")
            expect_tasks(page, [record for record in done if "/00007." in record["ref"]["url"]])
            page.get_by_label("Search").fill("")
            page.locator(".choice", has_text="complete, with errors").click()
            expect_tasks(page, [record for record in done if record["kind"] == "complete_with_errors"])

            # a reason of the overview
            page.get_by_role("link", name="Overview").click()
            page.locator("#reasons summary").first.click()
            page.locator("#reasons").get_by_role("link", name="All of them").first.click()
            expect_tasks(page, [record for record in done if record["kind"] == "canceled"])

            # a host of the overview
            page.get_by_role("link", name="Overview").click()
            host = page.locator("#hosts-list li", has_text=HOSTS[2])
            of_host = [record for record in done if host_of(record) == HOSTS[2]]
            missing = [record for record in of_host if not record["landed"]]
            expect(host.locator(".n")).to_have_text(f"{len(missing)} of {len(of_host)} did not land")
            assert_readable(page)
            host.get_by_role("link", name=HOSTS[2]).click()
            expect_tasks(page, of_host)
            page.go_back()
            host.locator(".n").click()
            expect_tasks(page, missing)

            # a pause of the account
            page.get_by_role("link", name="Overview").click()
            page.get_by_role("button", name="Pause account default").click()
            expect(page.locator("#notices")).to_contain_text("Paused by a person", timeout=PATIENCE_MS)
            # the page may show it before it is on disk and answered
            wait_until(
                lambda: sums_of(tmp_path).accounts["default"].pause == "paused_by_person", "the pause in the state"
            )
            page.get_by_role("button", name="Resume account default").click()
            expect(page.locator("#notices")).not_to_contain_text("Paused", timeout=PATIENCE_MS)
            assert sums_of(tmp_path).accounts["default"].pause is None

            # the dead letters
            page.get_by_role("link", name="Dead letters").click()
            expect(page.locator("#dead-table tbody tr")).to_have_count(TASKS, timeout=PATIENCE_MS)
            assert rows(page, "dead-table")[0][2] == "exit status 65: no such column"
            assert_readable(page)
            page.set_viewport_size({"width": 1440, "height": 900})
            (tmp_path / "refuse").unlink()
            page.get_by_role("button", name=re.compile(f"^Retry {canceled['task_id']} ")).click()
            expect(page.locator("#toast")).to_contain_text("1 record of command:sh")
            expect(page.locator("#dead-table tbody tr")).to_have_count(TASKS - 1, timeout=PATIENCE_MS)
            assert sum(sink.dead for sink in sums_of(tmp_path).sinks) == TASKS - 1
            page.get_by_role("button", name="Retry all of command:sh").click()
            expect(page.locator("#dead-empty")).to_be_visible(timeout=PATIENCE_MS)
            expect(page.locator("#dead-count")).to_be_hidden(timeout=PATIENCE_MS)
            expect(page.locator("#dead-letters")).to_contain_text("No sink has refused a record.")
            wait_until(  # the command has them one batch after the other
                lambda: {(sink.delivered, sink.dead) for sink in sums_of(tmp_path).sinks} == {(TASKS, 0)},
                "all delivered",
            )
            assert_quiet(seen, url)


def test_a_state_without_its_run_is_searched_but_not_changed(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "refuse").touch()
    with hubspot(*FATES, imports=TASKS) as simulated:
        sinks = ("--sink", "jsonl:finished.jsonl", "--sink", REFUSING)
        run_here("run", str(write_rows(simulated, tmp_path)), *sinks, "--base-url", simulated.url, folder=tmp_path)
    done = records(tmp_path / "finished.jsonl")
    with shown(folder=tmp_path) as url, opened(browser, f"{url}#/tasks?landed=false&host={HOSTS[0]}") as (page, seen):
        expect(page.locator("#line-text")).to_have_text(LIVE, timeout=PATIENCE_MS)
        expect(page.locator("#read-only")).to_be_visible()
        expect_tasks(page, [record for record in done if not record["landed"] and host_of(record) == HOSTS[0]])
        page.get_by_role("link", name="Dead letters").click()
        expect(page.locator("#dead-table tbody tr")).to_have_count(TASKS, timeout=PATIENCE_MS)
        assert page.get_by_role("button", name="Retry").count() == 0
        page.get_by_role("link", name="Overview").click()
        expect(page.locator("#lanes")).to_contain_text("default")
        assert page.get_by_role("button", name="Pause").count() == 0
        assert_quiet(seen, url)


def test_a_row_cannot_put_code_or_a_link_of_its_own_into_the_page(browser: Browser, tmp_path: Path) -> None:
    hostile = "javascript:alert(1)//<img src=x onerror=alert(1)>"
    with hubspot("--fate", "canceled=1", imports=1) as simulated:
        (task_id,) = simulated.take(1)
        (tmp_path / "ids.csv").write_text(f'task_id,url,"{hostile}"\n{task_id},{hostile},x\n')
        run_here("run", "ids.csv", "--base-url", simulated.url, folder=tmp_path)
    with shown(folder=tmp_path) as url, opened(browser, f"{url}#/tasks?q=javascript") as (page, seen):
        page.get_by_role("link", name=task_id).click()
        expect(page.get_by_role("dialog")).to_contain_text(hostile, timeout=PATIENCE_MS)
        links = page.eval_on_selector_all("a[href]", "links => links.map(link => link.protocol)")
        assert set(links) == {"http:"}
        assert page.locator("img").count() == 0
        assert_quiet(seen, url)


def test_tasks_are_read_again_after_another_view_was_shown_while_they_were_read(
    browser: Browser, tmp_path: Path
) -> None:
    with hubspot(imports=6) as simulated:
        ids = simulated.ids_file(tmp_path, 3)
        args = (str(ids), "--follow", "--base-url", simulated.url)
        with listening(*args, folder=tmp_path) as (_, url), opened(browser, f"{url}#/tasks") as (page, _):
            expect(page.locator("#tasks-table tbody tr")).to_have_count(3, timeout=PATIENCE_MS)
            held: list[Route] = []
            page.route("**/v1/tasks?*", lambda route: held.append(route))
            with ids.open("a") as more:
                more.writelines(f"{task_id}\n" for task_id in simulated.take(3))
            while not held:
                page.wait_for_timeout(200)
            page.get_by_role("link", name="Overview").click()
            page.unroute("**/v1/tasks?*")
            page.get_by_role("link", name="Tasks", exact=True).click()
            expect(page.locator("#tasks-table tbody tr")).to_have_count(6, timeout=PATIENCE_MS)


def test_a_task_is_shown_also_where_an_instant_of_hubspot_s_is_none(browser: Browser, tmp_path: Path) -> None:
    with hubspot(imports=1) as simulated:
        run_here("run", str(simulated.ids_file(tmp_path, 1)), "--base-url", simulated.url, folder=tmp_path)

    def without_instant(route: Route) -> None:
        task = route.fetch().json()
        task["record"]["completed_at"] = "a moment ago"
        route.fulfill(json=task)

    with shown(folder=tmp_path) as url, opened(browser, f"{url}#/tasks") as (page, _):
        page.route("**/v1/tasks/*", without_instant)
        page.locator("#tasks-table tbody a.id").click(timeout=PATIENCE_MS)
        expect(page.get_by_role("dialog")).to_contain_text("a moment ago", timeout=PATIENCE_MS)
