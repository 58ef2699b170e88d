"""Tab in bash, zsh and fish: commands, flags, and the words that an option takes."""

import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from poller.cli import completion
from poller.cli.app import app
from poller.core.model import Kind
from poller.sandbox.scenario import FAULTS, Fate
from poller.sinks.registry import KINDS as SINK_KINDS
from tests.support.processes import COMMANDS, PATIENCE_S, environ

SHELLS = ("bash", "zsh", "fish")


def offered(line: str) -> list[str]:
    """Return what bash offers where Tab is pressed at the end of `line`."""
    words = line.split(" ")
    variables = {"_POLLER_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return CliRunner().invoke(app, [], prog_name="poller", env=variables).output.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("poller rep", {"replay"}),
        ("poller run --follo", {"--follow"}),
        ("poller run --sink js", {"jsonl:finished.jsonl"}),
        ("poller run --state sq", {"sqlite:///poller.db"}),
        ("poller run --log-level w", {"warning"}),
        ("poller run --log-format c", {"console"}),
        ("poller replay --sink jsonl:a --kind complete_with", {"complete_with_errors", "complete_without_result"}),
        ("poller sandbox --durations f", {"fixed:10"}),
        ("poller sandbox --fate canc", {"canceled="}),
        ("poller sandbox --fault 50", {"500=", "502=", "503=", "504="}),
    ],
)
def test_tab_offers_what_is_possible(line: str, expected: set[str]) -> None:
    assert expected <= set(offered(line))


def test_every_word_that_an_option_knows_is_offered() -> None:
    assert [word for word, _ in completion.kinds("")] == list(Kind)
    assert {spec.partition(":")[0] for spec in completion.SINKS} == set(SINK_KINDS)
    assert [word for word, _ in completion.fates("")] == [f"{fate}=" for fate in Fate]
    assert [word for word, _ in completion.faults("")] == [f"{name}=" for name in FAULTS]


def test_what_is_offered_begins_with_what_was_typed() -> None:
    assert [word for word, _ in completion.levels("w")] == ["warning"]
    assert list(completion.sinks("nothing-like-it")) == []


@pytest.mark.real_time
def test_the_completion_is_installed_for_bash_in_the_home_of_its_user(tmp_path: Path) -> None:
    env = environ(HOME=str(tmp_path), SHELL="/bin/bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    command = [str(COMMANDS / "poller"), "--install-completion", "bash"]
    subprocess.run(command, env=env, cwd=tmp_path, check=True, capture_output=True, timeout=PATIENCE_S)  # noqa: S603 - our own program
    assert "_poller_completion" in (tmp_path / ".bash_completions" / "poller.sh").read_text()
    assert "poller.sh" in (tmp_path / ".bashrc").read_text()


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(shell: str) -> None:
    shown = CliRunner().invoke(app, [], prog_name="poller", env={"_POLLER_COMPLETE": f"source_{shell}"})
    assert "_POLLER_COMPLETE=complete_" in shown.output
