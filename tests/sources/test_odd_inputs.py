"""Inputs as people have them: what becomes of each line of each, as `docs/input.md` lists it."""

import gzip
import io
import re
import zipfile
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import pytest

from poller.core.errors import InputError
from poller.core.model import Chunk, Position
from poller.sources import Content, Parser, ReadOptions
from poller.sources.files.open_file import BLOCK, open_file
from poller.sources.files.read import resumed_parser
from poller.sources.files.read_as import manner_of

ROOT = Path(__file__).parents[2]


def packed(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, "x" * 50)
    return data.getvalue()


@dataclass(frozen=True, kw_only=True)
class Odd:
    """An input and what becomes of it: its ids, a word of each rejected line's reason, or of the whole refusal."""

    name: str  # as in docs/input.md
    data: bytes
    ids: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    refused: str = ""
    id_column: str | None = None


ROWS = "task_id,url\nA1,https://x/1\nA2,https://x/2\n"
NO_COLUMN = "there is no column task_id or taskId or id"

ODD = (
    Odd(name="UTF-8 with a byte order mark", data=b"\xef\xbb\xbfA1\nA2\n", ids=("A1", "A2")),
    Odd(
        name="files joined, each with a byte order mark",
        data=b"\xef\xbb\xbf" + ROWS.encode() + b"\xef\xbb\xbf" + ROWS.replace("A", "B").encode(),
        ids=("A1", "A2", "B1", "B2"),
        rejected=("a second header line",),
    ),
    Odd(name="UTF-16, little-endian", data=b"\xff\xfe" + ROWS.encode("utf-16-le"), ids=("A1", "A2")),
    Odd(name="UTF-16, big-endian", data=b"\xfe\xff" + ROWS.encode("utf-16-be"), ids=("A1", "A2")),
    Odd(
        name="a JSON array in UTF-16",
        data=b"\xff\xfe" + '[\r\n  {"id": "A1", "n": "ü😀"},\r\n  "A2"\r\n]\r\n'.encode("utf-16-le"),
        ids=("A1", "A2"),
    ),
    Odd(name="UTF-16 without a mark", data=ROWS.encode("utf-16-le"), refused="encoded in UTF-16 without"),
    Odd(name="UTF-32", data="\ufeffA1\n".encode("utf-32-le"), refused="encoded in UTF-32"),
    Odd(name="Windows-1252 in another column", data="id,n\nA1,Müller\nA2,x\n".encode("cp1252"), ids=("A1", "A2")),
    Odd(name="Windows-1252 in the id", data="A1\nÄ2\nA3\n".encode("cp1252"), ids=("A1", "A3"), rejected=("not UTF-8",)),
    Odd(name="Windows line ends", data=b"A1\r\nA2\r\n", ids=("A1", "A2")),
    Odd(name="CR as the only line end", data=b"A1\rA2\r\rA3\r", ids=("A1", "A2", "A3")),
    Odd(name="a CSV with CR as the only line end", data=ROWS.replace("\n", "\r").encode(), ids=("A1", "A2")),
    Odd(name="no line break at the end", data=b"A1\nA2", ids=("A1", "A2")),
    Odd(name="a first line `sep=;`", data=b"sep=;\r\ntask_id;n\r\nA1;1,5\r\n", ids=("A1",)),
    Odd(
        name="a title line first",
        data=b"Imports of November\n\n" + ROWS.encode(),
        ids=("A1", "A2"),
        rejected=("the id holds ' '",),
    ),
    Odd(
        name="rows of delimiters alone, as Excel writes empty rows",
        data=b',,\r\ntask_id,n,m\r\nA1,1,2\r\n,,\r\n"","",""\r\n , ,\r\n',
        ids=("A1",),
    ),
    Odd(
        name="a title with empty columns, above the header",
        data=b"Imports of November,,\ntask_id,n,m\nA1,1,2\n",
        ids=("A1",),
        rejected=("the id holds ' '",),
    ),
    Odd(name="a CSV with pipes between its columns", data=b"url|task_id\nx|A1\ny|A2\n", ids=("A1", "A2")),
    Odd(
        name="a Markdown table",
        data=b"# Imports\n\n| Task ID | url |\n|:---|---|\n| A1 | x |\n",
        ids=("A1",),
        rejected=("the id holds ':'",),
    ),
    Odd(
        name="a table as psql prints it",
        data=b" task_id | url\n---------+-----\n A1      | x\n(1 row)\n",
        ids=("A1",),
        rejected=("neither a letter nor a digit", "the id holds '('"),
    ),
    Odd(
        name="a table as mysql prints it",
        data=b"+---------+\n| task_id |\n+---------+\n| A1      |\n+---------+\n",
        ids=("A1",),
        rejected=("neither a letter nor a digit",) + ("the line ends before the column",) * 2,
    ),
    Odd(name="a CSV without an id column", data=b"name,url\na,b\n", refused=f"{NO_COLUMN}. Columns found: 'name'"),
    Odd(
        name="a CSV without a header", data=b"A1,https://x/1\nA2,https://x/2\n", refused="its number where the file has"
    ),
    Odd(
        name="a CSV without a header, and the column's number",
        data=b"https://x/1;A1\nhttps://x/2;A2\n",
        id_column="2",
        ids=("A1", "A2"),
    ),
    Odd(
        name="a header, and the column's number",
        data=b"url,import task\nhttps://x/1,A1\n",
        id_column="2",
        ids=("A1",),
    ),
    Odd(name="another spelling of the column", data=b"TASKID\tn\nA1\t1\n", ids=("A1",)),
    Odd(name="a column `Task ID` or `task-id`", data=b"URL;Task ID\nx;A1\n", ids=("A1",)),
    Odd(name="a column `ID` beside one `Task ID`", data=b"ID,Task ID,url\n1,A1,x\n2,A2,y\n", ids=("A1", "A2")),
    Odd(
        name="a key `id` beside one `TaskID`",
        data=b'{"id": 1, "TaskID": "A1"}\n{"id": 2, "TaskID": "A2"}\n',
        ids=("A1", "A2"),
    ),
    Odd(
        name="a heading such as `import_task_id` or `ids` above the ids",
        data=b"import_task_id\nA1\nA2\n",
        ids=("A1", "A2"),
    ),
    Odd(name="a heading, and the column's number", data=b"nr;tasks\n1;A1\n", ids=("A1",), id_column="2"),
    Odd(
        name="a heading that could be an id, and the column's number",
        data=b"File;Vorgang\nx.png;AAAAEZ6whGI\ny.png;AAAAEvtCjQc\n",
        ids=("AAAAEZ6whGI", "AAAAEvtCjQc"),
        id_column="2",
    ),
    Odd(
        name="words in every column of the first line, but no digit in the next id, and the column's number",
        data=b"photo;abc\nphoto;abd\n",
        ids=("abc", "abd"),
        id_column="2",
    ),
    Odd(
        name="a line break in a column's name",
        data=b'"Task\nID",url\nA1,x\n"Task\nID",url\n"A2","y\nz"\n',
        ids=("A1", "A2"),
        rejected=("a second header line",),
    ),
    Odd(
        name="line breaks in names of other columns",
        data=b'task_id;"File\r\nname";"URL\r\n\r\n(old; ""x"")"\r\nA1;x;y\r\nA2;z;"u\r\nv"\r\n',
        ids=("A1", "A2"),
    ),
    Odd(
        name="quotes that are not closed, in lines one after another",
        data=b'task_id,name\nA1,"24 inch\nA2,"27 inch\nA3,x\n',
        ids=("A3",),
        rejected=("not closed", "not closed"),
    ),
    Odd(
        name="a first line with a quote that is not closed",
        data=b'"title\nA1\nA2\n',
        ids=("A1", "A2"),
        rejected=("'\"'",),
    ),
    Odd(
        name="two columns that may have the id",
        data=b"task_id,Task ID\nA1,A1\n",
        refused="the columns 'task_id' and 'Task ID' may both hold the task ids",
    ),
    Odd(
        name="a column `id` beside one such as `import_task_id`",
        data=b"id,import_task_id\n1,A1\n",
        refused="the columns 'id' and 'import_task_id' may both hold the task ids",
    ),
    Odd(
        name="two columns that may have the id, and the column's name",
        data=b"id,import_task_id\n1,A1\n",
        ids=("A1",),
        id_column="import_task_id",
    ),
    Odd(
        name="two columns of the name that `--id-column` gives",
        data=b"A,B,A\nA1,x,A2\n",
        refused="the columns 1 and 3 are both named 'A'",
        id_column="A",
    ),
    Odd(
        name="two keys that may have the id",
        data=b'{"task_id": "A1", "taskId": "A2"}\n{"task_id": "A3", "taskId": "A3"}\n',
        ids=("A3",),
        rejected=("the keys 'task_id' and 'taskId' hold different ids",),
    ),
    Odd(
        name="signs and unusual spaces in a column's name",
        data="\u00a0Task\u00a0ID\u200b:,url\nA1,x\n".encode(),
        ids=("A1",),
    ),
    Odd(name="another spelling of the key", data=b'{"TaskId":"A1"}\n{"TASK_ID":"A2","n":1}\n', ids=("A1", "A2")),
    Odd(name="another key", data=b'{"job":"A1","u":1}\n', rejected=("Keys found: 'job', 'u'",)),
    Odd(
        name="ids one level deeper in JSON, as in a page of an API's answer",
        data=b'{"results":[{"id":"A1"},{"id":"A2"}],"paging":{}}\n{"data":{"taskId":"A3"}}\n',
        rejected=("inside the key 'results': feed what jq -c '.results[]' prints", "what jq -c '.data' prints"),
    ),
    Odd(
        name="two exports joined, each with its header",
        data=ROWS.encode() + ROWS.replace("A", "B").encode(),
        ids=("A1", "A2", "B1", "B2"),
        rejected=("a second header line",),
    ),
    Odd(name="a header among ids", data=b"A1\ntask_id\nA2\n", ids=("A1", "A2"), rejected=("second header line",)),
    Odd(
        name="two exports joined, with other columns",
        data=ROWS.encode() + b"source,task_id,n\nhttps://x/3,A3,1\nx,A4,task\n" + ROWS.replace("A", "B").encode(),
        ids=("A1", "A2", "A3", "A4", "B1", "B2"),
        rejected=("of other columns: the lines after it are read under it",) * 2,
    ),
    Odd(
        name="two exports joined, the second with two columns that may have the id",
        data=ROWS.encode() + b"task_id,Task ID\nA3,B3\n" + ROWS.replace("A", "B").encode(),
        ids=("A1", "A2", "B1", "B2"),
        rejected=(
            "a second header line: the columns 'task_id' and 'Task ID' may both",
            "not clear",
            "are read under it",
        ),
    ),
    Odd(
        name="ids that a spreadsheet rounded",
        data=b"1.76E+14\n1,76E+14\n1.76e14\n3E+5\n17.0\nA1\n",
        ids=("A1",),
        rejected=("a spreadsheet rounded",) * 5,
    ),
    Odd(
        name="a rounded id in JSON", data=b'{"id":1.76E+14}\n{"id":1E30}\n', rejected=("a program rounded the id",) * 2
    ),
    Odd(
        name="words for a missing id",
        data=b"null\nNone\nNaN\nNA\nnil\nundefined\nTRUE\nA1\n",
        ids=("A1",),
        rejected=("a missing value",) * 7,
    ),
    Odd(
        name="lines of - = + . _ ~ alone",
        data=b"-\nA1\n=======\n",
        ids=("A1",),
        rejected=("neither a letter nor a digit",) * 2,
    ),
    Odd(name="`task_id=` before the id", data=b"task_id=A1\nA2=\n", ids=("A2=",), rejected=("write the id alone",)),
    Odd(name='ids as formulas, such as `="A1"`', data=b'task_id,n\n="A1",1\n"=""A2""",2\n', ids=("A1", "A2")),
    Odd(name="a missing id in JSON", data=b'{"id":null}\n{"id":"None"}\n', rejected=("a missing value",) * 2),
    Odd(name="a spreadsheet's errors", data=b"A1\n#N/A\n#REF!\n# mine\n", ids=("A1",), rejected=("'#'",) * 2),
    Odd(name="a JSON array on one line", data=b'["A1","A2",3]', ids=("A1", "A2", "3")),
    Odd(
        name="a JSON array over several lines",
        data=b'[\n  {\n    "id": "A1",\n    "n": [1, "]"]\n  },\n  {"id": "A2"},\n  {"n": 2}\n]\n',
        ids=("A1", "A2"),
        rejected=("there is no key",),
    ),
    Odd(name="an empty JSON array", data=b"[]\n"),
    Odd(name="a JSON array that is cut off", data=b'["A1","A2', ids=("A1",), rejected=("broken JSON",)),
    Odd(name="JSON objects with a comma after each", data=b'{"id":"A1"},\n"A2",\n', ids=("A1", "A2")),
    Odd(name="JSON arrays one after another", data=b'["A1"]\n["A2"]\n', ids=("A1", "A2")),
    Odd(name="JSON objects over several lines", data=b'{\n  "id": "A1"\n}\n{\n  "id": "A2"\n}\n', ids=("A1", "A2")),
    Odd(
        name="JSON objects without line breaks",
        data=b'{"id":"A1","n":"}{"}{"id":"A2"} {"id":"A3"}\n{"id":"A4"}{"n":5}',
        ids=("A1", "A2", "A3", "A4"),
        rejected=("there is no key",),
    ),
    Odd(
        name="JSON objects without line breaks, the first cut off",
        data=b'"A1"}{"id":"A2"}\n{"id":"A3"}\n',
        ids=("A3",),
        rejected=("broken JSON",),
    ),
    Odd(name="compressed by gzip", data=gzip.compress(b"A1\n"), refused="is compressed by gzip, not text. Unpack it"),
    Odd(name="an Excel workbook", data=packed("[Content_Types].xml", "xl/workbook.xml"), refused="an Excel workbook"),
    Odd(name="a zip archive", data=packed("ids.txt"), refused="a zip archive, not text. Unpack it"),
    Odd(name="an old Excel workbook", data=b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), refused="workbook (.xls)"),
    Odd(
        name="a web page",
        data=b"\n<!DOCTYPE html>\n<html>\n<script>\nfoo\n</script>\n</html>\n",
        refused="is a web page (HTML), not a list of ids",
    ),
    Odd(name="an XML document", data=b'<?xml version="1.0"?>\n<ids>\nA1\n</ids>\n', refused="is an XML document"),
    Odd(name="a document in RTF", data=b"{\\rtf1\\ansi\nA1\n}\n", refused="is a document in RTF"),
    Odd(
        name="several ids on one line",
        data=b"AAAAEKbjQ_I,AAAAEvtCjQc\nAAAAEU-h1hw\n",
        refused="If these are ids, write one a line",
    ),
    Odd(name="binary content", data=bytes(range(256)) * 3, refused="is binary, not text"),
    Odd(name="NULs in one line of text", data=b"A1\nA\0B\nA2\n", ids=("A1", "A2"), rejected=("NUL",)),
    Odd(name="NULs before the first line", data=bytes(9000) + b"A1\nA2\n", ids=("A1", "A2")),
    Odd(name="nothing but NULs", data=bytes(9000), rejected=("NUL",)),
    Odd(name="quotes and commas around ids", data=b"'A1',\nA2,\n\"A3\"\n", ids=("A3",), rejected=('"\'"', "','")),
    Odd(name="ids that a report quoted", data=b"\xef\xbb\xbftask_id,n\n'-id,1\n'=x,2\n", ids=("-id", "=x")),
    Odd(name="a status URL", data=b"https://api.hubapi.com/files/v3/async/tasks/A1/status\n", ids=("A1",)),
    Odd(name="URLs of files", data=b"https://x/a,b.png\nhttps://x/b.png\n", rejected=("a URL, but not",) * 2),
)


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("odd", ODD, ids=[odd.name for odd in ODD])
def test_each_line_of_an_odd_input_is_read_or_rejected_with_the_reason(odd: Odd, size: int) -> None:
    options = ReadOptions(accounts=frozenset({"main"}), default_account="main", id_column=odd.id_column)
    parser = Parser(options, "ids.txt")
    blocks = [odd.data[at : at + size] for at in range(0, len(odd.data), size)]
    if odd.refused:
        with pytest.raises(InputError, match=re.escape(odd.refused)) as error:
            _ = [[*parser.push(block)] for block in blocks] + [[*parser.end()]]
        assert "ids.txt" in str(error.value)
        return
    chunks = [chunk for block in blocks for chunk in parser.push(block)] + list(parser.end())
    assert tuple(fed.task_id for chunk in chunks for fed in chunk.fed) == odd.ids
    reasons = [rejection.reason for chunk in chunks for rejection in chunk.rejected]
    assert len(reasons) == len(odd.rejected)
    assert all(word in reason for word, reason in zip(odd.rejected, reasons, strict=True)), reasons
    assert chunks[-1].position.offset == len(odd.data)


def test_a_column_in_another_encoding_loses_only_its_own_letters() -> None:
    parser = Parser(ReadOptions(accounts=frozenset({"main"}), default_account="main"), "ids.txt")
    chunks = [*parser.push("id,n,u\nA1,Müller,x\n".encode("cp1252")), *parser.end()]
    assert [fed.ref for chunk in chunks for fed in chunk.fed] == ['{"n":"M\ufffdller","u":"x"}'.encode()]


def test_a_line_is_read_at_once_unless_the_next_one_decides_what_it_is() -> None:
    options = ReadOptions(accounts=frozenset({"main"}), default_account="main", id_column="2")

    def read(*parts: bytes) -> list[list[str]]:
        parser, read = Parser(options, "-"), []
        for part in parts:
            chunks = [*parser.push(part), *filter(None, [parser.flush()])]
            read.append([fed.task_id for chunk in chunks for fed in chunk.fed])
        return [*read, [fed.task_id for chunk in parser.end() for fed in chunk.fed]]

    assert read(b"x,A1\n", b"y,A2\n") == [["A1"], ["A2"], []]
    assert read(b"url,vorgang\n", b"\n", b"y,A2\n") == [[], [], ["A2"], []]
    assert read(b"url,vorgang\n") == [[], ["vorgang"]]
    assert read(b'"u\n', b'rl",Vor', b"gang\nx,A1\n") == [[], [], ["A1"], []]
    assert read(b'"u\n', b'rl",Vorgang\n', b"x,A1\n") == [[], [], ["A1"], []]


def test_a_quoted_field_may_be_as_long_as_a_line() -> None:
    """The `csv` module's own limit is 131,072 characters."""
    options = ReadOptions(accounts=frozenset({"main"}), default_account="main", max_line_bytes=2**20)
    parser = Parser(options, "ids.csv")
    chunks = [*parser.push(b'id,n\nA1,"%s"\n' % (b"x" * 200_000)), *parser.end()]
    assert [len(fed.ref or b"") for chunk in chunks for fed in chunk.fed] == [200_008]


def test_the_page_lists_exactly_these_inputs() -> None:
    rows = [line for line in (ROOT / "docs/input.md").read_text().splitlines() if line.startswith("| ")]
    listed = [row.split(" | ")[0].removeprefix("| ").strip() for row in rows]
    assert [name for name in listed if name not in ("input", "---")] == [odd.name for odd in ODD]


def test_an_element_that_is_an_array_is_rejected_where_the_caller_has_cut_the_text() -> None:
    parser = Parser(ReadOptions(accounts=frozenset({"main"}), default_account="main"), "the body", Content())
    chunks = [*parser.push(b'["A1"]\n"A2"\n'), *parser.end()]
    assert [fed.task_id for chunk in chunks for fed in chunk.fed] == ["A2"]


def test_a_file_in_utf_16_is_resumed_where_it_was_left_and_when_its_last_line_grew(tmp_path: Path) -> None:
    path = tmp_path / "ids.csv"
    text = "task_id,n\n" + "".join(f"A{number},😀\n" for number in range(5)) + "A5"
    rules = ReadOptions(accounts=frozenset({"main"}), default_account="main", chunk_lines=3)
    path.write_bytes(b"\xff\xfe" + text.encode("utf-16-le"))
    positions = [chunk.position for chunk in _chunks(Parser(rules, "ids.csv"), path.read_bytes())]
    path.write_bytes(b"\xff\xfe" + f"{text}6,x\nA7,y\n".encode("utf-16-le"))
    for position in positions:
        with open_file(str(path), 0) as file:
            parser, start = resumed_parser(file, position, rules, "ids.csv")
            rest = [fed.task_id for chunk in _chunks(parser, file.at(start.offset)) for fed in chunk.fed]
        first = start.line - 1  # the header is a line, too
        assert rest == [*(f"A{number}" for number in range(first, 5)), "A56", "A7"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le"])
def test_a_file_of_joined_exports_is_resumed_under_the_header_that_was_in_force(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "ids.csv"
    exports = [f"task_id,url\nA{n},https://x/id,\nA{n}x,u\nurl,id\nhttps://x/{n},B{n}\n" for n in range(400)]
    mark = "" if encoding == "utf-8" else "\ufeff"
    path.write_bytes((mark + "".join(exports)).encode(encoding))
    rules = ReadOptions(accounts=frozenset({"main"}), default_account="main", chunk_lines=101)
    chunks, positions = _noted(rules, path.read_bytes())
    ids = [fed.task_id for chunk in chunks for fed in chunk.fed]
    assert ids == [each for n in range(400) for each in (f"A{n}", f"A{n}x", f"B{n}")]
    for at in (1, 6, 7, 13):
        with open_file(str(path), 0) as file:
            parser, start = resumed_parser(file, positions[at], rules, "ids.csv")
            rest = [fed for chunk in _chunks(parser, file.at(start.offset, path.stat().st_size)) for fed in chunk.fed]
        assert rest == [fed for chunk in chunks[at + 1 :] for fed in chunk.fed]


def test_a_file_is_resumed_below_a_header_that_is_not_clear(tmp_path: Path) -> None:
    """Behind the first block, which is parsed; what follows it is not."""
    path = tmp_path / "ids.csv"
    begun = "task_id,url\nA1,x\n" + "\n" * (BLOCK + 1) + "url,task_id\nx,A2\ntask_id,Task ID\nA3,z\n"
    path.write_text(f"{begun}A4,z\nurl,task_id\nz,A5\n")
    rules = ReadOptions(accounts=frozenset({"main"}), default_account="main")
    _, positions = _noted(rules, begun.encode())
    with open_file(str(path), 0) as file:
        parser, start = resumed_parser(file, positions[-1], rules, "ids.csv")
        chunks = _chunks(parser, file.at(start.offset))
    assert [fed.task_id for chunk in chunks for fed in chunk.fed] == ["A5"]
    assert [each.reason[:35] for each in chunks[0].rejected] == [
        "below a header that is not clear: t",
        "a second header line, of other colu",
    ]


def _noted(rules: ReadOptions, data: bytes) -> tuple[list[Chunk], list[Position]]:
    """Return the chunks of a file, and the position after each as it is noted."""
    parser, chunks, positions = Parser(rules, "ids.csv"), [], []
    for chunk in chain(parser.push(data), parser.end()):
        chunks.append(chunk)
        positions.append(replace(chunk.position, digest=f" {manner_of(parser, rules)}"))
    return chunks, positions


def _chunks(parser: Parser, data: bytes) -> list[Chunk]:
    return [*parser.push(data), *parser.end()]
