"""The ledger: where every line, task and record went, whether the sums agree, and how that reads. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from poller.core.errors import Exit
from poller.core.model import Kind, SinkSums, SourceSums, Sums

MOST_LINES = 20  # sources that are told one by one
FEW_OF_FOLDER = 3  # so many of a folder are, even then


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """One sum that does not hold: a defect of the poller or a state file that was tampered with."""

    what: str
    left: int
    right: int

    def __str__(self) -> str:
        return f"{self.what}: {self.left:,} is not {self.right:,}"


def imbalances(sums: Sums) -> list[Imbalance]:
    """Return every equation of the ledger that does not hold; empty when it balances."""
    tasks = sums.waiting + sums.finished
    checks = chain(
        (_source_equation(source) for source in sums.sources),
        [("tasks fed = waiting + finished", sum(source.tasks for source in sums.sources), tasks)],
        [("finished = outcomes by kind", sums.finished, sum(sums.kinds.values()))],
        (_sink_equation(sink, sums.finished) for sink in sums.sinks if sink.attached),
    )
    return [Imbalance(what=what, left=left, right=right) for what, left, right in checks if left != right]


def _source_equation(source: SourceSums) -> tuple[str, int, int]:
    parts = source.tasks + source.duplicates + source.rejected + source.blank
    return f"{source.name}: lines = tasks + duplicates + rejected + blank", source.lines, parts


def _sink_equation(sink: SinkSums, finished: int) -> tuple[str, int, int]:
    parts = sink.delivered + sink.undelivered + sink.dead + sink.missed
    return f"{sink.name}: finished = delivered + undelivered + dead + missed", finished, parts


def exit_code(sums: Sums) -> Exit:
    """Return what the state as a whole says: work left, everything complete, or not."""
    if sums.waiting or any(sink.undelivered for sink in sums.sinks if sink.attached):
        return Exit.WORK_LEFT
    if sums.finished != sums.kinds.get(Kind.COMPLETE, 0) or any(sink.dead for sink in sums.sinks):
        return Exit.NOT_ALL_COMPLETE
    return Exit.ALL_COMPLETE


def ledger(sums: Sums) -> str:
    """Return the ledger for people, one equation a line."""
    lines = [_source_line(source, count) for source, count in folded(sums.sources)]
    lines.append(
        f"  {'tasks':<10} {sums.waiting + sums.finished:,} = {sums.finished:,} finished + {sums.waiting:,} waiting"
    )
    lines += [_sink_line(sink, sums.finished) for sink in sums.sinks if sink.attached]
    broken = imbalances(sums)
    lines += [f"  DOES NOT BALANCE  {imbalance}" for imbalance in broken]
    return "\n".join(["ledger" + ("" if broken else " (balanced)"), *lines])


def folded(sources: Sequence[SourceSums]) -> list[tuple[SourceSums, int]]:
    """Return the sources, those of one name added up, each with how many it stands for: a rotated file is many. Where
    there still are too many to read, those of one folder are added up."""
    by_name = _added_up([(source, 1) for source in sources], lambda name: name)
    if len(by_name) <= MOST_LINES:
        return by_name
    folders = Counter(_folder(source.name) for source, _ in by_name)
    return _added_up(by_name, lambda name: f"{_folder(name)}/…" if folders[_folder(name)] > FEW_OF_FOLDER else name)


def by_name(sources: Iterable[SourceSums]) -> list[SourceSums]:
    """Return the sources, those of one name (a file that was rotated) added up."""
    return [source for source, _ in _added_up([(source, 1) for source in sources], lambda name: name)]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _added_up(sources: Iterable[tuple[SourceSums, int]], rename: Callable[[str], str]) -> list[tuple[SourceSums, int]]:
    sums: dict[str, tuple[SourceSums, int]] = {}
    for source, count in sources:
        name = rename(source.name)
        known = sums.get(name)
        sums[name] = (
            (replace(source, name=name), count) if known is None else (_sum(known[0], source), known[1] + count)
        )
    return list(sums.values())


def _sum(one: SourceSums, other: SourceSums) -> SourceSums:
    return replace(
        one,
        lines=one.lines + other.lines,
        tasks=one.tasks + other.tasks,
        duplicates=one.duplicates + other.duplicates,
        rejected=one.rejected + other.rejected,
        blank=one.blank + other.blank,
        ended=one.ended and other.ended,
    )


def _source_line(source: SourceSums, count: int) -> str:
    many = f" × {count:,}" if count > 1 else ""
    return (
        f"  {'fed':<10} {source.lines:,} lines = {source.tasks:,} tasks + {source.duplicates:,} duplicates "
        f"+ {source.rejected:,} rejected + {source.blank:,} blank or comment   {source.name}{many}"
    )


def _sink_line(sink: SinkSums, finished: int) -> str:
    missed = f" + {sink.missed:,} past retention before" if sink.missed else ""
    return (
        f"  {'sink':<10} {finished:,} finished = {sink.delivered:,} delivered + {sink.undelivered:,} undelivered "
        f"+ {sink.dead:,} dead{missed}   {sink.name}"
    )


def summary(sums: Sums) -> str:
    """Return the closing summary: ledger, kinds, pauses, polls per task, most frequent reasons."""
    parts = [ledger(sums), _kinds(sums), _polls(sums)]
    parts += [
        f"account {name} is paused: {_pause(state.pause, state.pause_detail)}"
        for name, state in sums.accounts.items()
        if state.pause
    ]
    if sums.reasons:
        parts.append("top reasons\n" + "\n".join(f"  {count:>9,}  {reason}" for reason, count in sums.reasons))
    return "\n".join(part for part in parts if part)


def _pause(pause: str, detail: str | None) -> str:
    return f"{pause} ({detail})" if detail else pause


def _kinds(sums: Sums) -> str:
    rows = [f"  {sums.kinds[kind]:>9,}  {kind}" for kind in Kind if sums.kinds.get(kind)]
    return "\n".join(["outcomes", *rows]) if rows else ""


def _polls(sums: Sums) -> str:
    tasks = sums.waiting + sums.finished
    return f"polls\n  {sums.polls:>9,}  in all, {sums.polls / tasks:.2f} per task" if tasks else ""


def troubles(counts: Mapping[str, int]) -> str:
    """Return which polls of this run told nothing of their task, by reason; empty when all did."""
    if not counts:
        return ""
    rows = sorted(counts.items(), key=lambda reason: (-reason[1], reason[0]))
    return "\n".join(["polls of this run that told nothing", *(f"  {count:>9,}  {reason}" for reason, count in rows)])
