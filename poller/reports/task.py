"""Tells the story of one task: when it was fed, every poll of it, what became of it, and who has it. Pure."""

import orjson

from poller.core.model import AccountState, JsonObject, Poll, TaskDetails
from poller.core.text import duration, printable
from poller.core.timestamps import iso

INDENT = " " * 13


def story_text(story: TaskDetails, account: AccountState, now: float) -> str:
    """Return one task's story as people read it."""
    lines = [
        f"{story.task_id}  (account {story.account})",
        _line("fed", f"{_at(story.fed_at)}, {_ago(now - story.fed_at)}"),
    ]
    if story.ref is not None:
        lines.append(INDENT + printable(story.ref.decode("utf-8", "replace")))
    if story.requested_at is not None:
        lines.append(_line("requested", f"{_at(story.requested_at)}, as HubSpot tells"))
    lines += [*_polls(story), *_end(story, account, now)]
    lines += [
        _line("sink" if first else "", f"{printable(sink)}: {printable(state)}") for first, sink, state in _sinks(story)
    ]
    return "\n".join(lines)


def _line(name: str, said: str) -> str:
    return f"{name:<13}{said}"


def _at(instant: float) -> str:
    return iso(instant).replace("T", " ").replace("Z", " UTC")


def _ago(seconds: float) -> str:
    return f"{duration(seconds)} ago" if seconds >= 0 else f"in {duration(-seconds)}"


def _polls(story: TaskDetails) -> list[str]:
    if not story.polls:
        return [_line("polls", "none yet")]
    lines = [_line("polls", f"{story.polls:,}{f', of which {story.errors} in a row failed' if story.errors else ''}")]
    unkept = story.polls - len(story.poll_log)
    if unkept > 0:
        lines.append(
            f"{INDENT}the first {unkept:,} are not kept in detail" if unkept > 1 else f"{INDENT}the first is not kept"
        )
    return lines + [INDENT + _poll_text(number, poll) for number, poll in enumerate(story.poll_log, max(0, unkept) + 1)]


def _poll_text(number: int, poll: Poll) -> str:
    says = "" if poll.detail is None else f" {printable(str(poll.detail))}"
    then = "the last one" if poll.again_in_s is None else f"next {duration(poll.again_in_s)} later"
    return (
        f"{number:>3}  {_at(poll.at)}  waited {duration(poll.gate_s)} at the gate, took {duration(poll.took_s)}: "
        f"{poll.outcome}{says}; {then}"
    )


def _end(story: TaskDetails, account: AccountState, now: float) -> list[str]:
    if story.kind is not None:
        kind = str(story.kind).replace("_", " ")
        record = story.record
        if record is None:
            return [_line("finished", kind)]
        lines = [
            _line(
                "finished", f"{kind}, {_at(record.seen_at)}, {duration(record.seen_at - story.fed_at)} after it was fed"
            )
        ]
        if record.reason:
            lines.append(INDENT + printable(record.reason))
        correlation = record.correlation_id
        return [*lines, f"{INDENT}correlation id {correlation}, for HubSpot's support"] if correlation else lines
    due = f"next poll due {_at(story.due_at)}, {_ago(now - story.due_at)}"
    lines = [_line("waiting", f"{printable(story.status)} was HubSpot's last word; {due}" if story.status else due)]
    if account.pause:
        why = f" ({printable(account.pause_detail)})" if account.pause_detail else ""
        until = f", until about {_at(account.resume_at)}" if account.resume_at is not None else ""
        lines.append(f"{INDENT}the account is paused: {account.pause}{why}{until}")
    return lines


def _sinks(story: TaskDetails) -> list[tuple[bool, str, str]]:
    if story.kind is None:
        return []
    return [(number == 0, sink, state) for number, (sink, state) in enumerate(story.deliveries.items())]


def story_json(story: TaskDetails, account: AccountState) -> JsonObject:
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
        "next_poll_at": None if story.kind is not None else iso(story.due_at),
        "finished_at": None if record is None else iso(record.seen_at),
        "polls": story.polls,
        "failed_polls_in_a_row": story.errors,
        "poll_log": [_poll_json(poll) for poll in story.poll_log],
        "account_pause": account.pause,
        "ref": None if story.ref is None else orjson.Fragment(story.ref),
        "record": None if record is None else orjson.Fragment(record.body),
        "deliveries": dict(story.deliveries),
    }


def _poll_json(poll: Poll) -> JsonObject:
    return {
        "at": iso(poll.at),
        "gate_s": poll.gate_s,
        "took_s": poll.took_s,
        "outcome": poll.outcome,
        "says": poll.detail,
        "next_in_s": poll.again_in_s,
    }
