"""The words and the rooms of the code, held by numbers: `LIMITS` may go down, never up.

`PLAIN` names what to write instead of a word of the private dialect that the code once had.
"""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]
ITSELF = "tests/project/test_words.py"  # it has to name the words

Tree = Mapping[str, str]  # text by path

LIMITS = {
    "dialect in texts": 5,  # told, anew, whoever, nobody, mend
    "dialect in identifiers": 0,  # of poller/
    "polls that are looks": 0,
    "room-to-room imports": 48,
    "entries at the root": 16,
    "lines of a function": 50,
}

PLAIN = {
    "anew": "again, or re-read, reopen, rewrite",
    "dominance": "the test of what one policy saves over another",
    "exposition": "metrics",
    "finding": "fault or reason",
    "findings": "failures",
    "hangup": "reload",
    "inflow": "ingest",
    "making": "build",
    "mend": "fix",
    "nobody": "no one, no process, or the passive voice",
    "outlet": "delivery loop",
    "portion": "batch",
    "portions": "batches",
    "pulse": "health check",
    "said": "received, reported or message",
    "say": "log or write",
    "says": "detail or message",
    "sheet": "csv",
    "stands": "is",
    "standing": "status",
    "stories": "task details",
    "story": "task details",
    "surroundings": "environment",
    "swift": "event loop",
    "tally": "counters",
    "telling": "reporting",
    "tells": "shows or reports",
    "told": "received, reported or message",
    "turnstile": "admission",
    "verdict": "decision or status",
    "verdicts": "statuses",
    "weather": "outage",
    "whoever": "the one that, or name it",
    "wording": "error text",
}
IN_TEXTS = {"told", "anew", "whoever", "nobody", "mend"}


def words(text: str) -> list[str]:
    """Return the words of a text or an identifier: `_TOLD`, `wasTold` and `told_by` all contain `told`."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)]


def words_of(tree: Tree) -> Counter[str]:
    """Return how often each file contains a word that a text must not have."""
    return Counter({path: found for path, text in tree.items() if (found := sum(w in IN_TEXTS for w in words(text)))})


@cache
def nodes(source: str) -> list[ast.AST]:
    """Return all of a module's syntax tree."""
    return list(ast.walk(ast.parse(source)))


@cache
def identifiers(source: str) -> set[str]:
    """Return every name that a module defines, calls or uses as a keyword."""
    found: set[str] = set()
    for node in nodes(source):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
    return found


def dialect(tree: Tree) -> list[str]:
    """Return each identifier of the private dialect, with what to write instead."""
    return [
        f"{path}: {name}: {word} is {PLAIN[word]}"
        for path, text in sorted(tree.items())
        for name in sorted(identifiers(text))
        for word in sorted(set(words(name)) & PLAIN.keys())
    ]


def looks(tree: Tree) -> list[str]:
    """Return each identifier that names a poll a look; `looks_like_csv` and the sentences of tests are allowed."""
    return [
        f"{path}: {name}: look is poll"
        for path, text in sorted(tree.items())
        for name in (sorted(identifiers(text)) if "look" in text.lower() else ())
        if {"look", "looks", "looked"} & set(words(name.replace("looks_like", ""))) and not name.startswith("test_")
    ]


def class_names(tree: Tree) -> Counter[str]:
    return Counter(node.name for text in tree.values() for node in nodes(text) if isinstance(node, ast.ClassDef))


def room_imports(tree: Tree) -> set[tuple[str, str]]:
    """Return which room imports from which."""
    found = set()
    for path, text in tree.items():
        room = path.split("/")[1]
        for node in nodes(text):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            found |= {(room, name.split(".")[1]) for name in names if name.startswith("poller.")}
    return {(room, other) for room, other in found if room != other and not room.endswith(".py")}


def long_functions(tree: Tree) -> Iterator[str]:
    """Yield functions that do not fit a screen; the flag list of a command may be longer."""
    for path, text in sorted(tree.items()):
        for node in nodes(text):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_flag_list(path, node):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > LIMITS["lines of a function"]:
                    yield f"{path}:{node.lineno} {node.name} has {length} lines"


def is_flag_list(path: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return path == f"poller/cli/commands/{node.name}.py"


# --- the tree as git tracks it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree() -> Tree:
    """Return every tracked text of the repository but this one."""
    if not (HOUSE / ".git").exists():
        pytest.skip("not a git checkout")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=HOUSE, capture_output=True, text=True, check=True).stdout  # noqa: S607 - whichever git there is
    found = {}
    for name in filter(None, tracked.split("\0")):
        if name != ITSELF and (HOUSE / name).is_file():
            try:
                found[name] = (HOUSE / name).read_text("utf-8")
            except UnicodeDecodeError:
                continue  # an image
    return found


@pytest.fixture(scope="module")
def python(tree: Tree) -> Tree:
    return {path: text for path, text in tree.items() if path.endswith(".py")}


@pytest.fixture(scope="module")
def package(python: Tree) -> Iterator[Tree]:
    yield {path: text for path, text in python.items() if path.startswith("poller/")}
    nodes.cache_clear()  # 80 MB


def test_the_words_of_the_private_dialect_go_out_of_use(tree: Tree) -> None:
    found = words_of(tree)
    assert found.total() <= LIMITS["dialect in texts"], "\n".join(f"{n} in {path}" for path, n in found.most_common())


def test_identifiers_use_the_words_of_the_field(package: Tree) -> None:
    found = dialect(package)
    assert len(found) <= LIMITS["dialect in identifiers"], "\n".join(found)


def test_a_poll_is_called_a_poll(python: Tree) -> None:
    found = looks(python)
    assert len(found) <= LIMITS["polls that are looks"], "\n".join(found)


def test_a_class_name_is_used_once(package: Tree) -> None:
    assert [name for name, count in class_names(package).items() if count > 1] == []


def test_the_root_of_the_package_holds_rooms_only(package: Tree) -> None:
    entries = {path.split("/")[1] for path in package} | {"py.typed"}
    assert {name for name in entries if "." in name} == {"__init__.py", "__main__.py", "py.typed"}
    assert len(entries) <= LIMITS["entries at the root"]


def test_rooms_import_from_few_others(package: Tree) -> None:
    found = room_imports(package)
    assert len(found) <= LIMITS["room-to-room imports"], sorted(found)


def test_tests_are_in_the_room_of_what_they_test(python: Tree) -> None:
    at_the_top = {path for path in python if re.fullmatch(r"tests/[^/]+", path)}
    assert at_the_top == {"tests/__init__.py", "tests/conftest.py"}


def test_a_function_fits_a_screen(package: Tree) -> None:
    assert list(long_functions(package)) == []


# --- the checks themselves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["He told us.", "TOLD = 1", "def _told(): ...", "isTold", "never opened anew"])
def test_a_word_of_the_dialect_is_found_wherever_it_is(text: str) -> None:
    assert words_of({"a": text, "b": "recommend, foretold"}) == {"a": 1}


@pytest.mark.parametrize(
    "source",
    ["class Outlet: ...", "def f(story): ...", "x.verdict", "f(told=1)", "async def on_hangup(): ...", "TALLY = 1"],
)
def test_an_identifier_of_the_dialect_is_found_with_its_replacement(source: str) -> None:
    (found,) = dialect({"poller/a.py": source, "poller/b.py": "swiftly = 'told'  # a story"})
    assert re.fullmatch(r"poller/a\.py: \w+: \w+ is .+", found)


def test_a_look_is_found_and_a_lookup_is_not() -> None:
    assert len(looks({"a.py": "looks = last_look = 0", "b.py": "lookup = looks_like_csv = overlooked = 0"})) == 2


def test_a_second_class_of_a_name_a_foreign_import_and_a_long_function_are_found() -> None:
    long = "def f():\n" + "    pass\n" * LIMITS["lines of a function"]
    assert class_names({"a": "class A: ...", "b": "def f():\n    class A: ..."})["A"] == 2
    assert room_imports({"poller/web/a.py": "from poller.core.model import Task\nimport poller.web.b"}) == {
        ("web", "core")
    }
    assert list(long_functions({"poller/a.py": long})) == ["poller/a.py:1 f has 51 lines"]
    assert list(long_functions({"poller/cli/commands/f.py": long})) == []
