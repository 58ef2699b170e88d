"""Says what a report found, on a terminal and as JSON. Pure."""

from collections.abc import Sequence

from poller.core.model import JsonObject, Kind
from poller.core.timestamps import iso
from poller.reports.failures.counters import DURATION_BOUNDS_S
from poller.reports.failures.groups import NO_URL, FailureSample, Findings, Group, HostGroup, kind_shown
from poller.reports.reasons import DIFFERS, NO_EXTENSION

SHOWN_GROUPS = 20
UNTOLD = (NO_URL, NO_EXTENSION)  # nothing to say of a place
SHOWN_SAMPLES = 3
LONGEST_CELL = 160


def text_of(found: Findings, *, waiting: int, pruned: int) -> str:
    """Return the report as people read it."""
    parts = [_head(found, waiting=waiting, pruned=pruned)]
    parts += [_group_text(group, found.failed) for group in found.groups[:SHOWN_GROUPS]]
    if hidden := found.groups[SHOWN_GROUPS:]:
        count = sum(group.count for group in hidden)
        parts.append(f"{count:>9,}  for {len(hidden):,} rarer reasons; --json names them")
    if found.failed:
        parts += [_places("by source host", found.hosts), _places("by extension", found.extensions)]
    return "\n".join(part for part in parts if part)


def _head(found: Findings, *, waiting: int, pruned: int) -> str:
    good = found.finished - found.failed
    lines = [f"{found.finished:,} finished tasks: {good:,} are complete, {found.failed:,} are not{_share(found)}"]
    if waiting:
        lines.append(f"{waiting:,} tasks have no outcome yet")
    if pruned:
        lines.append(f"{pruned:,} more were finished and are past their retention: nothing is known of them but counts")
    if found.compared:
        sums = " and ".join(f"{count:,} by {name}" for name, count in sorted(found.compared.items()))
        differing = sum(group.count for group in found.groups if group.reason.kind == DIFFERS)
        lines.append(f"files compared with your rows: {sums}; {differing:,} differ")
    if found.failed:
        lines.append(f"{found.again:,} of those not complete are worth another try: --resubmit FILE writes them")
    return "\n".join(lines)


def _share(found: Findings) -> str:
    return f" ({found.failed / found.finished:.1%})" if found.failed else ""


def _group_text(group: Group, failed: int) -> str:
    title = ": ".join(part for part in (group.reason.category, group.reason.message) if part)
    lines = [f"\n{group.count:>9,}  {group.count / failed:>5.1%}  {kind_shown(group.reason.kind)}  {printable(title)}"]
    places = [_counts("hosts", group.hosts), _counts("extensions", group.extensions)]
    if any(places):
        lines.append(" " * 18 + " · ".join(filter(None, places)))
    lines.append(" " * 18 + f"try again: {again_text(group)}")
    lines += [" " * 18 + _sample_text(sample) for sample in group.samples[:SHOWN_SAMPLES]]
    return "\n".join(lines)


def again_text(group: Group) -> str:
    """Return whether a group is worth another try, and why, for people."""
    if group.again in (0, group.count):
        return f"{'yes' if group.again else 'no'}, {printable(group.why)}"
    return f"{group.again:,} of them, {printable(group.why)}; not the others, {printable(group.why_not)}"


def _counts(what: str, counts: Sequence[tuple[str, int]]) -> str:
    named = [f"{printable(name)} {count:,}" for name, count in counts[:4] if name not in UNTOLD]
    more = len(counts) - 4
    return f"{what} {', '.join(named)}{', …' if more > 0 else ''}" if named else ""


def _sample_text(sample: FailureSample) -> str:
    parts = [
        sample.task_id,
        sample.url or "",
        f"correlation id {sample.correlation_id}" if sample.correlation_id else "",
    ]
    return "e.g. " + "  ".join(printable(part) for part in parts if part)


def _places(title: str, places: Sequence[HostGroup]) -> str:
    if not places or all(place.name in UNTOLD for place in places):
        return ""
    rows = [f"{place.failed:>9,}  of {place.all:,}  {printable(place.name)}" for place in places]
    return "\n".join([f"\n{title}, not complete of all", *rows])


def printable(text: str) -> str:
    """Return text that moves no cursor and is no longer than a line or two."""
    shown = "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    return shown if len(shown) <= LONGEST_CELL else f"{shown[: LONGEST_CELL - 1]}…"


# --- as JSON ---------------------------------------------------------------------------------------------------------


def json_of(found: Findings, *, waiting: int, pruned: int) -> JsonObject:
    """Return the report for programs; docs/answers.md describes the shape, which only grows."""
    return {
        "finished": found.finished,
        "complete": found.kinds.get(Kind.COMPLETE, 0),
        "failed": found.failed,
        "try_again": found.again,
        "waiting": waiting,
        "pruned": pruned,
        "kinds": dict(found.kinds),
        "reasons": [_group_json(group) for group in found.groups],
        "hosts": [{"name": place.name, "failed": place.failed, "all": place.all} for place in found.hosts],
        "extensions": [{"name": place.name, "failed": place.failed, "all": place.all} for place in found.extensions],
        "compared": dict(found.compared),
        "import_seconds": [
            {"below": bound, "imports": count}
            for bound, count in zip((*DURATION_BOUNDS_S, None), found.durations, strict=True)
        ],
    }


def _group_json(group: Group) -> JsonObject:
    return {
        "kind": group.reason.kind,
        "category": group.reason.category,
        "reason": group.reason.message,
        "count": group.count,
        "try_again": group.again,
        "why": group.why,
        "why_not": group.why_not or None,
        "hosts": dict(group.hosts),
        "extensions": dict(group.extensions),
        "first_at": None if group.first_at is None else iso(group.first_at),
        "last_at": None if group.last_at is None else iso(group.last_at),
        "samples": [
            {
                "task_id": sample.task_id,
                "account": sample.account,
                "url": sample.url,
                "correlation_id": sample.correlation_id,
                "file_id": sample.file_id,
                "ref": sample.ref,
            }
            for sample in group.samples
        ],
    }
