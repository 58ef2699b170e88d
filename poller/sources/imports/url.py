"""Decides whether HubSpot could download a URL at all. Pure: no name is resolved, nothing is sent."""

import re
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import urlsplit

from poller.core.text import CUT_OFF

_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_NEXT_URL = re.compile(r"(?i)[\s,;|]\s*https?://")  # behind a separator
_USUAL = re.compile(r"https?://([A-Za-z0-9.-]+)(?::[0-9]{1,4})?/[!-~]*")  # what needs no parser: 1 µs instead of 8
_SHARE_PAGE = re.compile(
    r"(?i)https?://(?:drive\.google\.com/(?:file/d|open|drive/)|photos\.google\.com/|photos\.app\.goo\.gl/"
    r"|docs\.google\.com/(?!.*(?:/export[/?]|/gviz/|[?&](?:output=|export=download)))"
    r"|(?:www\.)?dropbox\.com/(?!s/dl/|.*[?&](?:dl|raw)=1)"
    r"|(?:[\w-]+\.sharepoint\.com/:|1drv\.ms/|onedrive\.live\.com/(?!download\?))(?!.*[?&]download=1)"
    r"|(?:[\w.-]+\.)?box\.com/s/|we\.tl/|(?:[\w-]+\.)?wetransfer\.com/downloads/|(?:www\.)?icloud\.com/)"
)
_LOCAL = (".local", ".localhost", ".internal", ".lan", ".home.arpa")


def checked_url(text: object) -> str:
    """Return the URL without the space around it. Raises `ValueError` with what is wrong, without its secrets."""
    if not isinstance(text, str) or not (url := text.strip()):
        raise ValueError("there is no URL in the row")
    if (usual := _USUAL.fullmatch(url)) is not None:
        if (fault := _host_fault(usual[1])) is not None:
            raise ValueError(fault)
        return url
    if (fault := _text_fault(url)) is not None:
        raise ValueError(fault)
    try:
        parts = urlsplit(url)
        host, has_user = parts.hostname or "", parts.username is not None or parts.password is not None
        _ = parts.port
    except ValueError:
        raise ValueError("the URL cannot be read: its host or port is malformed") from None
    if has_user:
        raise ValueError("the URL has a user or password, which HubSpot would store: use a presigned URL")
    if (fault := _host_fault(host)) is not None:
        raise ValueError(fault)
    return url


def is_share_page(url: str) -> bool:
    """Return whether a URL is that of a page on which a person can download the file, not of the file."""
    return _SHARE_PAGE.match(url) is not None


def _text_fault(text: str) -> str | None:
    """Return why a text is no URL; None where it may be one."""
    if text.startswith("="):
        return "the URL is a formula: copy the column and paste it as values"
    if not re.match(r"(?i)https?://", text):
        return "the URL does not begin with http:// or https://"
    if text.endswith(CUT_OFF):
        return "the URL is not whole, as in what `poller report --csv` writes: import what `--resubmit` writes"
    if _NEXT_URL.search(text) and _CONTROL.search(text):
        return "there is more than one URL in the cell: write a row for each"
    if _CONTROL.search(text):
        return "the URL has a space or a control character: write it as %20"
    return None


@lru_cache(maxsize=4096)
def _host_fault(host: str) -> str | None:
    """Return why HubSpot cannot reach a host; None where it may."""
    if not host:
        return "the URL has no host"
    name = host.rstrip(".").lower()
    try:
        address = ip_address(name)
    except ValueError:
        if name == "localhost" or name.endswith(_LOCAL) or "." not in name:
            return f"HubSpot cannot reach the host {host[:60]}: it is a name of your own network"
        return None
    return None if address.is_global else f"HubSpot cannot reach the address {host[:60]}: it is private"
