"""The one rule for task ids, used wherever an id is accepted or becomes part of a URL.

Ids are opaque and base64url-like. Of 20 hostile ids in a URL path, 11 reached another resource, with the token: only
characters are allowed that no URL library changes or interprets.
"""

import re

LONGEST_ID = 256
TASK_ID_PATTERN = r"(?!\.{1,2}\Z)[A-Za-z0-9\-._~=+]{1,256}"  # to be matched in full

_TASK_ID = re.compile(TASK_ID_PATTERN)
_WRONG_CHARACTER = re.compile(r"[^A-Za-z0-9\-._~=+]")


def is_task_id(text: str) -> bool:
    """Return whether `text` can be sent to HubSpot as a task id."""
    return _TASK_ID.fullmatch(text) is not None


def in_path(task_id: str) -> str:
    """Return a task id for a URL's path: two of the allowed characters are escaped."""
    return task_id.replace("=", "%3D").replace("+", "%2B")


def task_id_of(text: str) -> str:
    """Return `text` if it is a task id; otherwise raise `ValueError` with a reason for people."""
    if _TASK_ID.fullmatch(text) is not None:
        return text
    raise ValueError(_reason(text))


def _reason(text: str) -> str:
    if not text:
        return "the id is empty"
    if wrong := _WRONG_CHARACTER.search(text):
        return f"the id holds {wrong.group()!a}; allowed are only A-Z a-z 0-9 - . _ ~ = +"
    if len(text) > LONGEST_ID:
        return f"the id has {len(text)} characters; at most {LONGEST_ID} are allowed"
    return f"{text!r} is a step in a path, not an id"
