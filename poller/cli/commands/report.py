"""`poller report`: streams the finished tasks once and groups the failed ones by reason, in bounded memory."""

import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.options import (
    AsJson,
    Config,
    Landed,
    Settings,
    Since,
    State,
    instant_of,
    named_values,
    run_async,
    settings_of,
)
from poller.cli.output_file import new_file
from poller.core.columns import COLUMN_NAMES, Columns
from poller.core.errors import ConfigError, Exit, InputError
from poller.core.protocols import Clock
from poller.core.text import counted, redacted_url

if TYPE_CHECKING:
    from poller.reports.finished_task import FinishedTask
    from poller.reports.retryable import RetryAdvice

EXAMPLES = (
    "\b\nExamples:\n  poller report --html report.html\n"
    "  poller report --resubmit again.jsonl --set access=PRIVATE\n"
    "  poller report finished.jsonl --json | jq '.reasons[0]'"
)


def report(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE", help="JSONL files of finished tasks. [the state]")
    ] = None,
    config: Config = None,
    state: State = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write one page that needs no other file.")] = None,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a row for each task not complete.")] = None,
    resubmit: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write start call bodies for the tasks that could be retried."),
    ] = None,
    rest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the others go, with the reason. [FILE.rest]")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="MEANING=NAME", help="Your column for url, md5, size or an option; repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="For bodies whose row has no such column; repeatable."),
    ] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Only tasks of this account.")] = None,
    landed: Landed = None,
    since: Since = None,
) -> Exit:
    """Group the tasks that are not complete by reason.

    It prints reasons with counts, hosts, samples, and what could be retried, or only the names of the files that
    it writes; also during a run. With md5 or size columns in your input, the finished files are compared.
    """
    from poller.core.start_options import OPTIONS

    options = ReportOptions(
        files=tuple(files or ()),
        account=account,
        since=instant_of(since),
        landed=landed,
        columns=Columns(named=named_values(column or [], "--column", tuple(COLUMN_NAMES))),
        as_json=as_json,
        html=html,
        csv=csv,
        resubmit=resubmit,
        rest=rest,
        defaults=named_values(set_ or [], "--set", OPTIONS),
    )
    return run_async(write_report(settings_of(config, state=state), options))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions:
    """The input of a report, its filters and its output files."""

    files: tuple[Path, ...] = ()  # JSONL files of finished tasks; none: the state
    account: str | None = None  # only tasks of this one
    since: float | None = None  # only tasks that finished from this instant on
    landed: bool | None = None  # only tasks with a file, or only those without
    columns: Columns = field(default_factory=Columns)
    as_json: bool = False
    html: Path | None = None
    csv: Path | None = None
    resubmit: Path | None = None
    rest: Path | None = None  # None: beside `resubmit`
    defaults: Mapping[str, str] = field(default_factory=dict)  # options for bodies whose rows lack them

    @property
    def writes_files(self) -> bool:
        """Whether the report goes to files: then it is printed as JSON only, where that is wanted."""
        return any(path is not None for path in (self.html, self.csv, self.resubmit))

    def selects(self, task: "FinishedTask", *, is_tried_again: bool) -> bool:
        """Whether the report is on this task. Of a row that was tried again, the latest attempt shows what landed."""
        if self.landed is False and is_tried_again:
            return False
        is_in_time = self.since is None or (task.seen_at is not None and task.seen_at >= self.since)
        return is_in_time and self.account in (None, task.account) and self.landed in (None, task.landed)


async def write_report(settings: Settings, options: ReportOptions, clock: Clock = time.time) -> Exit:
    """Report on every finished task.

    Raises `InputError`, `StoreUnusable`, `SinkError` for a file that cannot be written, and `ConfigError`; in each case
    no file was changed.
    """
    import orjson

    from poller.reports.failures.groups import FailureReport
    from poller.reports.failures.to_html import to_html
    from poller.reports.failures.to_json import to_json
    from poller.reports.failures.to_text import to_text
    from poller.reports.retryable import TRIED_AGAIN, retry_advice

    options = _with_rest(options)
    failures = FailureReport()
    counts = {"waiting": 0, "pruned": 0}
    with ExitStack() as files:
        failed_tasks = _FailedTaskFiles(options, files)
        records = _records_in_files(options.files) if options.files else _records_in_state(settings, counts)
        async with aclosing(records):
            async for body, origin, sent, is_tried_again in records:
                task = _read(body, origin, options.columns)
                if options.selects(task, is_tried_again=is_tried_again):
                    advice = retry_advice(task) if task.reason is not None else None
                    if advice is not None and advice.retryable and is_tried_again:
                        advice = TRIED_AGAIN
                    failures.add(task, advice, is_tried_again=is_tried_again)
                    if advice is not None:
                        failed_tasks.add(task, advice, body, sent)
        if options.html is not None:
            title = ", ".join(path.name for path in options.files) or redacted_url(settings.state)
            page = to_html(failures, **counts, made_at=clock(), title=title)
            files.enter_context(new_file(options.html)).write(page)
    if options.as_json:
        sys.stdout.write(orjson.dumps(to_json(failures, **counts)).decode() + "\n")
    elif not options.writes_files:
        sys.stdout.write(to_text(failures, **counts) + "\n")
    sys.stderr.write("".join(f"{line}\n" for line in failed_tasks.summary()))
    if failed_tasks.lacks_urls:
        sys.stderr.write("poller: nothing can be resubmitted: no row has a URL. Name your column: --column url=NAME\n")
        return Exit.NO_INPUT
    return Exit.ALL_COMPLETE


def _with_rest(options: ReportOptions) -> ReportOptions:
    """Return the options with the default for `rest`. Raises `ConfigError` where outputs collide."""
    if options.resubmit is None:
        if options.rest is not None:
            raise ConfigError("--rest FILE needs --resubmit FILE: it receives the tasks that are not resubmitted")
        return options
    rest = options.rest or options.resubmit.with_name(f"{options.resubmit.stem}.rest{options.resubmit.suffix}")
    outputs = [path for path in (options.html, options.csv, options.resubmit, rest) if path is not None]
    doubled = [path for path, count in Counter(path.absolute() for path in outputs).items() if count > 1]
    if doubled:
        raise ConfigError(f"two outputs cannot go to one file: {doubled[0]}. Name another file for one of them.")
    return replace(options, rest=rest)


_Found = tuple[bytes, str, bytes | None, bool]
"""A record, where it is, the body of its start where that is kept, and whether its row was tried again."""


async def _records_in_files(files: tuple[Path, ...]) -> AsyncGenerator[_Found]:
    from poller.cli.records import lines_of
    from poller.reports.resubmit import LatestAttempts

    latest = LatestAttempts()
    regular = [path for path in files if "%" in path.name or os.path.isfile(path)]  # noqa: ASYNC240, PTH113 - never raises
    for line in lines_of(regular):  # no pipe: it is read once
        latest.add(line)
    names = ", ".join(path.name for path in files)
    for number, line in enumerate(lines_of(files), 1):
        if line.strip():
            yield line, f"{names}, line {number:,}", None, latest.has_later(line)


async def _records_in_state(settings: Settings, counts: dict[str, int]) -> AsyncGenerator[_Found]:
    from poller.cli.records import open_state, pages_of
    from poller.reports.resubmit import kept_starts

    async with open_state(settings) as store:
        sums = await store.sums()
        counts.update(waiting=sums.waiting, pruned=sums.pruned)
        async for page in pages_of(store):
            kept = await kept_starts(store, ((each.number, each.account, each.body) for each in page))
            for record in page:
                is_tried_again = record.number in kept.tried_again
                yield record.body, f"record {record.number}", kept.bodies.get(record.number), is_tried_again


def _read(body: bytes, origin: str, columns: Columns) -> "FinishedTask":
    from poller.reports.finished_task import read_record

    try:
        return read_record(body, columns)
    except ValueError as error:
        raise InputError(f"{origin}: {error}. A report reads the output of `poller run`.") from None


class _FailedTaskFiles:
    """Writes each failed task to the output files, and counts what they contain."""

    def __init__(self, options: ReportOptions, files: ExitStack) -> None:
        from poller.reports.failures.to_csv import CsvWriter

        self._options = options
        self._csv = CsvWriter(files.enter_context(new_file(options.csv))) if options.csv else None
        self._bodies = files.enter_context(new_file(options.resubmit)) if options.resubmit else None
        self._rest = files.enter_context(new_file(options.rest)) if options.rest else None
        self._account: str | None = None  # of all bodies
        self._counts: Counter[str] = Counter()  # lines by file
        self._invalid_rows: Counter[str] = Counter()
        self._missing_options: Counter[str] = Counter()

    def add(self, task: "FinishedTask", advice: "RetryAdvice", record: bytes, sent: bytes | None) -> None:
        """Write one failed task."""
        import orjson

        from poller.reports.resubmit import missing_options, rest_line, start_body
        from poller.reports.retryable import RetryAdvice

        if self._csv is not None:
            self._csv.add(task, advice)
        if self._bodies is None or self._rest is None:
            return
        if advice.retryable:
            try:
                body = start_body(task, self._options.columns, self._options.defaults, sent)
            except ValueError as error:
                self._invalid_rows[str(error)[:80]] += 1
                advice = RetryAdvice(retryable=False, why=f"{advice.why}; but {error}")
            else:
                self._check_account(task.account)
                self._missing_options.update(missing_options(body))
                self._counts["bodies"] += 1
                self._bodies.write(orjson.dumps(body).decode() + "\n")
                return
        self._counts["rest"] += 1
        self._rest.write(rest_line(task, advice, record).decode() + "\n")

    def _check_account(self, account: str) -> None:
        """Bodies do not name their account: in one file, those of two accounts would be sent with the wrong token."""
        self._account = self._account or account
        if account != self._account:
            raise ConfigError(
                f"the accounts {self._account!r} and {account!r} both have imports to resubmit, with different tokens. "
                "Write one file for each account, with --account NAME."
            )

    @property
    def lacks_urls(self) -> bool:
        """Whether tasks could be resubmitted, but for want of a URL in any row."""
        from poller.reports.resubmit import NO_URL_IN_ROW

        return not self._counts["bodies"] and self._invalid_rows[NO_URL_IN_ROW] > 0

    def summary(self) -> Iterator[str]:
        """Yield the files that were written, and what a person must add to the bodies."""
        from poller.core.start_options import FOLDERS
        from poller.reports.resubmit import NO_URL_IN_ROW

        options = self._options
        yield from (f"written to {path}" for path in (options.html, options.csv) if path is not None)
        if options.resubmit is None:
            return
        bodies = counted(self._counts["bodies"], "body", "bodies")
        yield f"written to {options.resubmit}: {bodies} for HubSpot's start call"
        yield f"written to {options.rest}: {counted(self._counts['rest'], 'other task')}, with the reason why not"
        yield from (f"  {count:,} could be retried, but {why}" for why, count in self._invalid_rows.most_common(5))
        if NO_URL_IN_ROW in self._invalid_rows:
            yield "  if one of your columns contains the URL under another name: --column url=NAME"
        for name, count in self._missing_options.items():
            yield f"  {counted(count, 'body lacks', 'bodies lack')} {' or '.join(FOLDERS) if name in FOLDERS else name}"
        if self._missing_options:
            yield "  HubSpot requires these: add them with --set, such as --set access=PRIVATE"
