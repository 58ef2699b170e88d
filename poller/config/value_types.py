"""The types of settings' values: what is accepted, and the message where it is not. Pure. No message repeats the value,
because it may be a secret in the wrong setting.
"""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

_SINK_KIND = "[a-z][a-z0-9_-]*"
ACCOUNT_NAME = "[A-Za-z0-9_.-]{1,64}"


def shaped(pattern: str, message: str) -> AfterValidator:
    """Return a validator that accepts text of which the whole matches `pattern`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(message)
        return text

    return AfterValidator(check)


def no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def share_or_number(value: object) -> object:
    """`0.2` and `"20%"` are a share of the day's quota, `5000` is a number of requests."""
    share = re.fullmatch(r"\s*([0-9]{1,2}(?:\.[0-9]+)?)\s*%\s*", value) if isinstance(value, str) else None
    return float(share[1]) / 100 if share else value


def whole_from_one(value: float) -> float:
    if value >= 1 and not value.is_integer():
        raise ValueError('must be a share below 1 (0.2 or "20%") or a whole number of requests')
    return value


def share_or_count(value: object) -> object:
    """`0.2` and `"20%"` are a share of the outcomes, `500` is a number of them."""
    share = share_or_number(no_bool(value))
    try:
        number = float(share)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = 0.0
    if number <= 0 or (number >= 1 and not number.is_integer()):
        raise ValueError('must be a share such as "20%" or 0.2, or a whole number of failed tasks such as 500')
    return number


def known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError('must be a time zone of the IANA list, such as "UTC" or "Europe/Berlin"') from None
    return name


def http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[^\x21-\x7e]", url):
        raise ValueError('must be a URL such as "https://api.hubapi.com"')
    return url.rstrip("/")


def plain_base(url: str) -> str:
    parts = urlsplit(url)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be scheme, host and at most a path: no user, no `?…`, no `#…`")
    return url


def status_template(path: str) -> str:
    if path.count("{task_id}") != 1:
        raise ValueError("must contain {task_id} exactly once")
    if not re.fullmatch(r"/(?!/)[A-Za-z0-9_.~/-]*", path.replace("{task_id}", "x", 1)) or "/../" in path:
        raise ValueError("must be a plain path that starts with /, without host, `?`, `..` or blanks")
    return path


def distinct(value: object, read: Callable[[Any], object], *, noun: str, example: str) -> list[object]:
    """Return the entries of a list, each as `read` returns it. Accepts one entry alone, and JSON (environment)."""
    if isinstance(value, str):
        value = json.loads(value) if value.lstrip().startswith("[") else [value]
    if not isinstance(value, list | tuple):
        raise ValueError(f'must be a list such as ["{example}"], or [[{noun}s]] tables')  # noqa: TRY004 - pydantic collects it
    entries = [read(each) for each in value]
    if any(entry in entries[:at] for at, entry in enumerate(entries)):
        raise ValueError(f"names a {noun} twice")
    return entries


def sink_specs(value: object) -> object:
    """Accept one spec, a list of specs and tables with a `kind`, and such a list as JSON (environment).

    `poller.sinks` validates the kind and the other keys of a table.
    """
    return distinct(value, _sink_spec, noun="sink", example="jsonl:finished.jsonl")


def _sink_spec(sink: object) -> object:
    if isinstance(sink, dict):
        if not isinstance(sink.get("kind"), str) or not re.fullmatch(_SINK_KIND, sink["kind"]):
            raise ValueError('a sink table needs its kind, such as kind = "jsonl"')
    elif not isinstance(sink, str) or not re.fullmatch(rf"{_SINK_KIND}(:\S.*)?", sink):
        raise ValueError('a sink is KIND or KIND:TARGET, such as "stdout" or "jsonl:finished.jsonl"')
    return sink


Count = Annotated[int, BeforeValidator(no_bool), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=366 * 86_400, allow_inf_nan=False)]
Word = BeforeValidator(lambda value: None if value in ("", "auto", "never") else value)  # TOML has no null
Empty = BeforeValidator(lambda value: None if value == "" else value)
AccountName = Annotated[str, shaped(ACCOUNT_NAME, "an account's name is 1 to 64 of A-Z a-z 0-9 _ . -")]
UrlPath = Annotated[str, shaped(r"/(?!/)[A-Za-z0-9_.~/-]+", "must be a plain path that starts with /")]
StateUrl = Annotated[str, shaped(r"(?s)[a-z][a-z0-9+]*://.*", 'must be a URL such as "sqlite:///poller.db"')]
Variable = Annotated[
    str,
    shaped(
        r"[A-Za-z_][A-Za-z0-9_]{0,127}",
        "must be the name of an environment variable that holds the secret, not the secret itself",
    ),
]
