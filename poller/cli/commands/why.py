"""`poller why`: what the state knows of one task, also while a run is at work."""

import sys
import time
from collections.abc import Sequence

from msgspec.json import encode

from poller.cli.commands.replay import reading
from poller.config import Settings
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.text import redacted_url
from poller.reports.task import task_text, task_view
from poller.sources import ReadOptions
from poller.sources.parsing.line import id_from, read_json
from poller.store import StateReader


async def why(settings: Settings, named: str, *, as_json: bool, clock: Clock = time.time) -> Exit:
    """Tell all about the task that `named` means: an id, the locator of HubSpot's start call, or a status URL.

    Exit code 1 where the state does not know it, 2 for what cannot be an id.
    """
    try:
        task_id = _id_in(named.strip(), settings)
    except ValueError as error:
        sys.stderr.write(f"poller: {named[:80]!r} names no task: {error}\n")
        return Exit.USAGE
    async with reading(settings) as store:
        task_details = await store.task_details(task_id)
        if not task_details:
            sys.stderr.write(await _unknown(store, settings, task_id))
            return Exit.NOT_ALL_COMPLETE
        now = clock()
        accounts = [await store.account(story.account) for story in task_details]
    for story, account in zip(task_details, accounts, strict=True):
        told = encode(task_view(story, account)).decode() if as_json else task_text(story, account, now)
        sys.stdout.write(told + "\n")
    return Exit.ALL_COMPLETE


def _id_in(named: str, settings: Settings) -> str:
    if not named.startswith(("{", '"')):
        return id_from(named)
    accounts = frozenset(settings.account_settings())
    return read_json(named.encode(), ReadOptions(accounts=accounts, default_account=settings.account)).task_id


async def _unknown(store: StateReader, settings: Settings, task_id: str) -> str:
    """Return what helps to find a task that the state does not know."""
    lines = [f"poller: the state {redacted_url(settings.state)} knows no task {task_id}"]
    near = [story.task_id for variant in _variants(task_id) for story in await store.task_details(variant)]
    if near:
        lines.append(f"  but one that differs little: {near[0]}")
    for source, rejection in await store.rejections():
        if task_id in rejection.excerpt:
            lines.append(f"  {source}, line {rejection.line:,} holds it and was rejected: {rejection.reason}")
            break
    else:
        sums = await store.sums()
        fed = ", ".join(dict.fromkeys(source.name for source in sums.sources)) or "nothing yet"
        lines.append(f"  it was fed {sums.waiting + sums.finished:,} tasks from {fed}; name another state with --state")
        if sums.pruned:
            lines.append(f"  {sums.pruned:,} finished tasks are past their retention and forgotten")
    return "".join(f"{line}\n" for line in lines)


def _variants(task_id: str) -> Sequence[str]:
    """Return what the id becomes by slips of copying: padding lost or added, `+` for `-`, a sign of the sentence."""
    bare = task_id.rstrip("=")
    variants = [bare, f"{bare}=", f"{bare}==", bare.replace("+", "-"), bare.replace("-", "+"), task_id.strip("._~-")]
    return [variant for variant in dict.fromkeys(variants) if variant and variant != task_id]
