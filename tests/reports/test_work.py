"""The work that a run was given: what its exit code speaks of, and what is earlier runs' business."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec.json import encode
from msgspec.structs import replace as msgspec_replace

from poller.core.errors import Exit
from poller.core.sums import SinkSums, SourceSums, Sums
from poller.reports.work import exit_code, with_refused, work_note, work_of, work_text
from poller.sources import UnchangedLines

SOURCE = SourceSums(name="ids.txt", lines=10, tasks=8, duplicates=1, rejected=0, blank=1, ended=True)
SINK = SinkSums(name="jsonl:finished.jsonl", delivered=8, undelivered=0, dead=0, attached=True)
SUMS = Sums(
    sources=(SOURCE,),
    sinks=(SINK,),
    accounts={},
    waiting=0,
    finished=8,
    polls=20,
    kinds={"complete": 8},
    landed={"complete": 8},
    reasons=(),
)
NOTHING = replace(SUMS, sources=(), finished=0, kinds={}, sinks=())
CANCELED = replace(SUMS, kinds={"complete": 7, "canceled": 1})
REJECTED = replace(SUMS, sources=(replace(SOURCE, tasks=7, rejected=1),))
DEAD = replace(SUMS, sinks=(replace(SINK, delivered=7, dead=1),))
WAITING = replace(CANCELED, waiting=3)
UNDELIVERED = replace(SUMS, sinks=(replace(SINK, delivered=7, undelivered=1),))
NEXT = SourceSums(name="next.txt", lines=2, tasks=2, duplicates=0, rejected=0, blank=0, ended=True)


def with_next(sums: Sums, **changes: Any) -> Sums:
    """Return the sums after a second run, which read two lines."""
    return replace(
        sums,
        sources=(*sums.sources, replace(NEXT, **changes)),
        finished=sums.finished + 2,
        kinds={**sums.kinds, "complete": sums.kinds["complete"] + 2},
    )


def code_of(first: Sums, second: Sums) -> Exit:
    """Return the code of a run that ends with `second`, after one that began with nothing and ended with `first`."""
    note = work_note(encode(work_note(None, NOTHING)), first)
    return exit_code(second, work_of(second, note))


@pytest.mark.parametrize(
    ("sums", "code"),
    [
        (SUMS, Exit.ALL_COMPLETE),
        (CANCELED, Exit.NOT_ALL_COMPLETE),
        (REJECTED, Exit.NOT_ALL_COMPLETE),
        (DEAD, Exit.NOT_ALL_COMPLETE),
        (WAITING, Exit.WORK_LEFT),
        (UNDELIVERED, Exit.WORK_LEFT),
    ],
)
def test_the_exit_code_is_complete_not_complete_or_work_left(sums: Sums, code: Exit) -> None:
    assert exit_code(sums, work_of(sums, work_note(None, NOTHING))) is code


@pytest.mark.parametrize("earlier", [CANCELED, REJECTED, DEAD])
def test_what_earlier_work_ended_with_does_not_decide_the_code_of_new_work(earlier: Sums) -> None:
    assert code_of(earlier, with_next(earlier)) is Exit.ALL_COMPLETE
    assert code_of(SUMS, with_next(SUMS, tasks=1, rejected=1)) is Exit.NOT_ALL_COMPLETE


@pytest.mark.parametrize("earlier", [CANCELED, REJECTED, DEAD])
def test_the_same_command_without_new_lines_has_the_same_code(earlier: Sums) -> None:
    assert code_of(earlier, earlier) is Exit.NOT_ALL_COMPLETE
    assert code_of(SUMS, SUMS) is Exit.ALL_COMPLETE


def test_a_run_that_continues_a_stopped_one_speaks_of_both() -> None:
    ended = with_next(replace(WAITING, waiting=0))
    assert code_of(WAITING, ended) is Exit.NOT_ALL_COMPLETE


def test_lines_whose_task_failed_before_are_not_complete_and_a_crash_does_not_hide_them() -> None:
    ended = with_next(CANCELED, tasks=1, duplicates=1, failed=1)
    assert code_of(CANCELED, ended) is Exit.NOT_ALL_COMPLETE
    noted = encode(work_note(encode(work_note(None, NOTHING)), CANCELED))
    assert exit_code(ended, work_of(ended, work_note(noted, replace(ended, waiting=1)))) is Exit.NOT_ALL_COMPLETE
    assert code_of(ended, with_next(ended)) is Exit.ALL_COMPLETE


def test_failed_duplicates_that_an_older_version_counted_in_its_note_are_not_lost_with_an_update() -> None:
    """That version stopped in mid-work, before their lines were counted with their sources."""
    start = {"lines": 10, "finished": 8, "complete": 7}
    noted = encode({"start": start, "next_start": start, "failed_duplicates": 1})
    note = work_note(noted, with_next(WAITING, tasks=1, duplicates=1))
    again = work_note(encode(note), with_next(WAITING, tasks=1, duplicates=1))
    ended = with_next(CANCELED, tasks=1, duplicates=1)
    for each in (note, again):
        assert work_of(ended, each).failed_duplicates == 1
        assert exit_code(ended, work_of(ended, each)) is Exit.NOT_ALL_COMPLETE
        assert work_of(ended, each, is_all_unchanged=True).failed_duplicates == 0
    following = work_note(encode(note), ended)
    assert work_of(with_next(ended), following).failed_duplicates == 0


@pytest.mark.parametrize(
    ("unchanged", "code"),
    [
        (UnchangedLines(lines=9), Exit.ALL_COMPLETE),
        (UnchangedLines(lines=9, failed=1), Exit.NOT_ALL_COMPLETE),
        (UnchangedLines(lines=9, rejected=1), Exit.NOT_ALL_COMPLETE),
        (UnchangedLines(lines=9, dead=1), Exit.NOT_ALL_COMPLETE),
    ],
)
@pytest.mark.parametrize("earlier", [SUMS, CANCELED, REJECTED, DEAD])
def test_the_lines_of_unchanged_files_decide_where_a_run_has_nothing_else(
    earlier: Sums, unchanged: UnchangedLines, code: Exit
) -> None:
    note = work_note(encode(work_note(None, NOTHING)), earlier)
    assert exit_code(earlier, work_of(earlier, note, unchanged, is_all_unchanged=True)) is code
    with_more = exit_code(with_next(earlier), work_of(with_next(earlier), note, unchanged))
    assert with_more is code


def test_dead_letters_that_were_replayed_do_not_hide_new_ones() -> None:
    noted = encode(work_note(encode(work_note(None, NOTHING)), DEAD))
    note = work_note(noted, SUMS)
    second = with_next(DEAD)
    assert exit_code(second, work_of(second, note)) is Exit.NOT_ALL_COMPLETE


def test_dead_letters_that_were_replayed_while_work_was_left_do_not_hide_new_ones_of_that_work() -> None:
    second = with_next(DEAD)
    begun = encode(work_note(encode(work_note(None, NOTHING)), DEAD))  # the second piece of work, which is stopped
    replayed = work_note(begun, replace(with_next(SUMS), waiting=1))
    assert exit_code(second, work_of(second, work_note(encode(replayed), with_next(SUMS)))) is Exit.NOT_ALL_COMPLETE


def test_the_text_counts_this_run_and_completes_its_commands() -> None:
    second = with_next(CANCELED, tasks=1, rejected=1)
    note = work_note(encode(work_note(None, NOTHING)), CANCELED)
    assert work_text(work_of(second, note), " --state sqlite:///my.db").splitlines() == [
        "latest input, with what a stopped run had left",
        "          2  tasks finished",
        "          1  input line rejected: poller status --rejected --state sqlite:///my.db",
    ]


def test_a_run_that_reads_on_what_a_stopped_one_had_not_read_speaks_of_both() -> None:
    """Though nothing waits: what was read of the file had all ended before the stop."""
    stopped = encode(work_note(None, NOTHING, has_input=True))
    ended, following = with_next(CANCELED), work_note(stopped, CANCELED, has_input=True)
    assert exit_code(ended, work_of(ended, following)) is Exit.NOT_ALL_COMPLETE
    for between in ({"has_input": True}, {}):  # a run that was stopped before it read a line, and one without input
        note = work_note(encode(work_note(stopped, CANCELED, **between)), CANCELED)
        assert exit_code(ended, work_of(ended, note)) is Exit.NOT_ALL_COMPLETE
    last = with_next(ended)
    note = work_note(encode(msgspec_replace(following, is_input_left=False)), ended)
    assert exit_code(last, work_of(last, note)) is Exit.ALL_COMPLETE


def test_a_run_that_was_stopped_before_its_first_line_leaves_nothing_of_the_work_before() -> None:
    stopped = encode(work_note(encode(work_note(None, NOTHING)), CANCELED, has_input=True))
    ended = with_next(CANCELED)
    assert exit_code(ended, work_of(ended, work_note(stopped, CANCELED))) is Exit.ALL_COMPLETE


def test_an_input_refused_as_a_whole_is_not_all_complete_until_the_work_has_ended() -> None:
    """Also after a kill: the file is in `failed`, and the next run does not see it."""
    stopped = msgspec_replace(work_note(None, NOTHING, has_input=True), refused=2)
    for sums, note in ((SUMS, stopped), (SUMS, work_note(encode(stopped), SUMS)), (SUMS, work_note(None, NOTHING))):
        assert exit_code(sums, work_of(sums, note)) is Exit(min(note.refused, 1))
    assert work_text(work_of(SUMS, stopped)).splitlines()[2:] == [
        "          2  inputs refused as a whole: source.file_failed and source.failed in the log have the reasons"
    ]
    ended = encode(msgspec_replace(stopped, is_input_left=False))
    assert work_note(ended, WAITING).refused == 2
    assert work_note(ended, SUMS).refused == 0


def test_an_input_that_is_refused_twice_in_one_piece_of_work_counts_once() -> None:
    note = work_note(None, NOTHING, has_input=True)
    for what in ("one", "one", "two", "\udcff", "one"):
        note = with_refused(note, what)
    assert note.refused == 3
    assert with_refused(work_note(encode(note), WAITING), "two").refused == 3
    following = work_note(encode(msgspec_replace(note, is_input_left=False)), SUMS)
    assert with_refused(following, "two").refused == 1
    for number in range(300):
        note = with_refused(note, str(number))
    assert note.refused == 303
    assert len(encode(note)) < 5000


@pytest.mark.parametrize("left", [{"is_input_left": True}, {"unwritable": "database or disk is full"}])
def test_input_that_was_not_read_or_stored_is_work_left(left: dict[str, Any]) -> None:
    work = msgspec_replace(work_of(SUMS, work_note(None, NOTHING)), **left)
    assert exit_code(SUMS, work) is Exit.WORK_LEFT
