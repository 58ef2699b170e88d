"""PostgreSQL 15, the oldest that is supported: Debian's, where it is installed. The other tests have a newer one."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from poller.core.model import Chunk, Fed, Position
from poller.core.protocols import Clock
from poller.store import open_store

OLDEST = 15
PROGRAMS = Path(f"/usr/lib/postgresql/{OLDEST}/bin")


@pytest.fixture
def oldest_server() -> Iterator[str]:
    if not (PROGRAMS / "initdb").exists():
        pytest.skip(f"PostgreSQL {OLDEST} is not installed")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with tempfile.TemporaryDirectory(prefix="poller-oldest-") as temporary:
        if user is not None:
            os.chown(temporary, pwd.getpwnam(user).pw_uid, -1)
        data = Path(temporary, "data")

        def call(program: str, *arguments: str) -> None:
            command = [str(PROGRAMS / program), "-D", str(data), *arguments]
            subprocess.run(command, user=user, check=True, cwd=temporary, stdout=subprocess.DEVNULL)  # noqa: S603

        call("initdb", "-A", "trust", "-U", "postgres", "-N")
        call("pg_ctl", "-w", "-l", f"{temporary}/log", "-o", f"-F -h '' -k {temporary}", "start")
        try:
            yield f"postgresql://postgres@/postgres?host={temporary}"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
            shutil.rmtree(data)


@pytest.mark.real_time
@pytest.mark.parametrize("replica", [None, "r1"])
async def test_a_state_is_opened_and_fed(oldest_server: str, clock: Clock, replica: str | None) -> None:
    store = await open_store(oldest_server, clock=clock, replica=replica)
    try:
        if store.fleet is not None:
            assert await store.fleet.join(serves=["a"], settings={})
        source = await store.new_source("ids.txt")
        fed = (Fed(account="a", task_id="T1", ref=None),)
        await store.add(source, Chunk(fed=fed, rejected=(), blank=0, position=Position()))
        assert (await store.sums()).waiting == 1
    finally:
        await store.close()
