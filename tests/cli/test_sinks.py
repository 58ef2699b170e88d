"""`poller sinks`: which replica delivers what, and a sink that follows its file to another machine."""

import pytest
from typer.testing import CliRunner

from poller.cli.app import app
from poller.cli.commands.sinks import move_to, show
from poller.cli.options import settings_of
from poller.core.errors import ConfigError
from poller.core.protocols import Clock
from poller.store import open_store

FILE, HOOK = "jsonl:finished.jsonl", "webhook:https://crm.example"


async def test_sinks_show_where_they_are_delivered_and_move(postgres_url: str, clock: Clock) -> None:
    settings = settings_of(None, state=postgres_url)
    store = await open_store(postgres_url, clock=clock, replica="a")
    assert store.fleet is not None
    await store.fleet.join(serves=["main"], settings={})
    await store.fleet.want_sinks([FILE, HOOK], shared=[HOOK])
    await store.fleet.take_sinks([FILE])
    assert await show(settings) == [
        f"{FILE}: delivered by a (only a)",
        f"{HOOK}: delivered by no replica now (any replica)",
    ]
    assert await move_to(settings, FILE, "a") == [f"{FILE} is delivered by a already"]
    first, second = await move_to(settings, FILE, "b")
    assert first == f"{FILE} is delivered by b from now on, no more by a"
    assert second == f"no replica is named b now: the records of {FILE} wait until it starts"
    await store.fleet.want_sinks([HOOK], shared=[HOOK])
    assert (await show(settings))[0] == f"{FILE}: delivered by a (only b; no replica names it)"
    with pytest.raises(ConfigError, match="has no home"):
        await move_to(settings, HOOK, "b")
    await store.close()
    with pytest.raises(ConfigError, match="no replica of a fleet uses"):
        await show(settings)


def test_a_state_that_is_a_file_has_no_sinks_to_move(tmp_path: object) -> None:
    state = f"sqlite:///{tmp_path}/poller.db"
    result = CliRunner().invoke(app, ["sinks", "--state", state, "--move", FILE, "--to", "b"])
    assert (result.exit_code, "is in no fleet" in result.output) == (78, True)


@pytest.mark.parametrize("flags", [["--move", FILE], ["--to", "b"]])
def test_a_move_needs_both_ends(flags: list[str]) -> None:
    result = CliRunner().invoke(app, ["sinks", *flags])
    assert (result.exit_code, "belong together" in result.output.replace("\n", " ")) == (2, True)
