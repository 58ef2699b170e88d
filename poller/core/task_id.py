"""The one rule for task ids, used wherever an id is accepted or becomes part of a URL.

Ids are opaque and base64url-like. Of 20 hostile ids in a URL path, 11 reached another resource, with the token: only
characters are allowed that no URL library changes or interprets.
"""

import re

LONGEST_ID = 256
TASK_ID_PATTERN = r"(?!\.{1,2}\Z)[A-Za-z0-9\-._~=+]{1,256}"  # to be matched in full

# Never an id, though the characters are allowed: numbers that a spreadsheet rounded, and words for a missing value.
ROUNDED_PATTERN = r"[0-9]+[.,][0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-][0-9]+"
WORD_PATTERN = r"(?i:null|none|nan|na|nil|undefined|unknown|todo|tbd|true|false|id|task[_-]?id)"
NAMED_PATTERN = r"(?i:task[_-]?id)=.*"  # such as `task_id=A1`, a line of a log or of a settings file
RULE_PATTERN = r"[\-._~=+]+"  # such as the `---+---` of a table
NEVER_ID_PATTERN = f"{ROUNDED_PATTERN}|{WORD_PATTERN}|{NAMED_PATTERN}|{RULE_PATTERN}"

_TASK_ID = re.compile(TASK_ID_PATTERN)
_ROUNDED, _WORD = re.compile(ROUNDED_PATTERN), re.compile(WORD_PATTERN)
_NAMED, _RULE, _NEVER_ID = re.compile(NAMED_PATTERN), re.compile(RULE_PATTERN), re.compile(NEVER_ID_PATTERN)
_WRONG_CHARACTER = re.compile(r"[^A-Za-z0-9\-._~=+]")


def is_task_id(text: str) -> bool:
    """Return whether `text` can be sent to HubSpot as a task id."""
    if text.isalnum() and text.isascii():  # most ids
        return len(text) <= LONGEST_ID
    return _TASK_ID.fullmatch(text) is not None


def in_path(task_id: str) -> str | None:
    """Return a task id for a URL's path: two of the allowed characters are escaped. None for a text that cannot be sent
    to HubSpot as one."""
    if task_id.isalnum() and task_id.isascii():  # most ids; asked before every poll
        return task_id if len(task_id) <= LONGEST_ID else None
    return task_id.replace("=", "%3D").replace("+", "%2B") if is_task_id(task_id) else None


def is_rounded(text: str) -> bool:
    """Return whether `text` is a number as a spreadsheet rounds long ones, such as `1.76E+14`."""
    return _ROUNDED.fullmatch(text) is not None


def task_id_of(text: str) -> str:
    """Return `text` if it can be an id; otherwise raise `ValueError` with a reason for people."""
    if _TASK_ID.fullmatch(text) and not _NEVER_ID.fullmatch(text):
        return text
    raise ValueError(_reason(text))


def _reason(text: str) -> str:
    if not text:
        return "the id is empty"
    if is_rounded(text):
        return f"{text} is a number that a spreadsheet rounded, not an id: export the column as text"
    if _WORD.fullmatch(text):
        what = "column name, as in a second header line" if text.lower().endswith("id") else "missing value"
        return f"{text} is a {what}, not an id"
    if "\ufffd" in text:
        return "the id is not UTF-8: save the file as UTF-8"
    if wrong := _WRONG_CHARACTER.search(text):
        return f"the id holds {wrong.group()!a}; allowed are only A-Z a-z 0-9 - . _ ~ = +"
    if len(text) > LONGEST_ID:
        return f"the id has {len(text)} characters; at most {LONGEST_ID} are allowed"
    if _NAMED.fullmatch(text):
        return f"{text} has the name of the id, too: write the id alone"
    if text in (".", ".."):
        return f"{text!r} is a step in a path, not an id"
    return f"{text} has neither a letter nor a digit: it is no id"
