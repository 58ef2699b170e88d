"""Why a task is not plainly complete, as one text for all tasks with the same trouble. Pure.

Summary, page, metrics, `why` and `report` group by it. It contains no id, URL or name, and keeps an HTTP status: 404
and 503 of the file's server are two reasons.
"""

import re
from typing import Any, NamedTuple

from poller.core.columns import SourceFile
from poller.core.model import Kind
from poller.core.text import KIND_TEXT, kind_label

LONGEST_REASON = 200
_READ = 1000  # characters of a message that are read

_QUOTED = re.compile(r"(?<!\w)(?:'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”|«[^»]*»)(?!\w)")
_CATEGORY = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_PUNCTUATION = "()[]{}<>\"'.,;:!?"
_ID_LIKE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w=+-]{8,}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
HTTP_STATUS = re.compile(
    r"(?i)\b(?:answer\w*|status|code|http|returned|respon\w+|replied|gave|got|error)"
    r"(?:\W+(?:with|was|of|a|an|http|status|code)\b)*\W{1,3}([1-5][0-9]{2})(?![\w.,:]*\d)"
)
_NAME = re.compile(r"(?<![\w/@.<-])[\w%+-]+(?:\.[\w%+-]+)*\.[A-Za-z][A-Za-z0-9]{1,4}(?![\w/@>-])")
_NUMBERS = re.compile(r"<n>(?:,<n>)+")
_DIGITS, _KEPT_DIGITS = "0123456789", "⓪①②③④⑤⑥⑦⑧⑨"
_KEEP, _RESTORE = str.maketrans(_DIGITS, _KEPT_DIGITS), str.maketrans(_KEPT_DIGITS, _DIGITS)


class Reason(NamedTuple):
    """Why a task is not plainly complete; equal for all tasks of one group."""

    kind: str  # a Kind, or a report's own group
    category: str | None  # HubSpot's
    message: str  # without what differs from task to task

    @property
    def text(self) -> str:
        """The reason for people, at most 200 characters."""
        return (f"{self.category}: {self.message}" if self.category else self.message)[:LONGEST_REASON]


def reason_of(kind: str, errors: object, source: SourceFile, http_status: int | None = None) -> Reason | None:
    """Return the reason of a finished task: its first error with a category or a message, after the HTTP status where
    that decided; None for `complete`."""
    if kind == Kind.COMPLETE:
        return None
    category, message = None, None
    for error in as_list(errors):
        category, message = _category_and_message(error, source)
        if category or message:
            break
    message = message or ("no message" if category else KIND_TEXT.get(kind, kind_label(kind)))
    return Reason(str(kind), category, message if http_status is None else f"HTTP {http_status}: {message}")


def as_list(errors: object) -> list[Any]:
    """Return the errors of a record as a list, whatever their shape."""
    return errors if isinstance(errors, list) else [errors] if errors else []


def message_in(errors: object) -> str | None:
    """Return HubSpot's own words: the first message of a record's errors, with its ids and names; None: it has none."""
    return next((found for error in as_list(errors) if (found := _message(error))), None)


def _category_and_message(error: object, source: SourceFile) -> tuple[str | None, str | None]:
    """Return an error's category and its generalized message. No key of an error is reliably present."""
    message, category = _message(error), error.get("category") if isinstance(error, dict) else None
    is_category = isinstance(category, str) and _CATEGORY.fullmatch(category)
    return category if is_category else None, _generalized_for(message, source) if message else None


def _message(error: object) -> str | None:
    if isinstance(error, str):
        return error
    if not isinstance(error, dict):
        return None
    nested = [each for each in as_list(error.get("errors")) if isinstance(each, dict)]
    texts = [each.get(key) for key in ("message", "code", "subCategory") for each in (error, *nested)]
    return next((text for text in texts if isinstance(text, str) and text.strip()), None)


def _generalized_for(message: str, source: SourceFile) -> str | None:
    """Return the generalized message, also without the task's own file and host, but with an HTTP status."""
    text = message[:_READ]
    if len(source.name) > 3:
        text = text.replace(source.name, "<name>")
    if source.host and len(source.host) > 3:
        text = text.replace(f" {source.host}", " <name>")
    text = HTTP_STATUS.sub(lambda found: found[0][:-3] + found[1].translate(_KEEP), _NAME.sub("<name>", text))
    shown = generalized(text)
    return _NUMBERS.sub("<n>", shown).translate(_RESTORE) if shown else None


def generalized(message: str) -> str | None:
    """Return a message of HubSpot's, at most 200 characters, without what differs from task to task.

    Ids, numbers, quoted texts, addresses and paths become `<id>`, `<n>`, `<text>`, `<url>`, `<path>`. None: empty.
    """
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in message[:_READ]).split())
    return " ".join(_word(word) for word in _QUOTED.sub("<text>", text).split(" "))[:LONGEST_REASON] or None


def _word(word: str) -> str:
    if word == "<text>":
        return word
    bare = word.strip(_PUNCTUATION)
    start, _, end = word.partition(bare) if bare else (word, "", "")
    return start + _without_specifics(bare) + end


def _without_specifics(bare: str) -> str:
    if _is_address(bare):
        return "<url>"
    if "@" in bare:
        return "<email>"
    if bare.count("/") + bare.count("\\") >= 2:
        return "<path>"
    if _UUID.fullmatch(bare) or _ID_LIKE.fullmatch(bare):
        return "<id>"
    return re.sub(r"[0-9]+(?:[.:][0-9]+)*", "<n>", bare)


def _is_address(bare: str) -> bool:
    """Return whether a word is a URL or a piece of one, also without its scheme or cut in two by a space."""
    lower = bare.lower()
    return (
        any(sign in lower for sign in (":/", ":\\", "%2f", "%3a", "&"))
        or lower.startswith("www.")
        or ("." in bare and "/" in bare)
        or ("?" in bare and "=" in bare)
    )
