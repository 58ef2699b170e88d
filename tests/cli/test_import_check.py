"""`poller import --check`: what it finds in rows before anything is sent."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from poller.cli.app import app
from poller.core.columns import Columns
from poller.core.errors import Exit
from poller.core.model import Chunk, Position, Rejection
from poller.reports.import_check import LISTED, ImportCheck

SET = ["--set", "access=PRIVATE", "--set", "folderPath=/p"]


def check(tmp_path: Path, text: str, *flags: str, given: tuple[str, ...] = tuple(SET)) -> tuple[int, str, str]:
    file = tmp_path / "urls.csv"
    file.write_text(text)
    done = CliRunner().invoke(app, ["import", str(file), "--check", *given, *flags], catch_exceptions=False)
    return done.exit_code, done.stdout, done.stderr


def found(tmp_path: Path, text: str, *flags: str) -> dict[str, Any]:
    return dict(json.loads(check(tmp_path, text, "--json", *flags)[1]))


def test_clean_rows_exit_0_with_hosts_folders_and_ready_bodies(tmp_path: Path) -> None:
    code, out, _ = check(tmp_path, "url\n" + "".join(f"https://cdn.example.com/{n}.png\n" for n in range(50)))
    assert code == Exit.ALL_COMPLETE
    assert "51 lines = 50 rows + 0 duplicates + 0 rejected + 1 header or blank" in out
    assert "cdn.example.com 50" in out
    bodies = [json.loads(line) for line in out.splitlines() if line.startswith("  {")]
    assert [body["url"] for body in bodies] == [f"https://cdn.example.com/{n}.png" for n in range(3)]


def test_each_line_is_counted_in_one_place(tmp_path: Path) -> None:
    text = "url\nhttps://a.example.com/1\n\nhttps://a.example.com/1\nhttp://localhost/1\nhttps://a.example.com/2\n"
    code, out, _ = check(tmp_path, text)
    assert code == Exit.NOT_ALL_COMPLETE
    assert "6 lines = 2 rows + 1 duplicate + 1 rejected + 2 header or blank" in out
    assert "(first: urls.csv, line 5)" in out


def test_every_rejected_row_can_be_found_before_a_run(tmp_path: Path) -> None:
    bad = [f"http://localhost/{number}.png" for number in range(3)]
    text = "url\nhttps://a.example.com/1\n" + "\n".join(bad) + "\n"
    assert "(first: urls.csv, line 3; --json lists all 3)" in check(tmp_path, text)[1]
    (rejected,) = found(tmp_path, text)["rejected"]
    assert rejected["count"] == 3
    assert rejected["lines"] == [
        {"source": "urls.csv", "line": line, "excerpt": url} for line, url in enumerate(bad, start=3)
    ]


def test_rare_reasons_are_counted_where_there_are_many(tmp_path: Path) -> None:
    text = "url\nhttps://a.example.com/1\n" + "".join(f"http://host{number}/1.png\n" for number in range(12))
    lines = [line for line in check(tmp_path, text)[1].splitlines() if line.startswith("rejected")]
    assert sum(int(line.split()[1]) for line in lines) == 12
    assert lines[-1].endswith("4 × for 4 rarer reasons: --json lists them")


def test_of_very_many_rejected_rows_the_first_are_kept() -> None:
    rejected = tuple(Rejection(line=line, reason=str(line), excerpt="x") for line in range(LISTED + 5))
    check = ImportCheck(Columns(), now=0.0)
    check.add(Chunk(fed=(), rejected=rejected, blank=0, position=Position()), "urls.csv")
    assert check.rejected.total() == LISTED + 5
    listed: Any = check.to_json()["rejected"]
    assert sum(len(each["lines"]) for each in listed) == LISTED


@pytest.mark.parametrize(
    ("rows", "warning"),
    [
        (["https://a.example.com/x/1.png", "https://a.example.com/y/1.png"], "names"),
        (["https://s3.example.com/1?X-Amz-Date=20260101T000000Z&X-Amz-Expires=600"], "expiry"),
        (["https://s.example.com/1?Expires=1700000000&Signature=x"], "expiry"),
        (["https://acc.example.com/1?se=2026-01-01T00%3A00%3A00Z&sig=x"], "expiry"),
        (["https://drive.google.com/file/d/abc/view"], "page"),
        (["https://www.dropbox.com/s/abc/1.png?dl=0"], "page"),
        (["https://corp.sharepoint.com/:i:/g/abc"], "page"),
    ],
)
def test_what_would_surprise_is_warned_of_and_exits_1(tmp_path: Path, rows: list[str], warning: str) -> None:
    text = "url\n" + "\n".join(rows) + "\n"
    assert check(tmp_path, text)[0] == Exit.NOT_ALL_COMPLETE
    assert [each["name"] for each in found(tmp_path, text)["warnings"]] == [warning]


@pytest.mark.parametrize(
    "row", ["https://www.dropbox.com/s/abc/1.png?dl=1", "https://s.example.com/1?Expires=9999999999&Signature=x"]
)
def test_what_is_fine_is_not_warned_of(tmp_path: Path, row: str) -> None:
    assert found(tmp_path, f"url\n{row}\n")["warnings"] == []


def test_sizes_and_hidden_access_are_warned_of(tmp_path: Path) -> None:
    text = "url,size,access\nhttps://a.example.com/1,30000000,HIDDEN_PRIVATE\nhttps://a.example.com/2,3000000000,\n"
    assert {each["name"] for each in found(tmp_path, text)["warnings"]} == {"free", "large", "hidden"}


def test_a_wrong_option_and_an_input_without_rows_have_their_codes(tmp_path: Path) -> None:
    code, _, err = check(tmp_path, "url\nhttps://a.example.com/1\n", given=())
    assert (code, "--set access=PRIVATE" in err) == (Exit.CONFIG, True)
    code, _, err = check(tmp_path, "url\nhttp://localhost/1\n")
    assert (code, "no usable row" in err) == (Exit.NO_INPUT, True)
    code, _, err = check(tmp_path, "url\nhttps://a.example.com/1\n", "--set", "fileName=x")
    assert (code, "write NAME=VALUE with one of the names access" in err) == (Exit.USAGE, True)
