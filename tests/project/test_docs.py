"""The documents match the code: every event, exit code, kind, flag, setting, link and command."""

import ast
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

import click
import pytest
import typer

from poller.cli.app import app
from poller.config import Settings
from poller.core.accounts import Pause
from poller.core.errors import Exit
from poller.core.model import Kind
from tests.support.processes import SCRIPT_PATIENCE_S, TOKEN, environ, hubspot, records, running, wait_until

pytestmark = pytest.mark.default_ports

HOUSE = Path(__file__).parents[2]
README = (HOUSE / "README.md").read_text("utf-8")
LEVELS = {"debug", "info", "warning", "error"}

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass
class Event:
    """The levels and keys that a log line of one name may have."""

    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


def add(events: dict[str, Event], name: str, levels: Iterable[str], keys: Iterable[str]) -> None:
    event = events.setdefault(name, Event())
    event.levels.update(levels)
    event.keys.update(keys)


@cache
def events_in_code() -> dict[str, Event]:
    """Return every event that a module of `poller` can log. Fails where the code does not show a call's event."""
    events: dict[str, Event] = {}
    for file in sorted((HOUSE / "poller").rglob("*.py")):
        tree = ast.parse(file.read_text("utf-8"))
        aliases = dict(log_aliases(tree))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            for call in (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args):
                if levels := levels_of(call.func) or aliases.get(ast.unparse(call.func)):
                    names = list(names_of(call.args[0], function, tree))
                    assert names, f"{file.name}:{call.lineno}: which event is this? {ast.unparse(call)}"
                    for name in names:
                        add(events, name, levels, keys_of(call))
    return events


def levels_of(node: ast.expr) -> set[str]:
    """Return {"info"} for `log.info`."""
    is_log = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "log"
    attribute = node.attr.replace("exception", "error") if is_log and isinstance(node, ast.Attribute) else ""
    return {attribute} & LEVELS


def log_aliases(tree: ast.AST) -> Iterator[tuple[str, set[str]]]:
    """Yield names for a level of the log, as in `write = log.debug if known else log.warning`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and not (isinstance(node.value, ast.Call) and levels_of(node.value.func)):
            inside = (levels_of(part) for part in ast.walk(node.value) if isinstance(part, ast.expr))
            if levels := set(chain.from_iterable(inside)):
                yield ast.unparse(node.targets[0]), levels


def names_of(first: ast.expr, function: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.AST) -> Iterator[str]:
    """Yield the constant, or what a variable may hold: constants that the function or its callers give it."""
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield first.value
    elif isinstance(first, ast.IfExp):
        yield from chain(names_of(first.body, function, tree), names_of(first.orelse, function, tree))
    elif isinstance(first, ast.Name):
        for value in chain(assigned(first.id, function), passed_in(first.id, function, tree)):
            yield from names_of(value, function, tree)


def assigned(name: str, function: ast.AST) -> Iterator[ast.expr]:
    """Yield what `name = …` or `name, other = …, …` gives it."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from (b for a, b in zip(target.elts, value.elts, strict=True) if ast.unparse(a) == name)
            elif ast.unparse(target) == name:
                yield value


def passed_in(name: str, function: ast.FunctionDef | ast.AsyncFunctionDef, tree: ast.AST) -> Iterator[ast.expr]:
    """Yield what the module's calls of `function` give to its parameter."""
    parameters = [argument.arg for argument in function.args.args if argument.arg != "self"]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and name in parameters):
        if ast.unparse(call.func).rpartition(".")[2] == function.name:
            yield call.args[parameters.index(name)]


def keys_of(call: ast.Call) -> Iterator[str]:
    for keyword in call.keywords:
        assert keyword.arg is not None, f"a log call hides its keys: {ast.unparse(call)}"
        if keyword.arg != "by":  # what the folding is by; it is not written
            yield keyword.arg


def events_in_docs() -> dict[str, Event]:
    text = (HOUSE / "docs" / "events.md").read_text("utf-8")
    events: dict[str, Event] = {}
    for name, levels, keys, meaning in re.findall(r"(?m)^\| `([\w.]+)` \| ([^|]*) \| ([^|]*) \| ([^|]+) \|$", text):
        assert meaning.strip()
        add(events, name, levels.replace(",", " ").split(), re.findall(r"`(\w+)`", keys))
    return events


def test_the_list_of_events_is_the_code_s() -> None:
    code, docs = events_in_code(), events_in_docs()
    missing = [row(name, event) for name, event in code.items() if docs.get(name) != event]
    assert missing == [], "rows that docs/events.md must have:\n" + "\n".join(missing)
    assert docs.keys() - code.keys() == set(), "events of docs/events.md that nothing logs"


def row(name: str, event: Event) -> str:
    keys = ", ".join(f"`{key}`" for key in sorted(event.keys))
    return f"| `{name}` | {', '.join(sorted(event.levels))} | {keys} | … |"


def test_events_are_named_noun_dot_past_verb() -> None:
    assert [name for name in events_in_code() if not re.fullmatch(r"[a-z]+\.[a-z]+(_[a-z]+)*", name)] == []


# --- the README's tables and names -----------------------------------------------------------------------------------


def table(text: str, heading: str) -> list[list[str]]:
    """Return the cells of the table under a line that begins with `heading`, its head left out."""
    _, _, after = text.partition(f"\n{heading}")
    rows = [line.strip("| ").split(" | ") for line in after.partition("\n\n")[0].splitlines() if line.startswith("|")]
    return rows[1:]


def test_the_exit_codes_are_the_code_s_in_readme_and_help() -> None:
    documented = [int(code) for code, _ in table(README, "| code |")]
    helped = re.findall(r"(?m)^ +(\d+)  \w", help_of("run").partition("Exit codes:")[2])
    assert documented == list(map(int, helped)) == sorted(Exit)


def test_the_kinds_are_the_code_s() -> None:
    assert [kind.strip("`") for kind, _ in table(README, "| kind |")] == [kind.value for kind in Kind]


def test_the_sinks_are_the_code_s() -> None:
    from poller.sinks.registry import KINDS

    documented = [re.split(r"[:`]", sink)[1] for sink, _ in table(README, "| sink |")]
    assert sorted(documented) == sorted(KINDS)
    assert [kind for kind in KINDS if kind not in help_of("run")] == []


def test_the_example_of_a_sink_is_the_package_that_a_test_runs() -> None:
    package = HOUSE / "tests" / "sinks" / "sink_plugin"
    assert f"```python\n{(package / 'poller_sink_folder.py').read_text('utf-8')}```" in README
    entry_point = (package / "pyproject.toml").read_text("utf-8").partition("[project.entry-points")[2].strip()
    assert f"```toml\n[project.entry-points{entry_point}\n```" in README


def test_the_pauses_are_the_code_s() -> None:
    events = (HOUSE / "docs" / "events.md").read_text("utf-8")
    assert [pause.value for pause in Pause if f"`{pause.value}`" not in events] == []


def test_every_setting_and_flag_that_the_readme_names_exists() -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*_s|daily_\w+)`", README))
    assert named - settings_names() == set()
    variables = {name.removeprefix("POLLER_").lower() for name in re.findall(r"POLLER_[A-Z_]+", README)} - {""}
    assert {name.rpartition("__")[2] for name in variables} - settings_names() == set()
    known = {
        flag
        for command in COMMANDS.values()
        for option in command.params
        for flag in (*option.opts, *option.secondary_opts)
    }
    of_poller = re.sub(r"(?m)^(?:docker|curl) .*$|`docker [^`]*`", "", README)
    mentioned = set(re.findall(r"(?<=[` ])--[a-z][a-z-]*", of_poller))
    assert mentioned - known == {"--help", "--install-completion"}


def settings_names() -> set[str]:
    example = (HOUSE / "config.example.toml").read_text("utf-8")
    return set(Settings.model_fields) | set(re.findall(r"(?m)^# +(?:\w+\.)?(\w+) = ", example))


COMMANDS: dict[str, click.Command] = vars(typer.main.get_command(app))["commands"]


def help_of(command: str) -> str:
    return COMMANDS[command].get_help(click.Context(COMMANDS[command], info_name=command))


def test_every_command_is_in_the_readme() -> None:
    assert [name for name in COMMANDS if f"poller {name}" not in README and f"`{name}`" not in README] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/events.md"])
def test_every_link_has_a_target(name: str) -> None:
    file = HOUSE / name
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", file.read_text("utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]
    broken = [link for link in links if not has_target(file, link)]
    assert broken == []


def has_target(file: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = file.parent / path if path else file
    headings = re.findall(r"(?m)^#+ (.+)$", target.read_text("utf-8")) if anchor else []
    return target.exists() and (
        not anchor or anchor in {re.sub(r"[^\w]+", "-", h.lower()).strip("-") for h in headings}
    )


# --- the README's commands -------------------------------------------------------------------------------------------


def blocks() -> dict[str, list[str]]:
    """Return the README's sh blocks by how they are checked."""
    found: dict[str, list[str]] = {}
    for group, text in re.findall(r"(?m)^<!-- checked: (\w+) -->\n```sh\n([\s\S]*?)^```$", README):
        found.setdefault(group, []).append(text)
    return found


def lines_of(group: str) -> list[str]:
    return [line.partition(" #")[0].strip() for text in blocks()[group] for line in text.splitlines() if line.strip()]


def test_every_sh_block_names_how_it_is_checked() -> None:
    assert README.count("```sh\n") == sum(map(len, blocks().values()))
    assert blocks().keys() == {"make", "pip", "import", "run", "docker", "sandbox", "completion", "http"}


def test_the_make_targets_exist() -> None:
    makefile = (HOUSE / "Makefile").read_text("utf-8")
    for line in lines_of("make"):
        assert re.fullmatch(r"make \w+", line)
        assert re.search(rf"(?m)^{line.removeprefix('make ')}:.*##", makefile)


def test_the_pip_lines_install_what_pyproject_offers_and_start_what_it_installs() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))["project"]
    make_venv, install, demo, tests = lines_of("pip")
    assert make_venv == "python3 -m venv .venv"
    assert install == ".venv/bin/pip install -e '.[dev]'"
    assert "dev" in project["optional-dependencies"]
    assert demo == ".venv/bin/poller demo"
    assert project["scripts"]["poller"] == "poller.__main__:main"
    assert tests == ".venv/bin/pytest"


def test_the_completion_line_is_a_flag_of_the_program() -> None:
    assert lines_of("completion") == ["poller --install-completion"]
    assert "--install-completion" in {flag for option in typer.main.get_command(app).params for flag in option.opts}


def test_the_docker_lines_fit_the_image() -> None:
    dockerfile = (HOUSE / "Dockerfile").read_text("utf-8")
    runs = [line for line in lines_of("docker") if line.startswith("docker run")]
    assert runs
    for line in runs:
        assert re.search(r":/data\"? ", line)
        assert "-e HUBSPOT_TOKEN hubspot-import-poller run " in line
        assert ("--user" in line) == ("$PWD" in line)  # the image's user may not write to another user's folder
        assert (" -i " in line) == (" < " in line)
    assert "VOLUME /data" in dockerfile
    assert 'ENTRYPOINT ["poller"]' in dockerfile


@pytest.mark.real_time
def test_the_http_lines_of_the_readme_feed_and_answer(tmp_path: Path) -> None:
    with hubspot("--fate", "complete=1", imports=2) as simulated:
        task_id, other = simulated.take(2)
        (tmp_path / "more.txt").write_text(f"{task_id}\n{other}\n")
        env = environ(POLLER_BASE_URL=simulated.url)
        with running("run", "--follow", "--listen", "127.0.0.1:0", folder=tmp_path, env=env) as service:
            wait_until(service.logged("web.started"), "the server")
            port = next(event["port"] for event in service.events() if event["event"] == "web.started")
            script = "\n".join(lines_of("http")).replace("AAAAEZ6whGI", task_id).replace(":8321/", f":{port}/")
            done = subprocess.run(  # noqa: S603 - the README's own commands
                ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607 - whichever bash there is
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=SCRIPT_PATIENCE_S,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    assert '"accepted":2' in done.stdout
    assert f'"task_id":"{task_id}","account":"default","state":' in done.stdout
    assert '"kind":"complete"' in done.stdout
    assert "poller_tasks_finished_total" in done.stdout


@pytest.mark.real_time
def test_the_sandbox_of_the_readme_serves_what_the_next_line_asks(tmp_path: Path) -> None:
    serve, poll = lines_of("sandbox")
    flags = serve.replace("--port 8080", "--port 0").replace("--tasks 500", "--tasks 5").split()[1:]
    with running(*flags, folder=tmp_path) as sandbox:
        wait_until(lambda: "use it" in sandbox.log(), "the sandbox")
        offered = re.sub(r":\d+$", ":8080", sandbox.log().splitlines()[1].removeprefix("use it: "))
    assert offered == poll
    assert len((tmp_path / "ids.txt").read_text().split()) == 5


@pytest.mark.real_time
def test_the_import_lines_of_the_readme_bring_fifty_urls_to_land(tmp_path: Path) -> None:
    """As a new user would: a CSV of 50 URLs and the README alone. A fifth fail at first."""
    jq = "" if shutil.which("jq") else "jq() { cat; }\n"
    rows = [f"https://cdn.example.com/{number}.png,acorn,{number:03}" for number in range(50)]
    (tmp_path / "urls.csv").write_text("\n".join(["url,brand,sku", *rows]) + "\n")
    with hubspot("--fate", "complete=0.8", "--fate", "complete_with_errors=0.2", imports=1) as at:
        done = subprocess.run(  # noqa: S603 - the README's own commands
            ["bash", "-uo", "pipefail", "-c", jq + "\n".join(blocks()["import"]).replace("TOKEN=…", f"TOKEN={TOKEN}")],  # noqa: S607 - whichever bash there is
            cwd=tmp_path,
            env=environ(POLLER_BASE_URL=at.url, POLLER_REQUESTS="100", POLLER_WINDOW_S="0.5", POLLER_LISTEN="off"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SCRIPT_PATIENCE_S,
            check=False,
        )
    assert "50 rows" in done.stdout, done.stderr
    found = records(tmp_path / "finished.jsonl")
    assert {record["ref"]["url"] for record in found} == {row.partition(",")[0] for row in rows}
    again = (tmp_path / "again.jsonl").read_bytes().splitlines()
    assert len(found) == 50 + len(again) > 50
    assert all(record["result"]["path"].startswith("/products/acorn/") for record in found if record["landed"])


@pytest.mark.real_time
def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    jq = "" if shutil.which("jq") else "jq() { cat; }\n"
    with hubspot("--fate", "complete=1", imports=30) as simulated:
        work = tmp_path / "work"
        work.mkdir()
        simulated.ids_file(work, 20)
        script = (
            "\n".join(blocks()["run"]).replace("TOKEN=…", f"TOKEN={TOKEN}").replace("AAAAEZ6whGI", simulated.take(1)[0])
        )
        done = subprocess.run(  # noqa: S603 - the README's own commands
            ["bash", "-euo", "pipefail", "-c", jq + script],  # noqa: S607 - whichever bash there is
            cwd=work,
            env=environ(POLLER_BASE_URL=simulated.url, POLLER_REQUESTS="100", POLLER_WINDOW_S="0.5"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SCRIPT_PATIENCE_S,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert len(records(work / "finished.jsonl")) == 20
    assert "ledger (balanced)" in done.stdout
    assert "20 lines, 20 finished tasks: equal" in done.stdout
    assert "https://example.com/a.png" in done.stdout
    assert (work / "failed.jsonl").read_bytes() == b""
