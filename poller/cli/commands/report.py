"""`poller report`: streams the finished tasks once and groups the failed ones by reason, in bounded memory."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from poller.cli.options import AsJson, Config, Settings, State, epoch_of, settings_of
from poller.cli.output_file import new_file
from poller.core.errors import ConfigError, Exit, InputError
from poller.core.protocols import Clock

if TYPE_CHECKING:
    from poller.reports.failures.groups import Findings, Gathering
    from poller.reports.reasons import Columns, Facts
    from poller.reports.retryable import Verdict

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
    since: Annotated[datetime | None, typer.Option(help="Only tasks finished at or after this instant (UTC).")] = None,
) -> Exit:
    """Group the tasks that are not complete by reason.

    It prints reasons with counts, hosts, samples, and what could be retried; also during a run. With md5 or size
    columns in your input, the finished files are compared.
    """
    from poller.reports.reasons import COLUMN_NAMES
    from poller.reports.resubmit import OPTIONS

    wanted = Wanted(
        files=tuple(files or ()),
        account=account,
        since=epoch_of(since),
        columns=_columns(_pairs(column or [], "--column", tuple(COLUMN_NAMES))),
        as_json=as_json,
        html=html,
        csv=csv,
        resubmit=resubmit,
        rest=rest,
        given=_pairs(set_ or [], "--set", OPTIONS),
    )
    return asyncio.run(write_report(settings_of(config, state=state), wanted))


def _columns(named: Mapping[str, str]) -> "Columns":
    from poller.reports.reasons import Columns

    return Columns(named=named)


def _pairs(specs: Sequence[str], flag: str, known: tuple[str, ...]) -> dict[str, str]:
    """Read NAME=VALUE, names in any case. Raises `ConfigError`."""
    pairs = {}
    for spec in specs:
        name, equals, value = spec.partition("=")
        right = next((each for each in known if each.casefold() == name.strip().casefold()), None)
        if right is None or not equals or not value.strip():
            raise ConfigError(f"{flag} {spec}: write NAME=VALUE with one of the names {', '.join(known)}")
        pairs[right] = value.strip()
    return pairs


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a report is made of, and where it goes."""

    files: tuple[Path, ...] = ()  # JSONL files of finished tasks; none: the state
    account: str | None = None  # only tasks of this one
    since: float | None = None  # only tasks that finished from this instant on
    columns: "Columns" = field(default_factory=lambda: _columns({}))
    as_json: bool = False
    html: Path | None = None
    csv: Path | None = None
    resubmit: Path | None = None
    rest: Path | None = None  # None: beside `resubmit`
    given: Mapping[str, str] = field(default_factory=dict)  # options for bodies whose rows do not have them


async def write_report(settings: Settings, wanted: Wanted, clock: Clock = time.time) -> Exit:
    """Report on every finished task.

    Raises `InputError`, `StoreUnusable`, `SinkError` for a file that cannot be written, and `ConfigError`; in each case
    no file was changed.
    """
    from poller.cli.records import open_state, records_of
    from poller.reports.failures.groups import Gathering
    from poller.reports.failures.to_html import page_of
    from poller.store import without_secret

    wanted = _with_rest(wanted)
    gathering = Gathering()
    with ExitStack() as files:
        failures = _Failures(wanted, files)
        if wanted.files:
            waiting = pruned = 0
            for body, location in _in_files(wanted.files):
                _take(body, location, wanted, gathering, failures)
        else:
            async with open_state(settings) as store:
                sums = await store.sums()
                waiting, pruned = sums.waiting, sums.pruned
                async for record in records_of(store):
                    _take(record.body, f"record {record.number}", wanted, gathering, failures)
        found = gathering.findings()
        if wanted.html is not None:
            title = ", ".join(path.name for path in wanted.files) or without_secret(settings.state)
            page = page_of(found, waiting=waiting, pruned=pruned, made_at=clock(), title=title)
            files.enter_context(new_file(wanted.html)).write(page)
    _print(found, as_json=wanted.as_json, waiting=waiting, pruned=pruned)
    failures.print_summary()
    return Exit.ALL_COMPLETE


def _with_rest(wanted: Wanted) -> Wanted:
    if wanted.resubmit is None:
        if wanted.rest is not None:
            raise ConfigError("--rest FILE takes what --resubmit FILE leaves: give both")
        return wanted
    rest = wanted.rest or wanted.resubmit.with_name(f"{wanted.resubmit.stem}.rest{wanted.resubmit.suffix}")
    outputs = [path for path in (wanted.html, wanted.csv, wanted.resubmit, rest) if path is not None]
    doubled = [path for path, count in Counter(path.absolute() for path in outputs).items() if count > 1]
    if doubled:
        raise ConfigError(f"two answers cannot go to one file: {doubled[0]}")
    return replace(wanted, rest=rest)


def _in_files(files: tuple[Path, ...]) -> Iterator[tuple[bytes, str]]:
    from poller.cli.records import lines_of

    names = ", ".join(path.name for path in files)
    for number, line in enumerate(lines_of(files), 1):
        if line.strip():
            yield line, f"{names}, line {number:,}"


def _take(body: bytes, location: str, wanted: Wanted, gathering: "Gathering", failures: "_Failures") -> None:
    from poller.reports.reasons import facts_of
    from poller.reports.retryable import verdict

    try:
        facts = facts_of(body, wanted.columns)
    except ValueError as error:
        raise InputError(f"{location}: {error}; a report reads what `poller run` wrote") from None
    if wanted.account not in (None, facts.account):
        return
    if wanted.since is not None and (facts.seen_at is None or facts.seen_at < wanted.since):
        return
    judged = verdict(facts) if facts.reason is not None else None
    gathering.add(facts, judged)
    if judged is not None:
        failures.add(facts, judged, body)


def _print(found: "Findings", *, as_json: bool, waiting: int, pruned: int) -> None:
    import orjson

    from poller.reports.failures.to_text import json_of, text_of

    if as_json:
        sys.stdout.write(orjson.dumps(json_of(found, waiting=waiting, pruned=pruned)).decode() + "\n")
    else:
        sys.stdout.write(text_of(found, waiting=waiting, pruned=pruned) + "\n")


class _Failures:
    """Writes each failed task to the requested files, and counts them."""

    def __init__(self, wanted: Wanted, files: ExitStack) -> None:
        from poller.reports.failures.to_csv import Sheet

        self._wanted = wanted
        self._sheet = Sheet(files.enter_context(new_file(wanted.csv))) if wanted.csv else None
        self._bodies: TextIO | None = None
        self._rest: TextIO | None = None
        if wanted.resubmit is not None and wanted.rest is not None:
            self._bodies = files.enter_context(new_file(wanted.resubmit))
            self._rest = files.enter_context(new_file(wanted.rest))
        self._account: str | None = None
        self._ready = 0
        self._left = 0
        self._unusable: Counter[str] = Counter()
        self._lacking: Counter[str] = Counter()

    def add(self, facts: "Facts", judged: "Verdict", body: bytes) -> None:
        """Write one failed task."""
        if self._sheet is not None:
            self._sheet.add(facts, judged)
        if self._bodies is not None and self._rest is not None:
            self._resubmit(facts, judged, body, self._bodies, self._rest)

    def _resubmit(self, facts: "Facts", judged: "Verdict", body: bytes, bodies: TextIO, rest: TextIO) -> None:
        import orjson

        from poller.reports.resubmit import body_of, lacks, rest_line
        from poller.reports.retryable import Verdict

        if judged.again:
            try:
                again = body_of(facts, self._wanted.columns, self._wanted.given)
            except ValueError as error:
                self._unusable[str(error)[:80]] += 1
                judged = Verdict(again=False, why=f"{judged.why}; but {error}")
            else:
                self._only_one_account(facts.account)
                self._lacking.update(lacks(again))
                self._ready += 1
                bodies.write(orjson.dumps(again).decode() + "\n")
                return
        self._left += 1
        rest.write(rest_line(facts, judged, body).decode() + "\n")

    def _only_one_account(self, account: str) -> None:
        """A body does not name its account: those of two accounts in one file would be started with the wrong token."""
        self._account = self._account or account
        if account != self._account:
            raise ConfigError(
                f"imports of the accounts {self._account!r} and {account!r} are to be started again, each with its own "
                "token: write one file for each, with --account NAME"
            )

    def print_summary(self) -> None:
        """Print on stderr what was written, and what a person has yet to add."""
        from poller.reports.resubmit import FOLDERS

        wanted = self._wanted
        lines = [f"{path}: written" for path in (wanted.html, wanted.csv) if path is not None]
        if wanted.resubmit is not None:
            lines.append(f"{wanted.resubmit}: {self._ready:,} bodies for HubSpot's start call")
            lines.append(f"{wanted.rest}: {self._left:,} tasks that are not in it, each with the reason")
            lines += [f"  {count:,} are worth another try, but {why}" for why, count in self._unusable.most_common(5)]
            if any("names no URL" in why for why in self._unusable):
                lines.append("  if a column of yours holds the URL under another name: --column url=NAME")
            for name, count in self._lacking.items():
                lines.append(f"  {count:,} bodies lack {' or '.join(FOLDERS) if name in FOLDERS else name}")
            if self._lacking:
                lines.append("  HubSpot demands these: add them with --set, such as --set access=PRIVATE")
        sys.stderr.write("".join(f"{line}\n" for line in lines))
