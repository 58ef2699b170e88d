"""`poller verify`: of the wrong file, and of one that differs a lot."""

from pathlib import Path

import pytest

from poller.cli.commands.verify import MOST_SHOWN, verify_files
from poller.core.errors import Exit
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
