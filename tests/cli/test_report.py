"""`poller report` from end to end: the right counts from a state and from files, and files that others can use."""

import asyncio
import csv
import io
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import orjson
import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]

from poller.cli.commands.report import ReportOptions
from poller.cli.commands.report import write_report as report
from poller.cli.records import open_state
from poller.config import load
from poller.core.columns import Columns
from poller.core.csv_cells import harmless
from poller.core.errors import ConfigError, Exit, InputError, SinkError
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.sandbox.scenario import Fate
from poller.sources import Parser, ReadOptions
from poller.sources.imports import RowOptions
from tests.support.browser import chromium, opened
from tests.support.simulation import Simulation, settings_for

START = "/files/v3/files/import-from-url/async"
QUICK = Scenario(durations=parse_durations("fixed:0"), fates={}, requests=1000)
INJECTED: dict[str, tuple[int, bytes]] = {  # a part of the URL → how many, and HubSpot's error
    "gone": (40, b'{"category":"VALIDATION_ERROR","message":"%s could not be downloaded: the server answered 404"}'),
    "busy": (31, b'{"category":"VALIDATION_ERROR","message":"%s could not be downloaded: the server answered 503"}'),
    "slow": (23, b'{"category":"DOWNLOAD_TIMEOUT","message":"The server of %s took 30.1 s: too slow"}'),
    "huge": (17, b'{"category":"FILE_TOO_LARGE","message":"%s has 41,943,040 bytes, which exceeds the limit"}'),
    "type": (11, b'{"category":"FILE_TYPE_BLOCKED","message":"Files such as %s cannot be hosted"}'),
}
GOOD = 78


def failing_by_url(simulation: Simulation) -> None:
    """Let HubSpot end each import with the errors that its address asks for."""
    spoil = {name.encode(): errors for name, (_, errors) in INJECTED.items()}

    def stage(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        if b'"COMPLETE"' not in reply.body:
            return reply
        answer = orjson.loads(reply.body)
        leaf = answer["result"]["defaultHostingUrl"].rpartition("/")[2].encode()
        errors = next((errors for name, errors in spoil.items() if leaf.startswith(name)), None)
        if errors is None:
            return reply
        answer |= {"result": None, "numErrors": 1, "errors": [orjson.loads(errors % leaf)]}
        return replace(reply, body=orjson.dumps(answer))

    simulation.api.stage = stage


def rows() -> list[dict[str, str]]:
    names = [f"{name}-{number}" for name, (count, _) in INJECTED.items() for number in range(count)]
    names += [f"good-{number}" for number in range(GOOD)]
    return [
        {
            "url": f"https://{name[:4]}.example.com/files/{name}.{'png' if number % 2 else 'pdf'}?sig=s3cret",
            "access": "private",
            "folderPath": "/library",
            "overwrite": "No",
            "duplicateValidationStrategy": "none",
            "duplicateValidationScope": "ENTIRE_PORTAL",
        }
        for number, name in enumerate(names)
    ]


def start(simulation: Simulation, body: bytes) -> str:
    reply = simulation.api.respond(SandboxRequest(method="POST", path=START, token="pat", body=body))
    assert reply.code == 202, reply.body
    return str(orjson.loads(reply.body)["id"])


def write_csv(path: Path, lines: Sequence[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


async def test_five_injected_reasons_are_found_and_the_retryable_imports_complete_at_the_second_try(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, QUICK)
    failing_by_url(simulation)
    least = {"access": "PRIVATE", "folderPath": "/library"}
    fed = [{"task_id": start(simulation, orjson.dumps({"url": row["url"], **least})), **row} for row in rows()]
    assert await simulation.run(write_csv(tmp_path / "ids.csv", fed)) is Exit.NOT_ALL_COMPLETE

    options = ReportOptions(as_json=True, resubmit=tmp_path / "retry.jsonl", csv=tmp_path / "failed.csv")
    capsys.readouterr()
    assert await report(settings_for(tmp_path), options, clock) is Exit.ALL_COMPLETE
    found = orjson.loads(capsys.readouterr().out)
    assert (found["finished"], found["failed"], found["complete"]) == (200, 200 - GOOD, GOOD)
    assert [(each["count"], each["category"]) for each in found["reasons"]] == [
        (count, orjson.loads(errors)["category"]) for count, errors in INJECTED.values()
    ]
    assert [each["hosts"] for each in found["reasons"]] == [
        {f"{name}.example.com": count} for name, (count, _) in INJECTED.items()
    ]
    assert all(sample["correlation_id"] for each in found["reasons"] for sample in each["samples"])
    async with open_state(settings_for(tmp_path)) as state:
        counts = {each.reason: each.tasks for each in (await state.sums()).reasons}
    assert counts == {f"{each['category']}: {each['reason']}": each["count"] for each in found["reasons"]}

    bodies, rest = lines(tmp_path / "retry.jsonl"), lines(tmp_path / "retry.rest.jsonl")
    assert Counter(body["url"][8:12] for body in bodies) == {"busy": 31, "slow": 23}
    assert Counter(line["ref"]["url"][8:12] for line in rest) == {"gone": 40, "huge": 17, "type": 11}
    assert {body.pop("url") for body in bodies} == {row["url"] for row in fed[40:94]}
    assert bodies[0] == {
        "access": "PRIVATE",
        "folderPath": "/library",
        "overwrite": False,
        "duplicateValidationStrategy": "NONE",
        "duplicateValidationScope": "ENTIRE_PORTAL",
    }
    simulation.api.stage = lambda _, reply: reply  # what passes has passed
    again = [{"task_id": start(simulation, line)} for line in (tmp_path / "retry.jsonl").read_bytes().splitlines()]
    flags = {"state": f"sqlite:///{tmp_path}/second.db", "sinks": [f"jsonl:{tmp_path}/second.jsonl"]}
    assert await simulation.run(write_csv(tmp_path / "second.csv", again), flags) is Exit.ALL_COMPLETE
    assert len(simulation.records("second.jsonl")) == 54


# --- from files ------------------------------------------------------------------------------------------------------


def record(number: int, **fields: Any) -> dict[str, Any]:
    plain = {
        "task_id": f"AAAA{number}",
        "account": "default",
        "kind": "complete",
        "errors": None,
        "result": {"id": str(number), "size": 10},
        "seen_at": f"2026-01-05T00:{number % 60:02}:00.000Z",
        "ref": {"url": f"https://cdn.example.com/{number}.png"},
        "correlation_id": f"c-{number}",
    }
    return plain | fields


def timeout(number: int, **fields: Any) -> dict[str, Any]:
    return record(number, kind="complete_with_errors", errors=[{"message": "timeout"}], result=None, **fields)


def write(folder: Path, *records: dict[str, Any]) -> Path:
    file = folder / "finished.jsonl"
    file.write_bytes(b"".join(orjson.dumps(each) + b"\n" for each in records))
    return file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def reported(capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[str, str]:
    capsys.readouterr()
    await report(load(None, {}, {}), ReportOptions(**options), lambda: 1_767_600_000.0)
    streams = capsys.readouterr()
    return streams.out, streams.err


async def test_a_report_on_files_is_like_one_on_a_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, record(1), timeout(2), record(3, kind="canceled", result=None))
    out, _ = await reported(capsys, files=(file,))
    assert "3 finished tasks: 1 complete, 2 not (67 %)" in out
    assert "timeout" in out
    assert "AAAA3" in out


async def test_a_line_that_is_no_record_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, record(1), {"a": 1})
    with pytest.raises(InputError, match=r"finished\.jsonl, line 2: not a finished task"):
        await reported(capsys, files=(file,), html=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


async def test_only_tasks_of_the_chosen_account_and_time_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, record(1), record(9), record(10, account="other"))
    out, _ = await reported(capsys, files=(file,), as_json=True, account="default", since=1_767_571_500.0)
    assert orjson.loads(out)["finished"] == 1


async def test_a_mismatch_is_a_group_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, record(1, ref={"size": 10}), record(2, ref={"size": "11"}), record(3))
    out, _ = await reported(capsys, files=(file,), as_json=True)
    found = orjson.loads(out)
    assert (found["failed"], found["complete"], found["compared"]) == (1, 3, {"size": 2})
    assert [(each["kind"], each["category"]) for each in found["reasons"]] == [("differs", "SIZE_MISMATCH")]


async def test_a_report_that_writes_files_prints_their_names_and_json_where_that_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, page, again = write(tmp_path, timeout(1)), tmp_path / "report.html", tmp_path / "again.jsonl"
    out, err = await reported(capsys, files=(file,), html=page, resubmit=again, defaults={"access": "PRIVATE"})
    assert (out, err.splitlines()[:2]) == (
        "",
        [f"written to {page}", f"written to {again}: 1 body for HubSpot's start call"],
    )
    out, _ = await reported(capsys, files=(file,), html=page, as_json=True)
    assert orjson.loads(out)["finished"] == 1


async def test_rows_without_a_valid_body_are_listed_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(
        tmp_path,
        timeout(1, ref=None),
        timeout(2, ref={"URL": "ftp://example.com/a"}),
        timeout(3, ref={"URL": "https://example.com/a", "overwrite": "perhaps"}),
        timeout(4, ref={"URL": "https://example.com/a", "Folder ID": 99, "folder_path": "/x", "ttl": ""}),
    )
    _, err = await reported(capsys, files=(file,), resubmit=tmp_path / "retry.jsonl", defaults={"access": "PRIVATE"})
    assert lines(tmp_path / "retry.jsonl") == [{"url": "https://example.com/a", "access": "PRIVATE", "folderId": "99"}]
    why = [line["why_not"] for line in lines(tmp_path / "retry.rest.jsonl")]
    assert [text.partition("; but ")[2] for text in why] == [
        "there is no URL in the row",
        "the URL in the row does not begin with http:// or https://",
        "overwrite in the row is neither true nor false: 'perhaps'",
    ]
    assert "--column url=NAME" in err
    assert "1 body lacks overwrite" in err


async def test_bodies_of_two_accounts_never_share_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, timeout(1), timeout(2, account="emea"))
    (tmp_path / "retry.jsonl").write_text("from before")
    with pytest.raises(ConfigError, match="--account NAME"):
        await reported(capsys, files=(file,), resubmit=tmp_path / "retry.jsonl")
    assert (tmp_path / "retry.jsonl").read_text() == "from before"
    assert names(tmp_path) == ["finished.jsonl", "retry.jsonl"]


async def test_only_the_user_may_read_the_output_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {name: tmp_path / name for name in ("html", "csv", "resubmit", "rest")}
    await reported(capsys, files=(write(tmp_path, timeout(1)),), **outputs)
    assert {mode(path) for path in outputs.values()} == {0o600}


async def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, timeout(1))
    with pytest.raises(SinkError, match=r"cannot write .*none/a\.html: No such file"):
        await reported(capsys, files=(file,), html=tmp_path / "none" / "a.html")
    with pytest.raises(SinkError, match="it is a folder"):
        await reported(capsys, files=(file,), csv=tmp_path)
    with pytest.raises(ConfigError, match="cannot go to one file"):
        await reported(capsys, files=(file,), resubmit=tmp_path / "x", rest=tmp_path / "x")


async def test_what_a_run_wrote_is_not_replaced_and_an_earlier_report_is(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, replace(QUICK, fates={Fate.CANCELED: 1.0}))
    sinks = {"sinks": [f"jsonl:{tmp_path}/done.jsonl", f"csv:{tmp_path}/done.csv"]}
    assert await simulation.run(simulation.write_ids(3), sinks) is Exit.NOT_ALL_COMPLETE
    written = {tmp_path / name: (tmp_path / name).read_bytes() for name in ("poller.db", "done.jsonl", "done.csv")}
    outputs: dict[str, Any] = {name: tmp_path / f"report.{name}" for name in ("html", "csv", "resubmit", "rest")}
    for path in written:
        for name in outputs:
            with pytest.raises(SinkError, match=f"cannot write {path}: it is a .*, which would be lost"):
                await report(settings_for(tmp_path), ReportOptions(**outputs | {name: path}), clock)
    assert {path: path.read_bytes() for path in written} == written
    for _ in range(2):
        assert await report(settings_for(tmp_path), ReportOptions(**outputs), clock) is Exit.ALL_COMPLETE


async def test_a_row_may_nest_as_deep_as_one_may_be_fed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "finished.jsonl"
    rows = [b'{"a":' * levels + b"1" + b"}" * levels for levels in (1, 254, 900)]
    file.write_bytes(b"".join(b'{"task_id":"t","account":"a","kind":"canceled","ref":%s}\n' % row for row in rows))
    outputs = {name: tmp_path / name for name in ("html", "csv", "resubmit")}
    shown, _ = await reported(capsys, files=(file,), as_json=True, **outputs)
    found = orjson.loads(shown)
    assert [orjson.dumps(sample["ref"]) for sample in found["reasons"][0]["samples"]] == [*rows[:2], b"{}"]
    assert len(list(csv.reader((tmp_path / "csv").read_text().splitlines()))) == 4


async def test_named_columns_win_over_found_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, timeout(1, ref={"url": "n/a", "origin": "https://example.com/a", "Title": "A"}))
    columns = Columns(named={"url": "origin", "name": "Title"})
    await reported(capsys, files=(file,), columns=columns, resubmit=tmp_path / "retry.jsonl")
    assert lines(tmp_path / "retry.jsonl") == [{"url": "https://example.com/a", "name": "A"}]


async def test_of_rows_in_files_the_latest_attempt_is_resubmitted_also_where_it_is_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("once", "twice", "twice~2", "other~2", "other")
    rows = [timeout(at, ref={"url": f"https://example.com/{at}"}) | {"row": row} for at, row in enumerate(names)]
    again = tmp_path / "again.jsonl"
    await reported(capsys, files=(write(tmp_path, *rows),), resubmit=again)
    assert [line["url"][-1] for line in lines(again)] == ["0", "2", "3"]
    assert [line["why_not"][:23] for line in lines(tmp_path / "again.rest.jsonl")] == ["its row was tried again"] * 2


async def test_many_rare_reasons_hosts_and_extensions_keep_the_sums_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = [f"{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}" for n in range(6000)]
    rare = [
        timeout(n, ref={"url": f"https://{word}.example.com/f.{word}"}) | {"errors": [{"message": f"odd {word}"}]}
        for n, word in enumerate(letters)
    ]
    often = [timeout(n) for n in range(6000, 6100)]
    out, _ = await reported(capsys, files=(write(tmp_path, *rare, *often),), as_json=True)
    found = orjson.loads(out)
    assert sum(each["count"] for each in found["reasons"]) == found["failed"] == 6100
    assert found["reasons"][0]["count"] == 100
    assert found["reasons"][-1]["kind"] == "other"
    assert found["hosts"][0] == {"name": "cdn.example.com", "failed": 100, "all": 100}


# --- for others' programs --------------------------------------------------------------------------------------------

HOSTILE = '=HYPERLINK("https://evil.example","<script>alert(1)</script>")'


async def test_no_cell_of_the_csv_is_a_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ref = {"url": "https://example.com/a,b\n.png", "note": HOSTILE}
    errors = [{"category": "X", "message": HOSTILE}]
    file = write(tmp_path, timeout(1, ref=ref) | {"task_id": "-2+3", "errors": errors, "correlation_id": "@SUM(A1)"})
    await reported(capsys, files=(file,), csv=tmp_path / "failed.csv")
    (row,) = csv.DictReader(io.StringIO((tmp_path / "failed.csv").read_text("utf-8-sig")))
    assert row["task_id"] == "'-2+3"
    assert row["correlation_id"] == "'@SUM(A1)"
    assert not [cell for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert orjson.loads(row["ref"]) == {"note": HOSTILE}


async def test_a_url_in_the_csv_that_is_not_whole_is_not_imported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The secret of a signed URL is left out, and what is left may be another file: `/download?id=1` is `/download`."""
    urls = ["https://example.com/download?id=1", "https://example.com/download?id=2", "https://example.com/a.png"]
    file = write(tmp_path, *(timeout(number, ref={"url": url}) for number, url in enumerate(urls)))
    await reported(capsys, files=(file,), csv=tmp_path / "failed.csv")
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/p"})
    parser = Parser(ReadOptions(accounts=frozenset({"default"}), default_account="default", rows=rows), "failed.csv")
    chunks = [*parser.push((tmp_path / "failed.csv").read_bytes()), *parser.end()]
    assert [orjson.loads(row.body)["url"] for chunk in chunks for row in chunk.rows] == urls[2:]
    assert ["--resubmit" in each.reason for chunk in chunks for each in chunk.rejected] == [True, True]


@pytest.mark.parametrize("cell", ["=1", " =1", "+1", "-1", "@a", "\t=1", "\r=1", "\ufeff=1", "＝1"])
def test_a_cell_that_begins_like_a_formula_is_text(cell: str) -> None:
    assert harmless(cell).startswith("'")


class Page(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.values: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.values += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


async def test_the_page_is_self_contained_and_escapes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = '"><script>alert(1)</script><img src=x onerror=alert(1)>'
    ref = {"url": f"https://{hostile}/x.png", "note": hostile}
    errors = [{"category": hostile, "message": f"{hostile} 'quoted'"}]
    strange = timeout(1, ref=ref) | {"task_id": hostile, "errors": errors, "correlation_id": hostile, "kind": hostile}
    good = [
        record(n, requested_at="2026-01-05T00:00:00Z", completed_at=f"2026-01-05T00:00:{n}Z") for n in range(10, 60)
    ]
    file = write(tmp_path, strange, timeout(2), *good)
    await reported(capsys, files=(file,), html=tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    page = Page(text)
    assert page.tags["script"] == page.tags["img"] == page.tags["iframe"] == 0
    assert page.tags["svg"] == 2
    assert page.tags["html"] == page.tags["main"] == page.tags["h1"] == 1
    assert hostile[:20] in page.text
    assert not [value for value in page.values if value.startswith(("http", "//", "javascript:"))]
    assert re.findall(r"(?i)url\(|@import|\son\w+=(?!alert)", text) == []
    assert "default-src 'none'" in text


async def test_the_page_labels_its_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, *[record(n) for n in range(30)], *[timeout(n) for n in range(30, 42)])
    await reported(capsys, files=(file,), html=tmp_path / "report.html")
    text = Page((tmp_path / "report.html").read_text()).text
    assert "42finished" in text
    assert "30complete" in text
    assert "12not complete (29 %)" in text
    assert "100 % of those not complete" in text


@pytest.mark.real_time
def test_the_page_reads_well_in_a_browser(tmp_path: Path) -> None:
    """On a desk and on a phone, light and dark: nothing to scroll sideways, nothing loaded, nothing serious for axe."""
    times = [
        (n, {"requested_at": "2026-01-05T00:00:00Z", "completed_at": f"2026-01-05T00:{n}:00Z"}) for n in range(10, 60)
    ]
    file = write(tmp_path, *[record(n, **more) for n, more in times], *[timeout(n) for n in range(60, 80)])
    asyncio.run(report(load(None, {}, {}), ReportOptions(files=(file,), html=tmp_path / "report.html"), lambda: 1.8e9))
    with chromium() as browser, opened(browser, (tmp_path / "report.html").as_uri()) as (page, seen):
        for width in (1280, 360):
            page.emulate_media(color_scheme="light" if width > 1000 else "dark")
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            found = Axe().run(page).response["violations"]
            assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []
        assert (seen.console, len(seen.paths)) == ([], 1)


async def test_a_partly_retryable_group_shows_both_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path, timeout(1) | {"result": {"id": "7"}}, timeout(2), timeout(3))
    out, _ = await reported(capsys, files=(file,))
    assert "retry: 2 yes, 'timeout' often passes; 1 no, a file landed in spite of errors" in out


async def test_resubmitting_without_a_url_in_any_row_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, timeout(1) | {"ref": {"path": "a.png"}}, timeout(2) | {"ref": None})
    options = ReportOptions(files=(file,), resubmit=tmp_path / "retry.jsonl")
    assert await report(load(None, {}, {}), options, lambda: 1.8e9) is Exit.NO_INPUT
    assert "no row has a URL. Name your column: --column url=NAME" in capsys.readouterr().err


@pytest.mark.parametrize(("landed", "counted"), [(True, 1), (False, 2)])
async def test_a_report_can_be_of_tasks_with_a_file_or_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], landed: bool, counted: int
) -> None:
    file = write(tmp_path, timeout(1) | {"result": {"id": "7"}}, timeout(2), timeout(3))
    out, _ = await reported(capsys, files=(file,), landed=landed)
    assert f"{counted} finished task{'' if counted == 1 else 's'}: " in out
