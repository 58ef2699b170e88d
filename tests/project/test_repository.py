"""The repository: what the image, its lock, the Makefile and the repository promise, read from the files themselves."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from poller import __version__
from tests.support.processes import environ, running, wait_until

HOUSE = Path(__file__).parents[2]
TABLES = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))
PROJECT, BUILD = TABLES["project"], TABLES["build-system"]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, continuations joined, comments dropped."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (HOUSE / "Dockerfile").read_text("utf-8")).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name.upper(), rest.strip()) for name, rest in lines]


def last(name: str) -> str:
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def locked(lock: str = "requirements.lock") -> dict[str, list[str]]:
    """Return each pinned distribution with its hashes."""
    text = (HOUSE / lock).read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    pins = [
        re.fullmatch(r"([a-z0-9-]+)==[0-9][^ ]*(?: ; [^-]+?)?((?: +--hash=sha256:[0-9a-f]{64})+) *", x) for x in lines
    ]
    assert None not in pins
    return {pin[1]: re.findall(r"sha256:\w+", pin[2]) for pin in pins if pin}


# --- the image -------------------------------------------------------------------------------------------------------


def test_the_image_is_built_in_two_stages_on_a_slim_base() -> None:
    bases = [rest for name, rest in instructions() if name == "FROM"]
    assert bases == ["${BASE} AS build", "${BASE}"]
    assert re.fullmatch(r"BASE=python:3\.\d+-slim", next(rest for name, rest in instructions() if name == "ARG"))


def test_the_image_is_labelled_with_what_is_known_here() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', last("LABEL")))
    assert labels.keys() == {"title", "description", "version", "revision", "base.name"}
    assert (labels["title"], labels["description"]) == (PROJECT["name"], PROJECT["description"])
    assert labels["version"] == __version__


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    user, group = last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    names = [name for name, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_the_image_starts_poller_itself_so_that_signals_reach_it() -> None:
    assert json.loads(last("ENTRYPOINT")) == ["poller"]
    assert json.loads(last("CMD")) == ["run", "-c", "/etc/poller/config.toml"]
    assert last("STOPSIGNAL") == "SIGTERM"
    assert "PYTHONUNBUFFERED=1" in last("ENV")


def test_the_image_keeps_state_in_a_volume_that_its_user_may_write_and_watches_its_health() -> None:
    assert last("VOLUME") == last("WORKDIR") == "/data"
    assert f"chown {last('USER')} /data" in last("RUN")
    assert "POLLER_" not in last("ENV")  # it would beat a config file
    assert "exec poller healthcheck" in last("HEALTHCHECK")


@pytest.mark.real_time
@pytest.mark.parametrize("settings", ["", 'state = "sqlite:///mine.db"\n', None])
def test_the_image_s_health_check_finds_the_state_of_its_settings(settings: str | None, tmp_path: Path) -> None:
    words = json.loads(last("HEALTHCHECK").split("CMD", 1)[1])
    command = [word.replace("/etc/poller", str(tmp_path)) for word in words]
    if settings is not None:
        (tmp_path / "config.toml").write_text(f"follow = true\n{settings}")
    given = ("-c", "config.toml") if settings is not None else ("--follow",)

    def check() -> int:
        done = subprocess.run(command, cwd=tmp_path, env=environ(), capture_output=True, check=False)  # noqa: S603 - the image's
        return done.returncode

    assert check() == 1
    with running("run", *given, folder=tmp_path) as service:
        wait_until(service.logged("run.started"), "the run")
        assert check() == 0


def test_what_the_build_copies_exists_and_is_not_ignored() -> None:
    sources = [
        word.rstrip("/")
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    ]
    allowed = {line[1:] for line in (HOUSE / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    assert [source for source in sources if not (HOUSE / source).exists()] == []
    assert set(sources) == allowed


def test_the_image_installs_exactly_what_the_lock_pins() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN"]
    assert any("--require-hashes" in run and "-r requirements.lock" in run for run in runs)
    assert any("--no-deps dist/" in run for run in runs)


def test_the_build_backend_is_installed_from_a_lock_and_from_nowhere_else() -> None:
    runs = [rest for name, rest in instructions() if name == "RUN"]
    assert any("--require-hashes" in run and "-r requirements-build.lock" in run for run in runs)
    assert all("--no-build-isolation" in run for run in runs if "pip wheel" in run)
    wanted = {re.split(r"[<>=\[; ]", dependency)[0] for dependency in BUILD["requires"]}
    assert wanted - locked("requirements-build.lock").keys() == set()
    assert [name for name, hashes in locked("requirements-build.lock").items() if not hashes] == []


def test_the_lock_has_hashes_for_every_dependency_of_the_project() -> None:
    wanted = {re.split(r"[<>=\[; ]", dependency)[0] for dependency in PROJECT["dependencies"]}
    assert wanted - locked().keys() == set()
    assert [name for name, hashes in locked().items() if not hashes] == []


# --- the Makefile ----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_alone_lists_the_targets() -> None:
    environ = {"PATH": os.environ["PATH"]}
    listed = subprocess.run(["make"], cwd=HOUSE, capture_output=True, text=True, check=True, env=environ).stdout  # noqa: S607 - whichever make there is
    assert [target for target in ("setup", "demo", "test", "check", "lock") if f"make {target} " not in listed] == []


def test_check_holds_every_tool_and_the_tests() -> None:
    makefile = (HOUSE / "Makefile").read_text("utf-8")
    assert re.search(r"(?m)^check: lint test\b", makefile)
    for command in (
        "ruff check",
        "ruff format --check",
        "mypy",
        "lint-imports",
        "pytest -n auto --dist loadfile --no-loadscope-reorder",
    ):
        assert re.search(rf"(?m)^\t\$\(BIN\)/{command}$", makefile)


def test_ci_runs_the_readme_s_test_command_and_check() -> None:
    script = HOUSE / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test check" in script.read_text("utf-8")
    assert re.search(r"(?m)^make test\b", (HOUSE / "README.md").read_text("utf-8"))


# --- the repository --------------------------------------------------------------------------------------------------


def test_contributing_is_short() -> None:
    assert len((HOUSE / "CONTRIBUTING.md").read_text("utf-8").splitlines()) < 80


@pytest.mark.skipif(not (HOUSE / ".git").exists(), reason="not a git checkout")
def test_no_tracked_file_names_a_private_registry_or_a_path_of_one_machine() -> None:
    private = re.compile(
        rb"/wor[k]/|/roo[t]/|/opt/(?:pyp[i]|wheel[s])|(?<![a-z-])--(?:extra-)?index-ur[l]|--find-link[s]"
    )
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, check=True).stdout  # noqa: S607 - whichever git there is
    files = [HOUSE / name for name in tracked.decode().split("\0") if name]
    assert [str(file) for file in files if file.is_file() and private.search(file.read_bytes())] == []
