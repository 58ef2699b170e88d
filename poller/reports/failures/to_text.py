"""Renders a failure report for a terminal. Pure."""

from collections.abc import Sequence

from poller.core.text import counted, percent, printable
from poller.reports.failures.counters import BoundedCounter
from poller.reports.failures.groups import NO_URL, FailureReport, FailureShare, ReasonGroup
from poller.reports.finished_task import DIFFERS, NO_EXTENSION, FinishedTask
from poller.reports.ledger import landed_line

INDENT = " " * 18
SHOWN_GROUPS = 20
SHOWN_SAMPLES = 3
SHOWN_ADVICE = 4
SHOWN_NAMES = 4
NOTHING_FINISHED = "nothing has finished yet; {waiting}"
UNNAMED = (NO_URL, NO_EXTENSION)


def to_text(report: FailureReport, *, waiting: int, pruned: int) -> str:
    """Return the report as text."""
    parts = [_head(report, waiting=waiting, pruned=pruned)]
    groups = report.groups()
    parts += [_group_text(group, report.failed) for group in groups[:SHOWN_GROUPS]]
    if hidden := groups[SHOWN_GROUPS:]:
        count = sum(group.count for group in hidden)
        parts.append(f"{count:>9,}  with {counted(len(hidden), 'rarer reason')}; --json lists them")
    if report.failed:
        parts += [_shares("by source host", report.hosts()), _shares("by extension", report.extensions())]
    return "\n".join(part for part in parts if part)


def _head(report: FailureReport, *, waiting: int, pruned: int) -> str:
    if not report.finished:
        return NOTHING_FINISHED.format(
            waiting=counted(waiting, "task waits", "tasks wait") if waiting else "no task waits"
        )
    good = report.finished - report.failed
    lines = [
        landed_line(report.landed, report.finished, waiting, report.tried_again),
        f"{counted(report.finished, 'finished task')}: {good:,} complete, {report.failed:,} not{_percent(report)}",
    ]
    if pruned:
        lines.append(f"{counted(pruned, 'more task is', 'more tasks are')} past retention: only their counts are known")
    if report.compared:
        sums = " and ".join(f"{count:,} by {name}" for name, count in sorted(report.compared.items()))
        differing = sum(group.count for group in report.groups() if group.reason.kind == DIFFERS)
        lines.append(f"files compared with your rows: {sums}; {differing:,} differ")
    if report.failed:
        lines.append(
            f"{report.retryable:,} of those not complete can be retried: --resubmit FILE writes start call bodies"
        )
    return "\n".join(lines)


def _percent(report: FailureReport) -> str:
    return f" ({percent(report.failed, report.finished)})" if report.failed else ""


def _group_text(group: ReasonGroup, failed: int) -> str:
    share = percent(group.count, failed)
    lines = [f"\n{group.count:>9,}  {share:>5}  {group.label}  {printable(group.reason.text)}"]
    lines.append(f"{INDENT}{group.landed:,} landed, {group.count - group.landed:,} did not")
    if names := [text for text in (_counts("hosts", group.hosts), _counts("extensions", group.extensions)) if text]:
        lines.append(INDENT + " · ".join(names))
    lines.append(INDENT + f"retry: {retry_text(group)}")
    lines += [INDENT + _sample_text(sample) for sample in group.samples[:SHOWN_SAMPLES]]
    return "\n".join(lines)


def retry_text(group: ReasonGroup) -> str:
    """Return which tasks of a group can be retried, and why: the same for all, or with the number of each."""
    ranked = group.advice.most_common()
    parts = [f"{'yes' if advice.retryable else 'no'}, {printable(advice.why)}" for advice, _ in ranked[:SHOWN_ADVICE]]
    if len(ranked) > 1:
        parts = [f"{count:,} {part}" for (_, count), part in zip(ranked, parts, strict=False)]
    if hidden := ranked[SHOWN_ADVICE:]:
        parts.append(f"{sum(count for _, count in hidden):,} for other reasons")
    return "; ".join(parts)


def _counts(title: str, counter: BoundedCounter) -> str:
    counts = counter.top()
    named = [f"{printable(name)} {count:,}" for name, count in counts[:SHOWN_NAMES] if name not in UNNAMED]
    return f"{title} {', '.join(named)}{', …' if len(counts) > SHOWN_NAMES else ''}" if named else ""


def _sample_text(sample: FinishedTask) -> str:
    correlation_id = f"correlation id {sample.correlation_id}" if sample.correlation_id else None
    return "e.g. " + "  ".join(printable(part) for part in (sample.task_id, sample.url, correlation_id) if part)


def _shares(title: str, shares: Sequence[FailureShare]) -> str:
    if all(share.name in UNNAMED for share in shares):
        return ""
    rows = [f"{share.failed:>9,}  of {share.all:,}  {printable(share.name)}" for share in shares]
    return "\n".join([f"\n{title}, not complete of all", *rows])
