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
from poller.core.text import redacted_url

if TYPE_CHECKING:
    from poller.store import StateReader

EXAMPLES = "\b\nExamples:\n  poller why AAAAEZ6whGI\n  poller why AAAAEZ6whGI --json | jq .poll_log"


def why(
    task: Annotated[str, typer.Argument(metavar="TASK", help="An id, a locator, or a status URL.")],
    config: Config = None,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each account's task.")] = False,
) -> Exit:
    """Print everything about one task, also during a run.

    When it was fed, each poll and what HubSpot answered, its outcome or its next poll, and which sinks have it.

    Exit code 1 where the task is not in the state.
    """
    return run_async(print_task(settings_of(config, state=state), task, as_json=as_json))


async def print_task(settings: Settings, named: str, *, as_json: bool, clock: Clock = time.time) -> Exit:
    """Print the task that `named` means: an id, the locator of HubSpot's start call, or a status URL.

    Exit code 1 where it is not in the state, 2 for what cannot be an id.
    """
    from poller.cli.records import open_state
    from poller.reports.task import task_text, task_view

    try:
        task_id = _id_in(named.strip(), settings)
    except ValueError as error:
        sys.stderr.write(f"poller: {named[:80]!r} names no task: {error}\n")
        return Exit.USAGE
    async with open_state(settings) as store:
        tasks = await store.task_details(task_id)
        if not tasks:
            sys.stderr.write(await _not_found(store, settings, task_id))
            return Exit.NOT_ALL_COMPLETE
        now = clock()
        accounts = [await store.account(task.account) for task in tasks]
        timings = [await _timing(store, settings, task.account) for task in tasks]
    for task, account, timing in zip(tasks, accounts, timings, strict=True):
        text = encode(task_view(task, account)).decode() if as_json else task_text(task, account, now, timing)
        sys.stdout.write(text + "\n")
    return Exit.ALL_COMPLETE


async def _timing(store: "StateReader", settings: Settings, name: str) -> str | None:
    """Return what the account's polls follow from; None where the policy does not learn, or knows nothing yet."""
    from poller.schedule import explanation_of, knowledge_key

    account = settings.account_settings().get(name)
    if account is None or account.polling.policy != "learned":
        return None
    return explanation_of(await store.knowledge(knowledge_key(name, account.status_path)))


def _id_in(named: str, settings: Settings) -> str:
    from poller.sources import ReadOptions
    from poller.sources.parsing.line import id_from, read_json

    if not named.startswith(("{", '"')):
        return id_from(named)
    accounts = frozenset(settings.account_settings())
    return read_json(named.encode(), ReadOptions(accounts=accounts, default_account=settings.account)).task_id


async def _not_found(store: "StateReader", settings: Settings, task_id: str) -> str:
    """Return a message that helps to find a task that is not in the state."""
    lines = [f"poller: task {task_id} is not in the state {redacted_url(settings.state)}"]
    near = [task.task_id for variant in _variants(task_id) for task in await store.task_details(variant)]
    if near:
        lines.append(f"  a similar one is: {near[0]}")
    for source, rejection in await store.rejections():
        if task_id in rejection.excerpt:
            lines.append(f"  {source}, line {rejection.line:,} has it and was rejected: {rejection.reason}")
            break
    else:
        sums = await store.sums()
        fed = ", ".join(dict.fromkeys(source.name for source in sums.sources)) or "no source yet"
        lines.append(f"  the state has {sums.waiting + sums.finished:,} tasks from {fed}; name another with --state")
        if sums.pruned:
            lines.append(f"  {sums.pruned:,} finished tasks are past their retention and were deleted")
    return "".join(f"{line}\n" for line in lines)


def _variants(task_id: str) -> Sequence[str]:
    """Return what the id becomes by common copying mistakes: padding, `+` for `-`, punctuation around it."""
    bare = task_id.rstrip("=")
    variants = [bare, f"{bare}=", f"{bare}==", bare.replace("+", "-"), bare.replace("-", "+"), task_id.strip("._~-")]
    return [variant for variant in dict.fromkeys(variants) if variant and variant != task_id]
