"""Bugs of words and records, to plant."""

from campaign.planted.bug import Bug

CORE_BUGS = (
    Bug(
        name="lines-of-dashes-are-ids",
        file="poller/core/task_id.py",
        old="|{NAMED_PATTERN}|{RULE_PATTERN}",
        new="|{NAMED_PATTERN}",
        tests=("sources/test_odd_inputs",),
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
    Bug(
        name="a-jump-of-the-clock-counts-as-elapsed-time",
        file="poller/core/steady_clock.py",
        old="        return elapsed + self._started_ahead_s",
        new="        return elapsed + self._wall_ahead_s",
        tests=("service/test_clock",),
    ),
    Bug(
        name="a-jump-moves-the-clock-of-the-run",
        file="poller/core/steady_clock.py",
        old="        return elapsed + self._started_ahead_s",
        new="        return elapsed + ahead_s",
        tests=("service/test_clock",),
    ),
    Bug(
        name="rounded-ids-polled",
        file="poller/core/task_id.py",
        old='f"{ROUNDED_PATTERN}|{WORD_PATTERN}',
        new='f"{WORD_PATTERN}',
        tests=("sources/test_odd_inputs",),
    ),
    Bug(
        name="line-separators-raw-in-records",
        file="poller/core/record.py",
        old="        if sign in body:",
        new="        if False:",
        tests=("core/test_record",),
    ),
    Bug(
        name="blank-key-is-a-key",
        file="poller/core/columns.py",
        old="(isinstance(value, str) and not value.strip())",
        new='value == ""',
        tests=("sources/imports/test_rows",),
    ),
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
    Bug(
        name="events-of-a-library-on-standard-output",
        file="poller/core/log.py",
        old="    if structlog.is_configured():\n        return\n    output",
        new="    if True:\n        return\n    output",
        tests=("core/test_log",),
    ),
    Bug(
        name="an-apostrophe-of-a-cell-is-lost",
        file="poller/core/csv_cells.py",
        old="""if cell.startswith("'") and _is_formula(cell[1:]) else cell""",
        new="""if cell.startswith("'") else cell""",
        tests=("core/test_csv_cells",),
    ),
)
