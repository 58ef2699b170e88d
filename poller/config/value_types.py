"""The types of settings' values: what is accepted, and the message where it is not. Pure. No message repeats the value,
because it may be a secret in the wrong setting.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BeforeValidator, Field

WINDOWS_PATH = "In TOML write a Windows path in single quotes, or with / in place of each backslash"
_SINK_KIND = "[a-z][a-z0-9_-]*"
_PATH = r"[A-Za-z0-9_./~%+-]{1,200}"  # plain enough to be repeated in a message
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
        raise ValueError('must be a share of the outcomes such as "20%" or 0.2, or a whole number of tasks such as 500')
    return number


def no_controls(value: Any) -> Any:
    """Refuse a path with a line break or a tab: in TOML a backslash in double quotes begins an escape."""
    if isinstance(value, str | Path) and re.search(r"[\x00-\x1f\x7f]", str(value)):
        raise ValueError(f"has a character that no path has. {WINDOWS_PATH}")
    return value


def known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ValueError('must be a time zone of the IANA list, such as "UTC" or "Europe/Berlin"') from None
    return name


LONGEST_NAME = 63  # of a part of a host's name (RFC 1035)


def http_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        names = (parts.hostname or "").split(".")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        usable = usable and all(len(name) <= LONGEST_NAME for name in names)
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


def api_host(url: str) -> str:
    """Refuse HubSpot's sites for people, such as app.hubspot.com: they answer every request with a page."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    site = re.fullmatch(r"(?:([a-z0-9-]+)\.)*?hubspot\.com", host)
    if site is None or (site[1] or "").startswith("api"):
        return url
    region = re.search(r"-([a-z]{2}[0-9])\.", host)
    api = f"https://api-{region[1]}.hubapi.com" if region else "https://api.hubapi.com"
    raise ValueError(f"is HubSpot's site for people, not its API; did you mean {api}?")


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
        return sink
    if isinstance(sink, str) and sink.startswith(("jsonl:", "csv:")):
        no_controls(sink)
    if not isinstance(sink, str) or not re.fullmatch(rf"{_SINK_KIND}(:\S.*)?", sink) or _meant_sink(sink):
        meant = _meant_sink(sink) if isinstance(sink, str) else ""
        what = f"; did you mean {meant}?" if meant else ', such as "stdout" or "jsonl:finished.jsonl"'
        raise ValueError(f"a sink is KIND or KIND:TARGET{what}")
    return sink


def _meant_sink(text: str) -> str:
    """Return the sink that a bare path or URL means; empty for any other text. A URL is not repeated."""
    if re.match(r"https?:", text):
        return "webhook:URL"
    if re.match(r"(postgres(ql)?|sqlite):", text):
        return "sql:URL"
    path = re.fullmatch(rf"{_PATH}\.(jsonl|ndjson|json|txt|csv)", text)
    return f"{'csv' if path[1] == 'csv' else 'jsonl'}:{text}" if path else ""


def state_url(text: str) -> str:
    """Accept a URL; a bare path, or a sqlite: URL with too few slashes, is refused with the URL that it means."""
    no_controls(text)
    path = text.removeprefix("sqlite:").removeprefix("//")
    if not text.startswith("sqlite:///") and re.fullmatch(rf"{_PATH}\.(db|sqlite3?)", path):
        raise ValueError(f"must be a URL; did you mean sqlite:///{path}?")
    is_folder = text.startswith("sqlite:///") and not Path(path.removeprefix("/")).name  # such as sqlite:///.
    if is_folder or not re.match(r"sqlite:///.|postgres(ql)?://", text):
        raise ValueError('must be a URL such as "sqlite:///poller.db" or "postgresql://user@host/database"')
    return text


Count = Annotated[int, BeforeValidator(no_bool), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=366 * 86_400, allow_inf_nan=False)]
Word = BeforeValidator(lambda value: None if value in ("", "auto", "never") else value)  # TOML has no null
Empty = BeforeValidator(lambda value: None if value == "" else value)
FilePath = Annotated[Path, AfterValidator(no_controls)]
AccountName = Annotated[str, shaped(ACCOUNT_NAME, "an account's name is 1 to 64 of A-Z a-z 0-9 _ . -")]
ReplicaName = Annotated[str, shaped(ACCOUNT_NAME, "a replica's name is 1 to 64 of A-Z a-z 0-9 _ . -")]
UrlPath = Annotated[str, shaped(r"/(?!/)[A-Za-z0-9_.~/-]+", "must be a plain path that starts with /")]
StateUrl = Annotated[str, AfterValidator(state_url)]
Variable = Annotated[
    str,
    shaped(
        r"[A-Za-z_][A-Za-z0-9_]{0,127}",
        "must be the name of an environment variable that holds the secret, not the secret itself",
    ),
]
