"""Words HubSpot's error messages so that equal troubles group together and no URL or id leaks. Pure."""

import re

LONGEST_REASON = 200
_READ = 1000  # characters of a message that are polled

_QUOTED = re.compile(r"(?<!\w)(?:'[^']*'|\"[^\"]*\"|`[^`]*`|“[^”]*”|«[^»]*»)(?!\w)")
_CATEGORY = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_PUNCTUATION = "()[]{}<>\"'.,;:!?"
_ID_LIKE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w=+-]{8,}")
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def readable_reason(category: object, message: str | None) -> str | None:
    """Return "CATEGORY: message", at most 200 characters, without what differs from task to task; None for neither.

    Ids, numbers, quoted texts, addresses and paths become `<id>`, `<n>`, `<text>`, `<url>`, `<path>`.
    """
    word = category if isinstance(category, str) and _CATEGORY.fullmatch(category) else None
    text = _grouped(message) if message else None
    return ": ".join(part for part in (word, text) if part)[:LONGEST_REASON] or None


def _grouped(message: str) -> str:
    text = " ".join("".join(sign if sign.isprintable() else " " for sign in message[:_READ]).split())
    return " ".join(_word(word) for word in _QUOTED.sub("<text>", text).split(" "))


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
    """Tell whether a word is a URL or a piece of one, also without its scheme or cut in two by a space."""
    lower = bare.lower()
    return (
        any(sign in lower for sign in (":/", ":\\", "%2f", "%3a", "&"))
        or lower.startswith("www.")
        or ("." in bare and "/" in bare)
        or ("?" in bare and "=" in bare)
    )
