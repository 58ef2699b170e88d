"""Writes a report as one HTML page that needs nothing beside itself: no script, no other file. All text is escaped."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from poller.core.model import Kind
from poller.core.timestamps import iso
from poller.reports import charts
from poller.reports.failures.groups import FailureSample, Findings, Group, HostGroup, kind_shown
from poller.reports.failures.to_text import UNTOLD, again_text, printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

STYLE = Path(__file__).with_name("page.css").read_text("utf-8")


def page_of(found: Findings, *, waiting: int, pruned: int, made_at: float, title: str) -> str:
    """Return the whole page. `title` says what was reported on."""
    sections = (
        _head(found, waiting=waiting, pruned=pruned, made_at=made_at, title=title),
        _time(found),
        _groups(found),
        _places("Source hosts", "host", found.hosts),
        _places("File types", "extension", found.extensions),
        _kinds(found),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<meta name="referrer" content="no-referrer"><title>Import report: {escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{''.join(sections)}</main></body></html>\n"
    )


def _head(found: Findings, *, waiting: int, pruned: int, made_at: float, title: str) -> str:
    good = found.finished - found.failed
    share = f"{found.failed / found.finished:.1%}" if found.finished else "0 %"
    tiles = [
        ("", "finished", found.finished),
        ("good", "complete", good),
        ("bad", f"not complete ({share})", found.failed),
    ]
    tiles += [("", "worth another try", found.again)] if found.failed else []
    tiles += [("", "without an outcome yet", waiting)] if waiting else []
    tiles += [("", "past retention", pruned)] if pruned else []
    items = "".join(f'<li class="{name}"><b>{count:,}</b>{escape(label)}</li>' for name, label, count in tiles)
    return (
        f"<h1>What became of the imports</h1>"
        f'<p class="soft">{_text(title)} · made {iso(made_at)[:16].replace("T", " ")} UTC</p>'
        f'<ul class="tiles">{items}</ul>\n{_compared(found)}'
    )


def _compared(found: Findings) -> str:
    if not found.compared:
        return ""
    sums = " and ".join(f"{count:,} by {escape(name)}" for name, count in sorted(found.compared.items()))
    return f"<p>Files compared with your rows: {sums}.</p>\n"


def _time(found: Findings) -> str:
    over_time = charts.over_time(found.timeline, found.span_s)
    taken = charts.durations(found.durations)
    key = '<p class="soft key"><i class="good"></i>complete<i class="bad"></i>not complete</p>'
    parts = [f"<h2>Outcomes over time (UTC)</h2>{over_time}{key}\n"] if over_time else []
    parts += [f"<h2>How long imports took</h2>{taken}\n"] if taken else []
    return "".join(parts)


def _groups(found: Findings) -> str:
    if not found.groups:
        return (
            "<h2>Reasons</h2><p>Every finished task is complete.</p>\n"
            if found.finished
            else "<p>Nothing has finished yet.</p>\n"
        )
    return "<h2>Reasons</h2>\n" + "".join(_group(group, found.failed) for group in found.groups)


def _group(group: Group, failed: int) -> str:
    title = ": ".join(part for part in (group.reason.category, group.reason.message) if part)
    again = "yes" if group.again == group.count else ""
    return (
        f"<article><h3>{_text(title)}</h3>"
        f'<p><b class="num">{group.count:,}</b> '
        f'<span class="soft">{group.count / failed:.1%} of those not complete</span></p>'
        f"{charts.meter(group.count, failed, 'bad')}"
        f'<p><span class="tag">{escape(kind_shown(group.reason.kind))}</span>'
        f'<span class="tag {again}">try again: {_text(again_text(group))}</span></p>'
        f"{_counts('Hosts', group.hosts)}{_counts('Extensions', group.extensions)}{_samples(group.samples)}</article>\n"
    )


def _counts(what: str, counts: Sequence[tuple[str, int]]) -> str:
    named = ", ".join(f"{_text(name)} {count:,}" for name, count in counts if name not in UNTOLD)
    return f'<p class="soft">{what}: {named}</p>' if named else ""


def _samples(samples: Sequence[FailureSample]) -> str:
    if not samples:
        return ""
    rows = "".join(
        f"<tr><td><code>{_text(sample.task_id)}</code></td><td>{_text(sample.url or _row_of(sample))}</td>"
        f"<td><code>{_text(sample.correlation_id or '')}</code></td></tr>"
        for sample in samples
    )
    return (
        "<details open><summary>Samples</summary>"
        '<table class="samples"><thead><tr><th scope="col">task</th>'
        '<th scope="col">your row</th><th scope="col">correlation id, for HubSpot support</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></details>"
    )


def _row_of(sample: FailureSample) -> str:
    return ", ".join(f"{name}: {value}" for name, value in sample.ref.items())


def _places(title: str, noun: str, places: Sequence[HostGroup]) -> str:
    if not places or all(place.name in UNTOLD for place in places):
        return ""
    rows = "".join(
        f'<tr><td>{_text(place.name)}</td><td class="num">{place.failed:,}</td><td class="num">{place.all:,}</td>'
        f'<td class="num">{place.failed / place.all:.1%}</td>'
        f'<td class="bar">{charts.meter(place.failed, place.all, "bad")}</td></tr>'
        for place in places
    )
    return (
        f'<h2>{title}</h2><table class="places"><thead><tr>'
        f'<th scope="col">{noun}</th><th scope="col" class="num">not complete</th><th scope="col" class="num">of</th>'
        f'<th scope="col" class="num">share</th><td class="bar"></td></tr></thead>'
        f"<tbody>{rows}</tbody></table>\n"
    )


def _kinds(found: Findings) -> str:
    rows = "".join(
        f'<tr><td>{_text(kind.replace("_", " "))}</td><td class="num">{count:,}</td></tr>'
        for kind, count in found.kinds.items()
    )
    if not rows or set(found.kinds) == {Kind.COMPLETE}:
        return ""
    return (
        '<h2>Outcomes</h2><table><thead><tr><th scope="col">outcome</th>'
        '<th scope="col" class="num">tasks</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text))
