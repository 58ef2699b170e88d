"""The pages of docs/: every snippet is run or read, every link has a target, every setting and flag exists."""

import ast
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
import yaml

from docs.make_reference import FOLDER, pages
from docs.record_schema import SCHEMA
from poller.config import load
from poller.sinks import check_sinks
from tests.project.test_docs import COMMANDS, has_target, settings_names
from tests.support.processes import SCRIPT_PATIENCE_S, Hubspot, environ, hubspot, records, run

HOUSE = Path(__file__).parents[2]
DOCS = HOUSE / "docs"
PAGES = sorted(str(file.relative_to(HOUSE)) for file in DOCS.rglob("*.md"))
READ = {"toml", "json", "yaml"}  # by a parser
RUN = {"sh", "python"}  # by a shell or an interpreter, as the line above the block defines
SHOWN = {"text", ""}

BLOCK = re.compile(r"(?m)(?:^<!-- checked: (?P<how>.+) -->\n)?^```(?P<language>\w*)\n(?P<text>[\s\S]*?)^```$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A fenced block, and how it is checked."""

    page: str
    language: str
    how: str
    text: str


def blocks(page: str) -> list[Block]:
    found = BLOCK.finditer((HOUSE / page).read_text("utf-8"))
    return [Block(page=page, language=each["language"], how=each["how"] or "", text=each["text"]) for each in found]


ALL = [block for page in PAGES for block in blocks(page)]


def of(language: str) -> list[Block]:
    return [block for block in ALL if block.language == language]


def name_of(block: Block) -> str:
    return f"{block.page}: {block.text.strip().splitlines()[0][:40]}"


# --- what is read ----------------------------------------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in ALL} <= READ | RUN | SHOWN
    ways = re.compile(r"syntax|run|run, in another terminal|run, as a cell|run, as \w+\.py")
    assert [name_of(block) for block in ALL if block.language in RUN and not ways.fullmatch(block.how)] == []


SAMPLES = "docs/reference/config.md"  # whose blocks belong together


@pytest.mark.parametrize("block", [block for block in of("toml") if block.page != SAMPLES], ids=name_of)
def test_every_toml_snippet_is_accepted_as_settings(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(block.text)
    tables = tomllib.loads(block.text)
    accounts = tables.get("accounts", {})
    whole = accounts and "account" not in tables and len(accounts) > 1
    flags = {"account": next(iter(accounts))} if whole else {}
    check_sinks(load(file, flags, {"WEBHOOK_SECRET": "x"}, secrets_dir=tmp_path / "none").sinks)


def test_the_samples_of_the_reference_are_accepted_together(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("\n".join(block.text for block in blocks(SAMPLES)))
    settings = load(file, {"account": "eu"}, {}, secrets_dir=tmp_path / "none")
    check_sinks(settings.sinks)
    assert settings.accounts.keys() == {"eu", "us"}


@pytest.mark.parametrize("block", [*of("json"), *of("yaml")], ids=name_of)
def test_every_json_and_yaml_snippet_can_be_read(block: Block) -> None:
    read = json.loads if block.language == "json" else yaml.safe_load
    assert read(block.text)


@pytest.mark.parametrize("block", of("sh"), ids=name_of)
def test_every_command_is_shell_and_every_flag_of_poller_in_it_exists(block: Block) -> None:
    subprocess.run(["bash", "-n", "-c", block.text], check=True)  # noqa: S603, S607 - our own commands, whichever bash
    joined = block.text.replace("\\\n", " ")
    for command, rest in re.findall(r"(?m)(?:^|[|;&] *|bin/)poller ([a-z-]+)([^|;#&\n]*)", joined):
        known = {flag for option in COMMANDS[command].params for flag in (*option.opts, *option.secondary_opts)}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= known, command


@pytest.mark.parametrize("block", of("python"), ids=name_of)
def test_every_python_snippet_compiles(block: Block) -> None:
    compile(block.text, block.page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_has_a_target(page: str) -> None:
    file = HOUSE / page
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", file.read_text("utf-8"))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match("https?://", link)]
    assert [link for link in links if not has_target(file, link)] == []


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "README.md").read_text("utf-8")
    known = {str((DOCS / link).relative_to(DOCS)) for link in re.findall(r"\]\(([^)#\s]+)\)", index)}
    assert {str(Path(page).relative_to("docs")) for page in PAGES} - known == {"README.md"}, "link it in docs/README.md"


@pytest.mark.parametrize("page", [page for page in PAGES if "how-to" in page or "tutorial" in page])
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)*_s|daily_\w+)`", (HOUSE / page).read_text("utf-8")))
    assert named - settings_names() - {"timeout_s"} == set()


# --- what is generated ------------------------------------------------------------------------------------------------


def test_the_reference_is_what_make_docs_writes() -> None:
    stale = [name for name, text in pages().items() if (FOLDER / name).read_text("utf-8") != text]
    assert stale == [], "run `make docs`"
    assert {file.name for file in FOLDER.iterdir()} == pages().keys()


# --- what is run -----------------------------------------------------------------------------------------------------

PORTS = ("8080", "8321", "9000")
PRELUDE = r"""
set -u
trap 'code=$?; echo "exit $code of: $BASH_COMMAND" >> troubles' ERR
trap 'kill -9 $(jobs -p) 2>/dev/null || :' EXIT
ready() { for _ in $(seq 300); do (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return; sleep 0.05; done; }
"""


RUN_CELL = """
import ast, asyncio
async def main():  # a notebook's loop is running already
    await eval(compile(open("cell.py").read(), "cell.py", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
asyncio.run(main())
"""


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def script(page: str) -> str:
    """Return the page's `run` blocks as one script: those of another terminal run beside the others."""
    parts = []
    for block in blocks(page):
        if block.how == "run":
            parts.append(block.text)
        elif block.how == "run, in another terminal":
            waits = "".join(f"ready {port}\n" for port in PORTS if port in block.text)
            parts.append(f"{{\n{block.text}}} > terminal.log 2>&1 &\n{waits}")
        elif block.how == "run, as a cell":
            parts.append(f"cat > cell.py <<'END'\n{block.text}END\npython3 -c {shlex.quote(RUN_CELL)}\n")
        elif block.how.startswith("run, as "):
            parts.append(f"cat > {block.how.removeprefix('run, as ')} <<'END'\n{block.text}END\n")
    return "\n".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What a page's commands printed, and which of them ended with another code than 0."""

    stdout: str
    stderr: str
    troubles: list[str]


def play(page: str, folder: Path, *, before: str = "", after: str = "", **variables: str) -> Played:
    """Run a page's script; `before` sets its scene, and `after` checks what it left while its servers still run."""
    text = "\n".join([PRELUDE, before, script(page), after])
    mine = {port: free_port() for port in PORTS}
    for port, free in mine.items():
        text = re.sub(rf"\b{port}\b", free, text)
    with subprocess.Popen(  # noqa: S603 - the page's own commands
        ["bash", "-c", text],  # noqa: S607 - whichever bash there is
        cwd=folder,
        env=environ(POLLER_LISTEN=f"127.0.0.1:{mine['8321']}", HOME=str(folder), **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            stdout, stderr = shell.communicate(timeout=SCRIPT_PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):  # what the page left running
                os.killpg(shell.pid, signal.SIGKILL)
    troubles = (folder / "troubles").read_text().splitlines() if (folder / "troubles").exists() else []
    return Played(stdout=stdout, stderr=stderr, troubles=troubles)


TESTS = 12  # that take ids, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """A simulated HubSpot where two in five imports fail, and ids of it that no other test has."""

    url: str
    ids: list[str]

    @property
    def variables(self) -> dict[str, str]:
        quick = {"POLLER_REQUESTS": "100", "POLLER_WINDOW_S": "0.5", "POLLER_POLLING__MISSING_AGAIN_S": "0.5"}
        return {"POLLER_BASE_URL": self.url, "HUBSPOT": self.url, **quick}


@pytest.fixture(scope="module")
def shared_hubspot() -> Iterator[Hubspot]:
    fates = ("--fate", "complete=0.6", "--fate", "canceled=0.2", "--fate", "complete_with_errors=0.2")
    with hubspot(*fates, imports=TESTS * 60) as one:
        yield one


@pytest.fixture
def simulated(shared_hubspot: Hubspot) -> Simulated:
    return Simulated(url=shared_hubspot.url, ids=shared_hubspot.take(60))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def only_not_all_complete(played: Played) -> bool:
    """Whether the only failures are runs whose tasks are not all complete (exit code 1)."""
    return all(re.match(r"exit 1 of: poller run\b", line) for line in played.troubles)


@pytest.mark.real_time
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_the_tutorial_works(work: Path) -> None:
    played = play("docs/tutorial.md", work, POLLER_REQUESTS="50", POLLER_WINDOW_S="2")  # else a restart waits 10 s
    assert only_not_all_complete(played), (played.troubles, played.stderr)
    assert played.stdout.count("ledger (balanced)") == 1
    assert "exit code 1" in played.stdout
    assert "60 lines, 60 finished tasks: equal" in played.stdout
    assert len(records(work / "finished.jsonl")) == 60 + len((work / "second.jsonl").read_text().splitlines())
    assert (work / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.real_time
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("openssl")), reason="needs curl and openssl")
def test_the_receiver_keeps_every_finished_task_once_and_refuses_what_is_not_signed(
    work: Path, simulated: Simulated
) -> None:
    write_lines(work / "ids.txt", simulated.ids)
    count = "sqlite3.connect('received.db').execute('SELECT count(*) FROM finished').fetchone()[0]"
    after = f"""
curl -s -o /dev/null -w 'forged: %{{http_code}}\\n' http://127.0.0.1:9000/ -d '{{}}'
python3 -c "import sqlite3; print('received:', {count})"
"""
    played = play("docs/how-to/receive-webhooks.md", work, after=after, **simulated.variables)
    assert only_not_all_complete(played), (played.troubles, played.stderr)
    assert "forged: 401" in played.stdout
    assert "received: 60" in played.stdout


@pytest.mark.real_time
def test_lines_find_their_account(work: Path, simulated: Simulated) -> None:
    accounts = ("main", "emea")
    tables = "".join(f'[accounts.{name}]\ntoken_env = "HUBSPOT_TOKEN"\n' for name in accounts)
    (work / "config.toml").write_text(f'account = "main"\n{tables}')
    played = play("docs/how-to/several-accounts.md", work, **simulated.variables)
    assert only_not_all_complete(played), (played.troubles, played.stderr)  # these ids belong to no account
    assert {record["account"] for record in records(work / "finished.jsonl")} == set(accounts)


@pytest.mark.real_time
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_failures_are_resubmitted_from_the_person_s_own_columns(work: Path, simulated: Simulated) -> None:
    rows = [
        f"{task_id},https://example.com/{n}.png,https://example.com/{n}.png" for n, task_id in enumerate(simulated.ids)
    ]
    write_lines(work / "ids.csv", ["task_id,url,source", *rows])
    played = play("docs/how-to/resubmit-failures.md", work, **simulated.variables)
    assert only_not_all_complete(played), (played.troubles, played.stderr)
    failed = (work / "failed.jsonl").read_text().splitlines()
    retryable, rest = ((work / name).read_text().splitlines() for name in ("again.jsonl", "again.rest.jsonl"))
    assert len(failed) == len(retryable) + len(rest) > 0
    assert len((work / "second.jsonl").read_text().splitlines()) == len(retryable)


@pytest.mark.real_time
def test_a_token_is_given_and_the_steps_after_the_run_work(work: Path, simulated: Simulated) -> None:
    rows = [f"{task_id},https://example.com/{n}.png" for n, task_id in enumerate(simulated.ids)]
    write_lines(work / "ids.txt", ["task_id,url", *rows])
    played = play("docs/how-to/get-a-token.md", work, **simulated.variables)
    assert only_not_all_complete(played), (played.troubles, played.stderr)
    played = play("docs/how-to/after-the-run.md", work, before="rm -f troubles", **simulated.variables)
    assert played.troubles == [], played.stderr
    assert "60 lines, 60 finished tasks: equal" in played.stdout
    assert (work / "again.jsonl").exists()


@pytest.mark.real_time
@pytest.mark.skipif(not shutil.which("jq"), reason="needs jq")
def test_what_an_old_state_left_is_found_by_its_output(work: Path, simulated: Simulated) -> None:
    write_lines(work / "ids.txt", [*simulated.ids, "bm90LWZlZA"])
    before = "head -n 60 ids.txt > fed.txt; poller run fed.txt; rm -f troubles"
    played = play("docs/how-to/move-to-postgresql.md", work, before=before, **simulated.variables)
    assert only_not_all_complete(played), (played.troubles, played.stderr)
    assert (work / "waiting.txt").read_text() == "bm90LWZlZA\n"


@pytest.mark.real_time
def test_a_log_is_followed(work: Path, simulated: Simulated) -> None:
    write_lines(work / "ids.log", simulated.ids)
    after = 'for _ in $(seq 200); do [ "$(wc -l < finished.jsonl)" = 60 ] && break; sleep 0.1; done 2> /dev/null\n'
    played = play("docs/how-to/follow-rotated-logs.md", work, after=after, **simulated.variables)
    assert played.troubles == [], played.stderr
    assert len(records(work / "finished.jsonl")) == 60


@pytest.mark.real_time
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_a_service_is_fed_over_http(work: Path, simulated: Simulated) -> None:
    write_lines(work / "ids.txt", simulated.ids)
    before = "poller run --follow > service.log 2>&1 &\nready 8321\n"
    played = play("docs/how-to/run-as-a-service.md", work, before=before, **simulated.variables)
    assert played.troubles == [], played.stderr
    answer = json.loads(played.stdout.splitlines()[0])
    assert answer["accepted"] == 60


@pytest.mark.real_time
def test_a_program_a_notebook_and_several_accounts_get_each_task_once(work: Path, simulated: Simulated) -> None:
    write_lines(work / "ids.txt", simulated.ids)
    write_lines(work / "more.txt", simulated.ids[:20])
    played = play("docs/how-to/use-from-python.md", work, **simulated.variables)
    assert played.troubles == [], played.stderr
    done = [line.split()[0] for line in (work / "done.txt").read_text().splitlines()]
    assert sorted(done) == sorted(simulated.ids)
    rows = [line.split()[:2] for line in (work / "accounts.txt").read_text().splitlines()]
    assert sorted(rows) == sorted(["eu" if row % 2 else "us", str(row)] for row in range(20))
    assert len(records(work / "audit.jsonl")) == 20


def write_lines(file: Path, lines: list[str]) -> None:
    file.write_text("".join(f"{line}\n" for line in lines))


# --- the record ------------------------------------------------------------------------------------------------------


@pytest.mark.real_time
def test_the_records_of_a_run_match_the_schema(work: Path, simulated: Simulated) -> None:
    write_lines(work / "ids.txt", [*simulated.ids, "bm90LWZlZA"])
    run("run", "ids.txt", folder=work, env=environ(**simulated.variables))
    for record in records(work / "finished.jsonl"):
        jsonschema.validate(record, SCHEMA)
