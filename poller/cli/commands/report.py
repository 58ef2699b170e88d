"""`poller report`: streams the finished tasks once and writes what they tell, in bounded memory."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TextIO

import orjson

from poller.cli.commands.replay import lines_of, reading, records_of
from poller.cli.output_file import new_file
from poller.config import Settings
from poller.core.errors import ConfigError, Exit, InputError
from poller.core.protocols import Clock
from poller.reports.failures.groups import Findings, Gathering
from poller.reports.failures.to_csv import Sheet
from poller.reports.failures.to_html import page_of
from poller.reports.failures.to_text import json_of, text_of
from poller.reports.reasons import Columns, Facts, facts_of
from poller.reports.resubmit import FOLDERS, body_of, lacks, rest_line
from poller.reports.retryable import Verdict, verdict
from poller.store import without_secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a report shall be made of, and where it goes."""

    files: tuple[Path, ...] = ()  # JSONL files of finished tasks; none: the state
    account: str | None = None  # only tasks of this one
    since: float | None = None  # only tasks that finished from this instant on
    columns: Columns = field(default_factory=Columns)
    as_json: bool = False
    html: Path | None = None
    csv: Path | None = None
    resubmit: Path | None = None
    rest: Path | None = None  # None: beside `resubmit`
    given: Mapping[str, str] = field(default_factory=dict)  # options for bodies whose rows do not tell them


async def report(settings: Settings, wanted: Wanted, clock: Clock = time.time) -> Exit:
    """Report on every finished task.

    Raises `InputError`, `StoreUnusable`, `SinkError` for a file that cannot be written, and `ConfigError`; in each case
    no file was changed.
    """
    wanted = _with_rest(wanted)
    gathering = Gathering()
    with ExitStack() as files:
        failures = _Failures(wanted, files)
        if wanted.files:
            waiting = pruned = 0
            for body, place in _in_files(wanted.files):
                _take(body, place, wanted, gathering, failures)
        else:
            async with reading(settings) as store:
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
    failures.tell()
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
    names = ", ".join(path.name for path in files)
    for number, line in enumerate(lines_of(files), 1):
        if line.strip():
            yield line, f"{names}, line {number:,}"


def _take(body: bytes, place: str, wanted: Wanted, gathering: Gathering, failures: "_Failures") -> None:
    try:
        facts = facts_of(body, wanted.columns)
    except ValueError as error:
        raise InputError(f"{place}: {error}; a report reads what `poller run` wrote") from None
    if wanted.account not in (None, facts.account):
        return
    if wanted.since is not None and (facts.seen_at is None or facts.seen_at < wanted.since):
        return
    judged = verdict(facts) if facts.reason is not None else None
    gathering.add(facts, judged)
    if judged is not None:
        failures.add(facts, judged, body)


def _print(found: Findings, *, as_json: bool, waiting: int, pruned: int) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(json_of(found, waiting=waiting, pruned=pruned)).decode() + "\n")
    else:
        sys.stdout.write(text_of(found, waiting=waiting, pruned=pruned) + "\n")


class _Failures:
    """Writes each failed task to the files that were asked for, and counts what became of it."""

    def __init__(self, wanted: Wanted, files: ExitStack) -> None:
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

    def add(self, facts: Facts, judged: Verdict, body: bytes) -> None:
        """Write one failed task."""
        if self._sheet is not None:
            self._sheet.add(facts, judged)
        if self._bodies is not None and self._rest is not None:
            self._resubmit(facts, judged, body, self._bodies, self._rest)

    def _resubmit(self, facts: Facts, judged: Verdict, body: bytes, bodies: TextIO, rest: TextIO) -> None:
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
        """A body does not say whose it is: those of two accounts in one file would be started with the wrong token."""
        self._account = self._account or account
        if account != self._account:
            raise ConfigError(
                f"imports of the accounts {self._account!r} and {account!r} are to be started again, each with its own "
                "token: write one file for each, with --account NAME"
            )

    def tell(self) -> None:
        """Say on stderr what was written, and what a person has yet to add."""
        wanted = self._wanted
        lines = [f"{path}: written" for path in (wanted.html, wanted.csv) if path is not None]
        if wanted.resubmit is not None:
            lines.append(f"{wanted.resubmit}: {self._ready:,} bodies for HubSpot's start call")
            lines.append(f"{wanted.rest}: {self._left:,} tasks that are not in it, each with the reason")
            lines += [f"  {count:,} are worth another try, but {why}" for why, count in self._unusable.most_common(5)]
            if any("names no URL" in why for why in self._unusable):
                lines.append("  if a column of yours holds the URL under another name: --column url=NAME")
            lines += [f"  {count:,} bodies lack {_option(name)}" for name, count in self._lacking.items()]
            if self._lacking:
                lines.append("  HubSpot demands these: add them with --set, such as --set access=PRIVATE")
        sys.stderr.write("".join(f"{line}\n" for line in lines))


def _option(name: str) -> str:
    return " or ".join(FOLDERS) if name in FOLDERS else name
