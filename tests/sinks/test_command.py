"""The command sink with real programs: acknowledged by exit status, out of time, killed with its children."""

# ruff: noqa: ASYNC240 - the tests read small local files

import asyncio
import os
import signal
import sys
import textwrap
import time
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Sink
from poller.sinks import make_sink
from tests.support.makers import sink_environment

pytestmark = pytest.mark.real_time

Events = list[MutableMapping[str, Any]]
PATIENCE_S = 60.0  # for what other processes do, on a loaded machine


def delivery(number: int, body: bytes | None = None) -> Delivery:
    return Delivery(number=number, account="main", task_id=f"t{number}", body=body or b'{"task_id":"t%d"}' % number)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


def lines(batch: list[Delivery]) -> bytes:
    return b"".join(one.body + b"\n" for one in batch)


async def python(program: str, folder: Path, **options: Any) -> Sink:
    """Return an open sink that runs `program` with a folder to write to."""
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
    sink = make_sink({"kind": "command", "command": command} | options, sink_environment(HUBSPOT_TOKEN="secret"))
    await sink.open(None, [])
    return sink


KEEP = """
    import os, sys
    open(sys.argv[1] + "/runs", "ab").write(b"%d\\n" % len(data := sys.stdin.buffer.read().splitlines(True)))
    open(sys.argv[1] + "/kept", "ab").writelines(data)
"""


async def test_a_batch_is_ndjson_on_standard_input_and_status_0_acknowledges_it(tmp_path: Path) -> None:
    sink = await python(KEEP, tmp_path, batch=3)
    assert await sink.write(deliveries(7)) == Written()
    assert (tmp_path / "kept").read_bytes() == lines(deliveries(7))
    assert (tmp_path / "runs").read_text().split() == ["3", "3", "1"]


async def test_a_large_batch_passes_through_a_small_pipe(tmp_path: Path) -> None:
    batch = [delivery(number, b"%d" % number * 20_000) for number in range(100)]
    sink = await python(KEEP, tmp_path)
    assert await sink.write(batch) == Written()
    assert (tmp_path / "kept").read_bytes() == lines(batch)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("sys.exit(75)", "exit status 75"),
        ("sys.exit(1)", "exit status 1"),
        ("os.kill(os.getpid(), 15)", "ended by signal 15"),
        ("import time; time.sleep(60)", "no end within 0.5 s"),
    ],
)
async def test_anything_but_0_and_65_is_retried(tmp_path: Path, end: str, reason: str) -> None:
    program = f"import os, sys\nif not os.path.exists(sys.argv[1] + '/retried'):\n    {end}\n" + textwrap.dedent(KEEP)
    sink = await python(program, tmp_path, timeout_s=0.5 if "sleep" in end else 30)
    answer = await sink.write(deliveries(2))
    assert isinstance(answer, Retry)
    assert answer.reason == reason
    (tmp_path / "retried").touch()
    assert await sink.write(deliveries(2)) == Written()
    assert (tmp_path / "kept").read_bytes() == lines(deliveries(2))


async def test_status_65_makes_dead_letters_of_the_guilty_records_only(tmp_path: Path, events: Events) -> None:
    sink = await python(
        """
        import sys
        data = sys.stdin.buffer.read()
        if b'"t3"' in data or b'"t9"' in data:
            print("no such import")
            sys.exit(65)
        open(sys.argv[1] + "/kept", "ab").write(data)
        """,
        tmp_path,
    )
    assert await sink.write(deliveries(12)) == Written(refused=dict.fromkeys((3, 9), "exit status 65: no such import"))
    assert (tmp_path / "kept").read_bytes() == lines([one for one in deliveries(12) if one.number not in (3, 9)])
    assert {event["event"] for event in events} == {"command.failed"}


async def test_a_program_out_of_time_is_killed_with_its_children(tmp_path: Path) -> None:
    sink = await python(
        """
        import os, subprocess, sys, time
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(sys.argv[1] + "/pids", "w").write(f"{os.getpid()} {child.pid}")
        time.sleep(600)
        """,
        tmp_path,
        timeout_s=3,
    )
    assert isinstance(await sink.write(deliveries(1)), Retry)
    assert await all_gone(tmp_path / "pids")


async def test_a_cancelled_write_kills_its_program(tmp_path: Path) -> None:
    sink = await python(
        """
        import os, sys, time
        open(sys.argv[1] + "/pid", "w").write(str(os.getpid()))
        os.rename(sys.argv[1] + "/pid", sys.argv[1] + "/pids")
        time.sleep(600)
        """,
        tmp_path,
    )
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        writing = group.create_task(sink.write(deliveries(1)))
        while not (tmp_path / "pids").exists():  # noqa: ASYNC110 - what another process does
            await asyncio.sleep(0.02)
        writing.cancel()
    assert await all_gone(tmp_path / "pids")


async def all_gone(file: Path) -> bool:
    """Return whether the processes listed in a file end, and the first one is reaped."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            program, *children = map(int, file.read_text().split())
            while Path("/proc", str(program)).exists() or any(map(is_alive, children)):  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.02)
            return True
    return False


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # killed, and not yet reaped


async def test_a_child_that_lives_on_with_the_output_open_is_not_waited_for(tmp_path: Path) -> None:
    sink = await python(
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(sys.argv[1] + "/pids", "w").write(str(child.pid))
        """,
        tmp_path,
    )
    began_at = time.monotonic()
    assert await sink.write(deliveries(1)) == Written()
    assert time.monotonic() - began_at < 10
    os.kill(int((tmp_path / "pids").read_text()), signal.SIGKILL)


async def test_a_program_that_reads_nothing_may_still_acknowledge(tmp_path: Path) -> None:
    batch = [delivery(number, b"x" * 100_000) for number in range(20)]
    assert await (await python("pass", tmp_path)).write(batch) == Written()


def test_a_program_that_ends_before_its_input_is_written_is_judged_by_its_status_under_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def write() -> list[Written | Retry]:
        sink = make_sink("command:false", sink_environment())
        await sink.open(None, [])
        return [await sink.write(deliveries(500)) for _ in range(30)]

    assert {type(result) for result in uvloop.run(write())} == {Retry}


async def test_a_program_s_output_is_logged_within_bounds(tmp_path: Path, events: Events) -> None:
    sink = await python("import sys; print('loaded'); sys.stdout.flush(); sys.stderr.write('x' * 9_000)", tmp_path)
    for _ in range(3):
        await sink.write(deliveries(1))
    (event,) = events
    assert (event["event"], event["log_level"]) == ("command.wrote", "info"), "and the next ones are folded"
    assert event["output"].startswith("loaded")
    assert len(event["output"]) == 1000
    assert event["more_bytes"] == 9_007 - 1000


async def test_a_failing_program_s_output_is_a_warning(tmp_path: Path, events: Events) -> None:
    sink = await python("raise SystemExit('cannot connect')", tmp_path)
    await sink.write(deliveries(1))
    (event,) = events
    assert (event["event"], event["log_level"]) == ("command.failed", "warning")
    assert (event["status"], event["output"]) == (1, "cannot connect")


async def test_hubspot_s_token_is_not_handed_on(tmp_path: Path) -> None:
    sink = await python("import os, sys; open(sys.argv[1] + '/names', 'w').write(' '.join(os.environ))", tmp_path)
    await sink.write(deliveries(1))
    names = (tmp_path / "names").read_text().split()
    assert "PATH" in names
    assert "HUBSPOT_TOKEN" not in names


async def test_waits_double_up_to_a_minute_and_start_again_after_success(tmp_path: Path) -> None:
    (tmp_path / "fail").touch()
    sink = await python("import os, sys; sys.exit(os.path.exists(sys.argv[1] + '/fail'))", tmp_path)
    waits = []
    for _ in range(9):
        answer = await sink.write(deliveries(1))
        assert isinstance(answer, Retry)
        waits.append(answer.wait_s)
    assert all(wait_s <= step for wait_s, step in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60], strict=True))
    assert max(waits) > 8
    (tmp_path / "fail").unlink()
    assert await sink.write(deliveries(1)) == Written()
    (tmp_path / "fail").touch()
    answer = await sink.write(deliveries(1))
    assert isinstance(answer, Retry)
    assert answer.wait_s <= 1


# --- settings --------------------------------------------------------------------------------------------------------


async def test_a_missing_program_is_refused_at_the_start() -> None:
    with pytest.raises(SinkError, match=r"no executable '\./nowhere'"):
        await make_sink("command:./nowhere --now", sink_environment()).open(None, [])


async def test_a_program_that_vanishes_meanwhile_is_waited_for(tmp_path: Path) -> None:
    program = tmp_path / "load"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o700)
    sink = make_sink(f"command:{program}", sink_environment())
    await sink.open(None, [])
    assert await sink.write(deliveries(1)) == Written()
    program.unlink()
    answer = await sink.write(deliveries(1))
    assert isinstance(answer, Retry)
    assert answer.reason == f"{program} cannot be started: No such file or directory"


def test_a_line_is_split_as_a_shell_would_and_never_run_by_one() -> None:
    line = make_sink("command:load 'a b' $HOME", sink_environment())
    table = make_sink({"kind": "command", "command": ["load", "a b", "$HOME"]}, sink_environment())
    assert line.name == table.name


@pytest.mark.parametrize("spec", ["command", "command: ", {"kind": "command", "command": []}, "command:load 'a"])
def test_an_unusable_command_is_a_configuration_error(spec: Any) -> None:
    with pytest.raises(ConfigError, match=r"^sink command"):
        make_sink(spec, sink_environment())


def test_names_tell_commands_apart_and_show_no_arguments() -> None:
    names = [
        make_sink(f"command:{line}", sink_environment()).name
        for line in ("/opt/load", "load -p hunter2", "load -p hunter3")
    ]
    assert names[0] == "command:load"
    assert len(set(names)) == 3
    assert "hunter" not in str(names)
    assert make_sink("command:load -p hunter2", sink_environment()).name == names[1]
