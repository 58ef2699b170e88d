"""What a person may have meant by a path at which there is no file. Pure."""

import re

from poller.core.task_id import is_task_id

_LIKE_AN_ID = re.compile(r"(?=.*[0-9A-Z])[^.]{8,}")


def missing_file(spec: str) -> str:
    """Return that there is no file at `spec`, and what may have been meant."""
    return f"there is no such file{_meant(spec)}"


def _meant(spec: str) -> str:
    if re.match(r"(?i)file://", spec):
        return ". Write the path without file://"
    if re.match(r"(?i)https?://", spec):
        return ". Feed a URL by standard input, and download a file first"
    if re.search(r"[*?]|\[.*\]", spec):
        return ". A pattern is for the shell, without quotes, or for `glob` in [[sources]] of a config file"
    if spec.startswith("~"):
        return ". ~ is for the shell, without quotes: write the whole path"
    if is_task_id(spec) and _LIKE_AN_ID.fullmatch(spec):
        return f". Feed an id by standard input: echo {spec} | poller run -"
    return ""
