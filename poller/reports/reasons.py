"""Reads a finished record with a report's questions: why is it not complete, where did the file come from, is it the
right one. Pure: a record's bytes and the person's column names in, facts out.
"""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import orjson

from poller.core.model import Kind
from poller.core.timestamps import epoch
from poller.hubspot.error_text import readable_reason

DIFFERS = "differs"  # stands where a failure has its kind: complete, but not the person's file
NO_EXTENSION = "(none)"
LONGEST_NAME = 100  # characters of a host or a word that are kept

_SAID = {
    Kind.COMPLETE_WITH_ERRORS: "HubSpot says COMPLETE with errors, but names none",
    Kind.COMPLETE_WITHOUT_RESULT: "HubSpot says COMPLETE, but names no file",
    Kind.CANCELED: "HubSpot gave the import up",
    Kind.NOT_FOUND: "HubSpot does not know this id, or no longer",
    Kind.TIMED_OUT: "still unfinished at the deadline; HubSpot may yet finish it",
}


class Reason(NamedTuple):
    """Why a task is not plainly complete; equal for all tasks of one group."""

    kind: str  # a Kind, or DIFFERS
    category: str | None
    message: str  # without what differs from task to task


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which of the person's columns mean what: meaning → the name it has in `ref`. Others are found by their names."""

    named: Mapping[str, str] = field(default_factory=dict)

    def value(self, ref: Mapping[str, Any], meaning: str) -> Any:
        """Return what the person's row holds under `meaning`, None where there is nothing."""
        if (name := self.named.get(meaning)) is not None:
            return ref.get(name)
        wanted = COLUMN_NAMES[meaning]
        return next((value for name, value in ref.items() if folded(name) in wanted and value not in (None, "")), None)


COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "url": ("url", "sourceurl", "fileurl", "downloadurl", "importurl", "source", "href", "link"),
    "md5": ("md5", "filemd5", "md5sum", "md5hash", "contentmd5", "checksummd5"),
    "size": ("size", "filesize", "sizebytes", "bytes", "contentlength"),
    "access": ("access",),
    "name": ("name", "filename"),
    "folderId": ("folderid", "parentfolderid"),
    "folderPath": ("folderpath",),
    "ttl": ("ttl",),
    "expiresAt": ("expiresat",),
    "overwrite": ("overwrite",),
    "duplicateValidationStrategy": ("duplicatevalidationstrategy",),
    "duplicateValidationScope": ("duplicatevalidationscope",),
}


@lru_cache(maxsize=4096)  # the same few columns in every row
def folded(name: str) -> str:
    """Return a column's name without what people write differently: `Folder ID` and `folder_id` are `folderid`."""
    return re.sub(r"[\s_.-]", "", name).casefold()


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One finished task, as a report sees it."""

    task_id: str
    account: str
    kind: str
    seen_at: float | None
    import_s: float | None  # from HubSpot's requestedAt to completedAt
    ref: Mapping[str, Any]
    ref_bytes: int
    url: str | None  # the person's own
    host: str | None
    extension: str
    reason: Reason | None  # None: plainly complete, and the person's file as far as they told
    correlation_id: str | None
    file_id: str | None  # of the file that landed
    errors: Any
    compared: frozenset[str] = frozenset()  # which of md5 and size could be compared


def facts_of(body: bytes, columns: Columns) -> Facts:
    """Read one record. Raises `ValueError` where it is none."""
    record = orjson.loads(body)
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or "task_id" not in record:
        raise ValueError("not a finished task")
    told = record.get("ref")
    ref = told if isinstance(told, dict) else {}
    url = columns.value(ref, "url")
    url = url.strip() if isinstance(url, str) and url.strip() else None
    host, leaf = place_of(url) if url else (None, "")
    compared, difference = _compared(ref, record.get("result"), columns)
    return Facts(
        task_id=str(record["task_id"]),
        account=str(record.get("account", "default")),
        kind=record["kind"],
        seen_at=epoch(record.get("seen_at")),
        import_s=_between(record.get("requested_at"), record.get("completed_at")),
        ref=ref,
        ref_bytes=len(body) if ref else 0,
        url=url,
        host=host,
        extension=extension_of(leaf),
        reason=_reason(record, host, leaf, difference),
        correlation_id=record.get("correlation_id"),
        file_id=_file_id(record.get("result")),
        errors=record.get("errors"),
        compared=compared,
    )


def place_of(url: str) -> tuple[str | None, str]:
    """Return the host that a URL names and the last piece of its path, each cut to what a report shows."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = parts.hostname
    except ValueError:
        return None, ""
    leaf = unquote(parts.path.rstrip("/").rpartition("/")[2])
    return (host[:LONGEST_NAME] if host else None), leaf[-LONGEST_NAME:]


def extension_of(leaf: str) -> str:
    """Return a file name's extension in lower case, such as `png`; NO_EXTENSION where it has none."""
    _, dot, end = leaf.rpartition(".")
    return end.lower() if dot and re.fullmatch(r"[A-Za-z0-9]{1,8}", end) else NO_EXTENSION


def shown_url(url: str) -> str:
    """Return a URL as it may stand in a report: without user, password, query and fragment, which can be secrets."""
    bare = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, separator, rest = bare.partition("://")
    if separator:
        authority, slash, path = rest.partition("/")
        bare = scheme + separator + authority.rpartition("@")[2] + slash + path
    return bare[:300]


def _between(began: object, ended: object) -> float | None:
    begin, end = epoch(began), epoch(ended)
    return None if begin is None or end is None or end < begin else end - begin


def _file_id(result: object) -> str | None:
    found = result.get("id") if isinstance(result, dict) else None
    return str(found) if isinstance(found, str | int) and found != "" else None


# --- why -------------------------------------------------------------------------------------------------------------


def _reason(record: Mapping[str, Any], host: str | None, leaf: str, difference: Reason | None) -> Reason | None:
    kind = record["kind"]
    if kind == Kind.COMPLETE:
        return difference
    category, message = None, None
    for error in listed(record.get("errors")):
        category, message = _said_by(error, host, leaf)
        if category or message:
            break
    if message is None:
        message = "no message" if category else _SAID.get(kind, str(kind).replace("_", " "))
    return Reason(str(kind), category, message)


def listed(errors: object) -> list[Any]:
    """Return the errors of a record as a list, whatever their shape."""
    return errors if isinstance(errors, list) else [errors] if errors else []


def _said_by(error: object, host: str | None, leaf: str) -> tuple[str | None, str | None]:
    """Return an error's category and its message as one for all tasks. Nothing in an error is reliably present."""
    if isinstance(error, str):
        return None, _alike(error, host, leaf)
    if not isinstance(error, dict):
        return None, None
    nested = [each for each in listed(error.get("errors")) if isinstance(each, dict)]
    words = [each.get(key) for key in ("message", "code", "subCategory") for each in (error, *nested)]
    message = next((word for word in words if isinstance(word, str) and word.strip()), None)
    return readable_reason(error.get("category"), None), _alike(message, host, leaf) if message else None


HTTP_STATUS = re.compile(
    r"(?i)\b(?:answer\w*|status|code|http|returned|respon\w+|replied|gave|got|error)"
    r"(?:\W+(?:with|was|of|a|an|http|status|code)\b)*\W{1,3}([1-5][0-9]{2})(?![\w.,:]*\d)"
)
_NAME = re.compile(r"(?<![\w/@.<-])[\w%+-]+(?:\.[\w%+-]+)*\.[A-Za-z][A-Za-z0-9]{1,4}(?![\w/@>-])")
_NUMBERS = re.compile(r"<n>(?:,<n>)+")
_DIGITS, _KEPT_DIGITS = "0123456789", "⓪①②③④⑤⑥⑦⑧⑨"
_KEEP, _BRING_BACK = str.maketrans(_DIGITS, _KEPT_DIGITS), str.maketrans(_KEPT_DIGITS, _DIGITS)


def _alike(message: str, host: str | None, leaf: str) -> str | None:
    """Return the message without its own file, host, numbers and ids; an HTTP status stays: it is a reason."""
    text = message[:1000]
    if len(leaf) > 3:
        text = text.replace(leaf, "<name>")
    if host and len(host) > 3:
        text = text.replace(f" {host}", " <name>")
    text = HTTP_STATUS.sub(lambda found: found[0][:-3] + found[1].translate(_KEEP), _NAME.sub("<name>", text))
    grouped = readable_reason(None, text)
    return _NUMBERS.sub("<n>", grouped).translate(_BRING_BACK) if grouped else None


# --- is it the right file --------------------------------------------------------------------------------------------


def _compared(ref: Mapping[str, Any], result: object, columns: Columns) -> tuple[frozenset[str], Reason | None]:
    """Compare the finished file with the md5 and size that the person told: what could be, and how it differs."""
    if not ref or not isinstance(result, dict):
        return frozenset(), None
    compared, difference = [], None
    for name, told, found in (
        ("md5", _md5(columns.value(ref, "md5")), _md5(result.get("fileMd5"))),
        ("size", _size(columns.value(ref, "size")), _size(result.get("size"))),
    ):
        if told is not None and found is not None:
            compared.append(name)
            if told != found and difference is None:
                message = f"the finished file's {name} is not that of your row"
                difference = Reason(DIFFERS, f"{name.upper()}_MISMATCH", message)
    return frozenset(compared), difference


def _md5(told: object) -> str | None:
    """Return an MD5 sum as 32 lower-case hex digits; base64 is read too, for that is what storage services tell."""
    if not isinstance(told, str):
        return None
    text = told.strip().strip('"')
    if re.fullmatch(r"[0-9A-Fa-f]{32}", text):
        return text.lower()
    try:
        raw = b64decode(text, validate=True)
    except (NotBase64, ValueError):
        return None
    return raw.hex() if len(raw) == 16 else None


def _size(told: object) -> int | None:
    if isinstance(told, bool):
        return None
    if isinstance(told, str) and re.fullmatch(r"\s*[0-9]{1,18}\s*", told):
        return int(told)
    return told if isinstance(told, int) and told >= 0 else None
