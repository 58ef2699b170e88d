"""Bugs of reports, to plant."""

from campaign.planted.bug import Bug

REPORTS_BUGS = (
    Bug(
        name="exit-code-of-all-earlier-work",
        file="poller/reports/work.py",
        old="    next_start = start if is_work_left(sums) or is_input_left else work_start(sums)",
        new="    next_start = start",
        tests=("reports/test_work", "service/test_service"),
    ),
    Bug(
        name="rejected-lines-under-code-0",
        file="poller/reports/work.py",
        old="work.not_complete or work.rejected or",
        new="work.not_complete or",
        tests=("reports/test_work", "service/test_service"),
    ),
    Bug(
        name="the-name-of-a-source-reaches-the-terminal-as-it-is",
        file="poller/reports/ledger.py",
        old="{without_controls(source.name)}{many}",
        new="{source.name}{many}",
        tests=("reports/test_ledger",),
    ),
    Bug(
        name="replayed-dead-letters-hide-new-ones",
        file="poller/reports/work.py",
        old="min(sink.dead, note.start.dead.get(sink.name, 0))",
        new="note.start.dead.get(sink.name, 0)",
        tests=("reports/test_work",),
    ),
    Bug(
        name="a-record-that-is-twice-is-equal",
        file="poller/reports/verify.py",
        old="        numbers.pop(0)\n",
        new="        numbers.clear()\n",
        tests=("reports/test_verify",),
    ),
    Bug(
        name="a-first-attempt-that-is-the-latest-not-resubmitted",
        file="poller/reports/resubmit.py",
        old="attempt < self._latest.get((account, first), 1)",
        new="attempt <= self._latest.get((account, first), 1)",
        tests=("cli/test_report",),
    ),
)
