"""The distributions as an index and a person get them: metadata, files, and the package in a bare environment."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from contextlib import suppress
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

from poller import __version__

HOUSE = Path(__file__).parents[2]
PROJECT = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))
ENVIRON = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
TYPED = """
import asyncio
from collections.abc import Mapping
from datetime import datetime

from poller import FedRows, FinishedImport, Kind, Poller, PollerError

async def main() -> list[FinishedImport]:
    async with Poller(token="x", requests=100, accounts={"eu": {"workers": 8}}) as poller:
        fed: FedRows = await poller.feed(["a", ("b", {"row": 1}), {"id": "c"}])
        rejected: list[str] = [each.reason for each in fed.rejected]
        async for task in poller.finished():
            kind: Kind = task.kind
            landed: bool = task.landed
            at: datetime = task.seen_at
            ref: Mapping[str, object] = task.ref
        return [task async for task in poller.finished(follow=True)]

try:
    asyncio.run(main())
except PollerError as error:
    print(error)
"""
WRONG = """
from poller import Poller
Poller(request=5)
Poller(requests="many")
async def main() -> None:
    async with Poller() as poller:
        poller.feed(["a"])
        async for task in poller.finished():
            task.landed = True
            task.url
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with both distributions, built from what is tracked, by the locked way without a network."""
    tree, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "CHANGELOG.md", "config.example.toml"):
        shutil.copy(HOUSE / name, tree)
    shutil.copytree(HOUSE / "poller", tree / "poller", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), str(tree))
    return dist


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the commands of an environment that has the wheel; the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
    run(*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", str(wheel))
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def run(*command: str, cwd: Path | None = None) -> str:
    ran = subprocess.run(  # noqa: S603 - our own
        command, capture_output=True, text=True, check=False, cwd=cwd, timeout=120, env=ENVIRON
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        return message_from_string(archive.read(name).decode())


# --- for an index ----------------------------------------------------------------------------------------------------


def test_an_index_finds_nothing_wrong_with_the_distributions(built: Path) -> None:
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *map(str, built.iterdir()))


def test_the_metadata_says_what_it_is_and_invents_neither_licence_nor_address(wheel: Path) -> None:
    about = metadata(wheel)
    assert about["Version"] == __version__
    assert about["Summary"]
    assert about["Keywords"]
    classifiers = about.get_all("Classifier") or []
    assert "Typing :: Typed" in classifiers
    lowest = about["Requires-Python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {lowest}" in classifiers
    assert about["License-Expression"] is None
    assert about.get_all("Project-URL") is None


def test_the_description_is_the_readme_without_links_that_lead_nowhere(wheel: Path) -> None:
    description = str(metadata(wheel).get_payload())
    assert metadata(wheel)["Description-Content-Type"] == "text/markdown"
    text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", description)
    assert [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("https://", "#"))] == []
    assert "<!--" not in text
    readme = (HOUSE / "README.md").read_text("utf-8")
    assert re.findall(r"(?m)^## .*$", description) == re.findall(r"(?m)^## .*$", readme)


def test_the_distributions_hold_the_package_and_nothing_of_a_developer_s(built: Path, wheel: Path) -> None:
    files = {file for file in (HOUSE / "poller").rglob("*") if file.is_file() and "__pycache__" not in file.parts}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {str(file.relative_to(HOUSE)) for file in files}
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        tops = {name.split("/")[1] for name in archive.getnames()}
    own = {"poller", "README.md", "CHANGELOG.md", "config.example.toml", "pyproject.toml", "PKG-INFO"}
    assert tops - own <= {".gitignore"}


# --- for a person ----------------------------------------------------------------------------------------------------


def test_the_command_of_the_installed_wheel_works(installed: Path, tmp_path: Path) -> None:
    assert run(str(installed / "poller"), "--version", cwd=tmp_path) == f"poller {__version__}\n"
    where = run(str(installed / "python"), "-c", "import poller; print(poller.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    settings = run(str(installed / "poller"), "plan", "--help", cwd=tmp_path)
    assert "--daily" in settings


def test_a_program_against_the_installed_wheel_is_checked_strictly(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    with suppress(FileNotFoundError):  # what `make lint` found out about the dependencies, which is most of the work
        shutil.copytree(HOUSE / ".mypy_cache", tmp_path / ".mypy_cache")
    ours = ("--config-file", str(HOUSE / "pyproject.toml"))  # with other options it would be of no use
    strict = (sys.executable, "-m", "mypy", "--strict", *ours, "--python-executable", str(installed / "python"))
    checked = subprocess.run(  # noqa: S603 - our own
        [*strict, "program.py", "wrong.py"], capture_output=True, text=True, check=False, cwd=tmp_path, env=ENVIRON
    )
    found = re.findall(r"(?m)^(\w+\.py):(\d+): error", checked.stdout)
    assert set(found) == {("wrong.py", str(line)) for line in (3, 4, 7, 9, 10)}, checked.stdout


# --- what the image holds ---------------------------------------------------------------------------------------------


def test_the_bill_of_materials_lists_all_that_the_lock_pins_with_its_hashes(tmp_path: Path) -> None:
    makefile = (HOUSE / "Makefile").read_text("utf-8").replace("\\\n", " ")
    command = re.search(r"(?m)^\t\$\(BIN\)/(cyclonedx-py .*)$", makefile)
    assert command is not None
    words = command[1].replace("dist/sbom.cdx.json", str(tmp_path / "sbom.json")).split()
    run(str(Path(sys.executable).parent / words[0]), *words[1:], cwd=HOUSE)
    listed = json.loads((tmp_path / "sbom.json").read_text("utf-8"))
    assert listed["bomFormat"] == "CycloneDX"
    assert listed["metadata"]["component"]["name"] == PROJECT["project"]["name"]
    pinned = dict(re.findall(r"(?m)^([a-z0-9-]+)==([^ ]+)", (HOUSE / "requirements.lock").read_text("utf-8")))
    assert {each["name"]: each["version"] for each in listed["components"]} == pinned
    assert all(each["externalReferences"][0]["hashes"] for each in listed["components"])
