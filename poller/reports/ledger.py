"""The ledger: the sums of lines, tasks and deliveries, whether they balance, and their text. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from poller.core.model import Kind
from poller.core.sums import SinkSums, SourceSums, Sums
from poller.core.text import counted, without_controls

MOST_SOURCES = 20  # with a line each; beyond, one line a folder
_COUNTS = ("lines", "tasks", "duplicates", "rejected", "blank")
FEWEST_OF_FOLDER = 4  # sources of a folder that share a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Imbalance:
    """One equation that does not hold: a defect of the poller, or a state file that something else changed."""

    what: str
    left: int
    right: int

    def __str__(self) -> str:
        return f"{without_controls(self.what)}: {self.left:,} is not {self.right:,}"


def imbalances(sums: Sums) -> list[Imbalance]:
    """Return every equation of the ledger that does not hold; empty when it balances."""
    tasks = sums.waiting + sums.finished
    checks = [
        ("tasks fed = waiting + finished", sum(source.tasks for source in sums.sources), tasks),
        ("finished = outcomes by kind", sums.finished, sum(sums.kinds.values())),
    ]
    for source in sums.sources:
        parts = source.tasks + source.duplicates + source.rejected + source.blank
        checks.append((f"{source.name}: lines = tasks + duplicates + rejected + blank", source.lines, parts))
    for sink in (sink for sink in sums.sinks if sink.attached):
        parts = sink.delivered + sink.undelivered + sink.dead + sink.missed
        checks.append((f"{sink.name}: finished = delivered + undelivered + dead + missed", sums.finished, parts))
    if (starts := sums.starts) is not None:
        parts = starts.accepted + starts.refused + starts.lost
        checks.append(("starts = accepted + refused + lost", starts.starts, parts))
    return [Imbalance(what=what, left=left, right=right) for what, left, right in checks if left != right]


def ledger(sums: Sums) -> str:
    """Return the ledger as text, one equation a line."""
    lines = [_source_line(source, count) for source, count in merged(sums.sources, by_folder=True)]
    lines += _task_lines(sums)
    lines += [_sink_line(sink, sums.finished) for sink in sums.sinks if sink.attached]
    broken = imbalances(sums)
    lines += [f"  DOES NOT BALANCE  {imbalance}" for imbalance in broken]
    return "\n".join(["ledger" + ("" if broken else " (balanced)"), *lines])


def _task_lines(sums: Sums) -> list[str]:
    """Return the equation of tasks; for rows to import also that of starts, and that of requests."""
    tasks, starts = f"  {'tasks':<10} {sums.waiting + sums.finished:,} = {sums.finished:,} finished", sums.starts
    if starts is None:
        return [f"{tasks} + {sums.waiting:,} waiting"]
    waiting = sums.waiting - starts.underway - starts.unsure - starts.unstarted
    others = f" + {waiting:,} waiting" if waiting else ""
    repeated = f" ({starts.repeated:,} repeated)" if starts.repeated else ""
    return [
        f"{tasks} + {starts.underway:,} underway + {starts.unsure:,} unsure + {starts.unstarted:,} unstarted{others}",
        f"  {'starts':<10} {starts.starts:,} sent = {starts.accepted:,} accepted + {starts.refused:,} refused "
        f"+ {starts.lost:,} lost{repeated}",
        f"  {'requests':<10} {starts.starts + sums.polls:,} = {counted(starts.starts, 'start')} + "
        f"{counted(sums.polls, 'poll')}",
    ]


def merged(sources: Iterable[SourceSums], *, by_folder: bool = False) -> list[tuple[SourceSums, int]]:
    """Return the sums of sources with one name, such as the rotations of a file, and how many sources each is.

    With `by_folder`, of more than `MOST_SOURCES` names those in one folder are merged too.
    """
    groups: dict[str, list[SourceSums]] = {}
    for source in sources:
        groups.setdefault(source.name, []).append(source)
    if by_folder and len(groups) > MOST_SOURCES:
        folders, by_name, groups = Counter(map(_folder, groups)), groups, {}
        for name, group in by_name.items():
            folder = _folder(name)
            groups.setdefault(f"{folder}/…" if folders[folder] >= FEWEST_OF_FOLDER else name, []).extend(group)
    return [(_sum(name, group), len(group)) for name, group in groups.items()]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _sum(name: str, group: Sequence[SourceSums]) -> SourceSums:
    counts = {count: sum(getattr(source, count) for source in group) for count in _COUNTS}
    return replace(group[0], name=name, ended=all(source.ended for source in group), **counts)


def _source_line(source: SourceSums, count: int) -> str:
    many = f" × {count:,}" if count > 1 else ""
    return (
        f"  {'fed':<10} {counted(source.lines, 'line')} = {counted(source.tasks, 'task')} + "
        f"{counted(source.duplicates, 'duplicate')} + {source.rejected:,} rejected + "
        f"{source.blank:,} header, blank or comment   {without_controls(source.name)}{many}"
    )


def _sink_line(sink: SinkSums, finished: int) -> str:
    missed = f" + {sink.missed:,} past retention before" if sink.missed else ""
    return (
        f"  {'sink':<10} {finished:,} finished = {sink.delivered:,} delivered + {sink.undelivered:,} undelivered "
        f"+ {sink.dead:,} dead{missed}   {without_controls(sink.name)}"
    )


def summary(sums: Sums) -> str:
    """Return the summary of a run: what landed, the ledger, kinds, polls per task, pauses, most frequent reasons."""
    counts = [(kind, sums.kinds.get(kind, 0), sums.landed.get(kind, 0)) for kind in Kind]
    kinds = [(_with_landed(kind, count, landed), count) for kind, count, landed in counts if count]
    headline = landed_line(sums.landed, sums.finished, sums.waiting, sums.tried_again)
    parts = [headline, ledger(sums), _table("outcomes", kinds), _polls(sums)]
    parts += [
        f"account {name} is paused: {without_controls(_pause(state.pause, state.pause_detail))}"
        for name, state in sums.accounts.items()
        if state.pause
    ]
    reasons = [(_with_landed(reason, count, landed), count) for reason, count, landed in sums.reasons]
    parts.append(_table("top reasons", reasons))
    return "\n".join(part for part in parts if part)


def landed_line(landed: Mapping[str, int], finished: int, waiting: int, tried_again: int = 0) -> str:
    """Return how many files landed, such as `5,701 landed (281 with errors) · 1,298 did not · 1 waiting`: the headline
    of summary, status, report and page. `landed` is by kind. `tried_again` are finished attempts at rows that have a
    later one: each row is counted by its latest attempt, so that they are neither of those three."""
    there = sum(landed.values())
    not_plainly = there - landed.get(Kind.COMPLETE, 0)
    with_errors = f" ({not_plainly:,} with errors)" if not_plainly else ""
    parts = [f"{there:,} landed{with_errors}", f"{finished - there - tried_again:,} did not"]
    parts += [f"{waiting:,} waiting"] if waiting else []
    return " · ".join([*parts, tried_again_text(tried_again)] if tried_again else parts)


def tried_again_text(count: int) -> str:
    """Return what became of attempts that are not the latest ones, for people."""
    return f"{counted(count, 'earlier attempt')}, tried again"


def _with_landed(name: str, count: int, landed: int) -> str:
    """Return the name of a kind or a reason with how many of its tasks landed, where that is not what it implies."""
    is_implied = landed == (count if name == Kind.COMPLETE else 0)
    return name if is_implied else f"{name}   ({landed:,} landed, {count - landed:,} did not)"


def _pause(pause: str, detail: str | None) -> str:
    return f"{pause} ({detail})" if detail else pause


def _polls(sums: Sums) -> str:
    tasks = sums.waiting + sums.finished
    return f"polls\n  {sums.polls:>9,}  in all, {sums.polls / tasks:.2f} per task" if tasks else ""


def failed_polls(counts: Mapping[str, int]) -> str:
    """Return the failed polls of this run, by reason, as text; empty where none failed."""
    rows = sorted(counts.items(), key=lambda reason: (-reason[1], reason[0]))
    return _table("failed requests of this run, by reason", rows)


def _table(title: str, rows: Iterable[tuple[str, int]]) -> str:
    lines = [f"  {count:>9,}  {without_controls(name)}" for name, count in rows]
    return "\n".join([title, *lines]) if lines else ""
