"""Decides whether a failed import is worth starting again: what passes by itself, and what lasts. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from poller.core.model import Kind
from poller.reports.reasons import HTTP_STATUS, Facts, folded, listed

PASSINGHTTP_STATUSS = frozenset({408, 425, 429})  # and all from 500 on
_RATE = re.compile(r"rate limit|throttl|too many requests|too many connections")
_LASTING = re.compile(
    r"too large|too big|exceed|larger than|name is too long|blocked|not allowed|disallow|cannot be hosted|unsupported"
    r"|not supported|invalid|malformed|already exists|in the folder already|duplicate|forbidden|unauthori[sz]ed"
    r"|access denied|permission|not found|does not exist|no such|\bgone\b|certificate|\bssl\b|\btls\b|virus|malware"
    r"|quota"
)
_PASSING = re.compile(
    r"timed? ?out|time out|took too long|unavailable|temporar|internal (?:server )?error|bad gateway|overload"
    r"|connection (?:was )?(?:reset|refused|closed|aborted|lost)|reset by peer|(?:un|not )reachable|unknown host"
    r"|could not (?:be )?(?:download|reach|fetch|connect|read|resolve)|download(?:ing)? (?:has |was )?failed"
    r"|(?:failed|unable) to (?:download|fetch|connect|read|reach)|try again|retry|interrupted|server error"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether starting the import once more is worth a try, and why (not)."""

    again: bool
    why: str


def verdict(facts: Facts) -> Verdict:
    """Decide whether the import is worth starting again.

    What passes by itself: time-outs, 5xx and rate limits of the file's server, downloads that broke, imports that
    HubSpot gave up or did not finish. A reason that names nothing of the kind would most likely only fail again.
    """
    match facts.kind:
        case Kind.COMPLETE if facts.reason is None:
            return Verdict(again=False, why="the file landed")
        case Kind.COMPLETE:
            return Verdict(again=False, why="a file landed, but not the one your row describes: poll which is right")
        case Kind.NOT_FOUND:
            return Verdict(again=False, why="HubSpot does not tell its outcome: poll whether the file is there")
        case Kind.COMPLETE_WITHOUT_RESULT:
            return Verdict(again=False, why="HubSpot says COMPLETE: poll whether the file is there")
    if facts.file_id is not None:
        return Verdict(again=False, why="a file landed all the same: read the errors")
    judged = [_judge(error) for error in listed(facts.errors)]
    lasting = next((each for each in judged if each is not None and not each.again), None)
    passing = next((each for each in judged if each is not None and each.again), None)
    return lasting or passing or _by_kind(facts.kind)


def _by_kind(kind: str) -> Verdict:
    match kind:
        case Kind.CANCELED:
            return Verdict(again=True, why="HubSpot gave the import up without saying that it can never work")
        case Kind.TIMED_OUT:
            return Verdict(again=True, why="it never finished; should HubSpot finish it yet, the file is there twice")
        case _:
            return Verdict(again=False, why="nothing says that the reason passes by itself")


def _judge(error: object) -> Verdict | None:
    """Judge one error; None where it names nothing that is known to pass or to last."""
    words = list(_words(error, 0))
    text = re.sub(r"[_-]", " ", " ".join(words)).lower()
    if (code := _http_code(error, text)) is not None:
        passes = code >= 500 or code in PASSINGHTTP_STATUSS
        which = "which often passes" if passes else "and will again"
        return Verdict(again=passes, why=f"the file's server answered {code}, {which}")
    if found := _RATE.search(text):
        return Verdict(again=True, why=f"{_whole(found)!r} passes")
    if found := _LASTING.search(text):
        return Verdict(again=False, why=f"{_whole(found)!r} does not pass by itself")
    if found := _PASSING.search(text):
        return Verdict(again=True, why=f"{_whole(found)!r} often passes")
    return None


def _whole(found: re.Match[str]) -> str:
    """Return what was found with the rest of its first and last word."""
    text, begin, end = found.string, found.start(), found.end()
    while begin and text[begin - 1].isalpha():
        begin -= 1
    while end < len(text) and text[end].isalpha():
        end += 1
    return text[begin:end]


def _words(value: object, depth: int) -> Iterator[str]:
    """Yield what an error says, but for what it quotes of the task: context and links."""
    if isinstance(value, str):
        yield re.sub(r"\S*/\S*", " ", value[:1000])
    elif depth < 4 and isinstance(value, dict):
        for key, part in value.items():
            if key not in ("context", "links", "id", "in"):
                yield from _words(part, depth + 1)
    elif depth < 4 and isinstance(value, list):
        for part in value[:20]:
            yield from _words(part, depth + 1)


def _http_code(error: object, text: str) -> int | None:
    """Return the HTTP status that the file's server gave, from an error's context or its words."""
    context = error.get("context") if isinstance(error, dict) else None
    for name, told in context.items() if isinstance(context, dict) else ():
        if folded(str(name)) in ("statuscode", "httpstatus", "httpstatuscode", "responsecode"):
            first = told[0] if isinstance(told, list) and told else told
            if re.fullmatch(r"[45][0-9]{2}", str(first)):
                return int(str(first))
    found = HTTP_STATUS.search(text)
    return int(found[1]) if found and found[1][0] in "45" else None
