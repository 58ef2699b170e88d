"""Text for people that several rooms show: meanings, durations, URLs, and text of unknown origin. Pure."""

import math
import re
from collections.abc import Mapping

from poller.core.accounts import Pause
from poller.core.model import Kind

LONGEST_SHOWN = 160  # characters of a text of unknown origin
LONGEST_URL = 300
_WEB = ("http", "https", "")  # schemes whose paths may contain an @
_SCHEMES = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOSTS = re.compile(r"(?:\[[^\]@]*\]|[^:@\[\]]*)(?::[0-9]*)?(?:,[^:@\[\]]*(?::[0-9]*)?)*")

KIND_TEXT: Mapping[str, str] = {
    Kind.COMPLETE: "the file landed",
    Kind.COMPLETE_WITH_ERRORS: "HubSpot reported COMPLETE with errors",
    Kind.COMPLETE_WITHOUT_RESULT: "HubSpot reported COMPLETE, but named no file",
    Kind.CANCELED: "HubSpot canceled the import",
    Kind.NOT_FOUND: "HubSpot does not know this id",
    Kind.TIMED_OUT: "unfinished at the deadline; HubSpot may still finish it",
    Kind.NOT_STARTED: "HubSpot refused to start the import",
    Kind.START_UNKNOWN: "the answers to its starts were lost; a file may be there",
}

PAUSE_TEXT: Mapping[str, str] = {
    Pause.THROTTLED: "HubSpot limits the rate; polling resumes when its window has passed",
    Pause.DAILY_QUOTA: "the day's quota is used up, except your reserve; polling resumes after the account's midnight",
    Pause.TOKEN_REFUSED: "HubSpot refuses the token; replace it, then polling resumes by itself",
    Pause.SCOPE_MISSING: "the token lacks a scope; grant it, then polling resumes by itself",
    Pause.WRONG_PATH: "HubSpot does not know the path; check --base-url and --status-path",
    Pause.WRONG_HOST: "the host redirects, which HubSpot's API never does; correct --base-url, or the proxy",
    Pause.WRONG_REGION: "the account lives in another region of HubSpot; set --base-url to that region's host",
    Pause.WRONG_ACCOUNT: "HubSpot knows none of the ids; use the token of the account that started these imports",
    Pause.UNKNOWN_ANSWER: "the answers are not HubSpot's; check --base-url, and what is between here and HubSpot",
    Pause.UNTRUSTED_CERTIFICATE: "the host's certificate is not trusted; check --base-url, or set ca_file",
    Pause.IMPORT_REFUSED: "HubSpot refuses to start imports; make room or change the plan, then they resume",
    Pause.MIGRATING: "HubSpot is moving the account to another data center; polling resumes by itself",
    Pause.OUTAGE: "HubSpot does not answer; polling resumes by itself when a probe succeeds",
    Pause.PAUSED_BY_PERSON: "a person paused the account; to resume it: poller resume ACCOUNT, or the live page",
}


def pause_text(pause: str, account: str) -> str:
    """Return what a pause means and what ends it, for people; the pause itself where it is not one of an account."""
    return PAUSE_TEXT.get(pause, pause).replace("ACCOUNT", account)


def counted(count: int, one: str, many: str | None = None) -> str:
    """Return a number with its noun: `1 poll`, `2 polls`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def kind_label(kind: str) -> str:
    """Return a kind as words, such as `timed out`."""
    return kind.replace("_", " ")


def percent(part: float, whole: float) -> str:
    """Return a share with two digits, such as `5.8 %`, `0.030 %` or `58 %`; `100 %` only where it is all."""
    share = 100 * part / whole if whole else 0.0
    digits = 0 if share >= 9.95 or not share else max(0, 1 - math.floor(math.log10(share)))
    return f"{min(share, 99.9):.1f} %" if 99.5 <= share < 100 else f"{share:.{min(digits, 4)}f} %"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as `59.9 s`, `3 min` or `5 h 36 min`."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    rest, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def without_controls(text: str) -> str:
    """Return text that cannot steer a terminal, such as a file's name: unprintable characters are replaced."""
    return "".join(sign if sign.isprintable() else "\ufffd" for sign in text)


def printable(text: str) -> str:
    """Return text that cannot steer a terminal, at most `LONGEST_SHOWN` characters of it."""
    shown = without_controls(text)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN - 1]}…"


CUT_OFF = "?…"  # at the end of a URL that is not whole
NO_RUN = "no poller is at work on this state: its tasks wait until a run continues"


def redacted_url(url: str) -> str:
    """Return a URL or DSN without user, password, query and fragment, which may be secrets.

    This holds also for a password with an unquoted `/` or `@`: a DSN keeps only what follows its last `@`, and a host
    that contains a password becomes `***`. A `sqlite:` URL is returned whole, since it names only a file.
    """
    if url.startswith("sqlite:"):
        return url
    address = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, separator, rest = address.partition("://")
    if not separator or not _SCHEMES.fullmatch(scheme):
        scheme, separator, rest = "", "", address
    authority, slash, path = rest.partition("/")
    host = authority.rpartition("@")[2]
    if scheme.lower() not in _WEB or not _HOSTS.fullmatch(host):
        host, slash, path = rest.rpartition("@")[2].partition("/")
    shown = host if _HOSTS.fullmatch(host) else "***"
    return f"{scheme}{separator}{shown}{slash}{path}"[:LONGEST_URL]


def shortened_url(url: str) -> str:
    """Return a URL as `redacted_url`, marked where something of it is left out: another file may be at the rest."""
    redacted = redacted_url(url)
    return redacted if redacted == url else f"{redacted}{CUT_OFF}"
