"""Tokens through the whole service: renewed, rotated, kept for the next run, and never shown."""

import asyncio
import io
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from poller.core import log as logs
from poller.core.accounts import Pause
from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.reports.ledger import summary
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from tests.support.simulation import Simulation, assert_each_has_its_right_outcome_once, settings_for

SECRET, REFRESH = "client-secret-hush", "refresh-first-hush"
SLOW = Scenario(
    seed=3,
    durations=parse_durations("uniform:0,400"),
    latency_s=(0.05, 0.3),
    tokens=frozenset(),
    refresh_token=REFRESH,
    rotate_refresh_token=True,
    oauth_expires_s=120.0,
)


@pytest.fixture
def logged(clock: Clock) -> Iterator[io.StringIO]:
    """Return all that a run logs at debug level, as it would go to stderr."""
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers, root.level
    logs.configure(format="json", level="debug", clock=clock, stream=stream)
    yield stream
    structlog.reset_defaults()
    root.handlers, root.level = before
    logging.captureWarnings(capture=False)


def everything(folder: Path, *, but: frozenset[str]) -> bytes:
    """Return all bytes of all files of a run, except the files of secrets."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in but)


def oauth(folder: Path) -> dict[str, Any]:
    table = {"client_id": "app", "client_secret": SECRET, "refresh_token_file": str(folder / "refresh")}
    return {"oauth": table, "deadline_s": 3600}


async def test_oauth_tokens_are_renewed_ahead_of_their_end_and_a_rotated_refresh_token_serves_the_next_run(
    tmp_path: Path, clock: Clock, logged: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "refresh").write_text(REFRESH)
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(80)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(simulation.run(ids, oauth(tmp_path)))
        await asyncio.sleep(200)
        simulation.drain()
    assert first.result() is Exit.WORK_LEFT
    kept = (tmp_path / "refresh").read_text().strip()
    assert kept.startswith(f"{REFRESH}-")
    assert await simulation.run(ids, oauth(tmp_path)) is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
    stats = simulation.api.stats()
    assert stats.codes.keys() == {"200"}  # no poll ever met an expired token
    assert 5 <= stats.token_requests_total <= 10
    captured = capfd.readouterr()
    out = everything(tmp_path, but=frozenset({"refresh"})) + (logged.getvalue() + captured.out + captured.err).encode()
    assert b'"event":"token.renewed"' in out
    for secret in (SECRET, REFRESH, kept, "sandbox-access-1", "sandbox-access-5"):
        assert secret.encode() not in out


async def test_a_reload_spends_no_refresh_token_and_forgets_none_that_is_not_on_disk(
    tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "refresh").write_text(REFRESH)
    simulation = Simulation(tmp_path, clock, SLOW)
    ids = simulation.write_ids(20)
    simulation.reread = lambda: settings_for(tmp_path, oauth(tmp_path) | {"daily_limit": 10_000})
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids, oauth(tmp_path)))
        await asyncio.sleep(20)
        assert simulation.service is not None
        simulation.service.reload_asked.set()
        await asyncio.sleep(20)
        assert (await simulation.sums()).polls > 20
        assert simulation.api.stats().token_requests_total == 1
        simulation.drain()


@pytest.mark.parametrize("source", ["env", "file"])
async def test_a_token_is_in_nothing_that_a_run_produces(
    tmp_path: Path, clock: Clock, logged: io.StringIO, capfd: pytest.CaptureFixture[str], source: str
) -> None:
    """Not in the log at debug level, the store, the sinks or the status, whatever the server does with it."""
    first, second = "zq7Wm4tKx9", "v8Lp2sRn5c"  # of no form that the log would hide by itself
    faults = dict.fromkeys(("401", "403", "500", "reset", "truncated", "html200", "redirect", "drip"), 0.05)
    scenario = replace(
        SLOW, tokens=frozenset({first, second}), durations=parse_durations("uniform:0,60"), faults=faults
    )
    simulation = Simulation(tmp_path, clock, scenario)
    ids, secret = simulation.write_ids(60), tmp_path / "token"
    secret.write_text(first)

    def parrot(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        """Show the token wherever a server could."""
        echoed = f"Bearer {ask.token} {ask.token}"
        headers = {**reply.headers, "X-Token": echoed, "WWW-Authenticate": echoed}
        body = reply.body.replace(b"credentials not found", echoed.encode())
        return replace(reply, headers=headers, body=body)

    simulation.api.stage = parrot
    flags = {"token_file": str(secret)} if source == "file" else {}
    async with asyncio.TaskGroup() as group:
        group.create_task(simulation.run(ids, flags, environ={"HUBSPOT_TOKEN": first}))
        await asyncio.sleep(30)
        if source == "file":
            simulation.api.refuse_token(first)
            await asyncio.sleep(20)
            secret.write_text(second)
    captured = capfd.readouterr()
    status = summary(await simulation.sums())
    out = everything(tmp_path, but=frozenset({"token"})) + (logged.getvalue() + captured.out + captured.err).encode()
    assert b'"event":"poll.answered"' in out
    assert b"token_refused" in out
    for token in (first, second):
        assert token.encode() not in out
        assert token not in status


async def test_a_token_file_that_comes_late_or_is_emptied_for_a_while_is_waited_for(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, replace(SLOW, tokens=frozenset({"zq7Wm4tKx9"})))
    ids, secret = simulation.write_ids(50), tmp_path / "token"
    secret.write_text("zq7Wm4tKx9")
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, {"token_file": str(secret)}))
        await asyncio.sleep(50)
        secret.write_text("")
        await asyncio.sleep(20)
        account = (await simulation.sums()).accounts["default"]
        secret.unlink()
        await asyncio.sleep(200)
        asked = simulation.api.stats().requests_total
        secret.write_text("zq7Wm4tKx9")
        await asyncio.sleep(5)
        assert simulation.api.stats().requests_total > asked
    assert account.pause == Pause.TOKEN_REFUSED
    assert "is empty. It must contain the secret" in (account.pause_detail or "")
    assert running.result() is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)


async def test_a_dead_refresh_token_pauses_the_lane_and_a_new_one_in_the_file_works_within_seconds(
    tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "refresh").write_text(REFRESH)
    simulation = Simulation(tmp_path, clock, replace(SLOW, rotate_refresh_token=False))
    ids = simulation.write_ids(50)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(ids, oauth(tmp_path)))
        await asyncio.sleep(50)
        (tmp_path / "refresh").write_text("dead-refresh-token")
        await asyncio.sleep(250)
        account = (await simulation.sums()).accounts["default"]
        asked = simulation.api.stats().requests_total
        (tmp_path / "refresh").write_text(REFRESH)
        await asyncio.sleep(5)
        assert simulation.api.stats().requests_total > asked
    assert account.pause == Pause.TOKEN_REFUSED
    assert "HubSpot refused the refresh token (400)" in (account.pause_detail or "")
    assert running.result() is Exit.NOT_ALL_COMPLETE
    assert_each_has_its_right_outcome_once(simulation, ids)
