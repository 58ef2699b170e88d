"""`poller list`: tasks by filter, also during a run."""

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from poller.cli import completion
from poller.cli.options import (
    Config,
    Landed,
    ListFormat,
    Settings,
    Since,
    State,
    instant_of,
    run_async,
    settings_of,
)
from poller.core.errors import Exit
from poller.core.model import Kind
from poller.core.text import counted

if TYPE_CHECKING:
    from poller.core import search
    from poller.core.search import FoundTask, TaskFilter

NAME = "list"
EXAMPLES = (
    "\b\nExamples:\n  poller list --waiting\n"
    "  poller list --not-landed --host cdn.example.com --format csv > failed.csv\n"
    "  poller list --reason 404 --since yesterday --format ids"
)
TABLE_LIMIT = 100
PAGE = 500


def list_tasks(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="A piece of the id, or of a value of the row such as its URL.")
    ] = None,
    waiting: Annotated[
        bool, typer.Option("--waiting", help="Without an outcome yet: rows that are not started, too.")
    ] = False,
    unstarted: Annotated[
        bool, typer.Option("--unstarted", help="Rows to import that HubSpot has not accepted yet.")
    ] = False,
    unsure: Annotated[
        bool, typer.Option("--unsure", help="Rows whose start got no answer: HubSpot may have accepted it.")
    ] = False,
    kind: Annotated[
        list[Kind] | None,
        typer.Option(metavar="KIND", help="Of this kind; repeatable.", autocompletion=completion.kinds),
    ] = None,
    landed: Landed = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="A piece of the reason, in any case.")] = None,
    account: Annotated[str | None, typer.Option(metavar="NAME", help="Of this account.")] = None,
    host: Annotated[str | None, typer.Option(metavar="NAME", help="The host of the URL in the row.")] = None,
    since: Since = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="At most N tasks. [100 for a table, else all]")
    ] = None,
    format: Annotated[ListFormat, typer.Option(help="How they are written.")] = ListFormat.TABLE,  # noqa: A002
    config: Config = None,
    state: State = None,
) -> Exit:
    """List tasks by filter, also during a run.

    They come in the order in which they were fed, rows to import that have no task yet at the end. All given
    conditions must hold. `poller why TASK` has everything of one task.
    """
    from poller.core.search import TaskFilter

    wanted = TaskFilter(
        state=_state_of(waiting=waiting, unstarted=unstarted, unsure=unsure),
        kinds=frozenset(map(str, kind or ())),
        landed=landed,
        reason=reason,
        account=account,
        host=host,
        text=text,
        since=instant_of(since),
    )
    limit = limit or (TABLE_LIMIT if format is ListFormat.TABLE else None)
    return run_async(print_tasks(settings_of(config, state=state), wanted, format, limit))


def _state_of(**flags: bool) -> "search.State | None":
    """Return the state that was asked for; several contradict each other."""
    given = [name for name, is_given in flags.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{name}' for name in given)}")
    return cast("search.State", given[0]) if given else None


async def print_tasks(
    settings: Settings, wanted: "TaskFilter", written_as: ListFormat = ListFormat.TABLE, limit: int | None = None
) -> Exit:
    """Print the tasks that match; on stderr, how many were listed and whether there are more."""
    from poller.cli.records import open_state
    from poller.reports.task_list import head_of, lines_of, table

    in_table: list[FoundTask] = []
    listed, without_id, after = 0, 0, 0
    if written_as is not ListFormat.TABLE:
        sys.stdout.write(head_of(written_as.value))
    async with open_state(settings) as store:
        while True:
            page = await store.find_tasks(wanted, after=after, limit=min(PAGE, (limit or PAGE + listed) - listed))
            listed += len(page.tasks)
            without_id += sum(task.start is not None for task in page.tasks)
            if written_as is ListFormat.TABLE:
                in_table += page.tasks
            else:
                sys.stdout.write(lines_of(page.tasks, written_as.value))
            if page.after is None or listed == limit:
                break
            after = page.after
    sys.stdout.write(table(in_table) if in_table else "")
    more = "" if page.after is None else "; there may be more, --limit N lists them"
    lacking = _without_id(without_id) if written_as is ListFormat.IDS and without_id else ""
    sys.stderr.write(f"{counted(listed, 'task')}{lacking}{more}\n")
    return Exit.ALL_COMPLETE


def _without_id(count: int) -> str:
    rows = "1 of them is a row" if count == 1 else f"{count:,} of them are rows"
    return f"; {rows} without an id yet, which --format jsonl lists"
