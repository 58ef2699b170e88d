"""Rows to import: what becomes the body of a start call, what is rejected and why, and who a row is."""

import json
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.columns import Columns
from poller.core.errors import ConfigError, InputError
from poller.core.model import Chunk, FedRow
from poller.sources import Parser, ReadOptions
from poller.sources.imports import RowOptions
from poller.sources.imports.url import checked_url, is_share_page

SET = {"access": "PRIVATE", "folderPath": "/p"}


def chunks(text: str | bytes, size: int = 1 << 20, **rows: Any) -> list[Chunk]:
    options = ReadOptions(
        accounts=frozenset({"default", "eu"}),
        default_account="default",
        rows=RowOptions(**({"defaults": SET} | rows)),
    )
    data = text.encode() if isinstance(text, str) else text
    parser = Parser(options, "rows")
    found = [chunk for at in range(0, len(data), size) for chunk in parser.push(data[at : at + size])]
    return [*found, *parser.end()]


def read(text: str | bytes, **rows: Any) -> list[FedRow]:
    return [row for chunk in chunks(text, **rows) for row in chunk.rows]


def rejected(text: str, **rows: Any) -> list[str]:
    return [rejection.reason for chunk in chunks(text, **rows) for rejection in chunk.rejected]


def body(row: FedRow) -> dict[str, Any]:
    return dict(orjson.loads(row.body))


def test_a_csv_row_becomes_a_body_with_everything_that_dated_versions_require() -> None:
    (row,) = read("url,sku\nhttps://cdn.example.com/a/1.png,17\n", defaults={**SET, "name": "{sku}"})
    assert body(row) == {
        "url": "https://cdn.example.com/a/1.png",
        "access": "PRIVATE",
        "folderPath": "/p",
        "name": "17",
        "overwrite": False,
        "duplicateValidationStrategy": "NONE",
        "duplicateValidationScope": "ENTIRE_PORTAL",
    }
    assert orjson.loads(row.ref) == {"url": "https://cdn.example.com/a/1.png", "sku": "17"}


def test_the_row_wins_over_set_and_its_folder_over_both_folders() -> None:
    text = (
        "url,access,overwrite,folderId\nhttps://a.example.com/1,PUBLIC_INDEXABLE,yes,77\nhttps://a.example.com/2,,,\n"
    )
    first, second = (body(row) for row in read(text))
    assert (first["access"], first["overwrite"], first["folderId"], first.get("folderPath")) == (
        "PUBLIC_INDEXABLE",
        True,
        "77",
        None,
    )
    assert (second["access"], second["overwrite"], second["folderPath"]) == ("PRIVATE", False, "/p")


def test_pieces_of_the_url_fill_templates() -> None:
    defaults = {"access": "PRIVATE", "folderPath": "/mirror{url.folder}", "name": "x-{url.file}"}
    (row,) = read("https://a.example.com/s%C3%B6n/b/1%202.png?x=1\n", defaults=defaults)
    assert (body(row)["folderPath"], body(row)["name"]) == ("/mirror/sön/b", "x-1 2.png")


def test_json_lines_arrays_and_urls_are_rows_too_and_a_resubmit_body_is_one() -> None:
    resubmitted = {"url": "https://a.example.com/1", "access": "PRIVATE", "folderPath": "/q", "overwrite": True}
    lines = [json.dumps(resubmitted), "", "# a comment", "https://a.example.com/2"]
    assert [body(row)["folderPath"] for row in read("\n".join(lines))] == ["/q", "/p"]
    array = json.dumps([resubmitted, {"link": "https://a.example.com/3"}])
    assert [body(row)["url"] for row in read(array)] == ["https://a.example.com/1", "https://a.example.com/3"]


def test_accounts_are_read_and_are_no_part_of_the_row() -> None:
    (row,) = read("account,url\neu,https://a.example.com/1\n")
    assert (row.account, orjson.loads(row.ref)) == ("eu", {"url": "https://a.example.com/1"})
    (row,) = read('{"account":"eu","url":"https://a.example.com/1"}')
    assert (row.account, orjson.loads(row.ref)) == ("eu", {"url": "https://a.example.com/1"})
    assert "unknown account" in rejected("account,url\nus,https://a.example.com/1\n")[0]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "no URL"),
        ("ftp://a.example.com/1", "http:// or https://"),
        ("//a.example.com/1", "http:// or https://"),
        ("https://a.example.com/1 2.png", "control character"),
        ("https://u:secret@a.example.com/1", "user or password"),
        ("https://u@a.example.com/1", "user or password"),
        ("https://localhost/1", "own network"),
        ("https://LOCALHOST:8080/1", "own network"),
        ("https://intranet/1", "own network"),
        ("https://printer.local/1", "own network"),
        ("https://10.0.0.7/1", "private"),
        ("https://127.0.0.1/1", "private"),
        ("https://[::1]/1", "private"),
        ("https://169.254.169.254/latest/meta-data", "private"),
        ("https:///1", "no host"),
        ("https://a.example.com:99999/1", "malformed"),
        ("https://[::1/1", "malformed"),
    ],
)
def test_a_url_that_hubspot_cannot_download_is_rejected_without_its_secrets(url: str, reason: str) -> None:
    (found,) = rejected(json.dumps({"url": url}))
    assert reason in found
    assert "secret" not in found


@pytest.mark.parametrize(
    "url",
    ["https://8.8.8.8/1", "http://a.example.com", "https://[2606:4700::1111]/x", "HTTPS://A.example.com:443/x?y=z#f"],
)
def test_a_url_on_the_internet_is_accepted(url: str) -> None:
    assert checked_url(f" {url} ") == url


@given(st.text(max_size=60))
def test_whatever_the_url_it_is_accepted_or_rejected_with_a_reason(text: str) -> None:
    (row, reason) = read(orjson.dumps({"url": f"https://{text}"})), rejected(json.dumps({"url": f"https://{text}"}))
    assert len(row) + len(reason) == 1


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"access": "SECRET"}, "unknown access"),
        ({"duplicateValidationStrategy": "MAYBE"}, "unknown duplicateValidationStrategy"),
        ({"duplicateValidationScope": "HERE"}, "unknown duplicateValidationScope"),
        ({"overwrite": "perhaps"}, "neither true nor false"),
        ({"folderId": "7", "folderPath": "/x"}, "keep one"),
        ({"name": "a/b"}, "has a /"),
        ({"ttl": "PT1H"}, "ttl"),
        ({"ttl": "P2Y"}, "ttl"),
        ({"ttl": "soon"}, "ttl"),
        ({"acess": "PRIVATE"}, "nearly the option access"),
        ({"folder_paths": "/x"}, "nearly the option folderPath"),
        ({"name": "x" * 20_000}, "more than 16,384"),
        ({"access": 7.5}, "not a text"),
    ],
)
def test_options_that_hubspot_would_refuse_or_ignore_are_rejected(values: Mapping[str, Any], reason: str) -> None:
    (found,) = rejected(json.dumps({"url": "https://a.example.com/1", **values}))
    assert reason in found


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"defaults": {"folderPath": "/p"}}, "--set access=PUBLIC_INDEXABLE"),
        ({"defaults": {"access": "PRIVATE"}}, "--set folderPath=/imports"),
        ({"defaults": {**SET, "folderId": "7"}}, "keep one"),
        ({"defaults": {**SET, "name": "{skuu}"}}, "no column 'skuu'. Known: url, sku"),
        ({"defaults": {**SET, "name": "{sku"}}, "both braces"),
        ({"defaults": {**SET, "access": "OPEN"}}, "unknown access"),
        ({"defaults": {**SET, "ttl": "P9Y"}}, "ttl"),
        ({"key": "id"}, "--key id: there is no such column"),
        ({"columns": Columns(named={"name": "title"})}, "--column name=title: there is no such column"),
    ],
)
def test_options_that_fit_no_row_end_the_run_before_the_first(rows: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", "[.]")):
        read("url,sku\nhttps://a.example.com/1,17\n", **rows)


def test_a_table_without_a_url_column_names_its_columns_and_the_remedy() -> None:
    with pytest.raises(InputError, match=r"'sku', 'picture'\. Name yours with --column url=NAME"):
        read("sku,picture\n1,https://a.example.com/1\n")
    (row,) = read("sku;picture\n1;https://a.example.com/1\n", columns=Columns(named={"url": "picture"}))
    assert body(row)["url"] == "https://a.example.com/1"


def test_a_template_without_a_value_rejects_its_row_alone() -> None:
    text = "url,sku\nhttps://a.example.com/1,\nhttps://a.example.com/2,b\n"
    defaults = {**SET, "name": "{sku}"}
    assert [body(row)["name"] for row in read(text, defaults=defaults)] == ["b"]
    assert rejected(text, defaults=defaults) == ["{sku} has no value in the row, and --set name={sku} needs it"]


def test_a_row_is_its_body_or_its_key() -> None:
    text = "id,url,sig\n7,https://a.example.com/1?s={},x\n"
    monday, tuesday = (read(text.format(sign))[0] for sign in "ab")
    assert monday.row != tuesday.row
    assert read(text.format("a"))[0].row == monday.row
    assert [read(text.format(sign), key="id")[0].row for sign in "ab"] == ["7", "7"]
    assert read(text.format("a"), defaults={**SET, "access": "PUBLIC_INDEXABLE"})[0].row != monday.row
    (odd,) = read("id,url\nm\u00fc/..,https://a.example.com/1\n", key="id")
    assert odd.row.isalnum()
    assert rejected("id,url\n,https://a.example.com/1\n", key="id") == ["the key column id has no value in the row"]


@pytest.mark.parametrize("blank", [" ", "\u00a0", '"\t"'])
def test_a_cell_of_spaces_is_an_empty_one(blank: str) -> None:
    text = f"id,url,name,filename,folderPath,access\n{blank},https://a.example.com/1,{blank},b.png,{blank},{blank}\n"
    assert rejected(text, key="id") == ["the key column id has no value in the row"]
    (row,) = read(text)
    assert (body(row)["name"], body(row)["folderPath"], body(row)["access"]) == ("b.png", "/p", "PRIVATE")
    needed = {"access": "PRIVATE", "folderPath": "/by/{id}"}
    assert rejected(f"id,url\n{blank},https://a.example.com/1\n", defaults=needed) == [
        "{id} has no value in the row, and --set folderPath=/by/{id} needs it"
    ]


@given(st.integers(1, 400))
def test_the_rows_do_not_depend_on_the_size_of_the_blocks(size: int) -> None:
    text = 'url,note\nhttps://a.example.com/1,"two\nlines"\nnonsense,x\n\nhttps://a.example.com/2,"a,b"\n'
    whole, cut = chunks(text), chunks(text, size)
    assert [row for chunk in cut for row in chunk.rows] == [row for chunk in whole for row in chunk.rows]
    assert cut[-1].position == whole[-1].position
    assert sum(len(chunk.rows) + len(chunk.rejected) + chunk.blank for chunk in cut) == 5


def test_ids_are_read_as_before() -> None:
    options = ReadOptions(accounts=frozenset({"default"}), default_account="default")
    (chunk,) = Parser(options, "ids").end()
    assert (chunk.rows, chunk.fed) == ((), ())


@pytest.mark.parametrize(
    "line",
    [
        "https://cdn.example.com/0.jpg,SKU-0,Acme",
        "https://cdn.example.com/0.jpg;SKU-0;Acme",
        "https://cdn.example.com/0.jpg\tSKU-0\tAcme",
    ],
)
def test_a_table_without_column_names_is_refused_before_its_columns_become_part_of_urls(line: str) -> None:
    with pytest.raises(InputError, match=r"no column names.*such as url,name,"):
        chunks(line + "\n")


@pytest.mark.parametrize(
    "url",
    [
        "https://img.example.com/upload/w_200,h_100/a.jpg",
        "https://img.example.com/w_200,h_100",
        "https://img.example.com/a.jpg?crop=1,2",
        "https://img.example.com/view?file=a.png,b.png",
    ],
)
def test_a_comma_in_a_url_is_no_table(url: str) -> None:
    assert [body(row)["url"] for row in read(url + "\n")] == [url]


def test_a_file_of_a_table_needs_column_names_whatever_its_urls_end_in() -> None:
    options = ReadOptions(accounts=frozenset({"a"}), default_account="a", rows=RowOptions(defaults=SET))
    for line in ("https://b.example.com/k.png?X-Amz-Signature=0a,17", "https://b.example.com/download/17,shoe"):
        parser = Parser(options, "folder/rows.csv")
        with pytest.raises(InputError, match="no column names"):
            [*parser.push(line.encode() + b"\n"), *parser.end()]


def test_a_row_that_is_not_utf_8_is_rejected_with_what_to_do_where_it_would_be_sent() -> None:
    text = "url;brand;note\nhttps://a.example.com/1;B\u00f6hm;\nhttps://a.example.com/2;Acme;gr\u00fcn\n"
    options: dict[str, Any] = {"defaults": {**SET, "folderPath": "/p/{brand}"}}
    (rejection,) = [each for chunk in chunks(text.encode("cp1252"), **options) for each in chunk.rejected]
    assert "not UTF-8" in rejection.reason
    assert "CSV UTF-8" in rejection.reason
    assert [body(row)["url"] for row in read(text.encode("cp1252"), **options)] == ["https://a.example.com/2"]
    assert rejected("url,brand\nhttps://a.example.com/1,B\u00f6hm\n", **options) == []


def test_a_key_that_is_not_utf_8_identifies_no_row() -> None:
    text = "url,key\nhttps://a.example.com/1,\u00f6\nhttps://a.example.com/2,\u00fc\n".encode("cp1252")
    reasons = [each.reason for chunk in chunks(text, key="key") for each in chunk.rejected]
    assert ["not UTF-8" in reason for reason in reasons] == [True, True]


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("source,url", "cms,https://x.example/1.png"),
        ("link,url", ",https://x.example/1.png"),
        ("link,url", "https://x.example/1.png,https://x.example/1.png"),
        ("source,fileUrl", "cms,https://x.example/1.png"),
    ],
)
def test_a_column_that_may_have_the_url_but_has_no_other_one_changes_nothing(header: str, row: str) -> None:
    (fed,) = read(f"{header}\n{row}\n")
    assert body(fed)["url"] == "https://x.example/1.png"


@pytest.mark.parametrize("header", ["link,url", "url,source_url", "URL,url", "href,Link"])
def test_where_two_columns_have_different_urls_none_is_imported_until_a_person_names_one(header: str) -> None:
    """What is imported is there to stay: the page that links to a file is no file."""
    text = f"{header}\nhttps://x.example/page,https://x.example/1.png\n"
    assert read(text) == []
    (reason,) = rejected(text)
    assert "have different URLs: name the one to import with --column url=" in reason
    named = read(text, columns=Columns(named={"url": header.split(",")[1]}))
    assert [body(row)["url"] for row in named] == ["https://x.example/1.png"]


def test_an_option_s_own_name_wins_over_another_word_for_it() -> None:
    (row,) = read("url,filename,name\nhttps://x.example/1.png,f.png,g.png\n")
    assert body(row)["name"] == "g.png"


def test_rows_of_delimiters_alone_are_blank() -> None:
    text = ',,\nurl,sku,n\nhttps://a.example.com/1,7,\n,,\n"","",""\n , ,\n'
    assert (len(read(text)), rejected(text)) == (1, [])
    assert sum(chunk.blank for chunk in chunks(text)) == 5
    assert rejected("url,sku\n,7\n") == ["there is no URL in the row"]


def test_a_title_above_the_header_is_rejected_and_the_rest_read() -> None:
    text = "Spring campaign 2026,,\n,,\nurl,sku,n\nhttps://a.example.com/1,7,\n"
    assert len(read(text)) == 1
    assert rejected(text) == ["neither a URL, a JSON object nor the header of a table with a URL column"]
    with pytest.raises(InputError, match="delete the lines above the header"):
        read("Spring campaign,2026,\nurl,sku,n\nhttps://a.example.com/1,7,\n")


@pytest.mark.parametrize(
    "cell",
    ["#REF!", "#N/A", "#NAME?", " #VALUE! ", "#DIV/0!", "#NULL!", "#NUM!", "#BEZUG!", "#NV", "#¿NOMBRE?", "#########"],
)
def test_an_error_of_a_spreadsheet_rejects_its_row_where_it_would_be_sent(cell: str) -> None:
    """Not as `/p/#REF!`, a folder that stays; `#N/A` would even be two."""
    templates = {"access": "PRIVATE", "folderPath": "/p/{brand}"}
    text = f"url,brand\nhttps://a.example.com/1,{cell}\nhttps://a.example.com/2,Acme\n"
    assert rejected(text, defaults=templates) == [
        f"brand is {cell.strip()}, an error of a spreadsheet: correct the cell"
    ]
    assert len(read(text, defaults=templates)) == 1
    assert len(read(text)) == 2
    for column in ("url", "name", "folderPath"):
        values = {"url": "https://a.example.com/1", column: cell}
        assert f"{column} is {cell.strip()}, an error" in rejected(json.dumps(values))[0]
    assert f"brand is {cell.strip()}, an error" in rejected(text, key="brand")[0]


@pytest.mark.parametrize("cell", ["1.23457E+12", "1,23457E+12", "4E+12", "1.5E-07"])
def test_a_number_that_a_spreadsheet_rounded_rejects_its_row_where_it_would_be_sent(cell: str) -> None:
    """Its digits are lost, and many numbers become this one: they would be one file's name, or one row."""
    text = f'url,sku\nhttps://a.example.com/1,"{cell}"\n'
    reason = f"sku is {cell}, a number that a spreadsheet rounded: export the column as text"
    assert rejected(text, defaults={**SET, "name": "{sku}.png"}) == [reason]
    assert rejected(text, key="sku") == [reason]
    assert rejected(text) == []
    assert "rounded" in rejected(json.dumps({"url": "https://a.example.com/1", "name": cell}))[0]


@pytest.mark.parametrize("cell", ["1.5", "2E-10", "12E+05", "1e5", "#1", "#N/A 7", "#SALE!", "###", "E+12"])
def test_what_only_resembles_what_a_spreadsheet_writes_is_a_value(cell: str) -> None:
    (row,) = read(json.dumps({"url": "https://a.example.com/1", "sku": cell}), defaults={**SET, "folderPath": "/{sku}"})
    assert body(row)["folderPath"] == f"/{cell}"


def test_a_named_column_is_found_in_another_spelling_and_a_near_one_is_named() -> None:
    for header in ("Image URL", "image  url", "IMAGE_URL"):
        (row,) = read(f"sku,{header}\n7,https://a.example.com/1\n", columns=Columns(named={"url": "image url"}))
        assert body(row)["url"] == "https://a.example.com/1"
        assert read(
            f"{header},SKU\nhttps://a.example.com/1,7\n", columns=Columns(named={"url": "image url"}), key="sku"
        )
    (row,) = read("Pic,pic\nx,https://a.example.com/1\n", columns=Columns(named={"url": "pic"}))
    assert body(row)["url"] == "https://a.example.com/1"
    with pytest.raises(InputError, match="Did you mean 'Image URL'"):
        read("sku,Image URL\n7,https://a.example.com/1\n", columns=Columns(named={"url": "image ulr"}))
    with pytest.raises(ConfigError, match="Did you mean 'title'"):
        read("url,title\nhttps://a.example.com/1,7\n", columns=Columns(named={"name": "titel"}))


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("https://a.example.com/a.png, https://a.example.com/b.png", "more than one URL"),
        ("https://a.example.com/a.png\nhttps://a.example.com/b.png", "more than one URL"),
        ('=HYPERLINK("https://a.example.com/a.png")', "a formula"),
        ("https://a.example.com/a b.png", "%20"),
        ("https://a.example.com/download?…", "--resubmit"),
    ],
)
def test_the_reason_names_what_is_wrong_with_a_url(cell: str, reason: str) -> None:
    assert reason in rejected(json.dumps({"url": cell}))[0]


@pytest.mark.parametrize("cell", ["line\nbreak", "tab\there", "nul\x00", "next\x85line", "del\x7f"])
def test_a_line_break_in_a_cell_gets_into_no_name_and_no_folder(cell: str) -> None:
    """Alt+Enter in a spreadsheet's cell: a folder of that name would stay."""
    for option in ("name", "folderPath"):
        values = {"url": "https://a.example.com/1", "sku": cell}
        assert rejected(json.dumps(values), defaults={**SET, option: "x {sku}"}) == [
            f"the {option} has a line break or another control character: correct the cell"
        ]
        assert "control character" in rejected(json.dumps({"url": "https://a.example.com/1", option: f"x{cell}"}))[0]
    assert rejected(json.dumps(values)) == []
    assert body(read(json.dumps({"url": "https://a.example.com/1", "name": "end\n"}))[0])["name"] == "end"


def test_a_text_that_is_kept_as_a_formula_is_read_as_text() -> None:
    """`="00123"` is how shop systems keep a spreadsheet from cutting zeros off."""
    text = 'url,sku,brand\n"=""https://a.example.com/1""","=""00123""",="Müller ""&"" Co"\n'
    (row,) = read(text, defaults={**SET, "name": "{sku}", "folderPath": "/p/{brand}"})
    assert (body(row)["url"], body(row)["name"]) == ("https://a.example.com/1", "00123")
    assert orjson.loads(row.ref)["sku"] == "00123"
    assert read(text, key="sku")[0].row == "00123"


@pytest.mark.parametrize("cell", ["=SUM(A1)", "=A1", '=VERKETTEN(A1;".png")', "=$B$2&C2", "=Tabelle1!A2", "= A1 & B1"])
def test_a_formula_rejects_its_row_where_it_would_be_sent(cell: str) -> None:
    values = {"url": "https://a.example.com/1", "sku": cell}
    reason = "sku is a formula: copy the column and paste it as values"
    assert rejected(json.dumps(values), defaults={**SET, "name": "{sku}"}) == [reason]
    assert rejected(json.dumps(values), key="sku") == [reason]
    assert rejected(json.dumps(values)) == []


@pytest.mark.parametrize("cell", ["=", "=sale=", "=)", "== 2026 =="])
def test_an_equals_sign_makes_no_formula(cell: str) -> None:
    (row,) = read(json.dumps({"url": "https://a.example.com/1", "sku": cell}), defaults={**SET, "folderPath": "/{sku}"})
    assert body(row)["folderPath"] == f"/{cell}"


def test_a_url_within_a_note_of_a_rejected_row_is_not_imported() -> None:
    text = 'url;note\nftp://a.example.com/1;"see\nhttps://b.example.com/2.png\nend"\nhttps://a.example.com/3;ok\n'
    assert [body(row)["url"] for row in read(text)] == ["https://a.example.com/3"]
    assert len(rejected(text)) == 1


@pytest.mark.parametrize(
    ("url", "is_page"),
    [
        ("https://drive.google.com/file/d/1AbC/view?usp=sharing", True),
        ("https://drive.google.com/uc?export=download&id=1AbC", False),
        ("https://docs.google.com/document/d/1AbC/edit", True),
        ("https://docs.google.com/document/d/1AbC/export?format=pdf", False),
        ("https://docs.google.com/spreadsheets/d/1AbC/pub?output=csv", False),
        ("https://docs.google.com/presentation/d/1AbC/export/pdf", False),
        ("https://docs.google.com/uc?export=download&id=1AbC", False),
        ("https://www.dropbox.com/s/dl/1AbC/file.pdf", False),
        ("https://www.dropbox.com/s/abc/a.png?dl=0", True),
        ("https://www.dropbox.com/scl/fi/abc/a.png?rlkey=x&dl=1", False),
        ("https://acme.sharepoint.com/:i:/s/x/abc?e=1", True),
        ("https://acme.sharepoint.com/:i:/s/x/abc?e=1&download=1", False),
        ("https://onedrive.live.com/?id=1", True),
        ("https://onedrive.live.com/download?resid=1", False),
        ("https://acme.app.box.com/s/abc", True),
        ("https://acme.box.com/shared/static/abc.png", False),
        ("https://photos.app.goo.gl/abc", True),
        ("https://wetransfer.com/downloads/abc", True),
        ("https://cdn.example.com/dropbox.com/a.png", False),
    ],
)
def test_a_share_page_is_known_from_a_file_of_the_same_host(url: str, is_page: bool) -> None:
    assert is_share_page(url) == is_page


def test_a_table_whose_lines_are_each_in_quotes_is_named_as_such() -> None:
    text = '"url;sku"\n"https://a.example.com/1.png;7"\n'
    assert rejected(text) == ["the whole line is one quoted value: split the file into columns, and save it again"] * 2
    assert rejected('"Pictures"\n')[0].startswith("neither a URL")


def test_a_record_with_more_values_than_columns_or_with_their_names_is_rejected() -> None:
    reasons = rejected("url,name\nhttps://a.example.com/1,a,b\nurl,name\n")
    assert ["3 fields under a header of 2" in reasons[0], "a second header line" in reasons[1]] == [True, True]


def test_a_value_within_a_template_has_no_spaces_around_it_and_a_text_kept_as_a_formula_its_quotes() -> None:
    (row,) = read(
        'url,brand,name\nhttps://a.example.com/1, b ,"=""x""""y"""\n',
        defaults={"access": "PRIVATE", "folderPath": "/p/{brand}/q"},
    )
    assert (body(row)["folderPath"], body(row)["name"]) == ("/p/b/q", 'x"y')


def test_a_host_of_a_private_network_is_known_with_a_dot_at_its_end() -> None:
    assert "your own network" in rejected("https://nas.local./a.png\n")[0]
