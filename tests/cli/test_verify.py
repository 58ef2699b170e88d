"""`poller verify`: of the wrong file, and of one that differs a lot."""

import gzip
from pathlib import Path

import pytest

from poller.cli.commands.verify import MOST_SHOWN, verify_files
from poller.core.errors import Exit, InputError
from poller.core.protocols import Clock
from poller.sandbox import Scenario
from tests.support.simulation import Simulation, settings_for


async def test_a_file_that_no_sink_wrote_is_named_with_those_that_were_written(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario())
    await simulation.run(simulation.write_ids(MOST_SHOWN + 9))
    (tmp_path / "other.jsonl").write_text("")
    capsys.readouterr()
    assert await verify_files(settings_for(tmp_path), [tmp_path / "other.jsonl"]) is Exit.NOT_ALL_COMPLETE
    printed = capsys.readouterr()
    assert f"its jsonl sinks wrote to {tmp_path}/finished.jsonl" in printed.err
    assert printed.out.count("missing: task") == MOST_SHOWN
    assert "and 9 more differences" in printed.out
    assert await verify_files(settings_for(tmp_path), [tmp_path / "finished.jsonl"]) is Exit.ALL_COMPLETE
    assert capsys.readouterr().err == ""


async def test_a_packed_file_is_refused_by_what_it_is(tmp_path: Path, clock: Clock) -> None:
    """Not called different from the state, with every task missing."""
    simulation = Simulation(tmp_path, clock, Scenario())
    await simulation.run(simulation.write_ids(2))
    (packed := tmp_path / "finished.jsonl.gz").write_bytes(gzip.compress((tmp_path / "finished.jsonl").read_bytes()))
    with pytest.raises(InputError, match="compressed by gzip"):
        await verify_files(settings_for(tmp_path), [packed])
