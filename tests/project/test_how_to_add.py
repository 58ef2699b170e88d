"""The checklists of docs/how-to/extend.md name files and symbols that exist, and list every place of their examples."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
PAGE = "docs/how-to/extend.md"
ELSEWHERE = {PAGE, "CHANGELOG.md", "docs/decisions.md", "tests/project/test_how_to_add.py"}  # every change, or history
TOO_WIDE = {"poller/", "tests/", "docs/"}  # a list that names one of these proves nothing

SECTION = re.compile(r"(?m)^## (?P<title>.+)\n(?P<text>(?:(?!## ).*\n?)*)")
STEP = re.compile(r"(?m)^\d+\. (?P<text>.*(?:\n   .*)*)")
CODE = re.compile(r"`([^`]+)`")
EVERY_PLACE = re.compile(r'(?m)^Every place: `{1,2}git grep -nE "(.+)"`{1,2}$')


@dataclass(frozen=True, slots=True, kw_only=True)
class Checklist:
    """One section of the page."""

    title: str
    pattern: str  # finds every place of the example
    places: tuple[tuple[str, str | None], ...]  # a path, and a symbol in it

    def covers(self, file: str) -> bool:
        return any(file == path or (path.endswith("/") and file.startswith(path)) for path, _ in self.places)


def checklists(text: str) -> list[Checklist]:
    found = []
    for section in SECTION.finditer(text):
        (pattern,) = EVERY_PLACE.findall(section["text"])
        places = tuple(place for step in STEP.finditer(section["text"]) for place in places_of(step["text"]))
        found.append(Checklist(title=section["title"], pattern=pattern.replace(r"\"", '"'), places=places))
    return found


def places_of(step: str) -> Iterator[tuple[str, str | None]]:
    """Yield each path of a step, alone and with each symbol that follows it before the step's text."""
    for part in re.findall(r"`[^`]+/[^`]*`(?:,? `\w[^`/ ]*`)*|`[\w.]+\.(?:md|toml)`(?: `\w+`)*", step):
        path, *symbols = CODE.findall(part)
        yield path, None
        yield from ((path, symbol) for symbol in symbols)


ALL = checklists((HOUSE / PAGE).read_text("utf-8"))


def by_title(checklist: Checklist) -> str:
    return checklist.title


def missing(checklist: Checklist, house: Path = HOUSE) -> list[str]:
    """Return the paths and symbols of a checklist that do not exist."""
    found = []
    for path, symbol in checklist.places:
        if not (house / path).exists() or path in TOO_WIDE:
            found.append(path)
        elif symbol is not None and not re.search(rf"\b{re.escape(symbol)}\b", (house / path).read_text("utf-8")):
            found.append(f"{symbol} in {path}")
    return found


def forgotten(checklist: Checklist) -> list[str]:
    """Return the tracked files that contain the example and are in no step."""
    command = ["git", "grep", "-lE", checklist.pattern]
    done = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    return [file for file in done.stdout.splitlines() if file not in ELSEWHERE and not checklist.covers(file)]


def test_there_is_a_checklist_for_each_kind_of_addition() -> None:
    assert [checklist.title for checklist in ALL] == [
        "A sink",
        "A setting",
        "A flag",
        "A field of the record",
        "A pause",
        "A log event",
    ]
    assert [checklist.title for checklist in ALL if len(checklist.places) < 5] == []


@pytest.mark.parametrize("checklist", ALL, ids=by_title)
def test_every_path_and_symbol_of_a_checklist_exists(checklist: Checklist) -> None:
    assert missing(checklist) == []


@pytest.mark.skipif(not (HOUSE / ".git").exists(), reason="not a git checkout")
@pytest.mark.parametrize("checklist", ALL, ids=by_title)
def test_a_checklist_forgets_no_place_of_its_example(checklist: Checklist) -> None:
    assert forgotten(checklist) == [], f"name them in {PAGE}, {checklist.title!r}"


# --- the checks themselves -------------------------------------------------------------------------------------------

SAMPLE = """# Page

## A thing
1. `poller/core/accounts.py` `Pause`, `NoSuchName`: text with `a/b`.
2. `poller/nowhere.py`, `README.md`: text
   that goes over `two/lines`.

Every place: `git grep -nE "NoSuchName"`
"""


def test_a_path_or_a_symbol_that_does_not_exist_is_found() -> None:
    (checklist,) = checklists(SAMPLE)
    assert ("poller/core/accounts.py", "Pause") in checklist.places
    assert {"NoSuchName in poller/core/accounts.py", "poller/nowhere.py", "a/b", "two/lines"} == set(missing(checklist))


@pytest.mark.skipif(not (HOUSE / ".git").exists(), reason="not a git checkout")
def test_a_place_that_a_list_forgets_is_found() -> None:
    pause = next(checklist for checklist in ALL if checklist.title == "A pause")
    shorter = Checklist(title="", pattern=pause.pattern, places=pause.places[:1])
    assert "poller/hubspot/limits/judge.py" in forgotten(shorter)
