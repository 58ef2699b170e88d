"""Sinks are made of specs and tables, other people's among them; wrong ones are refused with the remedy."""

import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from poller.core.deliveries import Delivery
from poller.core.errors import ConfigError, Exit, SinkError
from poller.core.protocols import Clock
from poller.sandbox import Scenario, parse_durations
from poller.sinks import check_sinks, make_sink, make_sinks, written_files
from poller.sinks.files.sink import FileSink
from poller.sinks.registry import KINDS
from poller.sinks.stdout import StdoutSink
from tests.support.makers import sink_environment
from tests.support.simulation import Simulation

EXAMPLE = Path(__file__).parent / "sink_plugin"
ENVIRONMENT = sink_environment()
Install = Callable[[str, Mapping[str, str], str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs a package of one module, as pip would: its code and its metadata."""
    site = tmp_path / "site-packages"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install_one(name: str, points: Mapping[str, str], code: str) -> None:
        module = next(iter(points.values())).partition(":")[0]
        monkeypatch.delitem(sys.modules, module, raising=False)
        (site / f"{module}.py").write_text(code)
        info = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        lines = [f"{point} = {target}" for point, target in points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[poller.sinks]", *lines, ""]))

    return install_one


# --- other people's sinks --------------------------------------------------------------------------------------------


async def test_the_example_package_gets_every_finished_task(tmp_path: Path, clock: Clock, install: Install) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    points = project["entry-points"]["poller.sinks"]
    install(project["name"], points, (EXAMPLE / "poller_sink_folder.py").read_text())
    simulation = Simulation(tmp_path, clock, Scenario(fates={}, durations=parse_durations("fixed:5")))
    ids = simulation.write_ids(30)
    flags = {"sinks": [f"folder:{tmp_path}/each", f"jsonl:{tmp_path}/finished.jsonl"]}
    assert await simulation.run(ids, flags) is Exit.ALL_COMPLETE
    kept = {file.name.split(".")[1]: file.read_bytes() for file in (tmp_path / "each").iterdir()}
    assert kept == {one["task_id"]: line for one, line in zip(simulation.records(), lines_of(tmp_path), strict=True)}


def lines_of(folder: Path) -> list[bytes]:
    return (folder / "finished.jsonl").read_bytes().splitlines()


def test_the_readme_shows_the_example_whole() -> None:
    """The example is short enough to be read, and complete."""
    code = (EXAMPLE / "poller_sink_folder.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 25


def test_a_package_is_loaded_only_when_its_sink_is_named(install: Install) -> None:
    install("poller-sink-loud", {"loud": "loud_sink:make"}, "raise SystemExit('loaded')")
    assert make_sink("jsonl:x.jsonl", ENVIRONMENT).name == "jsonl:x.jsonl"
    check_sinks(["loud:x"])
    with pytest.raises(SystemExit, match="loaded"):
        make_sink("loud:x", ENVIRONMENT)


def test_a_package_that_is_installed_while_we_run_is_found(install: Install) -> None:
    with pytest.raises(ConfigError, match="there is no sink 'late'"):
        check_sinks(["late:x"])
    install("poller-sink-late", {"late": "late_sink:make"}, "")
    check_sinks(["late:x"])


def test_target_options_and_a_name_reach_a_package_s_sink(install: Install) -> None:
    code = """
class Sink:
    async def open(self, position, following): ...
    async def write(self, batch): ...
    async def close(self): ...
def make(target, options):
    sink = Sink()
    sink.name, sink.given = "mine:" + target, (target, dict(options))
    return sink
"""
    install("poller-sink-mine", {"mine": "mine_sink:make"}, code)
    sink: Any = make_sink({"kind": "mine", "target": "here", "speed": 3}, ENVIRONMENT)
    assert (sink.name, sink.given) == ("mine:here", ("here", {"speed": 3}))
    assert make_sink({"kind": "mine", "name": "other"}, ENVIRONMENT).name == "other"
    assert make_sink("mine", ENVIRONMENT).name == "mine:"


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("def make(target, options): return object()", "is no sink: it has no name, open, write, close"),
        ("def make(target, options): raise ValueError('needs a target')", "ValueError: needs a target"),
        ("import nowhere", "cannot be made: ModuleNotFoundError"),
        ("other = 1", "cannot be made: AttributeError"),
    ],
)
def test_a_package_without_a_usable_sink_is_named(install: Install, code: str, problem: str) -> None:
    install("poller-sink-bad", {"bad": "bad_sink:make"}, code)
    with pytest.raises(ConfigError) as caught:
        make_sink("bad:x", ENVIRONMENT)
    assert str(caught.value).startswith("sink bad of the package poller-sink-bad ")
    assert problem in str(caught.value)


def test_a_kind_that_two_packages_define_is_refused(install: Install) -> None:
    install("poller-sink-mine", {"jsonl": "mine_sink:make", "other": "mine_sink:make"}, "")
    install("poller-sink-yours", {"other": "yours_sink:make"}, "")
    with pytest.raises(ConfigError, match="jsonl is defined by poller itself and by poller-sink-mine"):
        make_sink("jsonl:x", ENVIRONMENT)
    with pytest.raises(ConfigError, match="other is defined by poller-sink-mine and by poller-sink-yours"):
        check_sinks(["other"])
    assert make_sink("stdout", ENVIRONMENT).name == "stdout"


def test_kinds_of_packages_are_among_the_known_ones(install: Install) -> None:
    install("poller-sink-mine", {"mine": "mine_sink:make"}, "")
    with pytest.raises(ConfigError, match="Known kinds: command, csv, jsonl, mine, sql, stdout, webhook"):
        make_sink("kafka:x", ENVIRONMENT)


# --- specs and tables ------------------------------------------------------------------------------------------------


def test_a_spec_names_its_sink() -> None:
    assert make_sink("stdout", ENVIRONMENT).name == "stdout"
    assert make_sink("jsonl:out/finished.jsonl", ENVIRONMENT).name == "jsonl:out/finished.jsonl"
    assert make_sink("jsonl:./a:b.jsonl", ENVIRONMENT).name == "jsonl:a:b.jsonl"


@pytest.mark.parametrize("spec", ["", "kafka:topic", "jsonl", "jsonl:", "stdout:x", "finished.jsonl"])
def test_an_unusable_spec_is_a_configuration_error(spec: str) -> None:
    with pytest.raises(ConfigError):
        make_sink(spec, ENVIRONMENT)


def test_an_unknown_kind_is_answered_with_the_known_ones_and_the_one_that_was_meant() -> None:
    with pytest.raises(ConfigError, match=r"there is no sink 'kafka'\. Known kinds: command, csv, jsonl, sql, stdout"):
        make_sink("kafka:topic", ENVIRONMENT)
    for spec, meant in [("json:a", "jsonl:…"), ("jsnol:a", "jsonl:…"), ("http:a", "webhook:…"), ("stdot", "stdout")]:
        with pytest.raises(ConfigError, match=rf"did you mean {meant}\? Known kinds"):
            make_sink(spec, ENVIRONMENT)


def test_a_table_has_a_spec_s_settings_and_more() -> None:
    assert (
        make_sink({"kind": "jsonl", "path": "a.jsonl"}, ENVIRONMENT).name
        == make_sink("jsonl:a.jsonl", ENVIRONMENT).name
    )
    assert make_sink({"kind": "jsonl", "target": "a.jsonl"}, ENVIRONMENT).name == "jsonl:a.jsonl"
    assert isinstance(
        make_sink({"kind": "jsonl", "path": "f-%Y%m%d.jsonl", "rotate_bytes": 10**6}, ENVIRONMENT), FileSink
    )
    assert isinstance(make_sink({"kind": "stdout", "name": "out"}, ENVIRONMENT), StdoutSink)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("jsonl", "sink jsonl needs a target, such as jsonl:finished.jsonl"),
        ("stdout:x", "sink stdout takes no target; write just: stdout"),
        ({"kind": "jsonl"}, "sink jsonl needs a target"),
        ({"kind": "jsonl", "rotate_bytes": 10_000}, "sink jsonl: path: is missing"),
        ({"kind": "jsonl", "path": "a", "rotate_bytes": 1}, "rotate_bytes: must be greater than or equal to 4096"),
        ({"kind": "jsonl", "path": "a", "rotate_byte": 1}, "did you mean rotate_bytes?"),
        ({"kind": "jsonl", "path": 3}, "sink jsonl: path: must be a path, in quotes"),
        ({"kind": "stdout", "colour": "red"}, "colour: there is no such setting; see config.example.toml"),
        ({"kind": "jsonl", "path": "a", "name": ""}, "name must be 1 to 200 printable characters"),
        ({"kind": "jsonl", "path": "a", "name": 3}, "name must be 1 to 200 printable characters"),
        ({"kind": "jsonl", "target": 3}, "target must be text, in quotes"),
    ],
)
def test_a_wrong_spec_is_refused_when_made_and_when_checked(spec: Any, problem: str) -> None:
    for attempt in (lambda: make_sink(spec, ENVIRONMENT), lambda: check_sinks([spec])):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert problem in str(caught.value)


def test_every_problem_of_a_table_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        check_sinks([{"kind": "webhook", "url": "x", "batch": "many", "colour": 1}])
    assert [line.split(":")[1].strip() for line in str(caught.value).splitlines()] == ["url", "batch", "colour"]


def test_checking_needs_no_secret_and_opens_nothing(tmp_path: Path) -> None:
    check_sinks(
        [
            {"kind": "webhook", "url_env": "NOT_SET", "secret_env": "NOT_SET"},
            {"kind": "sql", "url_file": "/nonexistent"},
            f"jsonl:{tmp_path}/new.jsonl",
            "command:not-there",
        ]
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spec", ["jsonl:caf\udce9.jsonl", {"kind": "jsonl", "path": "caf\udce9.jsonl"}])
def test_a_path_that_is_not_utf_8_is_refused_for_the_state_knows_a_sink_by_it(spec: Any) -> None:
    with pytest.raises(ConfigError, match="is not UTF-8"):
        make_sink(spec, ENVIRONMENT)


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["jsonl:no/such/f.jsonl"], "its folder does not exist"),
        (["csv:no/f-%Y.csv"], "its folder does not exist"),
        (["jsonl:/dev/null"], "is not a regular file"),
        (["jsonl:f.jsonl", "jsonl:f.jsonl"], "two have the name jsonl:f.jsonl"),
    ],
)
def test_sinks_that_no_state_could_use_are_refused_before_a_new_one_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, specs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, SinkError), match=message):
        check_sinks(specs, ENVIRONMENT, is_new=True)
    assert list(tmp_path.iterdir()) == []


def test_two_sinks_of_one_name_are_refused_with_the_remedy() -> None:
    same = [{"kind": "webhook", "url": f"https://x.example/in?key={key}"} for key in ("a", "b")]
    with pytest.raises(ConfigError, match=r"two have the name webhook:https://x.example/in. Give one another"):
        make_sinks(same, ENVIRONMENT)
    names = [sink.name for sink in make_sinks([same[0], same[1] | {"name": "b"}, "stdout"], ENVIRONMENT)]
    assert names == ["webhook:https://x.example/in", "b", "stdout"]


def test_two_sinks_for_standard_output_are_refused() -> None:
    """One of them waited forever for its turn, and their lines mixed."""
    with pytest.raises(ConfigError, match="two are stdout"):
        make_sinks(["stdout", {"kind": "stdout", "name": "again"}], sink_environment())


async def test_the_files_of_a_sink_that_does_not_rotate_are_its_one_file(tmp_path: Path) -> None:
    path = tmp_path / "finished.jsonl"
    assert written_files(path) == []
    sink = make_sink(f"jsonl:{path}", ENVIRONMENT)
    await sink.open(None, [])
    await sink.write([Delivery(number=1, account="a", task_id="t", body=b"{}")])
    await sink.close()
    assert written_files(path) == [path]


# --- the example of settings -----------------------------------------------------------------------------------------


def test_the_example_of_settings_holds_every_setting_of_every_sink_with_its_default() -> None:
    text = (EXAMPLE.parents[2] / "config.example.toml").read_text()
    sample = re.sub(r"(?m)^#     ", "", text[text.index("# Sinks with settings of their own") :])
    tables: list[dict[str, Any]] = tomllib.loads(sample)["sinks"]
    check_sinks(tables)
    assert {table["kind"] for table in tables} == KINDS.keys() - {"stdout"}
    for table in tables:
        model = KINDS[table["kind"]]
        assert [key for key in model.model_fields if key not in sample] == []
        read = model.read({key: value for key, value in table.items() if key != "kind"})
        changed = {key for key in read.model_fields_set if getattr(read, key) != model.model_fields[key].default}
        assert changed <= {"path", "url", "command", "rotate_bytes"}


def test_a_file_that_another_sink_may_give_its_own_is_refused() -> None:
    for one, other in (("a.jsonl", "a.2.jsonl"), ("a-%Y%m%d.jsonl", "a-20260105.jsonl")):
        with pytest.raises(ConfigError, match=f"{other} is a name that the sink of .*{one} gives its own files"):
            make_sinks([f"jsonl:{other}", f"jsonl:{one}"], ENVIRONMENT)
    assert len(make_sinks(["jsonl:a.jsonl", "jsonl:b/a.2.jsonl", "jsonl:a.2x.jsonl", "csv:a.csv"], ENVIRONMENT)) == 4
