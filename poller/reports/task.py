"""Tells the story of one task: when it was fed, every look at it, what became of it, and who has it. Pure."""

import orjson

from poller.core.model import AccountState, JsonObject, Look, TaskStory
from poller.core.timestamps import iso
from poller.reports.failures.to_text import printable

INDENT = " " * 13


def story_text(story: TaskStory, account: AccountState, now: float) -> str:
    """Return one task's story as people read it."""
    lines = [
        f"{story.task_id}  (account {story.account})",
        _line("fed", f"{_at(story.fed_at)}, {_ago(now - story.fed_at)}"),
    ]
    if story.ref is not None:
        lines.append(INDENT + printable(story.ref.decode("utf-8", "replace")))
    if story.requested_at is not None:
        lines.append(_line("requested", f"{_at(story.requested_at)}, as HubSpot tells"))
    lines += [*_looks(story), *_end(story, account, now)]
    lines += [
        _line("sink" if first else "", f"{printable(sink)}: {printable(state)}") for first, sink, state in _sinks(story)
    ]
    return "\n".join(lines)


def _line(name: str, said: str) -> str:
    return f"{name:<13}{said}"


def _at(instant: float) -> str:
    return iso(instant).replace("T", " ").replace("Z", " UTC")


def _ago(seconds: float) -> str:
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def span(seconds: float) -> str:
    """Return a duration as people say it, in its two largest units."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    whole, parts = round(seconds), []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _looks(story: TaskStory) -> list[str]:
    if not story.looks:
        return [_line("looks", "none yet")]
    lines = [_line("looks", f"{story.looks:,}{f', of which {story.errors} in a row failed' if story.errors else ''}")]
    unkept = story.looks - len(story.trail)
    if unkept > 0:
        lines.append(
            f"{INDENT}the first {unkept:,} are not kept in detail" if unkept > 1 else f"{INDENT}the first is not kept"
        )
    return lines + [INDENT + _look_text(number, look) for number, look in enumerate(story.trail, max(0, unkept) + 1)]


def _look_text(number: int, look: Look) -> str:
    says = "" if look.says is None else f" {printable(str(look.says))}"
    then = "the last one" if look.again_in_s is None else f"next {span(look.again_in_s)} later"
    return (
        f"{number:>3}  {_at(look.at)}  waited {span(look.gate_s)} at the gate, took {span(look.took_s)}: "
        f"{look.outcome}{says}; {then}"
    )


def _end(story: TaskStory, account: AccountState, now: float) -> list[str]:
    if story.kind is not None:
        kind = str(story.kind).replace("_", " ")
        record = story.record
        if record is None:
            return [_line("finished", kind)]
        lines = [
            _line("finished", f"{kind}, {_at(record.seen_at)}, {span(record.seen_at - story.fed_at)} after it was fed")
        ]
        if record.reason:
            lines.append(INDENT + printable(record.reason))
        correlation = orjson.loads(record.body).get("correlation_id")
        return [*lines, f"{INDENT}correlation id {correlation}, for HubSpot's support"] if correlation else lines
    due = f"next look due {_at(story.due_at)}, {_ago(now - story.due_at)}"
    lines = [_line("waiting", f"{printable(story.status)} was HubSpot's last word; {due}" if story.status else due)]
    if account.pause:
        why = f" ({printable(account.pause_detail)})" if account.pause_detail else ""
        until = f", until about {_at(account.resume_at)}" if account.resume_at is not None else ""
        lines.append(f"{INDENT}the account is paused: {account.pause}{why}{until}")
    return lines


def _sinks(story: TaskStory) -> list[tuple[bool, str, str]]:
    if story.kind is None:
        return []
    return [(number == 0, sink, state) for number, (sink, state) in enumerate(story.deliveries.items())]


def story_json(story: TaskStory, account: AccountState) -> JsonObject:
    """Return one task's story for programs; docs/answers.md describes the shape, which only grows."""
    record = story.record
    return {
        "task_id": story.task_id,
        "account": story.account,
        "state": "waiting" if story.kind is None else "finished",
        "kind": None if story.kind is None else str(story.kind),
        "reason": None if record is None else record.reason,
        "status": story.status,
        "fed_at": iso(story.fed_at),
        "requested_at": None if story.requested_at is None else iso(story.requested_at),
        "next_look_at": None if story.kind is not None else iso(story.due_at),
        "finished_at": None if record is None else iso(record.seen_at),
        "looks": story.looks,
        "failed_looks_in_a_row": story.errors,
        "trail": [_look_json(look) for look in story.trail],
        "account_pause": account.pause,
        "ref": None if story.ref is None else orjson.Fragment(story.ref),
        "record": None if record is None else orjson.Fragment(record.body),
        "deliveries": dict(story.deliveries),
    }


def _look_json(look: Look) -> JsonObject:
    return {
        "at": iso(look.at),
        "gate_s": look.gate_s,
        "took_s": look.took_s,
        "outcome": look.outcome,
        "says": look.says,
        "next_in_s": look.again_in_s,
    }
