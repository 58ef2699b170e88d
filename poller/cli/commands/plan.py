"""`poller plan`: what a run would take, before it begins. Requests nothing and stores nothing."""

import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.option_groups import with_options
from poller.cli.options import (
    AsJson,
    Config,
    DefaultAccount,
    Format,
    IdColumn,
    Settings,
    State,
    named_values,
    run_async,
    settings_of,
)
from poller.cli.start_options import start_options
from poller.core.columns import COLUMN_NAMES
from poller.core.errors import Exit, NoState
from poller.core.model import Added, Chunk, Failed, Position
from poller.core.sums import SourceSums

if TYPE_CHECKING:
    from poller.core.protocols import StateReader
    from poller.reports.plan import KnownAccount

EXAMPLES = "\b\nExample:\n  poller plan ids.txt --requests 100 --window-s 10 --daily 250000"

VARIABLES = {
    "account": "POLLER_ACCOUNT",
    "requests": "POLLER_REQUESTS",
    "window_s": "POLLER_WINDOW_S",
    "daily": "POLLER_DAILY_LIMIT",
    "deadline_s": "POLLER_DEADLINE_S",
    "key": "POLLER_IMPORTS__KEY",
    "format": "POLLER_INPUT__FORMAT",
    "id_column": "POLLER_INPUT__ID_COLUMN",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """What a plan goes by, as flags of the run to come."""

    imports: Annotated[bool, typer.Option("--imports", help="The files are rows to import: starts count too.")] = False
    column: Annotated[
        list[str] | None, typer.Option(metavar="MEANING=NAME", help="As for `import`: your column for url; repeatable.")
    ] = None
    key: Annotated[str | None, typer.Option(metavar="COLUMN", help="As for `import`.")] = None
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="OPTION=TEXT", help="As for `import`: rows imported before are recognised by it."
        ),
    ] = None
    config: Config = None
    state: State = None
    account: DefaultAccount = None
    requests: Annotated[int | None, typer.Option(metavar="N", help="At most N per window. [learned, or 100]")] = None
    window_s: Annotated[float | None, typer.Option(metavar="S", help="The window, in seconds. [learned, or 10]")] = None
    daily: Annotated[int | None, typer.Option(metavar="N", help="The account's requests per day.")] = None
    deadline_s: Annotated[float | None, typer.Option(metavar="S", help="As for `run`. [86400]")] = None
    format: Format = None
    id_column: IdColumn = None

    def settings(self) -> Settings:
        """Return the settings of that run. Raises `ConfigError` and `typer.BadParameter`."""
        return settings_of(
            self.config,
            state=self.state,
            account=self.account,
            requests=self.requests,
            window_s=self.window_s,
            daily_limit=self.daily,
            deadline_s=self.deadline_s,
            input={
                "format": self.format,
                "id_column": self.id_column,
                "feeds": "imports" if self.imports else None,
            },
            imports={
                "options": start_options(self.set_ or []),
                "columns": named_values(self.column or [], "--column", tuple(COLUMN_NAMES)),
                "key": self.key,
            },
        )


@with_options(PlanOptions)
def plan(
    options: PlanOptions,
    *,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Ids as for `run`, rows as for `import`; - for stdin.")
    ],
    durations: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="How long imports take: fixed:S, uniform:LOW,HIGH, lognormal:MEDIAN,SIGMA, mix:SHARE@…,…",
        ),
    ] = None,
    as_json: AsJson = False,
) -> Exit:
    """Print what a run would take, before it begins.

    It prints requests, time, and the share of the day's quota, from what the state has learned of the account, or from
    --durations. Of input that was worked on before it counts what is left. It requests nothing and stores nothing.

    Exit code 1 where it does not fit into what is left of the day's quota.
    """
    return run_async(print_plan(options.settings(), files, durations=durations, as_json=as_json))


ANYWHERE = {"access": "PRIVATE", "folderPath": "/"}


class InputCounter:
    """An intake that stores nothing: counts what a run would find in its input, and what of it a state has."""

    def __init__(self, store: "StateReader | None") -> None:
        self._store = store
        self.tasks: Counter[str] = Counter()  # by account
        self.ended: Counter[str] = Counter()  # of these, with an outcome in the state
        self.underway: Counter[str] = Counter()  # … and waiting for one
        self.duplicates = self.rejected = self.lines = 0
        self._seen: set[tuple[str, str]] = set()

    async def open_source(self, _name: str) -> tuple[int, Position] | None:
        return None

    async def new_source(self, _name: str, _fingerprint: str = "", _digest: str = "") -> int:
        return 1

    async def was_read(self, _position: Position) -> bool:
        return False

    async def source(self, _name: str) -> SourceSums | None:
        return None

    async def has_failed(self) -> bool:
        return False

    async def count_failed(self, _chunk: Chunk) -> Failed:
        return Failed()

    async def add(self, _source: int, chunk: Chunk) -> Added:
        new = replace(
            chunk,
            fed=tuple(fed for fed in chunk.fed if self._is_new(fed.account, fed.task_id)),
            rows=tuple(row for row in chunk.rows if self._is_new(row.account, row.row)),
        )
        self.tasks.update(fed.account for fed in new.fed)
        self.tasks.update(row.account for row in new.rows)
        for account, known in (await self._store.known_lines(new) if self._store is not None else {}).items():
            self.ended[account] += known.ended
            self.underway[account] += known.underway
        found, tasks = len(chunk.fed) + len(chunk.rows), len(new.fed) + len(new.rows)
        self.duplicates += found - tasks
        self.rejected += len(chunk.rejected)
        self.lines += found + len(chunk.rejected) + chunk.blank
        return Added(tasks=tasks, duplicates=found - tasks)

    def _is_new(self, account: str, name: str) -> bool:
        """Whether the input had no such line before."""
        known = len(self._seen)
        self._seen.add((account, name))
        return len(self._seen) > known


async def print_plan(
    settings: Settings, inputs: Sequence[str], *, durations: str | None, as_json: bool, now: float | None = None
) -> Exit:
    """Print what a run over `inputs` would take. Exit code 1 where it does not fit into what is left of today's quota.

    Raises `InputError` for what cannot be read, `ConfigError` for durations that cannot be read.
    """
    import orjson

    from poller.core import log as logs
    from poller.reports.plan import KnownAccount, RunPlan, plan_account

    logs.configure(format=settings.log.format, level="warning", clock=time.time)
    async with _state(settings) as store:
        counted = await _count(settings, inputs, store)
        known = {} if store is None else await _known(settings, store)
    accounts = settings.account_settings()
    at = time.time() if now is None else now
    starts = settings.imports.rules() if settings.input.feeds == "imports" else None
    planned = RunPlan(
        lines=counted.lines,
        duplicates=counted.duplicates,
        rejected=counted.rejected,
        ended=counted.ended.total(),
        accounts=tuple(
            plan_account(
                name,
                accounts[name],
                left,
                known.get(name, KnownAccount()),
                durations,
                at,
                starts,
                counted.underway[name],
            )
            for name, left in (counted.tasks - counted.ended).items()
        ),
    )
    text = orjson.dumps(planned.to_json(), option=orjson.OPT_INDENT_2).decode() if as_json else planned.to_text()
    sys.stdout.write(f"{text}\n")
    if not planned.tasks:
        return Exit.ALL_COMPLETE if planned.ended else Exit.NO_INPUT
    return Exit.ALL_COMPLETE if planned.fits else Exit.NOT_ALL_COMPLETE


async def _count(settings: Settings, inputs: Sequence[str], store: "StateReader | None") -> InputCounter:
    from poller.app.inputs import feeding
    from poller.sources import feed

    counted, how = InputCounter(store), feeding(settings)
    if how.rows is not None:  # which access and folder: only the identities of rows without a key depend on it
        how = replace(how, rows=replace(how.rows, defaults=ANYWHERE | dict(how.rows.defaults)))
    for spec in inputs:
        await feed(spec, counted, how)
    return counted


@asynccontextmanager
async def _state(settings: Settings) -> AsyncIterator["StateReader | None"]:
    """Open the state; None where there is none yet. Raises `StoreUnusable` for one that cannot be read: without it what
    is done would be planned again."""
    from poller.store import read_store

    try:
        store = await read_store(settings.state)
    except NoState:
        yield None
        return
    try:
        yield store
    finally:
        await store.close()


async def _known(settings: Settings, store: "StateReader") -> Mapping[str, "KnownAccount"]:
    """Return what the state has of each account."""
    from poller.core.learned_limit import decode_limit, limit_key
    from poller.reports.plan import KnownAccount, lost_share
    from poller.schedule import knowledge_key

    lost = lost_share((await store.sums()).starts) if settings.input.feeds == "imports" else 0.0
    return {
        name: KnownAccount(
            timing=await store.knowledge(knowledge_key(name, account.status_path)),
            state=await store.account(name),
            limit=decode_limit(await store.knowledge(limit_key(name))),
            lost_share=lost,
        )
        for name, account in settings.account_settings().items()
    }
