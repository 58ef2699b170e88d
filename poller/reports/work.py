"""What a run was given: its input and what an interrupted run left. Outcomes of earlier work do not count. Pure."""

import hashlib
from collections.abc import Iterator, Mapping

from msgspec import Struct, field, json
from msgspec.structs import replace

from poller.core.errors import Exit
from poller.core.model import Kind
from poller.core.sums import Sums
from poller.sources import UnchangedLines

UNREAD = UnchangedLines()  # none

REFUSED_KEPT = 200  # of the latest: few are refused and not yet moved at a crash

WORK = "latest input, with what a stopped run had left"  # a run may continue it: these are not the counts of one run


class WorkStart(Struct, frozen=True, kw_only=True):
    """The sums of a state when a piece of work began: nothing was left then of the work before."""

    lines: int = 0  # input lines, of all sources
    rejected: int = 0
    failed: int = 0  # lines whose task had an outcome before, but not `complete`
    finished: int = 0
    complete: int = 0
    dead: Mapping[str, int] = field(default_factory=dict)  # by sink


class WorkNote(Struct, frozen=True, kw_only=True):
    """What a state keeps of the current piece of work, so that the run after a crash has the same answer."""

    start: WorkStart = WorkStart()
    next_start: WorkStart = WorkStart()  # of the next piece, which begins with its first input line
    is_input_left: bool = False  # the latest run with input that ends has not read it to there
    refused: int = 0  # inputs of this piece that were refused as a whole: no source in the state has them
    refused_inputs: tuple[str, ...] = ()  # digests of the latest of them
    failed_duplicates: int = 0  # of this piece, as a version before 2026-11-28 counted them; later ones: in the sources


class Work(Struct, frozen=True, kw_only=True):
    """What became of the work that a run was given."""

    finished: int
    not_complete: int
    rejected: int
    dead: int
    failed_duplicates: int  # lines whose task had an outcome before, but not `complete`
    refused: int = 0  # inputs in which nothing was usable
    unchanged: UnchangedLines = UNREAD
    is_input_left: bool = False  # the run ended before a finite input was read to its end
    unread_reason: str = ""  # why something could not be read; empty where all could
    unwritable: str = ""  # why the state could not be written at the end; empty where it could


def work_start(sums: Sums) -> WorkStart:
    """Return the start of work that begins with these sums."""
    return WorkStart(
        lines=_lines(sums),
        rejected=sum(source.rejected for source in sums.sources),
        failed=sum(source.failed for source in sums.sources),
        finished=sums.finished,
        complete=sums.kinds.get(Kind.COMPLETE, 0),
        dead={sink.name: sink.dead for sink in sums.sinks if sink.dead},
    )


def work_note(noted: bytes | None, sums: Sums, *, has_input: bool = False) -> WorkNote:
    """Return the note of a run that begins with these sums. `noted` is that of the run before; `has_input`: this one is
    given input that ends."""
    note = current(json.decode(noted, type=WorkNote) if noted is not None else WorkNote(), sums)
    dead = {sink.name: min(sink.dead, note.start.dead.get(sink.name, 0)) for sink in sums.sinks}  # some were replayed
    start = replace(note.start, dead=dead)
    is_input_left = note.is_input_left and note.start == note.next_start  # it had begun
    next_start = start if is_work_left(sums) or is_input_left else work_start(sums)
    refused = note.refused if is_work_left(sums) or note.is_input_left else 0
    note = replace(note, start=start, next_start=next_start, is_input_left=is_input_left or has_input)
    return replace(note, refused=refused, refused_inputs=note.refused_inputs if refused else ())


def with_refused(note: WorkNote, what: str) -> WorkNote:
    """Return the note after an input was refused as a whole. `what` identifies it: after a crash that came before its
    file was moved, the next run refuses it once more."""
    digest = hashlib.blake2b(what.encode(errors="backslashreplace"), digest_size=8).hexdigest()
    if digest in note.refused_inputs:
        return note
    kept = (*note.refused_inputs, digest)[-REFUSED_KEPT:]
    return replace(note, refused=note.refused + 1, refused_inputs=kept)


def current(note: WorkNote, sums: Sums) -> WorkNote:
    """Return the note as of these sums: the next piece of work has begun where more lines were read."""
    return begun(note) if _lines(sums) > note.next_start.lines else note


def begun(note: WorkNote) -> WorkNote:
    """Return the note after the first input line of a run."""
    is_same = note.start == note.next_start
    return note if is_same else replace(note, start=note.next_start, failed_duplicates=0)


def work_of(sums: Sums, note: WorkNote, unchanged: UnchangedLines = UNREAD, *, is_all_unchanged: bool = False) -> Work:
    """Return what became of the work of a run that ends with these sums. `unchanged` are input lines that it did not
    read again; `is_all_unchanged`: it had nothing else to do."""
    note = current(note, sums)
    start, earlier = (work_start(sums), 0) if is_all_unchanged else (note.start, note.failed_duplicates)
    finished = sums.finished - start.finished
    return Work(
        finished=finished,
        not_complete=finished - (sums.kinds.get(Kind.COMPLETE, 0) - start.complete),
        rejected=sum(source.rejected for source in sums.sources) - start.rejected,
        dead=sum(max(0, sink.dead - start.dead.get(sink.name, 0)) for sink in sums.sinks),
        failed_duplicates=earlier + sum(source.failed for source in sums.sources) - start.failed,
        refused=note.refused,
        unchanged=unchanged,
    )


def is_work_left(sums: Sums) -> bool:
    """Whether tasks wait, or records are not delivered."""
    return bool(sums.waiting or any(sink.undelivered for sink in sums.sinks if sink.attached))


def exit_code(sums: Sums, work: Work) -> Exit:
    """Return the exit code of a run that ends with these sums: whether work is left, in the whole state or in input
    that was not read or stored; else of the work that the run was given."""
    if is_work_left(sums) or work.is_input_left or work.unwritable:
        return Exit.WORK_LEFT
    failed = work.not_complete or work.rejected or work.dead or work.failed_duplicates or work.refused
    unchanged = work.unchanged
    earlier = unchanged.failed or unchanged.rejected or unchanged.dead or unchanged.otherwise
    return Exit.NOT_ALL_COMPLETE if failed or earlier else Exit.ALL_COMPLETE


def work_text(work: Work, state_flag: str = "") -> str:
    """Return the work as lines for people. `state_flag` completes the commands that list more."""
    return "\n".join([WORK, *(f"  {count:>9,}  {text}" for count, text in _rows(work, state_flag))])


def _noun(count: int, one: str) -> str:
    return one if count == 1 else f"{one}s"


def _rows(work: Work, state_flag: str) -> Iterator[tuple[int, str]]:
    yield work.finished, f"{_noun(work.finished, 'task')} finished"
    if work.not_complete:
        yield work.not_complete, f"of them not complete: poller report{state_flag}"
    if count := work.failed_duplicates:
        what = "a task that ended earlier and is" if count == 1 else "tasks that ended earlier and are"
        yield count, f"{_noun(count, 'duplicate')} of {what} not complete"
    if count := work.rejected:
        yield count, f"{_noun(count, 'input line')} rejected: poller status --rejected{state_flag}"
    if count := work.refused:
        why = "source.file_failed and source.failed in the log have the reasons"
        yield count, f"{_noun(count, 'input')} refused as a whole: {why}"
    if count := work.dead:
        yield count, f"{_noun(count, 'record')} refused by a sink: poller status --dead{state_flag}"
    yield from _unchanged_rows(work.unchanged, state_flag)


def _unchanged_rows(unchanged: UnchangedLines, state_flag: str) -> Iterator[tuple[int, str]]:
    if count := unchanged.lines:
        what = "an unchanged file" if count == 1 else "unchanged files"
        yield count, f"{_noun(count, 'input line')} of {what}, which an earlier run read"
    if unchanged.failed:
        yield (
            unchanged.failed,
            f"of these lines with a task that ended earlier and is not complete: poller report{state_flag}",
        )
    if unchanged.rejected:
        yield unchanged.rejected, f"of these lines rejected: poller status --rejected{state_flag}"
    if unchanged.dead:
        yield unchanged.dead, f"of these lines with a record that a sink refused: poller status --dead{state_flag}"
    if unchanged.otherwise:
        yield (
            unchanged.otherwise,
            (
                "of these lines imported with other --set, --key or --column, so that nothing was started: to import "
                "them a second time with these, give a copy of the file"
            ),
        )


def _lines(sums: Sums) -> int:
    return sum(source.lines for source in sums.sources)
