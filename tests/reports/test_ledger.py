"""The ledger and what it says."""

from dataclasses import replace

from poller.core.accounts import AccountState
from poller.core.sums import ReasonSum, SinkSums, SourceSums, Sums
from poller.reports.ledger import imbalances, ledger, merged, summary

SOURCE = SourceSums(name="ids.txt", lines=12, tasks=8, duplicates=1, rejected=2, blank=1, ended=True)
SINK = SinkSums(name="stdout", delivered=8, undelivered=0, dead=0, attached=True)
SUMS = Sums(
    sources=(SOURCE,),
    sinks=(SINK,),
    accounts={"default": AccountState()},
    waiting=0,
    finished=8,
    polls=20,
    kinds={"complete": 8},
    landed={"complete": 8},
    reasons=(),
)


def test_equal_sums_balance() -> None:
    assert imbalances(SUMS) == []
    assert "ledger (balanced)" in ledger(SUMS)


def test_a_lost_line_is_found() -> None:
    lost = replace(SUMS, sources=(replace(SOURCE, lines=13),))
    assert [str(found) for found in imbalances(lost)] == [
        "ids.txt: lines = tasks + duplicates + rejected + blank: 13 is not 12"
    ]
    assert "DOES NOT BALANCE" in ledger(lost)


def test_a_lost_task_a_lost_outcome_and_a_lost_record_are_each_found() -> None:
    lost_task = replace(SUMS, waiting=1)
    lost_kind = replace(SUMS, kinds={"complete": 7})
    lost_record = replace(SUMS, sinks=(replace(SINK, delivered=7),))
    assert [len(imbalances(sums)) for sums in (lost_task, lost_kind, lost_record)] == [1, 1, 1]


def test_a_sink_of_an_earlier_run_is_not_checked() -> None:
    assert imbalances(replace(SUMS, sinks=(SINK, replace(SINK, delivered=1, attached=False)))) == []


def test_the_summary_names_kinds_polls_reasons_and_pauses() -> None:
    sums = replace(
        SUMS,
        reasons=(ReasonSum("VALIDATION_ERROR: bad url", 3, 1),),
        accounts={"eu": AccountState(pause="scope_missing", pause_detail="files")},
    )
    text = summary(sums)
    assert "8  complete" in text
    assert "2.50 per task" in text
    assert "3  VALIDATION_ERROR: bad url   (1 landed, 2 did not)" in text
    assert "account eu is paused: scope_missing (files)" in text


def test_the_rotations_of_a_followed_file_are_one_line_with_their_number() -> None:
    text = ledger(replace(SUMS, sources=(SOURCE, replace(SOURCE, name="other"), SOURCE, SOURCE), finished=32))
    assert "36 lines = 24 tasks + 3 duplicates + 6 rejected + 3 header, blank or comment   ids.txt × 3\n" in text
    assert "12 lines = 8 tasks + 1 duplicate + 2 rejected + 1 header, blank or comment   other\n" in text


def test_no_name_in_it_can_steer_a_terminal() -> None:
    hostile = "/in/\x1b[2J\x07\x9b31m\u202eids\udcff.csv"
    named = replace(
        SUMS,
        sources=(replace(SOURCE, name=hostile),),
        sinks=tuple(replace(sink, name=hostile) for sink in SUMS.sinks),
        reasons=(ReasonSum(hostile, 1, 0),),
        accounts={"eu": AccountState(pause="scope_missing", pause_detail=hostile)},
    )
    text = summary(named) + "\n".join(map(str, imbalances(replace(named, finished=99))))
    assert text.count("/in/\ufffd[2J\ufffd\ufffd31m\ufffdids\ufffd.csv") == 5
    assert all(sign.isprintable() or sign == "\n" for sign in text)


def test_of_more_than_twenty_files_those_of_one_folder_are_one_line() -> None:
    dropped = [replace(SOURCE, name=f"/in/{number}.csv") for number in range(500)]
    others = [replace(SOURCE, name="-"), replace(SOURCE, name="/home/ids.txt")]
    rows = [(source.name, source.lines, count) for source, count in merged([*others, *dropped], by_folder=True)]
    assert rows == [("-", 12, 1), ("/home/ids.txt", 12, 1), ("/in/…", 6000, 500)]
    assert len(merged(dropped[:20], by_folder=True)) == 20
