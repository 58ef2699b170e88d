"""Parse one input line: an id, a status URL, or JSON. Pure: bytes in, `Fed` out; a `ValueError` gives the reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from poller.core.columns import Columns
from poller.core.csv_cells import is_error
from poller.core.model import Fed, Rejection
from poller.core.task_id import NEVER_ID_PATTERN, TASK_ID_PATTERN, task_id_of
from poller.core.text import printable
from poller.sources.options import ReadOptions
from poller.sources.parsing.id_name import AmbiguousId, find_id, letters_of
from poller.sources.parsing.lines import Line, OverlongLine, excerpt

ACCOUNT_NAME = "account"
NAMES_SHOWN = 10
_FOUND_SHOWN, _NAME_SHOWN = 20, 40  # names, and characters of each

_NEVER_ID = f"(?:{NEVER_ID_PATTERN})"
_PLAIN_ID = re.compile(rf"(?!{_NEVER_ID}\Z){TASK_ID_PATTERN}".encode())
_PLAIN_IDS = re.compile(  # no dot in front: `..` is no id
    rf"(?:(?!{_NEVER_ID}\n)[A-Za-z0-9\-_~=+][A-Za-z0-9\-._~=+]{{0,255}}\n)*".encode()
)
_URL = re.compile(r"https?://", re.IGNORECASE)
_STATUS_URL = re.compile(r"https?://[^/?#\s]+/(?:[^?#]*/)?tasks/([^/?#]*)/status/?(?:[?#].*)?", re.IGNORECASE)
_JSON_STARTS = (b"{", b"[", b'"')
_DEEPEST_REF = 254  # levels: the most that orjson writes; readers accept far more


@dataclass(slots=True)
class ParsedLines:
    """The parsed lines of a chunk that is being built: tasks, rejected lines, a count of blank ones."""

    fed: list[Fed] = field(default_factory=list)
    rejected: list[Rejection] = field(default_factory=list)
    blank: int = 0
    lines_of_last: int = 1  # lines that the latest record took
    is_cut_off: bool = False  # the input ended within a record
    successor: Any = None  # the reader of the lines that follow, where the latest one was a header of other columns

    def take(self, fed: Fed | None) -> None:
        """Keep a usable line, or count a blank one."""
        if fed is None:
            self.blank += 1
        else:
            self.fed.append(fed)

    def reject(self, number: int, line: Line, reason: ValueError) -> None:
        """Keep a line that cannot be used."""
        self.rejected.append(Rejection(line=number, reason=str(reason), excerpt=excerpt(line)))


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainLines:
    """Reads input in which every line is one task: text, JSON, or both."""

    options: ReadOptions

    def read(self, lines: Sequence[Line], count: int, first: int, _final: bool, into: ParsedLines) -> int:
        """Read the first `count` lines, of which the first has the number `first`; return how many were read."""
        account, strict_json = self.options.default_account, self.options.format == "jsonl"
        if not strict_json and (ids := _plain_ids(lines[:count])):
            into.fed += [Fed(account=account, task_id=task_id) for task_id in ids]
            return len(ids)
        keep, is_plain_id = into.fed.append, _PLAIN_ID.fullmatch
        for number, line in enumerate(lines[:count], first):
            if not strict_json and isinstance(line, bytes) and is_plain_id(stripped := line.strip()):
                keep(Fed(account=account, task_id=stripped.decode("ascii")))
                continue
            try:
                into.take(self._read_line(line))
            except ValueError as reason:
                into.reject(number, line, reason)
        return min(count, len(lines))

    def _read_line(self, line: Line) -> Fed | None:
        text = text_of(line).strip()
        if not text:
            return None
        encoded = text.encode()
        if self.options.format == "jsonl" or (self.options.format == "auto" and encoded.startswith(_JSON_STARTS)):
            return read_json(encoded.removesuffix(b","), self.options)  # a line cut out of an array
        if is_comment(text):
            return None
        return Fed(account=self.options.default_account, task_id=id_from(text))


def _plain_ids(lines: Sequence[Line]) -> list[str]:
    """Return the ids if every line is just an id, as in most files (one match for all lines); else nothing."""
    try:
        text = b"\n".join(lines) + b"\n"  # type: ignore[arg-type]  # a line too long raises
    except TypeError:
        return []
    text = text.replace(b"\r\n", b"\n")
    return text.decode("ascii").split("\n")[:-1] if _PLAIN_IDS.fullmatch(text) else []


def is_comment(text: str) -> bool:
    """Whether a line of text is a comment; a spreadsheet's `#N/A` or `#REF!` is none."""
    stripped = text.strip()
    return stripped.startswith("#") and not is_error(stripped)


def text_of(line: Line) -> str:
    """Return the line as text, without its line break and without a byte order mark, which joined files have in their
    midst. Raises `ValueError` where it is binary or too long.

    Bytes that are not UTF-8 become U+FFFD, which no id may contain: they cost their own column, not the line.
    """
    if isinstance(line, OverlongLine):
        raise ValueError(f"the line is {line.length} bytes long, more than a line may have")  # noqa: TRY004 - not a type
    text = line.decode("utf-8", "replace")
    if "\0" in text:
        raise ValueError("the line holds NUL characters: if the file is UTF-16, save it as UTF-8")
    return text.removesuffix("\r").removeprefix("\ufeff")


def is_json(text: str, columns: Sequence[str]) -> bool:
    """Whether a line of text with these columns is meant as JSON."""
    return text.lstrip().startswith(("{", "[")) or (text.lstrip().startswith('"') and len(columns) == 1)


def is_url(text: str) -> bool:
    """Whether a line of text is meant as a URL."""
    return _URL.match(text.strip()) is not None


def id_from(text: str) -> str:
    """Return the id in `text`, an id or a status URL. The URL is not decoded and never requested. `="A1"` is how people
    keep a spreadsheet from rounding."""
    text = text.strip()
    if text.startswith('="') and text.endswith('"'):
        text = text[2:-1].strip()
    if _URL.match(text) is None:
        return task_id_of(text)
    if url := _STATUS_URL.fullmatch(text):
        return task_id_of(url.group(1))
    raise ValueError("a URL, but not that of a task's status (…/tasks/{id}/status)")


def find_name(names: Sequence[str], wanted: Sequence[str]) -> int | None:
    """Return where the first of `wanted` is that exists; an exact match wins over one that ignores case, and that over
    one such as `Task ID` for `task_id`."""
    for name in wanted:
        if name in names:
            return names.index(name)
    for fold in (str.casefold, letters_of):
        folded = [fold(name) for name in names]
        if (at := next((folded.index(fold(name)) for name in wanted if fold(name) in folded), None)) is not None:
            return at
    return None


def missing_name(noun: str, names: Sequence[str], options: ReadOptions) -> str:
    """Return, for people, that no key or column is named as the id's, which there are, and the remedy."""
    found = ", ".join(ascii(name[:_NAME_SHOWN]) for name in names[:_FOUND_SHOWN]) or "none"
    has_urls = Columns().names(tuple(names), "url") or any("url" in letters_of(name) for name in names)
    urls = ". A file of URLs is for `poller import`, and for `poller plan --imports`" if has_urls else ""
    where = ": its name, or its number where the file has no header" if noun == "column" else ""
    return (
        f"there is no {noun} {' or '.join(options.id_names)}. {noun.capitalize()}s found: {found}. "
        f"Name the one that holds the task ids with --id-column{where}{urls}"
    )


def account_from(value: object, options: ReadOptions) -> str:
    """Return the account in a line, or the default. Raises `ValueError` for one that is not configured."""
    if value is None:
        return options.default_account
    if not isinstance(value, str):
        raise ValueError(f'"{ACCOUNT_NAME}" is not a string')  # noqa: TRY004 - the input's type, not the caller's
    name = value.strip()
    if not name:
        return options.default_account
    if name not in options.accounts:
        known = sorted(options.accounts)
        more = f" and {len(known) - NAMES_SHOWN} more" if len(known) > NAMES_SHOWN else ""
        raise ValueError(f"unknown account; known: {', '.join(known[:NAMES_SHOWN])}{more}")
    return name


def read_json(line: bytes, options: ReadOptions) -> Fed:
    """Read a JSON object, string or whole number. All keys except id and account become `ref`, untouched."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"broken JSON: {error}") from None
    if not isinstance(value, dict):
        return Fed(account=options.default_account, task_id=_json_id(value, line))
    name = _id_key(value, options)
    if len(value) == 1 and isinstance(value[name], str):
        return Fed(account=options.default_account, task_id=id_from(value[name]))
    raw = raw_values(line, value)
    task_id = _json_id(value[name], bytes(raw.pop(name)))
    account = options.default_account
    if ACCOUNT_NAME in raw:
        account = account_from(value[ACCOUNT_NAME], options)
        del raw[ACCOUNT_NAME]
    return Fed(account=account, task_id=task_id, ref=object_of(raw) if raw else None)


def _id_key(value: dict[str, Any], options: ReadOptions) -> str:
    """Return the key with the id. Two that may have it are as one where they have the same."""
    keys = list(value)
    try:
        id_at = find_id(keys, options.id_column, "key")
    except AmbiguousId as error:
        id_at = error.places[0]
        if any(value[keys[at]] != value[keys[id_at]] for at in error.places):
            names = " and ".join(f"'{printable(keys[at][:_NAME_SHOWN])}'" for at in error.places)
            raise ValueError(f"the keys {names} hold different ids: name one with --id-column") from None
    if id_at is None:
        raise ValueError(f"no id: {_ids_inside(value, options) or missing_name('key', keys, options)}")
    return keys[id_at]


def _ids_inside(value: dict[str, Any], options: ReadOptions) -> str | None:
    """Return, for people, that the ids are one level deeper, as in a page of an API's answer; None where not."""
    for name, inner in value.items():
        is_list = isinstance(inner, list)
        first = next(iter(inner), None) if is_list else inner
        if isinstance(first, dict) and _has_id(first, options) and re.fullmatch(r"[A-Za-z_]\w{0,39}", name, re.ASCII):
            return f"ids are inside the key {name!r}: feed what jq -c '.{name}{'[]' if is_list else ''}' prints"
    return None


def _has_id(value: dict[str, Any], options: ReadOptions) -> bool:
    try:
        return find_id(list(value), options.id_column, "key") is not None
    except AmbiguousId:
        return True


def _json_id(value: object, raw: bytes) -> str:
    if isinstance(value, str):
        return id_from(value)
    digits = raw.strip()
    if digits.isdigit() or value is None:  # not str(value): orjson reads integers beyond 64 bits as floats
        return task_id_of(digits.decode("ascii"))
    if isinstance(value, float):
        raise ValueError(f"{digits.decode('ascii')} is not a whole number: a program rounded the id")  # noqa: TRY004
    raise ValueError("the id is neither a string nor a whole number")


def raw_values(line: bytes, value: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return each key's value as its bytes, so that numbers keep their digits."""
    if line.count(b"[") + line.count(b"{") > _DEEPEST_REF:
        try:
            orjson.dumps(value)
        except orjson.JSONEncodeError:
            raise ValueError(f"JSON nested deeper than {_DEEPEST_REF} levels") from None
    unbroken = line.replace(b"\r", b" ")  # a CR can only be white space here; some readers break lines at it
    try:
        return msgspec.json.decode(unbroken, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise ValueError(f"broken JSON: {error}") from None


def object_of(raw: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join([orjson.dumps(key) + b":" + bytes(value).strip() for key, value in raw.items()]) + b"}"
