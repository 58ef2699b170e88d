"""A run that an error ends, and no person: it stops reading and claiming, and finishes what is in flight."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poller.core.deliveries import Retry
from poller.core.errors import Exit, OutputClosed
from poller.core.protocols import Clock
from poller.core.sums import StartSums
from poller.reports.ledger import summary
from poller.sandbox import Scenario, parse_durations
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.sinks.files.sink import FileSink
from tests.support.simulation import Simulation, settings_for

SLOW: dict[str, Any] = {"durations": parse_durations("fixed:5"), "fates": {}, "latency_s": (1.0, 3.0)}
OPTIONS = {"access": "PRIVATE", "folderPath": "/p"}
UNAUTHORIZED = b'{"status":"error","message":"expired","category":"EXPIRED_AUTHENTICATION","correlationId":"c"}'


def imports(*files: Path, **more: Any) -> dict[str, Any]:
    sources = [{"path": str(file)} for file in files]
    return {"input": {"feeds": "imports"}, "imports": {"options": OPTIONS, "trial": 0}, "sources": sources, **more}


def write_rows(folder: Path, name: str, count: int) -> Path:
    file = folder / name
    file.write_text("url\n" + "".join(f"https://cdn.example.com/{name}/{number}.png\n" for number in range(count)))
    return file


def write_without_column(folder: Path) -> Path:
    file = folder / "bad.csv"
    file.write_text("name,price\nchair,12\n")
    return file


async def starts_of(simulation: Simulation) -> StartSums:
    starts = (await simulation.sums()).starts
    assert starts is not None
    return starts


async def run_with_late(simulation: Simulation, file: Path, settings: dict[str, Any]) -> Exit:
    """Run, and let a reload add the file while starts are in flight."""
    late = settings | {"sources": [*settings["sources"], {"path": str(file)}]}
    simulation.reread = lambda: settings_for(simulation.folder, late)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(None, settings))
        await asyncio.sleep(20)
        assert simulation.service is not None
        simulation.service.reload_asked.set()
    return running.result()


async def test_an_input_that_is_refused_for_its_content_in_the_middle_of_a_run_leaves_no_start_unsure(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(**SLOW))
    settings = imports(write_rows(tmp_path, "a.csv", 250))
    assert await run_with_late(simulation, write_without_column(tmp_path), settings) is Exit.NO_INPUT
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"poller: {tmp_path}/bad.csv: there is no URL column")
    starts = await starts_of(simulation)
    assert (starts.lost, starts.unsure) == (0, 0)
    assert starts.accepted == simulation.api.stats().starts_accepted > 3
    assert await simulation.run(None, settings) is Exit.ALL_COMPLETE
    assert simulation.api.stats().files == 250


async def test_an_input_that_is_refused_ends_with_65_also_where_nothing_is_left(tmp_path: Path, clock: Clock) -> None:
    simulation, ids = Simulation(tmp_path, clock, Scenario(**SLOW)), tmp_path / "ids.csv"
    assert await simulation.run(simulation.write_ids(3)) is Exit.ALL_COMPLETE
    sources = [{"path": str(file)} for file in (ids, write_without_column(tmp_path))]
    for _ in range(2):
        assert await simulation.run(None, {"sources": sources}) is Exit.NO_INPUT


async def test_a_token_that_is_refused_leaves_no_start_unsure(tmp_path: Path, clock: Clock) -> None:
    """Starts that were in flight when the run gave up were refused, too: that is known, and they go at once later."""
    simulation = Simulation(tmp_path, clock, Scenario(**SLOW, tokens=frozenset({"another"})))
    rows = write_rows(tmp_path, "a.csv", 30)
    assert await simulation.run(None, imports(rows)) is Exit.TOKEN_REFUSED
    starts = await starts_of(simulation)
    assert (starts.lost, starts.unsure, starts.accepted, starts.starts) == (0, 0, 0, starts.refused)


async def test_after_a_run_whose_token_was_refused_the_state_shows_that_until_another_one_is_answered(
    tmp_path: Path, clock: Clock
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(**SLOW, tokens=frozenset({"right"})))
    ids = simulation.write_ids(3)
    assert await simulation.run(ids) is Exit.TOKEN_REFUSED
    assert "account default is paused: token_refused (HubSpot refused the token" in summary(await simulation.sums())
    assert await simulation.run(ids, environ={"HUBSPOT_TOKEN": "right"}) is Exit.ALL_COMPLETE
    assert "is paused" not in summary(await simulation.sums())


@pytest.mark.parametrize(
    ("failure", "code"), [(Retry(reason="down", wait_s=1.0), Exit.UNREACHABLE), (OutputClosed("gone"), Exit.WORK_LEFT)]
)
async def test_a_sink_for_which_the_run_ends_leaves_no_start_unsure(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, failure: Retry | OutputClosed, code: Exit
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(**SLOW))

    async def fail(_sink: FileSink, _batch: object) -> Retry:
        if isinstance(failure, OutputClosed):
            raise failure
        return failure

    monkeypatch.setattr(FileSink, "write", fail)
    assert await simulation.run(None, imports(write_rows(tmp_path, "a.csv", 500), give_up_s=5)) is code
    starts = await starts_of(simulation)
    assert (starts.lost, starts.unsure) == (0, 0)
    assert starts.accepted == simulation.api.stats().starts_accepted > 3


async def test_an_account_that_is_given_up_leaves_no_start_of_another_unsure(tmp_path: Path, clock: Clock) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(**SLOW))

    def stage(ask: SandboxRequest, reply: SandboxReply) -> SandboxReply:
        return replace(reply, code=503, body=b"down") if ask.token == "bad" else reply

    simulation.api.stage = stage
    environ = {"GOOD": "good", "BAD": "bad"}
    both = {"accounts": {"good": {"token_env": "GOOD"}, "bad": {"token_env": "BAD"}}}
    ids = simulation.write_ids(3)
    code = await simulation.run(ids, both | {"account": "bad", "give_up_s": 5}, environ=environ)
    assert code is Exit.UNREACHABLE
    rows = write_rows(tmp_path, "a.csv", 500)
    code = await simulation.run(None, imports(rows, **both, account="good", give_up_s=20), environ=environ)
    assert code is Exit.UNREACHABLE
    starts = await starts_of(simulation)
    assert (starts.lost, starts.unsure) == (0, 0)
    assert starts.accepted == simulation.api.stats().starts_accepted > 3


@pytest.mark.parametrize("lacking", ["url\n", '{"url": "https://cdn.example.com/x.png"}\n'])
async def test_a_dropped_file_whose_columns_do_not_fit_the_options_ends_no_endless_import(
    tmp_path: Path, clock: Clock, lacking: str
) -> None:
    simulation, box = Simulation(tmp_path, clock, Scenario(**SLOW)), tmp_path / "box"
    box.mkdir()
    write_rows(tmp_path, "a.csv", 2).rename(box / "a.csv")
    rows = (box / "a.csv").read_text().replace("url", "url,brand").replace(".png", ".png,acme")
    (box / "a.csv").write_text(rows)
    (box / "bad.csv").write_text(f"{lacking}https://cdn.example.com/3.png\n")
    settings = imports(sources=[{"folder": str(box), "follow": True}])
    settings["imports"] = settings["imports"] | {"options": OPTIONS | {"name": "{brand}"}}
    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(None, settings))
        await asyncio.sleep(60)
        assert [file.name for file in (box / "failed").iterdir()] == ["bad.csv"]
        assert len(simulation.records()) == 2
        simulation.drain()
    assert running.result() is Exit.NOT_ALL_COMPLETE


async def test_a_file_whose_columns_do_not_fit_the_options_is_named_and_leaves_no_start_unsure(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation, rows = Simulation(tmp_path, clock, Scenario(**SLOW)), write_rows(tmp_path, "a.csv", 500)
    rows.write_text(rows.read_text().replace("url", "url,brand").replace(".png", ".png,acme"))
    settings = imports(rows)
    settings["imports"] = settings["imports"] | {"options": OPTIONS | {"name": "{brand}"}}
    assert await run_with_late(simulation, write_rows(tmp_path, "b.csv", 5), settings) is Exit.CONFIG
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"poller: {tmp_path}/b.csv: --set name={{brand}}: there is no column 'brand'. Known: url")
    starts = await starts_of(simulation)
    assert (starts.lost, starts.unsure) == (0, 0)
    assert starts.accepted == simulation.api.stats().starts_accepted > 3
