"""Renders a failure report as one self-contained HTML page: no script, no other file. All text is escaped."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from poller.core.model import Kind
from poller.core.text import kind_label, percent, printable
from poller.core.timestamps import iso
from poller.reports import charts
from poller.reports.failures.counters import BoundedCounter
from poller.reports.failures.groups import FailureReport, FailureShare, ReasonGroup
from poller.reports.failures.to_text import UNNAMED, retry_text
from poller.reports.finished_task import FinishedTask

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

STYLE = charts.THEME.read_text("utf-8") + Path(__file__).with_name("page.css").read_text("utf-8")


def to_html(report: FailureReport, *, waiting: int, pruned: int, made_at: float, title: str) -> str:
    """Return the whole page. `title` names the input of the report."""
    sections = (
        _head(report, waiting=waiting, pruned=pruned, made_at=made_at, title=title),
        _charts(report, waiting=waiting),
        _groups(report),
        _shares("Source hosts", "host", report.hosts()),
        _shares("File types", "extension", report.extensions()),
        _kinds(report),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<meta name="referrer" content="no-referrer"><title>Import report: {_text(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{''.join(sections)}</main></body></html>\n"
    )


def _head(report: FailureReport, *, waiting: int, pruned: int, made_at: float, title: str) -> str:
    good = report.finished - report.failed
    landed = sum(report.landed.values())
    not_plainly = landed - report.landed.get(Kind.COMPLETE, 0)
    rows = report.finished - report.tried_again  # each by its latest attempt
    tiles = [
        ("good", f"landed ({not_plainly:,} with errors)" if not_plainly else "landed", landed),
        ("bad", f"did not land ({percent(rows - landed, rows)})", rows - landed),
        ("", "finished", report.finished),
        ("", "complete", good),
        ("", f"not complete ({percent(report.failed, report.finished)})", report.failed),
    ]
    tiles += [("", "earlier attempts, tried again", report.tried_again)] if report.tried_again else []
    tiles += [("", "can be retried", report.retryable)] if report.failed else []
    tiles += [("", "without an outcome yet", waiting)] if waiting else []
    tiles += [("", "past retention", pruned)] if pruned else []
    items = "".join(f'<li class="{name}"><b>{count:,}</b>{escape(label)}</li>' for name, label, count in tiles)
    return (
        "<h1>Import outcomes</h1>"
        f'<p class="soft">{_text(title)} · created {iso(made_at)[:16].replace("T", " ")} UTC</p>'
        f'<ul class="tiles">{items}</ul>\n{_compared(report)}'
    )


def _compared(report: FailureReport) -> str:
    if not report.compared:
        return ""
    sums = " and ".join(f"{count:,} by {escape(name)}" for name, count in sorted(report.compared.items()))
    return f"<p>Files compared with your rows: {sums}.</p>\n"


def _charts(report: FailureReport, *, waiting: int) -> str:
    over_time = charts.over_time(report.timeline.spans(), report.timeline.span_s)
    durations = charts.durations(report.durations)
    key = '<p class="soft key"><i class="good"></i>complete<i class="bad"></i>not complete</p>'
    parts = [f"<h2>Outcomes over time (UTC)</h2>{over_time}{key}\n"] if over_time else []
    which = "of those finished so far: " if waiting else ""  # the longest are still missing
    spread = f'<p class="soft">{which}{charts.quantiles_text(report.durations)}</p>{durations}'
    parts += [f"<h2>How long imports took</h2>{spread}\n"] if durations else []
    return "".join(parts)


def _groups(report: FailureReport) -> str:
    if not report.finished:
        return "<p>Nothing has finished yet.</p>\n"
    groups = "".join(_group(group, report.failed) for group in report.groups())
    return f"<h2>Reasons</h2>\n{groups or '<p>Every finished task is complete.</p>'}\n"


def _group(group: ReasonGroup, failed: int) -> str:
    retryable = "yes" if group.retryable == group.count else ""
    return (
        f"<article><h3>{_text(group.reason.text)}</h3>"
        f'<p><b class="num">{group.count:,}</b> '
        f'<span class="soft">{percent(group.count, failed)} of those not complete · {group.landed:,} landed, '
        f"{group.count - group.landed:,} did not</span></p>"
        f"{charts.meter(group.count, failed, 'bad')}"
        f'<p><span class="tag">{escape(group.label)}</span>'
        f'<span class="tag {retryable}">retry: {_text(retry_text(group))}</span></p>'
        f"{_counts('Hosts', group.hosts)}{_counts('Extensions', group.extensions)}{_samples(group.samples)}</article>\n"
    )


def _counts(title: str, counter: BoundedCounter) -> str:
    named = ", ".join(f"{_text(name)} {count:,}" for name, count in counter.top() if name not in UNNAMED)
    return f'<p class="soft">{title}: {named}</p>' if named else ""


def _samples(samples: Sequence[FinishedTask]) -> str:
    rows = "".join(
        f"<tr><td><code>{_text(sample.task_id)}</code></td><td>{_text(sample.url or _row_text(sample))}</td>"
        f"<td><code>{_text(sample.correlation_id or '')}</code></td></tr>"
        for sample in samples
    )
    head = (
        '<th scope="col">task</th><th scope="col">your row</th><th scope="col">correlation id, for HubSpot support</th>'
    )
    return f"<details open><summary>Samples</summary>{_table('samples', head, rows)}</details>" if rows else ""


def _row_text(sample: FinishedTask) -> str:
    return ", ".join(f"{name}: {value}" for name, value in sample.ref.items())


def _shares(title: str, noun: str, shares: Sequence[FailureShare]) -> str:
    if all(share.name in UNNAMED for share in shares):
        return ""
    rows = "".join(
        f'<tr><td>{_text(share.name)}</td><td class="num">{share.failed:,}</td><td class="num">{share.all:,}</td>'
        f'<td class="num">{percent(share.failed, share.all)}</td>'
        f'<td class="bar">{charts.meter(share.failed, share.all, "bad")}</td></tr>'
        for share in shares
    )
    head = (
        f'<th scope="col">{noun}</th><th scope="col" class="num">not complete</th><th scope="col" class="num">of</th>'
        '<th scope="col" class="num">share</th><td class="bar"></td>'
    )
    return f"<h2>{title}</h2>{_table('shares', head, rows)}\n"


def _kinds(report: FailureReport) -> str:
    if set(report.kinds) <= {Kind.COMPLETE}:
        return ""
    rows = "".join(
        f'<tr><td>{_text(kind_label(kind))}</td><td class="num">{count:,}</td></tr>'
        for kind, count in report.kinds.items()
    )
    head = '<th scope="col">outcome</th><th scope="col" class="num">tasks</th>'
    return f"<h2>Outcomes</h2>{_table('kinds', head, rows)}\n"


def _table(name: str, head: str, rows: str) -> str:
    return f'<table class="{name}"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _text(text: str) -> str:
    return escape(printable(text))
