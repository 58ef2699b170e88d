"""`poller why`: everything that the state knows of one task, also during a run."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.json import encode

from poller.cli.options import Config, Settings, State, run_async, settings_of
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.text import NO_RUN, counted, redacted_url, without_controls

if TYPE_CHECKING:
    from poller.core.search import TaskPage
    from poller.core.starts import Row
    from poller.store import StateReader

EXAMPLES = (
    "\b\nExamples:\n  poller why AAAAEZ6whGI\n  poller why https://example.com/a.png\n"
    "  poller why AAAAEZ6whGI --json | jq .poll_log"
)
MOST_LISTED = 20
MOST_NEAR = 3
SHORTEST_ALIKE = 4


def why(
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", help="An id, a locator, a status URL, or the URL of the file or a piece of it."),
    ],
    config: Config = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each account's task.")] = False,
) -> Exit:
    """Print everything about one task, also during a run.

    When it was fed, each poll and what HubSpot answered, its outcome or its next poll, and which sinks have it.

    Exit code 1 where the task is not in the state, or where several match, which are then listed.
    """
    return run_async(print_task(settings_of(config, state=state), task, as_json=as_json))


async def print_task(settings: Settings, named: str, *, as_json: bool, clock: Clock = time.time) -> Exit:
    """Print the task that `named` means: an id, the locator of HubSpot's start call, a status URL, or the URL of its
    file or a piece of that.

    Exit code 1 where it is not in the state, or where several match, which are then listed; 2 where nothing is named.
    """
    from poller.cli.records import is_worked_on, open_state
    from poller.core.search import TaskFilter, row_of
    from poller.core.starts import NO_TASK
    from poller.reports.task import task_text, task_view

    if not _bare(named):
        raise typer.BadParameter("it names no task: give an id, or the URL of a file", param_hint="TASK")
    task_id, problem = _id_in(named, settings)
    async with open_state(settings) as store:
        tasks = await store.task_details(task_id) if task_id is not None else ()
        if not tasks:
            page = await store.find_tasks(TaskFilter(text=_bare(named)), limit=MOST_LISTED)
            exact = [task for task in page.tasks if _bare(named) in row_of(task.ref).values()]
            candidates = exact if len(exact) == 1 else page.tasks
            if len(candidates) != 1:
                return await _print_others(store, settings, named, task_id, problem, page)
            (found,) = candidates
            if found.start is not None:
                rows = await store.rows_without_task(found.task_id.removeprefix(NO_TASK))
                sys.stdout.write("".join(_row(row, clock(), as_json=as_json) for row in rows))
                sys.stdout.write("" if as_json or is_worked_on(settings) else f"{NO_RUN}\n")
                return Exit.ALL_COMPLETE
            how = "whose row has it as a whole value" if len(page.tasks) > 1 else "whose id or row contains it"
            sys.stderr.write(f"{found.task_id} is the only task {how}\n")
            tasks = [task for task in await store.task_details(found.task_id) if task.account == found.account]
        now = clock()
        accounts = [await store.account(task.account) for task in tasks]
        timings = [await _timing(store, settings, task.account) for task in tasks]
    for task, account, timing in zip(tasks, accounts, timings, strict=True):
        text = encode(task_view(task, account)).decode() if as_json else task_text(task, account, now, timing)
        sys.stdout.write(text + "\n")
    if not as_json and any(task.kind is None for task in tasks) and not is_worked_on(settings):
        sys.stdout.write(f"{NO_RUN}\n")
    return Exit.ALL_COMPLETE


def _row(row: "Row", now: float, *, as_json: bool) -> str:
    from poller.reports.row import row_text, row_view

    return f"{encode(row_view(row)).decode() if as_json else row_text(row, now)}\n"


async def _timing(store: "StateReader", settings: Settings, name: str) -> str | None:
    """Return what the account's polls follow from; None where the policy does not learn, or knows nothing yet."""
    from poller.schedule import explanation_of, knowledge_key

    account = settings.account_settings().get(name)
    if account is None or account.polling.policy != "learned":
        return None
    return explanation_of(await store.knowledge(knowledge_key(name, account.status_path)))


def _bare(named: str) -> str:
    """Return what was named without what copying leaves around it: quotes, commas, semicolons, spaces."""
    return named.strip(" \t\r\n'\",;`")


def _id_in(named: str, settings: Settings) -> tuple[str | None, str]:
    """Return the id that is named, or None and why it is none."""
    from poller.sources import ReadOptions
    from poller.sources.parsing.line import id_from, read_json

    try:
        if not named.strip().startswith("{"):
            return id_from(_bare(named)), ""
        accounts = frozenset(settings.account_settings())
        return read_json(named.encode(), ReadOptions(accounts=accounts, default_account=settings.account)).task_id, ""
    except ValueError as error:
        return None, str(error)


async def _print_others(
    store: "StateReader", settings: Settings, named: str, task_id: str | None, problem: str, page: "TaskPage"
) -> Exit:
    """Print the tasks whose id or row contains what was named; where there are none, what may help to find it."""
    from poller.reports.task_list import table

    if page.tasks:
        sys.stdout.write(table(page.tasks))
        more = "; poller list TEXT lists all" if page.after is not None else ""
        sys.stderr.write(f"{len(page.tasks)} tasks contain {_bare(named)[:80]!r}: name the id of one{more}\n")
    elif task_id is not None:
        sys.stderr.write(await _not_found(store, settings, task_id))
    else:
        where, shown = redacted_url(settings.state), without_controls(_bare(named)[:80])
        sys.stderr.write(f"poller: no task of {where} has {shown!r} in its id or row, and it is no id: {problem}\n")
    return Exit.NOT_ALL_COMPLETE


async def _not_found(store: "StateReader", settings: Settings, task_id: str) -> str:
    """Return a message that helps to find a task that is not in the state."""
    lines = [f"poller: task {task_id} is not in the state {redacted_url(settings.state)}"]
    if near := await _nearest(store, task_id):
        lines.append(f"  similar: {', '.join(near)}")
    for source, rejection in await store.rejections():
        if task_id in rejection.excerpt:
            lines.append(f"  {source}, line {rejection.line:,} has it and was rejected: {rejection.reason}")
            break
    else:
        sums = await store.sums()
        fed = ", ".join(dict.fromkeys(source.name for source in sums.sources)) or "no source yet"
        lines.append(
            f"  the state has {counted(sums.waiting + sums.finished, 'task')} from {fed}; name another with --state"
        )
        if sums.pruned:
            lines.append(f"  {counted(sums.pruned, 'finished task')} past retention: deleted")
    return "".join(f"{without_controls(line)}\n" for line in lines)


async def _nearest(store: "StateReader", task_id: str) -> list[str]:
    """Return the ids in the state that are most alike: by common copying mistakes, else by their first letters."""
    from poller.core.search import TaskFilter

    near = [task.task_id for variant in _variants(task_id) for task in await store.task_details(variant)]
    for length in (len(task_id) - 1, len(task_id) * 3 // 4, len(task_id) // 2):
        if not near and length >= SHORTEST_ALIKE:
            page = await store.find_tasks(TaskFilter(text=task_id[:length]), limit=MOST_NEAR)
            near = [task.task_id for task in page.tasks if task.task_id.lower().startswith(task_id[:length].lower())]
    return list(dict.fromkeys(near))


def _variants(task_id: str) -> Sequence[str]:
    """Return what the id becomes by common copying mistakes: padding, `+` for `-`, punctuation around it."""
    bare = task_id.rstrip("=")
    variants = [bare, f"{bare}=", f"{bare}==", bare.replace("+", "-"), bare.replace("-", "+"), task_id.strip("._~-")]
    return [variant for variant in dict.fromkeys(variants) if variant and variant != task_id]
