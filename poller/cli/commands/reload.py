"""`poller reload`: sends SIGHUP to the poller running on a state, and prints the result.

With `--all`, every replica of a fleet reads its own settings again and answers under its name.
"""

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poller.cli.options import Config, Settings, State, run_async, settings_of
from poller.core.errors import Exit
from poller.core.text import printable, redacted_url

if TYPE_CHECKING:
    from poller.core.fleet import Member
    from poller.store import StateReader

EXAMPLES = "\b\nExamples:\n  poller reload --state sqlite:////data/poller.db\n  poller reload --all -c config.toml"
RESULT_WITHIN_S = 60.0  # removing a sink, and polls in flight of an account, may take a while
READ_EVERY_S = 0.1
ANSWERS_WITHIN_S = 10.0  # a replica hears of it with its next beat, and applies it within a poll's time


def reload(
    config: Config = None,
    state: State = None,
    all_: Annotated[bool, typer.Option("--all", help="All replicas of a fleet, wherever they run.")] = False,
) -> Exit:
    """Reload the settings of the running poller.

    It sends SIGHUP and prints the result: what changed, and what needs a restart. Settings that are wrong change
    nothing. Exit code 78 where they are; 1 where no poller is running, or a replica does not answer within 10 s.
    """
    settings = settings_of(config, state=state)
    message, code = run_async(reload_fleet(settings) if all_ else request_reload(settings))
    typer.echo(message, err=code is not Exit.ALL_COMPLETE)
    return code


async def request_reload(settings: Settings) -> tuple[str, Exit]:
    """Send SIGHUP to the running poller and wait for the result; return the message and the exit code."""
    import asyncio

    from poller.app.reload import result_name
    from poller.cli.records import open_state
    from poller.store import last_beat

    failed = Exit.NOT_ALL_COMPLETE
    beat = last_beat(settings.state, settings.own_replica)
    if beat is None:
        return f"no poller is running on {redacted_url(settings.state)}. Name another state with --state", failed
    pid, noted_as = beat[0], result_name(settings)
    if not _is_poller(pid):
        return f"process {pid}, which runs on the state, is not on this machine. Send SIGHUP to it where it is", failed
    async with open_state(settings) as reader:
        before = await reader.knowledge(noted_as)
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            return f"cannot send SIGHUP to process {pid}: {error.strerror}", failed
        with suppress(TimeoutError):
            async with asyncio.timeout(RESULT_WITHIN_S):
                return _message(pid, await _next_result(reader, noted_as, before))
    return f"process {pid} has not reloaded yet. See config.reloaded or config.refused in its log", failed


async def _next_result(reader: "StateReader", name: str, before: bytes | None) -> Mapping[str, Any]:
    import asyncio

    while True:
        result = await reader.knowledge(name)
        if result is not None and result != before:
            fields: Mapping[str, Any] = json.loads(result)
            return fields
        await asyncio.sleep(READ_EVERY_S)


def _message(pid: int, result: Mapping[str, Any]) -> tuple[str, Exit]:
    if "refused" in result:
        return f"process {pid} refused the settings; nothing changed:\n{result['refused']}", Exit.CONFIG
    return "\n".join([f"process {pid} reloaded; changed: {changed_text(result)}", *notes_of(result)]), Exit.ALL_COMPLETE


def changed_text(result: Mapping[str, Any]) -> str:
    """Return the names of the settings that a reload applied."""
    return ", ".join(result["changed"]) or "nothing"


def notes_of(result: Mapping[str, Any]) -> list[str]:
    """Return what a person has to know of a reload beside what changed."""
    notes = []
    if result["needs_restart"]:
        notes.append(f"needs a restart: {', '.join(result['needs_restart'])}")
    if result["left_waiting"]:
        notes.append(f"removed accounts whose tasks wait in the state: {', '.join(result['left_waiting'])}")
    return notes


def _is_poller(pid: int) -> bool:
    """A process id may be of another machine, or of another container."""
    try:
        return b"poller" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()


async def reload_fleet(settings: Settings, *, within_s: float = ANSWERS_WITHIN_S) -> tuple[str, Exit]:
    """Ask all replicas to reload, and wait for their answers; return a line for each, and the exit code."""
    import asyncio

    from poller.cli.records import open_state
    from poller.store import ask_to_reload

    async with open_state(settings) as reader:
        view = await reader.fleet_view()
        if view is None or not view.members:
            where = redacted_url(settings.state)
            return f"no replica is running on {where}. Name another state with --state", Exit.NOT_ALL_COMPLETE
        before = {member.name: await reader.knowledge(_answer_of(member)) for member in view.members}
        await ask_to_reload(settings.state)
        answers: dict[str, Mapping[str, Any]] = {}
        waited_for = [member for member in view.members if not member.is_draining]
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while len(answers) < len(waited_for):
                    await asyncio.sleep(READ_EVERY_S)
                    answers |= await _new_answers(reader, waited_for, before)
    lines = [_line(member, answers.get(member.name), within_s) for member in view.members]
    return "\n".join(lines), _exit_code(waited_for, answers)


async def _new_answers(
    reader: "StateReader", members: "list[Member]", before: Mapping[str, bytes | None]
) -> dict[str, Mapping[str, Any]]:
    found = {member.name: await reader.knowledge(_answer_of(member)) for member in members}
    return {name: json.loads(answer) for name, answer in found.items() if answer not in (None, before[name])}


def _answer_of(member: "Member") -> str:
    from poller.app.reload import answer_name

    return answer_name(member.name)


def _line(member: "Member", answer: Mapping[str, Any] | None, within_s: float) -> str:
    name = printable(member.name)
    if answer is None:
        if member.is_draining:
            return f"{name}: is stopping; its next start reads the settings"
        return f"{name}: no answer within {within_s:g} s. See config.reloaded or config.refused in its log"
    if "refused" in answer:
        return f"{name}: refused the settings; nothing changed: {answer['refused']}"
    return "; ".join([f"{name}: changed: {changed_text(answer)}", *notes_of(answer)])


def _exit_code(members: "list[Member]", answers: Mapping[str, Mapping[str, Any]]) -> Exit:
    if any("refused" in answer for answer in answers.values()):
        return Exit.CONFIG
    return Exit.ALL_COMPLETE if len(answers) == len(members) else Exit.NOT_ALL_COMPLETE
