"""Lets a database drop tasks and rows whose text cannot match a search, so that few have to be parsed. Pure.

What was fed with an id is JSON. Its text may differ from its bytes, by escapes and by case outside of ASCII; such rows
are parsed in any case.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

OF_NO_STRING = frozenset("0123456789.,:+-[]{} truefalsn")


class RowText(NamedTuple):
    """How a database searches JSON in a column of bytes, as SQL."""

    may_hide: str  # the text of `{ref}` may differ from its JSON
    contains: str  # the JSON of `{ref}`, or the id `{id}`, contains the text `?`, in any case
    first_attempt: str  # of `i.row`, an identity such as ROW~3
    attempt: str  # of the same, from 1


SQLITE = RowText(
    may_hide="instr({ref}, X'5C') OR length(CAST({ref} AS text)) <> length({ref})",
    contains="instr(lower(CAST({ref} AS text) || {id}), ?)",
    first_attempt="substr(i.row, 1, instr(i.row || '~', '~') - 1)",
    attempt="max(1, CAST(substr(i.row, instr(i.row || '~', '~') + 1) AS INTEGER))",
)
POSTGRES = RowText(  # `escape` leaves ASCII: a backslash for what is not
    may_hide=r"position('\' IN encode({ref}, 'escape')) > 0",
    contains="position(? IN lower((encode({ref}, 'escape') || {id}) COLLATE \"C\")) > 0",
    first_attempt="split_part(i.row, '~', 1)",
    attempt="greatest(1, cast('0' || split_part(i.row, '~', 2) AS integer))",
)


def is_latest_attempt(text: RowText) -> str:
    """Return, as SQL that begins with AND, that the task `t` is no attempt at a row which has a later one."""
    return (
        " AND NOT EXISTS (SELECT 1 FROM import_row i JOIN import_row f ON f.account = i.account"  # noqa: S608 - our own text
        f" AND f.row = {text.first_attempt}"
        f" WHERE i.task = t.key AND i.task IS NOT NULL AND f.attempts > {text.attempt})"
    )


def may_match(groups: Sequence[Sequence[str]], text: RowText, *, ref: str, row_id: str) -> tuple[str, list[Any]]:
    """Return, as SQL that begins with AND, what a row must meet to have a text of each group; `ref` and `row_id` are
    its columns."""
    sql, values = "", list[Any]()
    for group in groups:
        if all(map(_is_in_string, group)):
            each = " OR ".join([text.contains.format(ref=ref, id=row_id)] * len(group))
            sql += f" AND ({text.may_hide.format(ref=ref)} OR {each})"
            values += group
    return sql, values


def _is_in_string(piece: str) -> bool:
    """Return whether a row's JSON, where it hides nothing, has the piece as it is: within one string. How numbers and
    brackets are written may differ."""
    return piece.isascii() and piece.isprintable() and '"' not in piece and not set(piece) <= OF_NO_STRING
