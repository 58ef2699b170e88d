"""`Poller`: a run within a program, composed as `poller run` is, at work in a task of the program's event loop.

It handles no signal, reads no settings but its arguments, and changes no logging: these are the program's.
"""

import os
import time
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Self, Unpack

from poller.app import inputs
from poller.app.embed.finished_import import FinishedImport
from poller.app.embed.options import PollerOptions, settings_of
from poller.app.embed.rows import FedRows, Rows
from poller.app.embed.run import EmbeddedRun
from poller.app.environment import Environment
from poller.app.replay import deliver_again, take_again
from poller.core import log as logs
from poller.core.deliveries import Selection
from poller.core.model import Kind
from poller.hubspot.client import Connections
from poller.sources import ReadOptions

IN_MEMORY = "sqlite:///:memory:"


class Poller:
    """Polls import tasks until each has its outcome; a context manager that is entered once.

    `state` is where tasks are kept, such as `sqlite:///poller.db`; without it they live as long as this object. The
    other options are settings of the configuration file, and `token`. Raises `ConfigError` for options that cannot be
    used; entering raises `PollerError` where the run cannot begin. Leaving finishes the polls in flight, within
    `shutdown_s`: what has no outcome by then waits in the state.
    """

    def __init__(self, *, state: str = IN_MEMORY, **options: Unpack[PollerOptions]) -> None:
        self._settings, self._tokens = settings_of(state, options)
        self._run: EmbeddedRun | None = None

    async def __aenter__(self) -> Self:
        if self._run is not None:
            raise RuntimeError("a Poller is entered once: make another one")
        logs.use_stdlib_unless_configured()
        self._run = EmbeddedRun(self._settings, self._environment())
        await self._run.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._entered.end(is_body_done=kind is None)

    def feed(
        self, rows: Rows, *, account: str | None = None, id_column: str | None = None
    ) -> Coroutine[Any, Any, FedRows]:
        """Add tasks; return where each row went, once all are on disk.

        A row is an id, a pair `(id, ref)`, or a mapping: `task_id`, `taskId` or `id`, or the key `id_column`, is the
        id, `account` its account, and all others its `ref`. A status URL serves as an id. Rows come from any iterable;
        of an async one each is stored as it comes, and it is read no faster than it is stored. A row that cannot be
        used is in `rejected` with its reason; an id that the account has already is a duplicate. Cancellation, or an
        error of the iterable, leaves the rows before it stored. Raises what ended the run.
        """
        read = inputs.feeding(self._settings, "ids")
        return self._feed(rows, replace(read, id_column=id_column or read.id_column), account)

    def import_files(
        self, rows: Rows, *, account: str | None = None, options: Mapping[str, str] | None = None
    ) -> Coroutine[Any, Any, FedRows]:
        """Add rows to import; return where each went, once all are on disk. The run starts an import for each.

        A row is a URL, or a mapping with the URL as `url`: its options of HubSpot's start call, such as `access` and
        `folderPath`, are keys of it, else those of `options`, else those of `Poller(imports={"options": …})`; texts of
        both may have `{key}` for a key of the row. A row that failed before is another attempt; one that landed or is
        under way is a duplicate. Otherwise as `feed`. Raises `ConfigError` where no row could be imported, such as
        without access or folder, and `RuntimeError` without `Poller(imports=…)`.
        """
        if "imports" not in self._settings.model_fields_set:
            raise RuntimeError("this Poller starts no imports: make it with Poller(imports={})")
        read = inputs.feeding(self._settings, "imports")
        if options and read.rows is not None:
            read = replace(read, rows=replace(read.rows, defaults={**read.rows.defaults, **options}))
        return self._feed(rows, read, account)

    def _feed(self, rows: Rows, read: ReadOptions, account: str | None) -> Coroutine[Any, Any, FedRows]:
        if isinstance(rows, str | bytes | Mapping):
            raise TypeError(f"many rows are fed, not one {type(rows).__name__}: put it into a list")
        run = self._entered
        if account is not None and account not in read.accounts:
            raise ValueError(f"unknown account {account!r}; known: {', '.join(sorted(read.accounts))}")
        feeding = run.feed(rows, replace(read, default_account=account or read.default_account), mark := object())
        run.feeds.add(mark)  # now, not when it is awaited: `finished` waits for it
        weakref.finalize(feeding, run.end_feed, mark).atexit = False  # also for one that is never awaited
        return feeding

    async def finished(self, *, follow: bool = False) -> AsyncIterator[FinishedImport]:
        """Yield each finished task once for this state, also those that finished in earlier runs and were not taken.

        A task is taken when the loop asks for the next one, or when the block is left without an exception. A task
        whose body fails, is cancelled or killed is yielded again by the next run on the state. Ends when no fed task
        waits for its outcome, all are taken and no `feed` is under way; with `follow`, only when the block is left.
        Raises what ended the run, such as `TokenRefused`.
        """
        run = self._entered
        while (task := await run.next(follow=follow)) is not None:
            yield task

    async def replay(
        self,
        sink: str | None = None,
        *,
        since: datetime | None = None,
        kinds: Iterable[Kind | str] = (),
        dead: bool = False,
    ) -> int:
        """Have finished tasks yielded by the next loop on this state again, or delivered to `sink` again; return how
        many.

        Called before the block is entered, as `poller replay` is run while no poller runs; within the block only dead
        letters are tried again (`dead=True` without `since` and `kinds`). `since` is an aware datetime. With `sink`,
        such as `jsonl:failed.jsonl`, it returns when the sink has them: a sink that the state does not know gets all
        and is known from then on, with `since` or `kinds` only those, once; a file never gets a record twice. Records
        that a sink refuses are not counted: they are dead letters. Raises `ConfigError`, `SinkError` and, while
        another poller runs on the state, `StoreLocked`; the state is then as it was.
        """
        logs.use_stdlib_unless_configured()
        selection = _selection(since, kinds, dead=dead)
        if self._run is not None:
            if selection != Selection(dead=True):
                raise RuntimeError("within its block a Poller tries only dead letters again: replay before entering it")
            return await self._run.retry_dead_letters(sink)
        if self._settings.state == IN_MEMORY:
            raise RuntimeError("this Poller has no state to replay from: give state=…")
        environment = self._environment()
        if sink is None:
            return await take_again(self._settings, selection, clock=environment.clock)
        replayed = await deliver_again(
            self._settings, sink, selection, environ=environment.environ, clock=environment.clock
        )
        return replayed.delivered

    @property
    def waiting(self) -> int:
        """How many tasks have no outcome yet."""
        return self._entered.waiting

    @property
    def pauses(self) -> Mapping[str, str]:
        """The paused accounts and failing sinks, each with its reason."""
        return self._entered.pauses()

    @property
    def page_url(self) -> str | None:
        """Where the live page is; None unless `listen` is set."""
        return self._entered.page_url

    @property
    def _entered(self) -> EmbeddedRun:
        if self._run is None:
            raise RuntimeError("the Poller is not at work: use it within `async with Poller(…) as poller:`")
        return self._run

    def _environment(self) -> Environment:
        return Environment(
            environ={**os.environ, **self._tokens},
            monotonic=time.monotonic,
            connections=lambda now: Connections(proxy=now.proxy, ca_file=now.ca_file),  # not opened yet
        )


def _selection(since: datetime | None, kinds: Iterable[Kind | str], *, dead: bool) -> Selection:
    """Return what to replay. Raises `ValueError` for a time without zone, and for a word that is no kind."""
    if since is not None and since.tzinfo is None:
        raise ValueError(f"since={since!r} has no time zone: use an aware datetime")
    since_s = None if since is None else since.timestamp()
    return Selection(since=since_s, kinds=frozenset(Kind(kind).value for kind in kinds), dead=dead)
