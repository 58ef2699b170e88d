"""Ask the run at work on a state to apply its settings anew, and tell what came of it."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from poller.app.reload import RESULT
from poller.config import Settings
from poller.core.errors import Exit
from poller.core.text import redacted_url
from poller.store import StateReader, last_beat, read_store

ANSWER_S = 60.0  # a sink that is taken out, and polls in flight of an account, may take a while
POLL_EVERY_S = 0.1


async def ask_to_reload(settings: Settings) -> tuple[str, int]:
    """Send SIGHUP to the run and wait for what it says; return what to tell and the exit code."""
    beat = last_beat(settings.state)
    if beat is None:
        return f"no run is at work on {redacted_url(settings.state)}: nothing to reload; see --state", 1
    pid = beat[0]
    if not _is_poller(pid):
        return f"process {pid}, which owns the state, is no poller on this machine: send SIGHUP to it where it runs", 1
    reader = await read_store(settings.state)
    try:
        before = await reader.knowledge(RESULT)
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            return f"process {pid} cannot be asked to reload: {error.strerror}", 1
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_S):
                return _told(pid, await _answer(reader, before))
    finally:
        await reader.close()
    return f"process {pid} was asked, but has not answered yet: its log says config.reloaded or config.refused", 1


async def _answer(reader: StateReader, before: bytes | None) -> Mapping[str, Any]:
    while True:
        answer = await reader.knowledge(RESULT)
        if answer is not None and answer != before:
            result: Mapping[str, Any] = orjson.loads(answer)
            return result
        await asyncio.sleep(POLL_EVERY_S)


def _told(pid: int, result: Mapping[str, Any]) -> tuple[str, int]:
    if "refused" in result:
        return f"process {pid} refused; nothing changed:\n{result['refused']}", Exit.CONFIG
    lines = [f"process {pid} reloaded; changed: {', '.join(result['changed']) or 'nothing'}"]
    if result["needs_restart"]:
        lines.append(f"only a restart changes: {', '.join(result['needs_restart'])}")
    if result["left_waiting"]:
        lines.append(f"removed, their tasks wait in the state: {', '.join(result['left_waiting'])}")
    return "\n".join(lines), 0


def _is_poller(pid: int) -> bool:
    """A process id may be of another machine, or of another container."""
    try:
        return b"poller" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()
