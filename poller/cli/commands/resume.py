"""`poller resume`: ends the pause that a person made, on a running or a stopped poller."""

from typing import Annotated

import typer

from poller.cli.commands.pause import change_pause
from poller.cli.options import Config, State, run_async, settings_of
from poller.core.errors import Exit
from poller.core.text import redacted_url

EXAMPLES = "\b\nExample:\n  poller resume default --state sqlite:///poller.db"


def resume(
    account: Annotated[str, typer.Argument(metavar="ACCOUNT", help="The account; `default` where you named none.")],
    config: Config = None,
    state: State = None,
) -> Exit:
    """Resume an account that a person paused. Other pauses stay: only their cause ends them."""
    settings = settings_of(config, state=state)
    was_paused = run_async(change_pause(settings, account, is_paused=False))
    flag = f" --state {redacted_url(settings.state)}" if state is not None else ""
    what = "is resumed" if was_paused else "was not paused by a person"
    typer.echo(f"account {account} {what}; a pause for another reason stays: poller status{flag}")
    return Exit.ALL_COMPLETE
