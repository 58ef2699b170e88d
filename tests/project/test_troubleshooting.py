"""docs/troubleshooting.md quotes messages as the program writes them."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
PAGE = (HOUSE / "docs" / "troubleshooting.md").read_text("utf-8")
ROWS = [row.split(" | ") for row in re.findall(r"(?m)^\| (?!you see)(.+?) \|$", PAGE)]
QUOTED = [row[0].strip("`") for row in ROWS if re.fullmatch("`[^`]+`", row[0])]


@cache
def texts() -> str:
    """Return every text of the package, the values within it left out."""
    return "\n".join(text for file in (HOUSE / "poller").rglob("*.py") for text in _texts(file.read_text("utf-8")))


def _texts(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def is_written(message: str) -> bool:
    """Whether the package has these words in one text, with anything for each `…`."""
    parts = [re.escape(part.strip()) for part in re.split("…|‹.*?›", message)]
    return re.search("[^\n]*".join(parts), texts()) is not None


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    assert is_written(message)


def test_each_row_has_what_one_sees_why_and_what_to_do() -> None:
    assert len(ROWS) > 35
    assert [row for row in ROWS if len(row) != 3] == []


def test_a_message_that_the_program_does_not_write_is_found() -> None:
    assert not is_written("there is no sink … on this planet")
