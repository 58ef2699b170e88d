"""Bugs to plant: each a replacement of text that breaks one promise, and the tests that must fail then.

Each text must occur exactly once in its file; a test of the suite lists those that do not any more.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One way to break the code."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # files of tests/, without `.py`


STORE = ("store/test_sqlite", "store/test_store", "store/test_outbox", "store/test_machine")
JSONL = ("sinks/test_files_and_stdout", "sinks/test_rotation")
GATE = ("hubspot/limits/test_gate", "hubspot/limits/test_gate_simulated")
CLIENT = ("hubspot/test_client",)

BUGS = (
    # --- the store: what is acknowledged is on disk, once
    Bug(
        name="commits-not-synced",
        file="poller/store/sqlite/schema.py",
        old="PRAGMA synchronous = FULL",
        new="PRAGMA synchronous = NORMAL",
        tests=("process/test_campaign",),
    ),
    Bug(
        name="acknowledged-before-commit",
        file="poller/store/sqlite/group_commit.py",
        old="        self._append(_Operation(apply=apply, settle=settle, future=future, rows=rows))\n",
        new="        self._append(_Operation(apply=apply, settle=settle, future=None, rows=rows))\n"
        "        future.set_result(None)\n",
        tests=STORE,
    ),
    Bug(
        name="no-rollback-after-a-failed-commit",
        file="poller/store/sqlite/group_commit.py",
        old="        if self._connection.in_transaction:\n            try:",
        new="        if False:\n            try:",
        tests=("store/test_planted",),
    ),
    Bug(
        name="log-never-restarted",
        file="poller/store/sqlite/group_commit.py",
        old="            self._fold_log()\n",
        new="            pass\n",
        tests=("store/test_sqlite",),
    ),
    Bug(
        name="damage-not-checked-for",
        file="poller/store/sqlite/schema.py",
        old='    if finding != "ok":\n',
        new="    if False:\n",
        tests=("store/test_sqlite",),
    ),
    Bug(
        name="leases-never-end",
        file="poller/store/sqlite/store.py",
        old="settle=lambda: self._end_leases(keys)",
        new="settle=None",
        tests=STORE,
    ),
    Bug(
        name="no-lease-check-in-record",
        file="poller/store/sqlite/store.py",
        old="if task.lease == SETTLING or self._leases.get(task.key) != task.lease:",
        new="if task.lease == SETTLING:",
        tests=STORE,
    ),
    Bug(
        name="release-of-another-lease",
        file="poller/store/sqlite/store.py",
        old="if task.lease != SETTLING and self._leases.get(task.key) == task.lease:",
        new="if task.key in self._leases:",
        tests=STORE,
    ),
    Bug(
        name="leased-tasks-claimed-again",
        file="poller/store/sqlite/store.py",
        old="                if key not in self._leases:\n                    keys.append(key)",
        new="                if True:\n                    keys.append(key)",
        tests=STORE,
    ),
    Bug(
        name="duplicates-counted-as-tasks",
        file="poller/store/sqlite/store.py",
        old="Added(tasks=tasks, duplicates=len(chunk.fed) - tasks)",
        new="Added(tasks=len(chunk.fed), duplicates=0)",
        tests=STORE,
    ),
    Bug(
        name="outbox-row-in-another-transaction",
        file="poller/store/sqlite/store.py",
        old='        self._connection.execute(\n            "INSERT INTO undelivered (sink, number) SELECT s.id',
        new='        self._connection.execute("COMMIT")\n        self._connection.execute("BEGIN")\n'
        '        self._connection.execute(\n            "INSERT INTO undelivered (sink, number) SELECT s.id',
        tests=("store/test_planted",),
    ),
    Bug(
        name="poll-of-a-finished-task-not-counted",
        file="poller/store/sqlite/store.py",
        old='"UPDATE task SET polls = polls + 1, kind = ?, poll_log',
        new='"UPDATE task SET kind = ?, poll_log',
        tests=STORE,
    ),
    Bug(
        name="daily-count-forgotten",
        file="poller/store/sqlite/store.py",
        old="DO UPDATE SET requests = max(requests, excluded.requests)",
        new="DO NOTHING",
        tests=STORE,
    ),
    Bug(
        name="delivered-noted-for-refused-records",
        file="poller/store/sqlite/outbox.py",
        old="if struck.rowcount and number in refused:",
        new="if struck.rowcount and number in ():",
        tests=STORE,
    ),
    Bug(
        name="two-sinks-share-an-outbox",
        file="poller/store/sqlite/outbox.py",
        old='"DELETE FROM undelivered WHERE sink = ? AND number = ?", (*row, number))',
        new='"DELETE FROM undelivered WHERE ? AND number = ?", (*row, number))',
        tests=STORE,
    ),
    Bug(
        name="position-not-noted",
        file="poller/store/sqlite/outbox.py",
        old="position = coalesce(?, position) WHERE id = ?",
        new="position = coalesce(position, ?) WHERE id = ?",
        tests=("store/test_planted",),
    ),
    Bug(
        name="a-new-sink-gets-only-what-comes",
        file="poller/store/sqlite/outbox.py",
        old=' WHERE s.name = ? AND r.number > s.filled_to",\n        (name,),',
        new=' WHERE s.name = ? AND false",\n        (name,),',
        tests=STORE,
    ),
    Bug(
        name="undelivered-records-pruned",
        file="poller/store/sqlite/outbox.py",
        old="SELECT 1 FROM sink s WHERE s.attached AND (EXISTS",
        new="SELECT 1 FROM sink s WHERE false AND (EXISTS",
        tests=STORE,
    ),
    Bug(
        name="second-process-let-in",
        file="poller/store/sqlite/lock.py",
        old="        if _locks(descriptor, fcntl.LOCK_EX):\n            return",
        new="        if True:\n            return",
        tests=STORE,
    ),
    Bug(
        name="failed-fsync-tried-again",
        file="poller/store/sqlite/errors.py",
        old="    return code in PASSING_IO or",
        new="    return code in PASSING_IO | FAILED_FSYNC or",
        tests=STORE,
    ),
    Bug(
        name="ids-out-of-feeding-order",
        file="poller/store/sqlite/store.py",
        old="SELECT ? + key, ?, ?",
        new="SELECT nullif(?, ?1), ?, ?",
        tests=("store/test_store", "store/test_sqlite", "sources/test_parsing"),
    ),
    # --- sinks: exactly once, or at least once and known as such
    Bug(
        name="jsonl-not-synced",
        file="poller/sinks/files/jsonl.py",
        old="        file.sync()\n        self._kept[file.path]",
        new="        self._kept[file.path]",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-folder-not-synced",
        file="poller/sinks/files/line_file.py",
        old="            _sync_folder(path.parent)\n",
        new="",
        tests=("store/test_planted",),
    ),
    Bug(
        name="jsonl-failed-sync-ignored",
        file="poller/sinks/files/line_file.py",
        old="        os.fdatasync(fd)\n    except OSError as error:\n",
        new="        os.fdatasync(fd)\n    except OSError as error:\n        return\n",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-short-write-ignored",
        file="poller/sinks/files/line_file.py",
        old="            left, at = left[written:], at + written",
        new="            left, at = left[len(left) :], at + written",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-appends-after-a-crash",
        file="poller/sinks/files/line_file.py",
        old="            written = os.pwrite(self._fd, left, at)",
        new="            written = os.pwrite(self._fd, left, self.size)",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-tail-cut-where-readers-saw-it",
        file="poller/sinks/files/line_file.py",
        old="        ours = _common_length(tail, expected)\n",
        new="        ours = 0\n",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-foreign-lines-dropped",
        file="poller/sinks/files/line_file.py",
        old="aside = None if is_ours or not self._has_line(cut_at, size) else",
        new="aside = None if True else",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-shorter-file-accepted",
        file="poller/sinks/files/line_file.py",
        old="        if size < written:\n            found",
        new="        if size < 0:\n            found",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-file-not-locked",
        file="poller/sinks/files/line_file.py",
        old="            _lock(fd, path)\n",
        new="",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-full-disk-acknowledged",
        file="poller/sinks/files/jsonl.py",
        old="                return self._make_retry(error)",
        new="                self._make_retry(error)",
        tests=JSONL,
    ),
    Bug(
        name="jsonl-readable-by-everybody",
        file="poller/sinks/files/line_file.py",
        old="MODE = 0o600",
        new="MODE = 0o644",
        tests=JSONL,
    ),
    Bug(
        name="delivered-before-written",
        file="poller/engine/delivery.py",
        old="        match await self.sink.write(batch):",
        new="        from poller.core.model import Written\n\n"
        "        await self._store.delivered(self.sink.name, batch, Written())\n"
        "        match await self.sink.write(batch):",
        tests=("engine/test_delivery", "service/test_service"),
    ),
    Bug(
        name="retry-taken-for-written",
        file="poller/engine/delivery.py",
        old="            case Retry(reason=reason, wait_s=wait_s, position=position):",
        new="            case Retry(reason=reason, wait_s=wait_s, position=position) if False:",
        tests=("engine/test_delivery",),
    ),
    Bug(
        name="webhook-follows-redirects",
        file="poller/sinks/webhook/sink.py",
        old="allow_redirects=False",
        new="allow_redirects=True",
        tests=("sinks/test_webhook",),
    ),
    Bug(
        name="webhook-any-answer-is-success",
        file="poller/sinks/webhook/sink.py",
        old="if 200 <= status <= 299:",
        new="if 200 <= status <= 499:",
        tests=("sinks/test_webhook",),
    ),
    Bug(
        name="webhook-retry-after-ignored",
        file="poller/sinks/webhook/sink.py",
        old="        if asked_s is not None:\n            wait_s =",
        new="        if False:\n            wait_s =",
        tests=("sinks/test_webhook",),
    ),
    Bug(
        name="webhook-id-of-the-attempt",
        file="poller/sinks/webhook/sink.py",
        old="        message = message_id(portion)\n",
        new='        message = message_id(portion) + f"{self._clock()}"\n',
        tests=("sinks/test_webhook",),
    ),
    Bug(
        name="sql-insert-instead-of-upsert",
        file="poller/sinks/sql/sqlite.py",
        old="ON CONFLICT (account, task_id) DO UPDATE SET {changes}",
        new="",
        tests=("sinks/test_sql",),
    ),
    Bug(
        name="command-status-ignored",
        file="poller/sinks/command/sink.py",
        old="            case 0:\n",
        new="            case 0 | 1 | 75:\n",
        tests=("sinks/test_command",),
    ),
    # --- polling: an outage is not a result, and each answer belongs to its task
    Bug(
        name="no-task-id-comparison",
        file="poller/hubspot/client.py",
        old="            if outcome.task_id == task.task_id:\n",
        new="            if outcome.task_id:\n",
        tests=CLIENT,
    ),
    Bug(
        name="redirects-followed",
        file="poller/hubspot/client.py",
        old='headers={"User-Agent": USER_AGENT}, allow_redirects=False',
        new='headers={"User-Agent": USER_AGENT}, allow_redirects=True',
        tests=CLIENT,
    ),
    Bug(
        name="body-cap-off",
        file="poller/hubspot/connection.py",
        old="            if size > most:\n",
        new="            if size < 0:\n",
        tests=CLIENT,
    ),
    Bug(
        name="no-time-out",
        file="poller/hubspot/client.py",
        old="            with self._timeout:\n",
        new="            if True:\n",
        tests=CLIENT,
    ),
    Bug(
        name="kept-connection-not-checked",
        file="poller/hubspot/connection.py",
        old="            if line.is_clean and self._now()",
        new="            if self._now()",
        tests=CLIENT,
    ),
    Bug(
        name="connection-kept-forever",
        file="poller/hubspot/connection.py",
        old="- line.idle_since <= KEEPALIVE_S:",
        new="- line.idle_since <= 1e9:",
        tests=CLIENT,
    ),
    Bug(
        name="time-out-of-another-poll",
        file="poller/hubspot/timeouts.py",
        old="            if ends_at > loop.time():\n",
        new="            if False:\n",
        tests=("hubspot/test_timeouts",),
    ),
    Bug(
        name="cancellation-taken-for-a-time-out",
        file="poller/hubspot/timeouts.py",
        old="            if task.uncancel() <= cancelled_before and kind is asyncio.CancelledError:\n",
        new="            if kind is asyncio.CancelledError:\n",
        tests=("hubspot/test_timeouts",),
    ),
    Bug(
        name="distrusted-connection-kept",
        file="poller/hubspot/client.py",
        old="reply.end(keep=is_named)",
        new="reply.end(keep=True)",
        tests=CLIENT,
    ),
    Bug(
        name="token-in-the-log",
        file="poller/hubspot/client.py",
        old='    log.warning("poll.broken", error=type(error).__name__)',
        new='    log.warning("poll.broken", error=repr(error), args=repr(error.args))',
        tests=(*CLIENT, "service/test_tokens"),
    ),
    Bug(
        name="ids-not-checked",
        file="poller/hubspot/client.py",
        old="if self._sample is None or not is_task_id(task.task_id):",
        new="if self._sample is None:",
        tests=CLIENT,
    ),
    Bug(
        name="404-believed-at-once",
        file="poller/schedule/policy.py",
        old="    if task.missing_at is not None and now - first_at >= polling.missing_again_s:",
        new="    if True:",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="unreachable-is-an-outcome",
        file="poller/schedule/policy.py",
        old="            if overdue and task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:",
        new="            if task.errors + 1 >= FAILURES_BEFORE_TIMED_OUT:",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="deadline-runs-during-pauses",
        file="poller/schedule/policy.py",
        old="max(0.0, now - task.fed_at - max(0.0, paused_s - task.paused_base_s))",
        new="max(0.0, now - task.fed_at)",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="failure-forgets-the-404",
        file="poller/schedule/policy.py",
        old="                errors=task.errors + 1,\n                missing_at=task.missing_at,",
        new="                errors=task.errors + 1,\n                missing_at=None,",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="errors-branch-on-numErrors-only",
        file="poller/schedule/policy.py",
        old="    if outcome.has_errors or outcome.num_errors > 0:",
        new="    if outcome.num_errors > 0:",
        tests=("schedule/test_policy",),
    ),
    Bug(
        name="html-404-is-a-missing-task",
        file="poller/hubspot/classify.py",
        old='        case 400 | 404 if problem is not None:\n            message = problem.get("message")',
        new='        case 400 | 404:\n            message = (problem or {}).get("message")',
        tests=("hubspot/test_classify",),
    ),
    Bug(
        name="unknown-status-is-final",
        file="poller/hubspot/classify.py",
        old='        case "COMPLETE" | "CANCELED" as final:',
        new='        case "COMPLETE" | "CANCELED" | "FAILED" as final:',
        tests=("hubspot/test_classify",),
    ),
    Bug(
        name="retry-after-ignored",
        file="poller/hubspot/classify.py",
        old='    told = (_header(headers, "Retry-After") or "").strip()\n',
        new='    told = ""\n',
        tests=("hubspot/test_classify",),
    ),
    Bug(
        name="ref-lost",
        file="poller/core/record.py",
        old='        "ref": _spliced(task.ref),',
        new='        "ref": None,',
        tests=("core/test_record", "service/test_service"),
    ),
    Bug(
        name="record-parsed-and-written-again",
        file="poller/core/record.py",
        old="    return None if json is None else orjson.Fragment(json)",
        new="    return None if json is None else orjson.loads(json)  # type: ignore[return-value]",
        tests=("core/test_record", "service/test_service"),
    ),
    # --- the gate: the quota is never overrun
    Bug(
        name="slot-free-when-the-answer-comes",
        file="poller/hubspot/limits/window.py",
        old="        instants.append(now)\n",
        new="        instants.append(now - longest_s)\n",
        tests=GATE,
    ),
    Bug(
        name="window-forgotten-by-a-restart",
        file="poller/hubspot/limits/windows.py",
        old="    return window.hold_s if idle_s <= window.hold_s + STALE_S else 0.0",
        new="    return 0.0",
        tests=GATE,
    ),
    Bug(
        name="clean-end-forgets-the-window",
        file="poller/hubspot/limits/windows.py",
        old="        return min(max(0.0, window.hold_s - idle_s), window.hold_s)",
        new="        return 0.0",
        tests=GATE,
    ),
    Bug(
        name="headers-loosen-the-persons-limit",
        file="poller/hubspot/limits/windows.py",
        old="        if self._both_count:",
        new="        if False:",
        tests=GATE,
    ),
    Bug(
        name="others-in-the-window-ignored",
        file="poller/hubspot/limits/windows.py",
        old="        self._others.prove(used",
        new="        self._others.prove(0 * used",
        tests=GATE,
    ),
    Bug(
        name="daily-reserve-ignored",
        file="poller/hubspot/limits/quota.py",
        old="        return math.ceil(self.reserve * daily - 1e-6) if self.reserve < 1 else int(self.reserve)",
        new="        return 0 * daily",
        tests=GATE,
    ),
    Bug(
        name="unanswered-slot-never-counted",
        file="poller/hubspot/limits/gate.py",
        old="        if not self._told:\n            self._told = True\n            self._gate.leave_untold(self)",
        new="        if not self._told:\n            self._told = True",
        tests=GATE,
    ),
    Bug(
        name="one-broken-task-is-an-outage",
        file="poller/hubspot/limits/outage.py",
        old="        return len(set(failed)) >= DIFFERENT",
        new="        return True",
        tests=GATE,
    ),
    Bug(
        name="paused-time-not-summed-up",
        file="poller/hubspot/limits/pause.py",
        old="        self._base_s += self._this_s()\n",
        new="",
        tests=GATE,
    ),
    Bug(
        name="429-costs-the-task-an-error",
        file="poller/schedule/policy.py",
        old="        case Throttled() | Refused():\n            return _poll_again_unchanged(task, at=now)",
        new="        case Throttled() | Refused():\n"
        "            return PollAgain(at=now, errors=task.errors + 1, missing_at=None, status=None)",
        tests=("schedule/test_policy",),
    ),
    # --- feeding
    Bug(
        name="bom-not-stripped",
        file="poller/sources/parsing/parser.py",
        old="if isinstance(first, bytes) and first.startswith(_BOM):",
        new="if False and isinstance(first, bytes):",
        tests=("sources/test_parsing",),
    ),
    Bug(
        name="position-not-in-the-chunks-transaction",
        file="poller/store/sqlite/store.py",
        old="                chunk.position.offset,\n",
        new="                0,\n",
        tests=("sources/test_parsing", "store/test_store"),
    ),
    Bug(
        name="overlong-line-held",
        file="poller/sources/parsing/lines.py",
        old="        self._held += piece[: max(0, self._max_line_bytes - len(self._held))]",
        new="        self._held += piece",
        tests=("sources/test_parsing",),
    ),
    # --- a reload
    Bug(
        name="reload-without-the-server",
        file="poller/app/run.py",
        old="        site.feeding = inputs.feeding(now)\n",
        new="        site.feeding = inputs.feeding(settings)\n",
        tests=("app/test_reload",),
    ),
    Bug(
        name="reload-without-the-sinks-patience",
        file="poller/engine/service.py",
        old="            loop.apply(give_up_s=give_up_s)\n",
        new="            pass\n",
        tests=("app/test_reload",),
    ),
    # --- the log
    Bug(
        name="secrets-not-hidden",
        file="poller/core/log.py",
        old="                value = value.replace(secret, _HIDDEN)",
        new="                value = str(value)",
        tests=("core/test_log", "service/test_tokens"),
    ),
    Bug(
        name="aiohttp-errors-logged-in-full",
        file="poller/core/log.py",
        old='    if type(error).__module__.startswith("aiohttp") or hasattr(error, "request_info"):\n',
        new="    if False:\n",
        tests=("core/test_log",),
    ),
)
