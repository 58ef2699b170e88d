"""The command line: help with examples, messages that name the flag, exit codes, and no slow import before its use."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner, Result

from poller import __version__
from poller.app.run import hides_page
from poller.cli.app import app
from poller.cli.commands.demo import _settings
from poller.config.settings import LogTable
from poller.core.errors import Exit, StoreLocked
from poller.store import open_store
from tests.support.processes import TOKEN, environ, run, running

GROUP = typer.main.get_command(app)
COMMANDS: Mapping[str, click.Command] = vars(GROUP)["commands"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def poller(*args: str) -> Result:
    return CliRunner().invoke(app, args, env={"HUBSPOT_TOKEN": TOKEN})


# --- help ------------------------------------------------------------------------------------------------------------


def test_without_arguments_the_help_is_shown() -> None:
    shown = poller()
    assert shown.exit_code == Exit.USAGE
    assert "Commands:" in shown.output


def test_the_version_is_printed() -> None:
    assert poller("--version").stdout == f"poller {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example_whose_flags_exist(name: str) -> None:
    shown = poller(name, "--help")
    assert shown.exit_code == 0
    examples = re.findall(rf"(?m)^    .*(poller {name} ?.*)$", shown.output)
    assert examples
    known = {flag for parameter in COMMANDS[name].params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert {flag for example in examples for flag in re.findall(r"(?<!\S)--?[a-z][a-z-]*", example)} <= known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_help(name: str) -> None:
    silent = [option.name for option in COMMANDS[name].params if not getattr(option, "help", None)]
    assert silent == []


def test_every_command_is_summed_up_in_a_line_of_80_columns() -> None:
    shown = click.unstyle(poller("--help").output)
    assert re.findall(r"(?m)^  .*\.\.\.$", shown) == []


def test_the_help_leads_with_the_import_and_shows_no_signs_to_type() -> None:
    shown = click.unstyle(poller("--help").output)
    assert "Imports URLs into HubSpot" in shown
    assert re.findall(r"(?m)^  (\w[a-z-]+)  ", shown)[0] == "import"
    assert all("{" not in click.unstyle(poller(name, "--help").output).splitlines()[0] for name in COMMANDS)


def test_help_imports_nothing_that_is_slow_to_import_and_what_reads_a_state_no_client() -> None:
    heavy = [
        "aiohttp",
        "asyncio",
        "http.client",
        "pydantic",
        "rich.console",
        "structlog",
        "sqlite3",
        "orjson",
        "poller.app.run",
    ]
    program = (
        f"import sys, poller.cli.app; print([name for name in {heavy} if name in sys.modules]);"
        "import poller.cli.records; print([name for name in ('aiohttp', 'poller.sinks') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - our own interpreter
    assert done.stdout == "[]\n[]\n"


def test_a_run_without_a_terminal_imports_no_rich_and_searches_for_no_garbage_at_its_exit(
    tmp_path: Path,
) -> None:
    program = (
        "import atexit, gc, sys; from poller.__main__ import main;"
        "atexit.register(lambda: print('rich' in sys.modules, len(gc.get_objects()) < 1000));"
        "main()"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", program, "run", "missing.txt"],
        capture_output=True,
        text=True,
        check=False,
        input="",
        cwd=tmp_path,
        env=environ(),
    )
    assert (done.returncode, done.stdout) == (Exit.NO_INPUT, "False True\n"), done.stderr


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--account", "a b"),
        ("--base-url", "ftp://api.hubapi.com"),
        ("--deadline-s", "-1"),
        ("--give-up-s", "-1"),
        ("--log-level", "loud"),
        ("--requests", "0"),
        ("--state", "mysql://x"),
        ("--status-path", "/status"),
        ("--token-env", "not a name"),
        ("--window-s", "0"),
        ("--workers", "0"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_flag(here: Path, flag: str, value: str) -> None:
    refused = poller("run", flag, value)
    assert refused.exit_code == Exit.USAGE, refused.output
    assert refused.stderr.startswith("poller: ")
    assert flag.removeprefix("--") in refused.stderr
    assert list(here.iterdir()) == []


def test_the_message_on_a_mistyped_flag_has_the_most_similar_one(here: Path) -> None:
    refused = poller("run", "--reqests", "5")
    assert refused.exit_code == Exit.USAGE
    assert "--requests" in refused.stderr


def test_several_problems_are_reported_together(here: Path) -> None:
    refused = poller("run", "--requests", "0", "--workers", "0")
    assert [line.split(":")[0].strip(" -") for line in refused.stderr.splitlines()] == ["poller", "workers"]


@pytest.mark.parametrize(
    ("command", "flag", "named"),
    [
        (["why"], [], "'TASK'"),
        (["list"], [], "'TEXT'"),
        (["list"], ["--account"], "'--account'"),
        (["run"], ["--sink"], "'--sink'"),
        (["replay"], ["--sink"], "'--sink'"),
    ],
)
def test_a_value_that_is_not_utf_8_is_a_wrong_command_line(
    here: Path, command: list[str], flag: list[str], named: str
) -> None:
    refused = poller(*command, *flag, "jsonl:caf\udce9")
    assert refused.exit_code == Exit.USAGE
    assert f"Invalid value for {named}" in refused.output
    assert r"'jsonl:caf\xe9' is not UTF-8" in refused.output
    assert list(here.iterdir()) == []


def test_the_message_on_an_unknown_kind_of_sink_has_the_known_ones(here: Path) -> None:
    refused = poller("run", "--sink", "nonsense:x")
    assert refused.exit_code == Exit.CONFIG
    assert "nonsense" in refused.stderr
    assert "jsonl" in refused.stderr


def test_an_input_file_that_is_not_there_is_named(here: Path) -> None:
    refused = poller("run", "no-such-ids.txt")
    assert refused.exit_code == Exit.NO_INPUT
    assert "no-such-ids.txt" in refused.stderr
    assert list(here.iterdir()) == []


def test_the_name_of_a_file_in_a_message_cannot_steer_the_terminal(here: Path) -> None:
    refused = poller("run", "ids\x1b[2J\x07\x9b.txt")
    assert refused.exit_code != 0
    assert "ids\ufffd[2J\ufffd\ufffd.txt" in refused.output
    assert all(sign.isprintable() or sign == "\n" for sign in refused.output)


def test_status_without_a_state_names_the_missing_file(here: Path) -> None:
    refused = poller("status", "--state", "sqlite:///elsewhere.db")
    assert refused.exit_code == Exit.CANNOT_CREATE
    assert "elsewhere.db" in refused.stderr


def test_an_exception_that_no_code_expects_is_70_and_never_1(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_more: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("poller.cli.commands.status.settings_of", broken)
    result = poller("status")
    assert result.exit_code == Exit.INTERNAL
    assert "poller: unexpected RuntimeError: a bug (test_app.py, line" in result.output
    assert "report it" in result.output


def test_the_message_on_an_unknown_kind_to_replay_has_the_known_ones(here: Path) -> None:
    refused = poller("replay", "--sink", "stdout", "--kind", "failed")
    assert refused.exit_code == Exit.USAGE
    assert "complete_with_errors" in refused.stderr


def test_a_variable_that_sets_nothing_is_a_warning_with_the_most_similar_one(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLLER_REQUETS", "50")
    checked = poller("check-config")
    assert checked.exit_code == 0
    assert checked.stderr == (
        "warning: POLLER_REQUETS is not a setting and is ignored; did you mean POLLER_REQUESTS?\n"
    )


def test_the_demo_deletes_nothing_in_a_folder_that_is_not_its_own(here: Path) -> None:
    (here / "poller-demo").mkdir()
    (here / "poller-demo" / "thesis.txt").write_text("dear")
    refused = poller("demo")
    assert refused.exit_code == Exit.CONFIG
    assert "thesis.txt" in refused.stderr
    assert (here / "poller-demo" / "thesis.txt").read_text() == "dear"


def test_the_demo_prints_the_address_of_its_page_without_a_terminal_too(here: Path) -> None:
    shown = _settings("http://127.0.0.1:1", here)
    logged = shown.model_copy(update={"log": LogTable(level="info", format="console")})
    assert [hides_page(each) for each in (shown, logged)] == [True, False]


async def test_the_demo_leaves_the_state_of_a_running_one_alone(here: Path) -> None:
    (here / "poller-demo").mkdir()
    database = here / "poller-demo" / "poller.db"
    store = await open_store(f"sqlite:///{database}", clock=time.time)
    try:
        refused = poller("demo")
        assert refused.exit_code == StoreLocked.exit_code
        assert f"in use by another poller: process {os.getpid()}" in refused.stderr
        assert "another --directory" in refused.stderr
        assert database.exists()
    finally:
        await store.close()


def test_a_sandbox_that_would_lose_the_ids_it_starts_is_refused(here: Path) -> None:
    assert "--ids-file" in poller("sandbox", "--tasks", "5").stderr
    assert "fixed:S" in poller("sandbox", "--durations", "weekly").stderr


# --- streams ---------------------------------------------------------------------------------------------------------


def write_many_reasons(folder: Path) -> None:
    """Write a file whose report is longer than any buffer of a stream."""
    records = [
        {"task_id": f"t{n}", "account": "a", "kind": "canceled", "errors": [{"category": f"C_{'X' * n}"}], "polls": 1}
        for n in range(60)
    ]
    (folder / "finished.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))


LONG = ("report", "finished.jsonl", "--json")


@pytest.mark.real_time
@pytest.mark.parametrize("command", [("check-config",), LONG, ("run", "--help"), ("--version",)])
def test_output_that_cannot_be_written_is_an_error(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_many_reasons(tmp_path)
    with Path("/dev/full").open("w") as full:
        checked = run(*command, folder=tmp_path, stdout=full, stderr=subprocess.PIPE, capture_output=False)
    assert checked.returncode == Exit.CANNOT_CREATE
    assert checked.stderr.splitlines() == ["poller: standard output cannot be written to: No space left on device"]


@pytest.mark.real_time
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_what_the_terminal_cannot_encode_is_escaped_and_json_stays_the_same(tmp_path: Path, encoding: str) -> None:
    url = "https://a/\u4e2d\U0001f600\xe9.png"
    record = {"task_id": "t1", "account": "a", "kind": "canceled", "ref": {"url": url}, "errors": [], "polls": 1}
    (tmp_path / "finished.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", "utf-8")
    env = environ(PYTHONIOENCODING=encoding)
    shown = run("report", "finished.jsonl", folder=tmp_path, env=env, encoding=encoding)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert ("\u4e2d" if encoding == "utf-8" else "\\u4e2d\\ud83d\\ude00") in shown.stdout
    as_json = run("report", "finished.jsonl", "--json", folder=tmp_path, env=env, encoding=encoding)
    assert json.loads(as_json.stdout)["reasons"][0]["samples"][0]["url"] == url


@pytest.mark.real_time
@pytest.mark.parametrize("reader", ["full", "gone"])
def test_a_message_that_cannot_be_shown_leaves_the_exit_code_as_it_is(tmp_path: Path, reader: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    full = os.open("/dev/full", os.O_WRONLY)
    for command, code in ((("status",), Exit.CANNOT_CREATE), (("list", "--since", "then"), Exit.USAGE)):
        stderr = full if reader == "full" else theirs
        shown = run(*command, folder=tmp_path, stdout=subprocess.PIPE, stderr=stderr, capture_output=False)
        assert shown.returncode == code
    os.close(theirs)
    os.close(full)


@pytest.mark.real_time
@pytest.mark.parametrize("command", [("check-config",), LONG, ("run", "--help")])
def test_a_reader_of_the_output_may_leave_early(tmp_path: Path, command: tuple[str, ...]) -> None:
    write_many_reasons(tmp_path)
    with running(*command, folder=tmp_path, stdout=subprocess.PIPE) as checked:
        checked.stdout.close()
        assert checked.ended() in (0, 1)
        assert checked.log() == ""


@pytest.mark.real_time
def test_the_sandbox_ends_with_what_it_counted(tmp_path: Path) -> None:
    with running("sandbox", "--port", "0", "--token", "its own", folder=tmp_path) as sandbox:
        while "use it" not in sandbox.log():
            assert sandbox.process.poll() is None
        assert "use it: HUBSPOT_TOKEN='its own' poller" in sandbox.log()
        sandbox.signal(signal.SIGINT)
        assert sandbox.ended() == 0
        assert "0 requests, at most 0 in any 10 s (100 allowed)" in sandbox.log()


def test_the_message_on_a_file_in_place_of_a_command_has_the_right_command(here: Path) -> None:
    (here / "ids.txt").write_text("AAAAEZ6whGI\n")
    refused = poller("ids.txt")
    assert (refused.exit_code, "poller run ids.txt" in refused.output) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    "words", [["run", "../ids.txt"], ["import", "../ids.txt"], ["run", "../ids.txt", "--state", "{}"]]
)
def test_a_working_folder_that_was_deleted_is_named_and_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    (tmp_path / "gone").mkdir()
    (tmp_path / "ids.txt").write_text("AAAAEKbjQ_I\n")
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    result = poller(*(word.format(f"sqlite:///{tmp_path}/poller.db") for word in words))
    assert (result.exit_code, "defect" in result.output) == (Exit.CANNOT_CREATE, False)
    assert "the working folder was deleted. Change to one that exists" in result.output


SIGNALLED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "poller.cli.app":
            os.kill(os.getpid(), int(sys.argv.pop()))
sys.meta_path.insert(0, Finder())
from poller.__main__ import main
main()
"""


@pytest.mark.real_time
@pytest.mark.parametrize(
    ("words", "number", "code"),
    [
        ("run --help", signal.SIGHUP, 0),
        ("import --help", signal.SIGHUP, 0),
        ("status --help", signal.SIGHUP, -signal.SIGHUP),
        ("run --help", signal.SIGINT, -signal.SIGINT),
        ("run --help", signal.SIGTERM, -signal.SIGTERM),
    ],
)
def test_a_signal_while_the_command_is_imported_ends_no_run_that_it_asks_to_reload_and_shows_no_traceback(
    words: str, number: signal.Signals, code: int
) -> None:
    """`systemctl reload` right after a start: systemd takes an end by SIGHUP for a clean one, and starts nothing."""
    line = [sys.executable, "-c", SIGNALLED, *words.split(), str(int(number))]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - our own program
    assert (done.returncode, done.stderr) == (code, "")
    assert ("Usage: " in done.stdout) is (code == 0)
