"""The options of HubSpot's start call: which there are, and how a person's value becomes one. Pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from poller.core.columns import DUPLICATE_OPTIONS, is_blank
from poller.core.model import JsonObject

FOLDERS = ("folderId", "folderPath")  # HubSpot requires one of them, and accepts one of them
ACCESSES = ("PUBLIC_INDEXABLE", "PUBLIC_NOT_INDEXABLE", "PRIVATE")  # those that can be created
HIDDEN_ACCESSES = (*(f"HIDDEN_{access}" for access in ACCESSES), "HIDDEN_SENSITIVE", "SENSITIVE")
CHOICES: Mapping[str, tuple[str, ...]] = {
    "access": (*ACCESSES, *HIDDEN_ACCESSES),
    "duplicateValidationStrategy": ("NONE", "REJECT", "RETURN_EXISTING"),
    "duplicateValidationScope": ("ENTIRE_PORTAL", "EXACT_FOLDER"),
}
_YES, _NO = frozenset({"true", "yes", "y", "1", "on"}), frozenset({"false", "no", "n", "0", "off"})


def options_from(
    value_of: Callable[[str], Any], default_of: Callable[[str], Any], names: Sequence[str] | None = None
) -> JsonObject:
    """Return the options of a body: the row's values, else the defaults. A folder in the row replaces both of the
    defaults' folders. `names`: only these options can have a value. Raises `ValueError` with what is wrong."""
    body: JsonObject = {}
    for name in OPTIONS if names is None else names:
        value = value_of(name)
        if is_blank(value):
            value = default_of(name) if name not in FOLDERS else None
        if not is_blank(value):
            body[name] = _OPTIONS[name](name, value)
    if "folderId" not in body and "folderPath" not in body:
        for name in FOLDERS:
            if not is_blank(value := default_of(name)):
                body[name] = _text(name, value)
    return body


def option_value(name: str, value: Any) -> str | bool:
    """Return one option's value as HubSpot expects it. Raises `ValueError`."""
    return _OPTIONS[name](name, value)


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{name} in the row is not a text")  # noqa: TRY004 - the row's type, not the caller's
    return str(value).strip()


def _word(name: str, value: Any) -> str:
    return _text(name, value).upper()


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise ValueError(f"{name} in the row is neither true nor false: {word[:40]!r}")
    return word in _YES


_OPTIONS: Mapping[str, Callable[[str, Any], str | bool]] = {
    "access": _word,
    "name": _text,
    "folderId": _text,
    "folderPath": _text,
    "ttl": _text,
    "expiresAt": _text,
    "overwrite": _flag,
    **dict.fromkeys(DUPLICATE_OPTIONS, _word),
}
OPTIONS = tuple(_OPTIONS)
