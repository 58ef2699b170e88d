"""Renders a failure report for programs; docs/answers.md describes the keys. Pure."""

from dataclasses import asdict

import orjson

from poller.core.model import JsonObject, Kind
from poller.core.timestamps import iso
from poller.reports.failures.groups import FailureReport, ReasonGroup
from poller.reports.finished_task import FinishedTask, row_json

SAMPLE = ("task_id", "account", "url", "correlation_id", "file_id")


def to_json(report: FailureReport, *, waiting: int, pruned: int) -> JsonObject:
    """Return the report as one object. Keys may be added, never removed."""
    return {
        "finished": report.finished,
        "complete": report.kinds.get(Kind.COMPLETE, 0),
        "landed": sum(report.landed.values()),
        "tried_again": report.tried_again,
        "failed": report.failed,
        "retryable": report.retryable,
        "waiting": waiting,
        "pruned": pruned,
        "kinds": dict(report.kinds),
        "landed_by_kind": {kind: report.landed[kind] for kind in report.kinds},
        "reasons": [_group(group) for group in report.groups()],
        "hosts": [asdict(share) for share in report.hosts()],
        "extensions": [asdict(share) for share in report.extensions()],
        "compared": dict(report.compared),
        "import_seconds": [
            {"below": bound, "imports": count}
            for bound, count in zip((*report.durations.bounds, None), report.durations.counts, strict=True)
        ],
    }


def _group(group: ReasonGroup) -> JsonObject:
    return {
        "kind": group.reason.kind,
        "category": group.reason.category,
        "reason": group.reason.message,
        "count": group.count,
        "landed": group.landed,
        "retryable": group.retryable,
        "why": group.why(retryable=True) or group.why(retryable=False),
        "why_not": group.why(retryable=False),
        "advice": [
            {"retry": advice.retryable, "why": advice.why, "count": count}
            for advice, count in group.advice.most_common()
        ],
        "hosts": dict(group.hosts.top()),
        "extensions": dict(group.extensions.top()),
        "first_at": None if group.first_at is None else iso(group.first_at),
        "last_at": None if group.last_at is None else iso(group.last_at),
        "samples": [_sample(sample) for sample in group.samples],
    }


def _sample(sample: FinishedTask) -> JsonObject:
    return {name: getattr(sample, name) for name in SAMPLE} | {"ref": orjson.Fragment(row_json(sample.ref))}
