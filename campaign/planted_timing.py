"""Bugs to plant in when polls are made: lines, put-offs, standstills and the clocks that differ."""

from campaign.planted import Bug

STANDSTILL = ("schedule/test_standstill",)
LINES = ("schedule/test_line",)
TIMING = ("service/test_timing",)

TIMING_BUGS = (
    # --- a standstill: few polls while nothing finishes, and all of them again afterwards
    Bug(
        name="a-pause-counts-as-a-standstill",
        file="poller/schedule/standstill.py",
        old="return now - self.since - (self.paused_s - self._paused_before_s)",
        new="return now - self.since",
        tests=STANDSTILL,
    ),
    Bug(
        name="only-the-first-standstill-is-noticed",
        file="poller/schedule/standstill.py",
        old="        self._expected, self._polls = 0.0, 0\n        self._keys.clear()",
        new="        self._keys.clear()",
        tests=STANDSTILL,
    ),
    Bug(
        name="a-standstill-without-missing-imports",
        file="poller/schedule/standstill.py",
        old="return self._expected >= EXPECTED and self._polls >= LEAST_POLLS",
        new="return self._polls >= LEAST_POLLS",
        tests=STANDSTILL,
    ),
    Bug(
        name="a-standstill-polls-as-often-to-its-end",
        file="poller/schedule/standstill.py",
        old="return max(min(gap_s, MOST_SHARE * length_s, self._longest_gap_s), least_s)",
        new="return SHORTEST_GAP_S",
        tests=STANDSTILL,
    ),
    Bug(
        name="polls-before-a-standstill-are-not-counted",
        file="poller/schedule/standstill.py",
        old="left = max(POLLS_AN_HOUR * tasks - self._polls, 1.0)",
        new="left = POLLS_AN_HOUR * tasks",
        tests=STANDSTILL,
    ),
    Bug(
        name="a-standstill-ignores-the-longest-gap-of-the-person",
        file="poller/schedule/standstill.py",
        old="self._longest_gap_s = min(LONGEST_GAP_S, longest_gap_s)",
        new="self._longest_gap_s = LONGEST_GAP_S",
        tests=STANDSTILL,
    ),
    Bug(
        name="met-tasks-count-as-new-forever",
        file="poller/schedule/standstill.py",
        old="self._turns = RECENT * self._turns + 1",
        new="self._turns = self._turns + 1",
        tests=STANDSTILL,
    ),
    Bug(
        name="a-halting-line-is-a-standstill",
        file="poller/schedule/standstill.py",
        old="is_through = not self._is_in_line and tasks < FEW",
        new="is_through = tasks < FEW",
        tests=STANDSTILL,
    ),
    Bug(
        name="tasks-fed-in-a-standstill-do-not-count",
        file="poller/schedule/standstill.py",
        old="self._new = RECENT * self._new + (key not in self._keys)",
        new="self._new = 0.0",
        tests=STANDSTILL,
    ),
    Bug(
        name="claimed-tasks-are-polled-in-a-standstill",
        file="poller/engine/due_tasks.py",
        old="if self._begins_to_stand():  # what was claimed ahead is not polled either",
        new="if False:",
        tests=("engine/test_due_tasks",),
    ),
    Bug(
        name="a-standstill-hides-deadlines",
        file="poller/schedule/standstill.py",
        old="            self.deadline_at = min(self.deadline_at, deadline_at)",
        new="            pass",
        tests=TIMING,
    ),
    Bug(
        name="a-standstill-is-not-noticed-by-the-lane",
        file="poller/engine/due_tasks.py",
        old="            found = found if found.lasts(now) else None",
        new="            found = None",
        tests=TIMING,
    ),
    # --- put-offs: polled when due by what is known now, and never lost
    Bug(
        name="a-task-that-was-put-off-is-parked",
        file="poller/schedule/account.py",
        old="return min(way_s, max(way_s / 2, SHORTEST_PUT_OFF_S), LONGEST_PUT_OFF_S)",
        new="return way_s",
        tests=LINES,
    ),
    Bug(
        name="a-put-off-passes-the-deadline",
        file="poller/schedule/account.py",
        old="way_s = min(self._way_s(task, now), task.fed_at + self.deadline_s - now)",
        new="way_s = self._way_s(task, now)",
        tests=LINES,
    ),
    Bug(
        name="a-task-that-was-put-off-stays-leased",
        file="poller/store/sqlite/store.py",
        old="on_commit=lambda: self._leases.end_putting_off(held),",
        new="on_commit=lambda: None,",
        tests=("store/test_store",),
    ),
    # --- lines
    Bug(
        name="a-line-runs-backwards",
        file="poller/schedule/line.py",
        old="earlier, later = by_place[:half], by_place[-half:]",
        new="later, earlier = by_place[:half], by_place[-half:]",
        tests=LINES,
    ),
    Bug(
        name="stuck-imports-hold-a-line-up",
        file="poller/schedule/line.py",
        old="if self.is_fitted and place > self._far:",
        new="if self.is_fitted:",
        tests=LINES,
    ),
    Bug(
        name="a-late-line-is-not-noticed",
        file="poller/schedule/line.py",
        old="self._shift_s = max(0.0, middle_s)",
        new="self._shift_s = 0.0",
        tests=LINES,
    ),
    Bug(
        name="no-scouts-ahead-of-a-line",
        file="poller/schedule/line.py",
        old="if after_s < 0 and key % SCOUTS == 0:",
        new="if False:",
        tests=LINES,
    ),
    Bug(
        name="values-share-a-line",
        file="poller/schedule/account.py",
        old='return str(orjson.loads(task.ref).get(self._line_by, ""))',
        new='return ""',
        tests=LINES,
    ),
    Bug(
        name="a-line-continues-after-a-standstill",
        file="poller/schedule/account.py",
        old="            self._restart_lines()",
        new="            pass",
        tests=LINES,
    ),
    Bug(
        name="early-finds-are-not-contradicted",
        file="poller/schedule/line.py",
        old="if overdue_s > min(self._shift_s, 0.0):",
        new="if overdue_s > 0:",
        tests=LINES,
    ),
    Bug(
        name="evidence-grows-without-end",
        file="poller/schedule/account.py",
        old="            if not -MOST_LEAD < clock.evidence < MOST_LEAD:",
        new="            if False:",
        tests=LINES,
    ),
    Bug(
        name="a-line-that-is-not-followed-loses-no-evidence",
        file="poller/schedule/account.py",
        old="            self._weigh(self.by_request, likelihood, by_age, is_done=is_done)  # not followed",
        new="                self._weigh(self.by_request, likelihood, by_age, is_done=is_done)  # not followed",
        tests=LINES,
    ),
    Bug(
        name="a-standstill-counts-as-waiting-for-the-limit",
        file="poller/schedule/account.py",
        old="            self._stood_until = seen.now",
        new="            pass",
        tests=LINES,
    ),
    Bug(
        name="what-was-completed-ahead-shows-nothing",
        file="poller/schedule/line.py",
        old="        return found >= MOSTLY_AHEAD or key % SAMPLE == 0",
        new="        return False",
        tests=LINES,
    ),
    Bug(
        name="all-scouts-go-half-way",
        file="poller/schedule/line.py",
        old="share = key // SCOUTS * GOLDEN % 1 if is_first else 1.0",
        new="share = 1.0",
        tests=LINES,
    ),
    # --- clocks
    Bug(
        name="the-difference-of-the-clocks-counts-twice",
        file="poller/schedule/account.py",
        old="requested_at = named_at - self.skew.seconds\n            if",
        new="requested_at = named_at + self.skew.seconds\n            if",
        tests=LINES,
    ),
    Bug(
        name="a-start-is-not-used",
        file="poller/schedule/account.py",
        old="if self._decides is not self.by_start:",
        new="if True:",
        tests=("schedule/test_phase",),
    ),
)
