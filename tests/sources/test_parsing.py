"""The promises of feeding: every line in exactly one place, whatever it holds and however its bytes arrive."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, MutableMapping
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from poller.core.errors import InputError
from poller.core.model import Added, Chunk, Fed, Rejection
from poller.core.protocols import Clock, Store
from poller.core.task_id import is_task_id, task_id_of
from poller.sources import ChunkWriter, Parser, ReadOptions, excerpt, feed
from poller.sources.files.open_file import check_readable
from poller.sources.imports import RowOptions
from poller.sources.options import Format
from poller.sources.parsing.content import Content, recognize
from poller.sources.parsing.parser import CSV_LINES
from poller.store import open_store

ID = "AAAAEZ6whGI"
BOM = b"\xef\xbb\xbf"
ACCOUNTS = frozenset({"main", "other"})


def options(**changes: Any) -> ReadOptions:
    return ReadOptions(**{"accounts": ACCOUNTS, "default_account": "main"} | changes)


def chunks_of(blocks: Iterable[bytes], rules: ReadOptions) -> Iterator[Chunk]:
    parser = Parser(rules, "ids")
    for block in blocks:
        yield from parser.push(block)
    yield from parser.end()


class Read:
    """What became of a whole input."""

    def __init__(self, *blocks: bytes, **changes: Any) -> None:
        self.chunks = list(chunks_of(blocks, options(**changes)))
        self.fed = [fed for chunk in self.chunks for fed in chunk.fed]
        self.rejected = [rejection for chunk in self.chunks for rejection in chunk.rejected]
        self.blank = sum(chunk.blank for chunk in self.chunks)
        self.position = self.chunks[-1].position
        self.ids = [fed.task_id for fed in self.fed]
        self.refs = [None if fed.ref is None else json.loads(fed.ref) for fed in self.fed]
        self.reasons = [rejection.reason for rejection in self.rejected]


def refusal(*blocks: bytes, **changes: Any) -> str | None:
    """Return why an input is refused as a whole; None where it is read."""
    try:
        Read(*blocks, **changes)
    except InputError as error:
        return str(error)
    return None


def refused(line: bytes, **changes: Any) -> str:
    """Return why this one line is rejected."""
    read = Read(line, **changes)
    assert (read.fed, len(read.rejected)) == ([], 1)
    return read.reasons[0]


# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [ID, "a", "-._~=+1", "A" * 256, "...a"])
def test_an_id_of_unreserved_characters_is_accepted(text: str) -> None:
    assert is_task_id(text)
    assert task_id_of(text) == text


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "A" * 257, "a/b", "../../oauth/v1", "%41", "a b", "a\r\nX: y", "a\n", "ä", "\ud800", "a\0", "a?b"],
)
def test_an_id_that_a_url_would_change_is_refused_with_a_reason(text: str) -> None:
    assert not is_task_id(text)
    with pytest.raises(ValueError, match="id"):
        task_id_of(text)


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_is_an_id_a_line_with_blank_lines_and_comments_skipped() -> None:
    read = Read(b"# mine\n\nA1\n  A2\t\n   \n #x\nA3\n")
    assert (read.ids, read.blank, read.rejected) == (["A1", "A2", "A3"], 4, [])
    assert read.fed[0] == Fed(account="main", task_id="A1", ref=None)


def test_byte_order_mark_crlf_and_a_missing_last_newline_are_fine() -> None:
    data = b"\xef\xbb\xbfA1\r\nA2\r\nA3"
    read = Read(data)
    assert (read.ids, read.rejected, read.position.offset, read.position.line) == (["A1", "A2", "A3"], [], len(data), 3)


@pytest.mark.parametrize(
    "url",
    [
        f"https://api-na1.hubspot.com/files/v3/files/import-from-url/async/tasks/{ID}/status",
        f"https://api.hubapi.com/files/2026-03/files/import-from-url/async/tasks/{ID}/status?a=b/c#d",
        f"https://api.hubapi.com/crm/v3/exports/export/async/tasks/{ID}/status",
        f"HTTPS://evil.example/tasks/{ID}/status/",
    ],
)
def test_a_status_url_is_reduced_to_its_id(url: str) -> None:
    assert Read(url.encode()).ids == [ID]
    assert Read(json.dumps({"id": url}).encode()).ids == [ID]


@pytest.mark.parametrize("url_id", [b"%41AAA", b"..", b"", b"a/b"])
def test_a_status_url_is_not_decoded_and_its_id_obeys_the_rule(url_id: bytes) -> None:
    assert refused(b"https://api.hubapi.com/files/v3/async/tasks/" + url_id + b"/status")


def test_another_url_is_rejected_as_such() -> None:
    assert "status" in refused(b"https://example.com/picture.png")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"A\0B", "NUL"),
        (b"A\xff", "UTF-8"),
        (b"a b", "' '"),
        (b"..", "path"),
        (b"x" * 300, "300"),
        (b"x" * 70_000, "70000 bytes"),
        ("idé".encode(), "xe9"),
    ],
)
def test_a_bad_line_is_rejected_with_number_and_reason_and_hurts_no_other(line: bytes, reason: str) -> None:
    read = Read(b"A1\n" + line + b"\nA2\n")
    assert read.ids == ["A1", "A2"]
    assert [rejection.line for rejection in read.rejected] == [2]
    assert reason in read.reasons[0]


def test_an_excerpt_has_no_password() -> None:
    """It is stored, and printed by `status --rejected`."""
    line = b'{"url": "https://me:s3cret@files.example/a.png", "mail": "me@example.com"}'
    assert excerpt(line) == '{"url": "https://***@files.example/a.png", "mail": "me@example.com"}'


def test_an_excerpt_is_short_and_printable() -> None:
    rejection: Rejection = Read(b"\x1b[31m " + "ä".encode() * 500).rejected[0]
    assert rejection.excerpt.isprintable()
    assert len(rejection.excerpt) == 120


def test_a_line_without_end_is_not_held_in_memory() -> None:
    parser = Parser(options(max_line_bytes=1000), "ids")
    for _ in range(1000):
        assert list(parser.push(b"x" * 10_000)) == []
        assert len(parser._splitter._held) <= 1000
    [chunk] = [*parser.push(b"\nA1\n"), *parser.end()]
    assert [fed.task_id for fed in chunk.fed] == ["A1"]
    assert "10000000 bytes" in chunk.rejected[0].reason


# --- JSON lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "task_id", "ref"),
    [
        ('{"task_id":"A","taskId":"A","id":7}', "A", {"taskId": "A", "id": 7}),
        ('{"id":"C","taskId":"B"}', "B", {"id": "C"}),
        ('{"id":"C"}', "C", None),
        ('{"id":12345678901234567890123456789}', "12345678901234567890123456789", None),
        ('{"id":42,"a":[]}', "42", {"a": []}),
        (
            f'{{"id":"{ID}","links":{{"status":"https://x.example/s"}}}}',
            ID,
            {"links": {"status": "https://x.example/s"}},
        ),
        ('"D"', "D", None),
        (f'"https://h.example/async/tasks/{ID}/status"', ID, None),
    ],
)
def test_json_gives_its_id_by_priority_and_the_rest_as_ref(line: str, task_id: str, ref: object) -> None:
    read = Read(line.encode())
    assert (read.ids, read.refs) == ([task_id], [ref])


def test_the_values_of_a_ref_are_untouched() -> None:
    line = (
        b'{"big":123456789012345678901234567890, "n":1.10, "e":1E30, "deep":{"k":[1, "\\u00e4"]}, "id":"A", "z":null}'
    )
    assert Read(line).fed[0].ref == (
        b'{"big":123456789012345678901234567890,"n":1.10,"e":1E30,"deep":{"k":[1, "\\u00e4"]},"z":null}'
    )


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":1.5}',
        b'{"id":true}',
        b'{"id":-3}',
        b'{"id":null}',
        b'{"id":""}',
        b'{"id":["A"]}',
        b'{"task_id":null,"id":"A"}',
        b'{"url":"x"}',
        b'{"id":"A"',
        b'{"id":"A"} trailing',
        b'{"id":"A","x":NaN}',
        b'{"id":"A","x":"\\ud800"}',
        b"{}",
        b'"A',
        b"[" * 5000,
        b'{"id":"A","x":' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_json_without_a_usable_id_or_that_cannot_be_passed_on_is_rejected(line: bytes) -> None:
    assert refused(line)


def test_a_ref_holds_no_line_break() -> None:
    ref = Read(b'{"id":"A","x":[1,\r2]}').fed[0].ref
    assert ref == b'{"x":[1, 2]}'


@pytest.mark.parametrize(
    ("named", "account"), [('"other"', "other"), ('" main "', "main"), ('""', "main"), ("null", "main")]
)
def test_a_json_line_may_name_its_account(named: str, account: str) -> None:
    read = Read(f'{{"id":"A","account":{named},"x":1}}'.encode())
    assert (read.fed[0].account, read.refs) == (account, [{"x": 1}])


def test_an_unknown_account_is_rejected_naming_the_known_ones() -> None:
    assert "main, other" in refused(b'{"id":"A","account":"mian"}')
    assert "string" in refused(b'{"id":"A","account":7}')


def test_the_id_column_setting_names_the_json_key() -> None:
    read = Read(b'{"job":"A","id":"B"}\n{"id":"C"}\n', id_column="job")
    assert (read.ids, read.refs) == (["A"], [{"id": "B"}])
    assert "job" in read.reasons[0]


def test_json_and_text_may_alternate_where_the_format_is_detected() -> None:
    assert Read(b'A1\n{"id":"A2"}\n"A3"\n#c\nA4').ids == ["A1", "A2", "A3", "A4"]


def test_a_demanded_format_is_strict() -> None:
    assert "JSON" in refused(b"A1", format="jsonl")
    assert refused(b'{"id":"A1"}', format="text")
    assert Read(b"task_id,url\n", format="text").ids == []
    assert Read(b'{"id":"A"}\n12\n', format="jsonl").ids == ["A", "12"]


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [b"", b"import task,title | of the file | page\n"])
def test_a_column_that_is_given_by_number_ends_at_the_delimiter_though_a_title_has_more_of_another(
    header: bytes,
) -> None:
    read = Read(header + b"A1,One | two | three\nA2,Four; five; six\n", id_column="1")
    assert (read.ids, read.reasons, read.blank) == (["A1", "A2"], [], int(bool(header)))
    assert Read(header.replace(b",", b"|") + b"A1|x\nA2|y\n", id_column="1").ids == ["A1", "A2"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_is_detected_by_its_header_whatever_the_delimiter(delimiter: str) -> None:
    rows = [["url", "task_id", "note"], ["https://x.example/1", "A1", ""], ["u", "A2", "n"]]
    read = Read("\r\n".join(delimiter.join(row) for row in rows).encode())
    assert (read.ids, read.blank) == (["A1", "A2"], 1)
    assert read.refs == [{"url": "https://x.example/1", "note": ""}, {"url": "u", "note": "n"}]


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("id,task_id", "B"),
        ("id,taskId", "B"),
        ("x,ID", "B"),
        ("TASK_ID,id", "A"),
        ("Id,TASK ID", "B"),
        ("Task-ID,x", "A"),
    ],
)
def test_the_id_column_is_task_id_in_any_spelling_before_id_in_any(header: str, value: str) -> None:
    """`id` is mostly the number of a person's own row."""
    assert Read(f"{header}\nA,B\n".encode()).ids == [value]


@pytest.mark.parametrize("header", ["ID,id", "task_id,Task ID", "id,hubspot_task_id", "id,taskIds", "taskId,taskId"])
def test_where_several_columns_may_have_the_id_none_is_guessed(header: str) -> None:
    with pytest.raises(InputError, match="--id-column"):
        Read(f"{header}\nA,B\n".encode())
    assert Read(f"{header}\nA,B\n".encode(), id_column="2").ids == ["B"]


def test_a_csv_of_ids_alone_has_no_ref() -> None:
    read = Read(b"\xef\xbb\xbf# export\n\ntask_id\nA1\n\nA2\n")
    assert (read.ids, read.refs, read.blank) == (["A1", "A2"], [None, None], 4)


def test_the_id_column_setting_names_the_csv_column() -> None:
    read = Read(b"id,Import Task\n7,A1\n", id_column="Import Task")
    assert (read.ids, read.refs) == (["A1"], [{"id": "7"}])


def test_a_csv_line_may_name_its_account() -> None:
    read = Read(b"id,account,u\nA,other,1\nB,,2\nC,unknown,3\nD\n")
    assert [(fed.task_id, fed.account) for fed in read.fed] == [("A", "other"), ("B", "main"), ("D", "main")]
    assert read.refs == [{"u": "1"}, {"u": "2"}, None]
    assert "main, other" in read.reasons[0]


def test_too_many_fields_are_rejected_unless_empty_and_missing_ones_left_out() -> None:
    read = Read(b"id,u,v\nA,1,2,3\nB,1,2,,\nC,1\n,1,2\n")
    assert (read.ids, read.refs) == (["B", "C"], [{"u": "1", "v": "2"}, {"u": "1"}])
    assert [rejection.line for rejection in read.rejected] == [2, 5]
    assert "4 fields" in read.reasons[0]


def test_nameless_and_repeated_columns_keep_their_values() -> None:
    assert Read(b"id,u,u,\nA,1,2,3\n").refs == [{"u": "1", "u_3": "2", "column_4": "3"}]


def test_a_demanded_csv_without_an_id_column_names_the_columns_found_and_the_remedy() -> None:
    with pytest.raises(InputError, match=r"ids.*'name', 'url'.*--id-column"):
        Read(b"name;url\nx;y\n", format="csv")


def test_a_csv_of_urls_is_refused_with_the_command_that_reads_it() -> None:
    message = (
        "--id-column: its name, or its number where the file has no header. A file of URLs is for `poller import`, and "
        "for `poller plan --imports`. The first line: url brand sku"
    )
    with pytest.raises(InputError) as refused:
        Read(b"url\tbrand\tsku\nhttps://a.example/1.png\ta\t1\n")
    assert str(refused.value).endswith(message)


def test_a_quoted_value_may_run_over_lines_and_counts_as_one() -> None:
    read = Read(b'id,note,u\nA,"one, ""two""\r\n\r\nthree",x\nB,n,y\nC D,,\n')
    assert (read.ids, read.blank) == (["A", "B"], 1)
    assert read.refs[0] == {"note": 'one, "two"\r\n\r\nthree', "u": "x"}
    assert [rejection.line for rejection in read.rejected] == [6]


def test_a_rejected_record_that_runs_over_lines_is_one_line_and_none_within_it_is_an_id() -> None:
    """A note may begin a line with a word, which would be an id and end as `not_found`."""
    read = Read(b'id,note\nno id,"first\nsecond\nthird"\nA,"x\ny"\n')
    assert read.ids == ["A"]
    assert [rejection.line for rejection in read.rejected] == [2]


def test_a_quote_never_closed_costs_only_its_own_line() -> None:
    rows = b"".join(b"A%d,n\n" % number for number in range(50))
    read = Read(b'id,note\nX,"broken\n' + rows + b'Y,"torn')
    assert len(read.ids) == 50
    assert [rejection.line for rejection in read.rejected] == [2, 53]


def test_a_broken_quote_does_not_swallow_good_lines_up_to_the_next_quote() -> None:
    read = Read(b'id,note\nX,"broken\nA,1\nY,broken"\nB,"2"\n')
    assert read.ids == ["A", "Y", "B"]
    assert [rejection.line for rejection in read.rejected] == [2]


@pytest.mark.parametrize("cell", ['"n', '"n"n', '"n, m'])
def test_two_lines_that_each_begin_a_quote_are_not_one_record(cell: str) -> None:
    """The second's id would be a piece of the first's note, and never be polled."""
    rows = "".join(f"A{number},{cell}\n" for number in range(6))
    read = Read(f"id,note\n{rows}".encode())
    assert len(read.ids) + len(read.rejected) == 6
    assert all("A" not in ref["note"] for ref in read.refs if ref)


def test_a_value_over_lines_may_have_spaces_behind_its_quote_and_quotes_within_other_values() -> None:
    read = Read(b'id,note,u\nA,"one\ntwo" ,24"\nB,"x\ny", "z\n')
    assert read.ids == ["A", "B"]
    assert [ref and ref["u"] for ref in read.refs] == ['24"', ' "z']


def test_a_joined_record_that_does_not_fit_the_header_costs_only_its_first_line() -> None:
    read = Read(b'id,note\nX,"a\nb",c,d\nA,1\n')
    assert read.ids == ["A"]
    assert [rejection.line for rejection in read.rejected] == [2, 3]


def test_a_record_over_lines_is_bounded_by_the_longest_line() -> None:
    read = Read(b'id,note\nX,"' + b"text text\n" * 50 + b'"\nA,1\n', max_line_bytes=200)
    assert read.ids == ["A"]
    assert len(read.fed) + len(read.rejected) + read.blank == read.position.line


# --- laws ------------------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"\r",
        b",",
        b'"',
        b'""',
        b"A1",
        b"id",
        b"task_id,note\n",
        b'{"id":"A","x":1}',
        b"#",
        b"\0",
        b"\xff",
    ]
) | st.sampled_from(
    [
        b" ",
        b"{",
        b'["A1",\n"B2", ',
        b'[{"id":"A"},',
        b'"C3",',
        b'"D"]',
        b"x" * 40,
        b'A,"two\nlines"\n',
        b"https://h/tasks/A/status",
        "ü".encode(),
        b"\xef\xbb\xbf",
    ]
)
ANY_BYTES = st.lists(PIECES | st.binary(max_size=6), max_size=40).map(b"".join)


def most_lines_rejected_whole(read: Read) -> int:
    """Return how many lines may be within a rejected record that began at a line above: where its first one leaves a
    quote open, those up to the next rejected one."""
    at = [*(rejection.line for rejection in read.rejected), read.position.line + 1]
    is_open = [rejection.excerpt.count('"') % 2 == 1 for rejection in read.rejected]
    return sum(end - first - 1 for first, end, goes_on in zip(at, at[1:], is_open, strict=False) if goes_on)


@example(data=b'task_id,note\n{A,"two\nlines"\n', cuts=[], form="auto")  # a record that is rejected whole
@given(data=ANY_BYTES, cuts=st.lists(st.integers(0, 400), max_size=8), form=st.sampled_from(["auto", "text", "jsonl"]))
def test_any_bytes_cut_anywhere_are_read_alike_and_every_line_is_in_one_place(
    data: bytes, cuts: list[int], form: Format
) -> None:
    rules = {"format": form, "chunk_lines": 3, "max_line_bytes": 60}
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(bounds)]
    if reason := refusal(data, **rules):
        assert refusal(*pieces, **rules) == reason
        return
    whole = Read(data, **rules)
    cut = Read(*pieces, **rules)
    joined = sum((fed.ref or b"").count(b"\\n") for fed in whole.fed)
    assert (cut.fed, cut.rejected, cut.blank, cut.position) == (whole.fed, whole.rejected, whole.blank, whole.position)
    placed = len(whole.fed) + len(whole.rejected) + whole.blank + joined
    assert placed + most_lines_rejected_whole(whole) >= whole.position.line
    assert (whole.position.offset, whole.position.ended) == (len(data), True)
    assert all(is_task_id(task_id) for task_id in whole.ids)


def test_csv_is_read_in_short_chunks_for_its_lines_may_cost_ten_times_those_of_ids() -> None:
    """A file whose quotes were never closed held polls and probes up for half a second a chunk."""
    table = b"task_id,note\n" + b"".join(b'AAAA%05d,"inch\n' % number for number in range(CSV_LINES + 500))
    ends = [0, *(chunk.position.line for chunk in Read(table, b"AAAA99999,last\n").chunks)]
    assert max(end - begin for begin, end in pairwise(ends)) <= CSV_LINES
    assert ends[-1] == CSV_LINES + 502
    ids = b"".join(b"AAAA%05d\n" % number for number in range(3 * CSV_LINES))
    assert [len(chunk.fed) for chunk in Read(ids).chunks] == [CSV_LINES, 2 * CSV_LINES]


@given(data=ANY_BYTES.map(lambda data: data.replace(b'"', b"")))
def test_without_quotes_lines_are_fed_rejected_or_blank(data: bytes) -> None:
    assume(refusal(data) is None)
    read = Read(data, chunk_lines=2)
    assert len(read.fed) + len(read.rejected) + read.blank == read.position.line
    if data[:1] != b"\0" and recognize(data, "auto", "ids") in (Content(), Content(mark_bytes=3)):
        assert read.position.line == data.count(b"\n") + (not data.endswith(b"\n") and data not in (b"", BOM))


@given(data=ANY_BYTES, chunk_lines=st.integers(1, 5), chunk_bytes=st.sampled_from([1, 40, 4000]))
def test_a_parser_that_begins_after_any_chunk_reads_what_the_first_would_have(
    data: bytes, chunk_lines: int, chunk_bytes: int
) -> None:
    rules = options(chunk_lines=chunk_lines, chunk_bytes=chunk_bytes)
    assume(refusal(data) is None)
    first, chunks, headers = Parser(rules, "ids"), [], []
    for chunk in (chunk for more in (first.push(data), first.end()) for chunk in more):
        chunks.append(chunk)
        headers.append({(at, size): data[at : at + size] for at, size in first.headers})
    for at, chunk in enumerate(chunks[:-1]):
        offset = chunk.position.offset
        content = recognize(data.lstrip(b"\0")[:4096], rules.format, "ids")
        before, last = iter([data[:offset]]), data[:offset][-2:]
        second = Parser.resumed(rules, "ids", chunk.position, content, before, last, headers[at])
        again = [*second.push(data[offset:]), *second.end()]
        assert everything(again) == everything(chunks[at + 1 :])


@pytest.mark.parametrize("block", [1 << 18, 1 << 12, 1 << 20])
@pytest.mark.parametrize("rows", [RowOptions(defaults={"access": "PRIVATE", "folderPath": "/p"}), None])
def test_a_chunk_of_long_lines_ends_by_its_bytes_at_the_same_line_whatever_the_blocks(
    block: int, rows: RowOptions | None
) -> None:
    """So that it fits into memory, and is the same after a restart."""
    line = b'{"task_id":"A%05d","url":"https://e.example.com/a.png","note":"' + b"x" * 8_000 + b'"}\n'
    data = b"".join(line % number for number in range(600))
    chunks = list(chunks_of((data[at : at + block] for at in range(0, len(data), block)), options(rows=rows)))
    ends = [chunk.position.line for chunk in chunks]
    assert ends == [520, 600]
    assert sum(len(chunk.rows or chunk.fed) for chunk in chunks) == 600
    assert chunks[0].position.offset == 520 * len(line % 0)
    assert 520 * len(line % 0) >= 4 * 2**20 > 519 * len(line % 0)


def everything(chunks: Iterable[Chunk]) -> tuple[list[Fed], list[Rejection], int]:
    chunks = list(chunks)
    return (
        [fed for chunk in chunks for fed in chunk.fed],
        [rejection for chunk in chunks for rejection in chunk.rejected],
        sum(chunk.blank for chunk in chunks),
    )


HOSTILE = [
    b"../../oauth/v1/access-tokens",
    b"%41",
    b"A\0B",
    b"\xff\xfe",
    b'{"id":',
    b"[[[[[[",
    b'{"id":{}}',
    b"x" * 66_000,
    b"https://evil.example/",
    "id\N{RIGHT-TO-LEFT OVERRIDE}".encode(),
]


def test_a_thousand_hostile_lines_among_ten_thousand_good_ones_cost_none_of_them(rng: Random) -> None:
    lines = [b"A%d" % number for number in range(10_000)] + [rng.choice(HOSTILE) for _ in range(1000)]
    rng.shuffle(lines)
    read = Read(b"\n".join(lines))
    assert (len(set(read.ids)), len(read.rejected), read.blank) == (10_000, 1000, 0)


def test_hostile_lines_in_a_csv_cost_no_good_one(rng: Random) -> None:
    hostile = [*HOSTILE, b'"', b'X,"', b'X","y', b",", b"a,b,c,d", b'"""', b'X,"un\xffclosed']
    lines = [b"A%d,n" % number for number in range(5000)] + [rng.choice(hostile) for _ in range(500)]
    rng.shuffle(lines)
    read = Read(b"id,note\n" + b"\n".join(lines))
    assert {task_id for task_id in read.ids if task_id.startswith("A")} == {f"A{number}" for number in range(5000)}


# --- feeding into the store ------------------------------------------------------------------------------------------


@pytest.fixture
async def store(clock: Clock) -> AsyncIterator[Store]:
    opened = await open_store("sqlite:///:memory:", clock=clock)
    yield opened
    await opened.close()


@pytest.fixture
def ids(tmp_path: Path) -> Path:
    return tmp_path / "ids.txt"


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def feed_all(spec: Path | str, store: Store, *, stdin: int = 0, **changes: Any) -> Added:
    """Feed a source; return the sums of what was added."""
    added: list[Added] = []
    await feed(str(spec), ChunkWriter(store, lambda _, done: added.append(done)), options(**changes), stdin=stdin)
    return Added(tasks=sum(one.tasks for one in added), duplicates=sum(one.duplicates for one in added))


async def source_sums(store: Store) -> list[tuple[int, int, int, int, int, bool]]:
    return [(s.lines, s.tasks, s.duplicates, s.rejected, s.blank, s.ended) for s in (await store.sums()).sources]


async def test_a_file_is_fed_to_its_end_and_its_sums_balance(store: Store, ids: Path) -> None:
    write(ids, b"# mine\nA1\nA2\nA1\nb d\nA3")
    assert await feed_all(ids, store, chunk_lines=2) == Added(tasks=3, duplicates=1)
    assert await source_sums(store) == [(6, 3, 1, 1, 1, True)]
    [(name, rejection)] = await store.rejections()
    assert (name, rejection.line) == (str(ids), 5)


async def test_a_file_that_was_read_is_not_read_again(store: Store, ids: Path) -> None:
    write(ids, b"A1\nA2\n")
    await feed_all(ids, store)
    assert await feed_all(ids, store) == Added(tasks=0, duplicates=0)
    assert await source_sums(store) == [(2, 2, 0, 0, 0, True)]


async def test_a_feed_that_was_killed_resumes_where_it_stopped(store: Store, ids: Path) -> None:
    write(ids, b"u,task_id\n" + b"".join(b"%d,A%d\n" % (n, n) for n in range(1000)))

    def die(chunk: Chunk, _added: Added) -> None:
        if chunk.position.line >= 500:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await feed(str(ids), ChunkWriter(store, die), options(chunk_lines=100))
    assert await feed_all(ids, store, chunk_lines=100) == Added(tasks=501, duplicates=0)
    assert await source_sums(store) == [(1001, 1000, 0, 0, 1, True)]
    tasks = await store.claim("main", 1000)
    assert [(task.task_id, task.ref) for task in tasks][-1] == ("A999", b'{"u":"999"}')


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("element", [lambda n: f"A{n}", lambda n: 10_000 + n, lambda n: {"task_id": f"A{n}", "n": [n]}])
async def test_a_feed_of_a_json_array_that_was_killed_resumes_within_it(
    store: Store, ids: Path, element: Callable[[int], Any], indent: int | None, encoding: str
) -> None:
    """All elements behind the kill were one line of broken JSON, or the second of them was."""
    write(ids, json.dumps([element(n) for n in range(1000)], indent=indent).encode(encoding))

    def die(_chunk: Chunk, _added: Added) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await feed(str(ids), ChunkWriter(store, die), options(chunk_lines=400))
    assert await feed_all(ids, store, chunk_lines=400) == Added(tasks=600, duplicates=0)
    assert await source_sums(store) == [(1000, 1000, 0, 0, 0, True)]


async def test_a_file_that_grew_is_read_on(store: Store, ids: Path) -> None:
    write(ids, b"task_id;n\nA1;1\n")
    await feed_all(ids, store)
    write(ids, b"task_id;n\nA1;1\nA2;2\nb d;3\n")
    assert await feed_all(ids, store) == Added(tasks=1, duplicates=0)
    assert await source_sums(store) == [(4, 2, 0, 1, 1, True)]
    assert [rejection.line for _, rejection in await store.rejections()] == [4]


async def test_a_last_line_that_only_got_its_line_break_is_not_read_again(store: Store, ids: Path) -> None:
    for content in (b"A1\nA2", b"A1\nA2\r\n", b"A1\nA2\r\nA3\n"):
        write(ids, content)
        await feed_all(ids, store)
    assert await source_sums(store) == [(3, 3, 0, 0, 0, True)]


def test_a_record_of_a_tab_separated_file_with_a_quote_too_many_is_rejected_at_once() -> None:
    """Blanks behind a closing quote could be tabs, too: each empty cell doubled the time, and 40 of them took years."""
    gaps = 24
    names = "\t".join(["id", *(f"c{number}" for number in range(2 * gaps)), "note"])
    row = "\t".join(["AAAAE1", *['"a"', ""] * gaps, '"one\ntwo" three "four'])
    began_at = time.process_time()
    read = Read(f"{names}\n{row}\nAAAAE2{chr(9) * (2 * gaps + 1)}\n".encode())
    assert time.process_time() - began_at < 2
    assert read.ids == ["AAAAE2"]
    assert read.reasons[0] == "a quoted value is not closed before the next quote, which begins another one"


async def test_a_last_line_that_grew_is_read_again_as_a_whole(
    store: Store, ids: Path, events: list[MutableMapping[str, Any]]
) -> None:
    write(ids, b"A1\nA2")
    await feed_all(ids, store)
    write(ids, b"A1\nA2345\nb d\n")
    await feed_all(ids, store)
    assert [task.task_id for task in await store.claim("main", 9)] == ["A1", "A2", "A2345"]
    assert [rejection.line for _, rejection in await store.rejections()] == [3]
    assert "source.line_grew" in [event["event"] for event in events]


@pytest.mark.parametrize("content", [b"B1\nB2\n", b"A1\n", b"A1\nX2\nA3\nA4\n"])
async def test_a_file_that_changed_is_a_new_source(store: Store, ids: Path, content: bytes) -> None:
    write(ids, b"A1\nA2\nA3\n")
    await feed_all(ids, store)
    write(ids, content)
    await feed_all(ids, store)
    assert [sums[0] for sums in await source_sums(store)] == [3, content.count(b"\n")]


async def test_an_empty_file_ends_and_may_grow(store: Store, ids: Path) -> None:
    write(ids, b"")
    await feed_all(ids, store)
    assert await source_sums(store) == [(0, 0, 0, 0, 0, True)]
    write(ids, b"A1\n")
    assert await feed_all(ids, store) == Added(tasks=1, duplicates=0)
    assert await source_sums(store) == [(1, 1, 0, 0, 0, True)]


async def test_lines_on_standard_input_are_handed_on_while_it_is_open(store: Store) -> None:
    reading, writing = os.pipe()
    seen: list[int] = []
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as writer:

        def on_chunk(chunk: Chunk, _added: Added) -> None:
            seen.append(len(chunk.fed))
            if len(seen) == 1:
                writer.write(b"A4\nA5")
            elif len(seen) == 2:
                writer.close()

        writer.write(b"A1\nA2\nA3\nA")
        await feed("-", ChunkWriter(store, on_chunk), options(), stdin=reading)
        assert os.get_blocking(reading)
    assert seen == [3, 1, 1]
    assert [task.task_id for task in await store.claim("main", 9)] == ["A1", "A2", "A3", "AA4", "A5"]


async def test_standard_input_is_a_new_source_each_time(store: Store, ids: Path) -> None:
    write(ids, b"A1\nA2\n")
    for _ in range(2):
        with ids.open("rb") as file:
            await feed_all("-", store, stdin=file.fileno())
    assert await source_sums(store) == [(2, 2, 0, 0, 0, True), (2, 0, 2, 0, 0, True)]


async def test_waiting_for_standard_input_blocks_nothing_and_can_be_canceled(store: Store) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await feed_all("-", store, stdin=reading)
        assert not asyncio.get_running_loop().remove_reader(reading)


async def test_dev_null_and_a_named_pipe_are_read_to_their_end(store: Store, tmp_path: Path) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    await feed_all("-", store, stdin=null)
    os.close(null)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    async with asyncio.TaskGroup() as group:
        fed = group.create_task(feed_all(pipe, store))
        await asyncio.sleep(1)
        with pipe.open("wb") as writer:
            writer.write(b"A1\n")
    assert fed.result() == Added(tasks=1, duplicates=0)
    assert [sums[-1] for sums in await source_sums(store)] == [True, True]


def test_every_file_is_checked_before_anything_is_read(tmp_path: Path, ids: Path) -> None:
    ids.touch()
    check_readable([str(ids), "-"])
    with pytest.raises(InputError) as error:
        check_readable([str(ids), str(tmp_path / "absent"), str(tmp_path)])
    assert f"{tmp_path / 'absent'}: there is no such file; {tmp_path} is a folder" in str(error.value)


async def test_what_cannot_be_opened_or_read_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        await feed_all(tmp_path / "absent", store)
    with pytest.raises(InputError, match="folder"):
        await feed_all(tmp_path, store)
    with pytest.raises(InputError, match="standard input"):
        await feed_all("-", store, stdin=999)


async def test_rejected_lines_are_logged_singly_then_folded_and_never_with_their_content(
    store: Store, ids: Path, events: list[MutableMapping[str, Any]]
) -> None:
    write(ids, b"se cret\n" * 2530 + b"A1\n")
    await feed_all(ids, store)
    names = [event["event"] for event in events]
    folded = [(e["count"], e["first_line"], e["last_line"]) for e in events if e["event"] == "source.lines_rejected"]
    assert names.count("source.line_rejected") == 20
    assert folded == [(1000, 21, 1020), (1000, 1021, 2020), (510, 2021, 2530)]
    assert (names[0], names[-1], events[-1]["lines"]) == ("source.opened", "source.ended", 2531)
    assert "cret" not in repr(events)


async def test_another_ref_under_a_known_id_is_counted_in_one_warning(
    store: Store, ids: Path, events: list[MutableMapping[str, Any]]
) -> None:
    write(ids, b"task_id,url\nA1,one\nA2,two\nA1,three\nA2,two\nA1,four\n")
    assert await feed_all(ids, store, chunk_lines=4) == Added(tasks=2, duplicates=3)
    assert [event["count"] for event in events if event["event"] == "source.refs_differed"] == [2]
    assert [task.ref for task in await store.claim("main", 9)] == [b'{"url":"one"}', b'{"url":"two"}']


async def test_share_pages_among_rows_to_import_are_warned_of_without_their_query(
    store: Store, tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    """HubSpot would store the page, and the row would count as landed."""
    write(
        tmp_path / "urls.txt",
        b"https://a.example.com/1.png\n" + b"https://www.dropbox.com/s/abc/1.png?rlkey=hidden&dl=0\n" * 5,
    )
    rows = RowOptions(defaults={"access": "PRIVATE", "folderPath": "/p"})
    await feed_all(tmp_path / "urls.txt", store, rows=rows)
    (warned,) = [event for event in events if event["event"] == "source.share_pages_found"]
    assert (warned["count"], warned["samples"]) == (5, ["https://www.dropbox.com/s/abc/1.png"] * 3)
