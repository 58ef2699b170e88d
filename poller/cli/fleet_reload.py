"""`poller reload --all`: every replica of a fleet reads its own settings again and answers under its name."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from poller.cli.commands.reload import READ_EVERY_S, changed_text, notes_of
from poller.cli.options import Settings
from poller.cli.records import open_state
from poller.core.errors import Exit
from poller.core.fleet import Member
from poller.core.protocols import StateReader
from poller.core.text import printable, redacted_url

ANSWERS_WITHIN_S = 10.0  # a replica hears of it with its next beat, and applies it within a poll's time


async def reload_fleet(settings: Settings, *, within_s: float = ANSWERS_WITHIN_S) -> tuple[str, Exit]:
    """Ask all replicas to reload, and wait for their answers; return a line for each, and the exit code."""
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
    reader: StateReader, members: list[Member], before: Mapping[str, bytes | None]
) -> dict[str, Mapping[str, Any]]:
    found = {member.name: await reader.knowledge(_answer_of(member)) for member in members}
    return {name: json.loads(answer) for name, answer in found.items() if answer not in (None, before[name])}


def _answer_of(member: Member) -> str:
    from poller.app.reload import answer_name

    return answer_name(member.name)


def _line(member: Member, answer: Mapping[str, Any] | None, within_s: float) -> str:
    name = printable(member.name)
    if answer is None:
        if member.is_draining:
            return f"{name}: is stopping; its next start reads the settings"
        return f"{name}: no answer within {within_s:g} s. See config.reloaded or config.refused in its log"
    if "refused" in answer:
        return f"{name}: refused the settings; nothing changed: {answer['refused']}"
    return "; ".join([f"{name}: changed: {changed_text(answer)}", *notes_of(answer)])


def _exit_code(members: list[Member], answers: Mapping[str, Mapping[str, Any]]) -> Exit:
    if any("refused" in answer for answer in answers.values()):
        return Exit.CONFIG
    return Exit.ALL_COMPLETE if len(answers) == len(members) else Exit.NOT_ALL_COMPLETE
