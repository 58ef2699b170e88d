"""What a person sees at a terminal: every log line, one progress block, and what Ctrl-C does."""

import re
from pathlib import Path

import pytest

from poller.core.errors import Exit
from tests.support.processes import environ, fed, hubspot
from tests.support.terminal import on_terminal

pytestmark = pytest.mark.real_time

ENV = environ(POLLER_POLLING__TRUST_UNKNOWN="true")


def test_each_log_line_is_on_the_screen_once_and_one_progress_block(tmp_path: Path) -> None:
    with hubspot("--fault", "503=0.2", imports=30) as site:
        ids = site.ids_file(tmp_path, 30)
        flags = ["--base-url", site.url, "--log-level", "info", "--log-format", "json"]
        with on_terminal("run", ids.name, *flags, folder=tmp_path, env=ENV) as poller:
            assert poller.ended() in (Exit.NOT_ALL_COMPLETE, Exit.ALL_COMPLETE)
            shown = poller.screen.shown()
    transcript = "".join(row.ljust(80) for row in shown)
    for task_id in fed(ids):
        assert len(re.findall(f'"event":"task.finished".{{0,60}}"task_id":"{task_id}"', transcript)) == 1, shown
    assert sum(" done" in row for row in shown) == 1  # the last block, and none before it
    assert sum(" polls, " in row for row in shown) == 1


def test_ctrl_c_says_at_once_what_happens_and_at_the_end_how_to_continue(tmp_path: Path) -> None:
    with hubspot("--latency-ms", "2000-2000", "--durations", "fixed:600", imports=3) as site:
        ids = site.ids_file(tmp_path, 3)
        flags = ["--base-url", site.url, "--state", "sqlite:///my state.db"]
        with on_terminal("run", ids.name, *flags, folder=tmp_path, columns=200) as poller:
            poller.wait_for("0 of 3 done")
            poller.wait_for("polls, ")
            poller.read(0.5)
            poller.type("\x03")
            poller.wait_for("poller: stopping")
            assert poller.ended() == Exit.WORK_LEFT
            shown = poller.screen.shown()
    assert any("Ctrl-C or a second signal stops at once" in row for row in shown)
    last = shown[-1]
    assert last.startswith("poller: stopped with work left: 3 tasks waiting. Run it again")
    assert last.endswith(f"run {ids.name} --base-url {site.url} --state 'sqlite:///my state.db'")


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    with hubspot("--fault", "hang=1", imports=1) as site:
        ids = site.ids_file(tmp_path, 1)
        with on_terminal("run", ids.name, "--base-url", site.url, folder=tmp_path, columns=200) as poller:
            poller.wait_for("0 of 1 done")
            poller.type("\x03")
            poller.wait_for("poller: stopping: waiting for 1 poll in flight, at most 30 s more")
            poller.type("\x03")
            assert poller.ended() == Exit.WORK_LEFT
            assert "stopped at once; nothing is lost. Run it again to continue" in poller.screen.shown()[-1]
