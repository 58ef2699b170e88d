"""Reads the body of a start call and refuses what HubSpot refuses. Pure: bytes in, options or a message out."""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson

REQUIRED = ("url", "access")
REQUIRED_IN_DATED_VERSIONS = ("overwrite", "duplicateValidationStrategy", "duplicateValidationScope")
CHOICES = {
    "access": ("PUBLIC_INDEXABLE", "PUBLIC_NOT_INDEXABLE", "PRIVATE"),
    "duplicateValidationStrategy": ("NONE", "REJECT", "RETURN_EXISTING"),
    "duplicateValidationScope": ("ENTIRE_PORTAL", "EXACT_FOLDER"),
}
_UNCREATABLE = re.compile(r"HIDDEN_|SENSITIVE")
_TTL = re.compile(r"P(?=.)(?:(\d+)Y)?(?:(\d+)M)?(?:(\d+)W)?(?:(\d+)D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+S)?)?")
_DAYS = (365, 30, 7, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOptions:
    """What an accepted start call requests."""

    url: str
    folder: str  # the path, or `#` and the id
    name: str
    access: str
    overwrite: bool
    strategy: str
    scope: str

    @property
    def content(self) -> str:
        """Return what the URL's server sends: the same whatever the query, which may be a signature."""
        return self.url.partition("?")[0]


def read_start(body: bytes, path: str) -> StartOptions:
    """Return the options in a start call's body. `path` is the request's: dated versions require more than v3.

    Raises `ValueError` with HubSpot's message. Unknown keys are ignored, as HubSpot does.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError("Invalid input JSON: it cannot be read") from None
    if not isinstance(fields, dict):
        raise ValueError("Invalid input JSON: an object is expected")  # noqa: TRY004 - the client's type, not the caller's
    _check_required(fields, path)
    _check_values(fields)
    url = fields["url"].strip()
    leaf = unquote(urlsplit(url).path.rstrip("/").rpartition("/")[2])
    return StartOptions(
        url=url,
        folder=f"#{fields['folderId']}" if fields.get("folderId") else "/" + str(fields["folderPath"]).strip("/"),
        name=_named(fields.get("name"), leaf),
        access=fields["access"],
        overwrite=fields.get("overwrite") is True,
        strategy=fields.get("duplicateValidationStrategy", "NONE"),
        scope=fields.get("duplicateValidationScope", "ENTIRE_PORTAL"),
    )


def _named(name: object, leaf: str) -> str:
    """Return the file's name: the requested one, with the extension of the URL where it has none."""
    if not isinstance(name, str) or not name:
        return leaf or "file"
    return name if "." in name or "." not in leaf else f"{name}.{leaf.rpartition('.')[2]}"


def _check_required(fields: dict[str, Any], path: str) -> None:
    required = REQUIRED if "/v3/" in path else (*REQUIRED, *REQUIRED_IN_DATED_VERSIONS)
    missing = [name for name in required if fields.get(name) in (None, "")]
    if missing:
        raise ValueError(f"Invalid input JSON: Some required fields were not set: [{', '.join(missing)}]")
    folders = [name for name in ("folderId", "folderPath") if fields.get(name) not in (None, "")]
    if len(folders) != 1:
        raise ValueError("Exactly one of folderId and folderPath must be set")


def _check_values(fields: dict[str, Any]) -> None:
    url = fields["url"]
    if not isinstance(url, str) or not re.match(r"(?i)https?://[^\s/]", url):
        raise ValueError("Invalid input JSON: url is not a valid URL")
    for name, choices in CHOICES.items():
        value = fields.get(name)
        if value is not None and value not in choices:
            known = isinstance(value, str) and _UNCREATABLE.match(value)
            why = "files of this access cannot be created" if known else f"it must be one of {', '.join(choices)}"
            raise ValueError(f"Invalid input JSON on {name}: {why}")
    if not isinstance(fields.get("overwrite", False), bool):
        raise ValueError("Invalid input JSON on overwrite: it must be true or false")  # noqa: TRY004 - as above
    if isinstance(fields.get("name"), str) and "/" in fields["name"]:
        raise ValueError("Invalid input JSON on name: it must not contain a /")
    if (ttl := fields.get("ttl")) is not None and not 1 <= _days(ttl) <= 365:
        raise ValueError("Invalid input JSON on ttl: it must be from P1D to P1Y")


def _days(ttl: object) -> int:
    found = _TTL.fullmatch(ttl) if isinstance(ttl, str) else None
    return sum(int(count or 0) * days for count, days in zip(found.groups(), _DAYS, strict=True)) if found else 0
