"""`poller pause`: stops an account's requests until a person resumes it, on a running or a stopped poller."""

import time
from dataclasses import replace
from typing import Annotated
from urllib.parse import quote

import typer

from poller.cli.options import Config, Settings, State, run_async, settings_of
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.core.text import redacted_url

EXAMPLES = "\b\nExample:\n  poller pause default --state sqlite:///poller.db"


def pause(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account; `default` where you named none.")],
    config: Config = None,
    state: State = None,
) -> Exit:
    """Pause an account until a person resumes it.

    No request leaves until `poller resume`, also after a restart. Polls in flight are finished. Deadlines do not run
    meanwhile. On a running poller it needs the run's server.
    """
    settings = settings_of(config, state=state)
    run_async(change_pause(settings, account, is_paused=True))
    flag = f" --state {redacted_url(settings.state)}" if state is not None else ""
    typer.echo(f"account {account} is paused: poller resume {account}{flag}")
    return Exit.ALL_COMPLETE


async def change_pause(settings: Settings, account: str, *, is_paused: bool, clock: Clock = time.time) -> bool:
    """Pause or resume an account, by its running process where there is one, else in the state. Return whether a
    person had paused it before.

    Raises `typer.BadParameter` for an unknown account, and `PollerError`.
    """
    from poller.cli.records import open_state
    from poller.cli.running import NotAnswered, ask_run
    from poller.core.accounts import Pause
    from poller.store import last_beat

    async with open_state(settings) as reader:
        before = (await reader.sums()).accounts.get(account)
    was_paused = before is not None and before.pause == Pause.PAUSED_BY_PERSON
    if (beat := last_beat(settings.state, settings.own_replica)) is None:
        await _change_stopped(settings, account, is_paused=is_paused, clock=clock)
        return was_paused
    action = "pause" if is_paused else "resume"
    status, answer = await ask_run(settings, beat[0], f"/v1/accounts/{quote(account, safe='')}/{action}")
    if status == 404:
        raise typer.BadParameter(str(answer.get("message")), param_hint="ACCOUNT")
    if status != 200:
        raise NotAnswered(str(answer.get("message", f"the server answered {status}")))
    return was_paused


async def _change_stopped(settings: Settings, account: str, *, is_paused: bool, clock: Clock) -> None:
    from poller.cli.records import open_state
    from poller.core import log as logs
    from poller.core.accounts import Pause
    from poller.core.person_pause import paused_since_s, person_pause_detail
    from poller.store import open_store

    async with open_state(settings) as reader:
        known = (await reader.sums()).accounts.keys() | settings.account_settings().keys()
    if account not in known:
        raise typer.BadParameter(f"no account {account!r}; known: {', '.join(sorted(known))}", param_hint="ACCOUNT")
    logs.configure(format=settings.log.format, level="warning", clock=clock)
    store = await open_store(settings.state, clock=clock)
    try:
        await store.rebase_instants()  # of a run whose clock was wrong: the pause begins now
        before, now = await store.account(account), clock()
        if (before.pause == Pause.PAUSED_BY_PERSON) is not is_paused:
            after = replace(
                before,
                pause=Pause.PAUSED_BY_PERSON.value if is_paused else None,
                pause_detail=person_pause_detail(now) if is_paused else None,
                resume_at=None,
                paused_s=before.paused_s + paused_since_s(before, now),
                active_at=now,  # from when on the pause is counted; the window counts as full a little longer
            )
            store.save_account(account, after)
            await store.flush()
    finally:
        await store.close()
