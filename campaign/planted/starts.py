"""Bugs of `poller import` to plant."""

from campaign.planted.bug import Bug

INTEND = "                sent = await self._starts.intend(row, sent_at=sent_at, due_at=sent_at + self._settle_s())\n"
SEND = "await self._starter.start(body_to_send(row))\n"
START = f"                answer = HELD_UP if self._was_held_up(sent_at) else {SEND}"
LANE, DUE = "poller/engine/import_lane.py", "poller/engine/due_work.py"
SERVICE = ("service/test_imports",)

START_BUGS = (
    Bug(
        name="starts-are-never-held-back",
        file="poller/schedule/lost_starts.py",
        old="        if self._in_a_row < LOST_IN_A_ROW:",
        new="        if True:",
        tests=SERVICE,
    ),
    Bug(
        name="a-start-of-ours-is-as-old-as-hubspot-says",
        file="poller/schedule/seen.py",
        old="    return min(max(requested_at, task.fed_at - LONGEST_START_S), task.fed_at)",
        new="    return requested_at",
        tests=SERVICE,
    ),
    Bug(
        name="a-restart-forgets-the-trials-unsure-rows",
        file="poller/engine/import_progress.py",
        old="[] if self._trial.is_over else await self._starts.unsure_due(self._account, size)",
        new="list[float]()",
        tests=SERVICE,
    ),
    Bug(
        name="a-start-is-stored-after-it-left",
        file=LANE,
        old=INTEND + START,
        new=START + INTEND,
        tests=SERVICE,
    ),
    Bug(
        name="a-start-that-was-held-up-is-sent",
        file=LANE,
        old=START,
        new=f"                answer = {SEND}",
        tests=("engine/test_import_lane",),
    ),
    Bug(
        name="a-first-refusal-is-the-rows",
        file=LANE,
        old="self._refused_after.get(row.key, 0)",
        new="self._refused_after.get(row.key, -1)",
        tests=("engine/test_import_lane",),
    ),
    Bug(
        name="a-start-is-stored-before-it-has-its-slot",
        file=LANE,
        old="        waiting_since = self._clock()\n        try:\n            async with self.gate.slot((",
        new="        waiting_since = self._clock()\n"
        "        await self._starts.intend(row, sent_at=waiting_since, due_at=waiting_since + self._settle_s())\n"
        "        try:\n            async with self.gate.slot((",
        tests=SERVICE,
    ),
    Bug(
        name="a-lost-start-is-repeated-at-once",
        file=LANE,
        old="        return self._starter.longest_s + settle_s(",
        new="        return 0.0 * settle_s(",
        tests=SERVICE,
    ),
    Bug(
        name="a-crash-forgets-the-settle-time",
        file="poller/store/sqlite/import_rows.py",
        old='"UPDATE import_row SET starts = starts + 1, lost = lost + 1, due_at = ?,"',
        new='"UPDATE import_row SET starts = starts + 1, lost = lost + 1, due_at = min(due_at, ?),"',
        tests=("store/test_import_rows",),
    ),
    Bug(
        name="a-5xx-counts-as-not-sent",
        file="poller/hubspot/classify_start.py",
        old="if status in (*NOT_REACHED, 423):",
        new="if status >= 500 or status == 423:",
        tests=("hubspot/test_classify_start",),
    ),
    Bug(
        name="a-202-without-an-id-is-a-failure",
        file="poller/hubspot/classify_start.py",
        old='    return unsure("no_id", limits)\n',
        new="    return StartAnswer(outcome=Declined(code=202), shows=Missing(code=400), limits=limits)\n",
        tests=("hubspot/test_classify_start",),
    ),
    Bug(
        name="whether-bytes-left-is-guessed",
        file="poller/hubspot/connection.py",
        old="            on_send()\n        except",
        new="            pass\n        except",
        tests=("hubspot/test_start_client",),
    ),
    Bug(
        name="starts-go-before-polls",
        file=DUE,
        old="if self._claimed and (self._polls_in_row < POLLS_BEFORE_A_START or not (may_start or may_repeat)):",
        new="if self._claimed and not (may_start or may_repeat):",
        tests=SERVICE,
    ),
    Bug(
        name="a-trial-keeps-its-unsure-rows-back",
        file=DUE,
        old="        may_start, may_repeat = self._rows_may_go, self._is_repeat_due()",
        new="        may_start, may_repeat = self._rows_may_go, False",
        tests=SERVICE,
    ),
    Bug(
        name="a-start-probes-an-outage",
        file=LANE,
        old="                if self.gate.pause is Pause.OUTAGE:",
        new="                if False:",
        tests=SERVICE,
    ),
    Bug(
        name="the-key-is-ignored",
        file="poller/sources/imports/row.py",
        old="        if self._key is None:\n            return _digest(body)",
        new="        if True:\n            return _digest(body)",
        tests=("sources/imports/test_rows",),
    ),
    Bug(
        name="no-trial",
        file="poller/schedule/trial.py",
        old="        return not self.is_over and self._started >= self._size\n",
        new="        return False\n",
        tests=("schedule/test_starts", *SERVICE),
    ),
    Bug(
        name="a-repeat-without-the-duplicate-check",
        file="poller/schedule/starts.py",
        old="    return with_duplicate_check(row.body) if row.lost or row.may_have_landed else row.body\n",
        new="    return row.body\n",
        tests=("schedule/test_starts", *SERVICE),
    ),
    Bug(
        name="another-tasks-id-is-taken",
        file="poller/store/sqlite/import_rows.py",
        old='        " ON CONFLICT (account, task_id) DO NOTHING RETURNING key",\n        (*base, task_id, row.ref',
        new='        " ON CONFLICT (account, task_id) DO UPDATE SET due_at = due_at RETURNING key",\n'
        "        (*base, task_id, row.ref",
        tests=("store/test_import_rows",),
    ),
    Bug(
        name="a-declined-repeat-counts-as-not-started",
        file="poller/schedule/starts.py",
        old="        case Declined():\n            return EndRow(kind=Kind.START_UNKNOWN if row.lost else ",
        new="        case Declined():\n            return EndRow(kind=",
        tests=("schedule/test_starts",),
    ),
    Bug(
        name="a-claim-takes-what-was-committed-meanwhile",
        file="poller/store/postgres/start_store.py",
        old="if row.key not in ended and row.key not in self._leased]",
        new="if row.key not in self._leased]",
        tests=("store/test_import_rows",),
    ),
    Bug(
        name="a-resubmitted-row-is-made-from-its-columns",
        file="poller/reports/resubmit.py",
        old="    if sent is not None:\n",
        new="    if False:\n",
        tests=SERVICE,
    ),
    Bug(
        name="a-retry-is-sent-at-once",
        file="poller/store/sqlite/import_rows.py",
        old="                row.due_at or now,\n",
        new="                now,\n",
        tests=SERVICE,
    ),
    Bug(
        name="another-attempt-sends-what-the-first-one-sent",
        file="poller/engine/retries.py",
        old='named = row if attempts == 1 else f"{row}~{attempts}"',
        new="named = row",
        tests=("engine/test_retries",),
    ),
)
