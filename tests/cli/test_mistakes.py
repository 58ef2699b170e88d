"""Typical mistakes: what a person types, and the exit code and the words of the answer: what, where, what to do."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from poller.cli.app import app
from poller.cli.commands import import_files, plan, run
from poller.config import load
from poller.config.messages import unknown_variables
from poller.core.errors import Exit
from tests.support.processes import TOKEN

IDS = "AAAAEZ6whGI\nAAAAEZ6whGJ\n"
FILES: Mapping[str, str | bytes] = {
    "ids.txt": IDS,
    "noid.csv": "name;url\na;https://example.com/a.png\n",
    "ids.txt.gz": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "ids.xlsx": b"PK\x03\x04\x14\x00\x06\x00[Content_Types].xml\x00xl/workbook.xml",
    "windows.toml": 'state = "sqlite:///C:\\Users\\me\\poller.db"\n',
    "new.toml": 'token_file = "C:\\new\\token"\n',
    "unquoted.toml": "state = poller.db\n",
    "state.toml": 'state = "sqlite:///other.db"\n',
    "folder.toml": 'sinks = ["jsonl:.."]\n',
    "folder-sql.toml": 'sinks = ["sql:sqlite:///."]\n',
    "site.toml": 'base_url = "https://app.hubspot.com"\n',
    "old.jsonl": "{}\n",
    "empty.txt": "# only a comment\n",
    "urls.csv": "url,sku\nhttps://cdn.example.com/1.png,1\n",
    "pictures.csv": "Image URL;SKU\nhttps://cdn.example.com/1.png;1\n",
}
NO_TOKEN = {"HUBSPOT_TOKEN": ""}

# the command line, what is different in the environment, the exit code, and words of the answer
MISTAKES: tuple[tuple[str, Mapping[str, str], Exit, str], ...] = (
    ("run ids.txt --sink out.jsonl", {}, Exit.USAGE, "--sink: .*did you mean jsonl:out.jsonl?"),
    (
        "run ids.txt --sink json:out.jsonl",
        {},
        Exit.CONFIG,
        "no sink 'json'; did you mean jsonl:…? Known kinds",
    ),
    ("list --kind done", {}, Exit.USAGE, "for '--kind': 'done' is not one of 'complete', "),
    ("run ids.txt --sink https://example.com/", {}, Exit.USAGE, "--sink: .*did you mean webhook:URL?"),
    ("run ids.txt --state my.db", {}, Exit.USAGE, "--state: .*did you mean sqlite:///my.db?"),
    ("run ids.txt --state sqlite://my.db", {}, Exit.USAGE, "--state: .*did you mean sqlite:///my.db?"),
    ("run ids.txt", {"POLLER_STATE": "my.db"}, Exit.CONFIG, "POLLER_STATE: .*did you mean sqlite:///my.db?"),
    ("run ids.txt --listen 0.0.0.0:8321", {}, Exit.CONFIG, "--listen-token-file .*POLLER_LISTEN_TOKEN_FILE"),
    ("run ids.txt --listen 8321", {}, Exit.USAGE, '--listen: must be HOST:PORT, such as "127.0.0.1:8321"'),
    ("run ids.txt --listen-token-file none", {}, Exit.CONFIG, "cannot read the secret in none: No such file"),
    ("run ids.txt", NO_TOKEN, Exit.CONFIG, "variable HUBSPOT_TOKEN is not set.*Export HUBSPOT_TOKEN=….*--token-file"),
    ("run ids.txt", {"HUBSPOT_TOKEN": f"'{TOKEN}'"}, Exit.CONFIG, "HUBSPOT_TOKEN is not a token. .*quotes"),
    ("run ids.txt", {"HUBSPOT_TOKEN": f"Bearer {TOKEN}"}, Exit.CONFIG, "the word Bearer .* Write the token alone"),
    ("run ids.txt", {"HUBSPOT_TOKEN": f"HUBSPOT_TOKEN={TOKEN}"}, Exit.CONFIG, "a name before the token. Write"),
    ("run ids.txt", {"HUBSPOT_TOKEN": "${SECRET}"}, Exit.CONFIG, "a variable's name in place of its value"),
    ("run ids.txt", {"HUBSPOT_TOKEN": f'{{"token":"{TOKEN}"}}'}, Exit.CONFIG, "is JSON, not a token"),
    ("run ids.txt", {"HUBSPOT_TOKEN": "pat-na1-..."}, Exit.CONFIG, "was shortened, or an example"),
    (
        "run ids.txt --token-file none",
        {},
        Exit.CONFIG,
        "none: No such file.*Write the secret into it",
    ),
    ("run ids.txt --token-env pat-na1-x", {}, Exit.USAGE, "--token-env: must be the name of an environment variable"),
    ("run ids.txt --base-url api.hubapi.com", {}, Exit.USAGE, '--base-url: must be a URL such as "https://api.hub'),
    ("run ids.txt --status-path /tasks", {}, Exit.USAGE, "--status-path: must contain {task_id} exactly once"),
    ("run ids.txt --stop-on-failures many", {}, Exit.USAGE, '--stop-on-failures: must be a share .*"20%" or 0.2, or'),
    ("run ids.csv", {}, Exit.NO_INPUT, "ids.csv: there is no such file"),
    ("run id*.txt", {}, Exit.NO_INPUT, "no such file. A pattern is for the shell, without quotes"),
    ("run ~/ids.txt", {}, Exit.NO_INPUT, "no such file. ~ is for the shell"),
    ("run file:///ids.txt", {}, Exit.NO_INPUT, "no such file. Write the path without file://"),
    ("run https://x.example/ids.csv", {}, Exit.NO_INPUT, "https://x.example/ids.csv: .* download a file first"),
    ("run AAAAEKbjQ_I", {}, Exit.NO_INPUT, "echo AAAAEKbjQ_I | poller run -"),
    ("run noid.csv", {}, Exit.NO_INPUT, "noid.csv: there is no column task_id .*'name', 'url'.*--id-column"),
    ("run ids.txt.gz", {}, Exit.NO_INPUT, "ids.txt.gz is compressed by gzip, not text. Unpack it"),
    ("run ids.xlsx", {}, Exit.NO_INPUT, "ids.xlsx is an Excel workbook, not text. Save it as CSV"),
    ("run empty.txt", {}, Exit.NO_INPUT, "the input has no id"),
    ("run", {}, Exit.NO_INPUT, "no input was given, and the state has no tasks: poller run FILE"),
    ("import", {}, Exit.NO_INPUT, "no input was given, and the state has no tasks: poller import FILE"),
    ("import urls.csv --trial -1", {}, Exit.USAGE, "--trial: must be greater than or equal to 0"),
    ("run urls.csv", {}, Exit.NO_INPUT, "A file of URLs is for `poller import`"),
    ("plan pictures.csv", {}, Exit.NO_INPUT, "A file of URLs is for .* `poller plan --imports`"),
    ("run ids.txt -c none.toml", {}, Exit.CONFIG, "none.toml: no such file. Start from config.example.toml"),
    ("run ids.txt -c windows.toml", {}, Exit.CONFIG, "windows.toml: .*write a Windows path in single quotes"),
    ("run ids.txt -c new.toml", {}, Exit.CONFIG, "new.toml: token_file: .*write a Windows path in single quotes"),
    ("run ids.txt -c unquoted.toml", {}, Exit.CONFIG, "unquoted.toml: not TOML: .*line 1.*Text needs quotes"),
    ("run ids.txt --sink jsonl:old.jsonl", {}, Exit.CANNOT_CREATE, "old.jsonl already contains 3 bytes .*another path"),
    (
        "check-config -c folder.toml",
        {},
        Exit.CONFIG,
        "sink jsonl: .. is a folder; name a file in it, such as ../finished.jsonl",
    ),
    (
        "check-config -c folder-sql.toml",
        {},
        Exit.CONFIG,
        "sink sql: . is a folder; name a file in it, such as sqlite:///",
    ),
    ("check-config -c site.toml", {}, Exit.CONFIG, "site.toml: base_url: .*did you mean https://api.hubapi.com?"),
    ("run ids.txt --base-url https://app-eu1.hubspot.com", {}, Exit.USAGE, "--base-url: .*https://api-eu1.hubapi.com?"),
    ("run ids.txt --reqests 5", {}, Exit.USAGE, "--requests"),
    ("rum ids.txt", {}, Exit.USAGE, "Did you mean 'run'"),
    ("ids.txt", {}, Exit.USAGE, "ids.txt is input, not a command: poller run ids.txt"),
    ("status", {}, Exit.CANNOT_CREATE, "there is no state at poller.db. Start a run first, or name the state of one"),
    ("reload --state sqlite:///other.db", {}, Exit.NOT_ALL_COMPLETE, "no poller is running on sqlite:///other.db"),
    ("plan none.txt", {}, Exit.NO_INPUT, "none.txt"),
    ("plan ids.txt --durations weekly", {}, Exit.USAGE, "--durations: .*fixed:S"),
)
CREATES = {"run empty.txt"}  # found out while it is read


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return tmp_path


def typed(line: str, env: Mapping[str, str]) -> tuple[int, str]:
    shown = CliRunner().invoke(app, line.split(), env={"HUBSPOT_TOKEN": TOKEN, "POLLER_LISTEN": "off", **env})
    return shown.exit_code, " ".join(shown.output.split())


@pytest.mark.parametrize(("line", "env", "code", "words"), MISTAKES, ids=[f"{m[0]} {' '.join(m[1])}" for m in MISTAKES])
def test_the_answer_names_what_is_wrong_where_and_what_to_do(
    folder: Path, line: str, env: Mapping[str, str], code: Exit, words: str
) -> None:
    found, shown = typed(line, env)
    assert (found, re.search(re.escape(words).replace(r"\.\*", ".*").replace(r"\ ", " "), shown) is not None) == (
        code,
        True,
    ), shown
    if line not in CREATES:
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert TOKEN not in shown


def test_what_beats_a_setting_and_the_sink_in_force_are_shown(folder: Path) -> None:
    code, shown = typed("check-config -c state.toml", {"POLLER_STATE": "sqlite:///mine.db"})
    assert code == 0
    assert 'state = "sqlite:///mine.db" # POLLER_STATE, not state.toml: state' in shown
    assert 'sinks = ["jsonl:finished.jsonl"]' in shown


def test_a_proxy_that_is_not_used_is_named(folder: Path) -> None:
    env = {"HTTPS_PROXY": "http://me:secret@proxy:3128"}
    _, shown = typed("check-config", env)
    assert "warning: HTTPS_PROXY is set, but the poller does not read it; set proxy, or POLLER_PROXY" in shown
    _, shown = typed("check-config", {**env, "POLLER_PROXY": "http://proxy:3128"})
    assert "HTTPS_PROXY" not in shown


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", vars(typer.main.get_command(app))["commands"])
def test_help_has_no_names_of_python_s_types(name: str) -> None:
    _, shown = typed(f"{name} --help", {})
    assert re.findall(r"<[\w.]+(?:\[\w+\])?>|[<>]=\s?x|x\s?[<>]=", shown) == []


@pytest.mark.parametrize("module", [run, import_files], ids=["run", "import"])
def test_every_option_is_in_a_group(module: ModuleType) -> None:
    command = vars(typer.main.get_command(app))["commands"][getattr(module, "NAME", "run")]
    grouped = [name for names in module.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted({option.name for option in command.params} - {"config"})


VALUES = {
    "POLLER_IMPORTS__RETRIES": "2",
    "POLLER_INPUT__FORMAT": "csv",
    "POLLER_FOLLOW": "true",
    "POLLER_SINKS": "stdout",
    "POLLER_STATE": "sqlite:///x.db",
    "POLLER_TOKEN_ENV": "T",
    "POLLER_BASE_URL": "https://example.com",
    "POLLER_STATUS_PATH": "/{task_id}",
    "POLLER_LISTEN": "off",
    "POLLER_LISTEN_TOKEN_ENV": "T",
    "POLLER_LOG__FORMAT": "json",
    "POLLER_LOG__LEVEL": "debug",
}


@pytest.mark.parametrize(
    "variable",
    sorted({*import_files.VARIABLES.values(), *run.VARIABLES.values(), *plan.VARIABLES.values(), "POLLER_STATE"}),
)
def test_a_variable_that_the_help_names_sets_a_setting(variable: str, tmp_path: Path) -> None:
    name, _, value = variable.partition("=")
    environ = {name: value or VALUES.get(name, "7")}
    assert unknown_variables(environ) == {}
    assert load(None, {}, environ, secrets_dir=tmp_path) != load(None, {}, {}, secrets_dir=tmp_path)
