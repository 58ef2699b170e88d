"""Finds what a report needs in the person's row (`ref`): the columns by their names, and the source file. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

LONGEST_NAME = 100  # characters of a host or a file name that are kept

DUPLICATE_OPTIONS = ("duplicateValidationStrategy", "duplicateValidationScope")
COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "url": ("url", "sourceurl", "fileurl", "downloadurl", "importurl", "source", "href", "link"),
    "md5": ("md5", "filemd5", "md5sum", "md5hash", "contentmd5", "checksummd5"),
    "size": ("size", "filesize", "sizebytes", "bytes", "contentlength"),
    "name": ("name", "filename"),
    "folderId": ("folderid", "parentfolderid"),
    **{name: (name.lower(),) for name in ("access", "folderPath", "ttl", "expiresAt", "overwrite", *DUPLICATE_OPTIONS)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The person's column for each meaning: `named` ones by their name in `ref`, others by `COLUMN_NAMES`."""

    named: Mapping[str, str] = field(default_factory=dict)

    def value(self, ref: Mapping[str, Any], meaning: str) -> Any:
        """Return the value of the column with this meaning; None where there is none."""
        return first_value(ref, self.names(tuple(ref), meaning))

    def names(self, columns: tuple[str, ...], meaning: str) -> tuple[str, ...]:
        """Return which of `columns` have this meaning, the likeliest name first; the first with a value counts."""
        if (name := self.named.get(meaning)) is not None:
            return (matching(columns, name) or name,)
        return _names(columns, meaning)


@lru_cache(maxsize=1024)  # every row has the same columns
def matching(columns: tuple[str, ...], name: str) -> str | None:
    """Return the column that a person named; an exact match wins over one in another case or with other separators."""
    if name in columns:
        return name
    return next((column for column in columns if normalized(column) == normalized(name)), None)


def did_you_mean(name: str | None, columns: Sequence[str]) -> str:
    """Return, for people, the column that is nearly the one named; empty where none is."""
    by_word = {normalized(column): column for column in columns if column}
    close = get_close_matches(normalized(name), by_word, n=1) if name else []
    return f" (Did you mean {by_word[close[0]]!r}?)" if close else ""


def is_blank(value: object) -> bool:
    """Whether a row has no value there: none at all, or white space alone, which people see as an empty cell."""
    return value is None or (isinstance(value, str) and not value.strip())


def first_value(ref: Mapping[str, Any], names: Iterable[str]) -> Any:
    """Return the row's value in the first of the columns that has one; None where none has."""
    for name in names:
        if not is_blank(value := ref.get(name)):
            return value
    return None


@lru_cache(maxsize=1024)  # every row has the same columns
def _names(columns: tuple[str, ...], meaning: str) -> tuple[str, ...]:
    wanted = COLUMN_NAMES[meaning]
    found = [name for name in columns if normalized(name) in wanted]
    return tuple(sorted(found, key=lambda name: wanted.index(normalized(name))))


@lru_cache(maxsize=4096)
def normalized(name: str) -> str:
    """Return a column's name without case and separators: `Folder ID` and `folder_id` are `folderid`."""
    return re.sub(r"[\s_.-]", "", name).casefold()


def named_pairs(specs: Iterable[str], known: Sequence[str]) -> dict[str, str]:
    """Read NAME=VALUE, names in any case. Raises `ValueError` with what is wrong and the known names."""
    pairs = {}
    for spec in specs:
        name, equals, value = spec.partition("=")
        right = next((each for each in known if each.casefold() == name.strip().casefold()), None)
        if right is None or not equals or not value.strip():
            raise ValueError(f"{spec[:80]}: write NAME=VALUE with one of the names {', '.join(known)}")
        pairs[right] = value.strip()
    return pairs


class SourceFile(NamedTuple):
    """The file that an import reads."""

    url: str | None
    host: str | None
    name: str  # the last piece of the URL's path; may be empty


def source_file(ref: object, columns: Columns | None = None) -> SourceFile:
    """Return the source file that the person's row names."""
    url = (columns or Columns()).value(ref, "url") if isinstance(ref, dict) else None
    if not isinstance(url, str) or not (url := url.strip()):
        return SourceFile(None, None, "")
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = parts.hostname
    except ValueError:
        return SourceFile(url, None, "")
    name = unquote(parts.path.rstrip("/").rpartition("/")[2])
    return SourceFile(url, host[:LONGEST_NAME] if host else None, name[-LONGEST_NAME:])
