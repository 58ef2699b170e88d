"""The campaign of kills for starts in short, at chosen instants: `make crash` is long."""

import subprocess
import sys
from pathlib import Path

import pytest

from campaign.starts import Blow, Counts, ImportTrial, Instant
from tests.support.processes import TOKEN, wait_until

pytestmark = pytest.mark.real_time


@pytest.mark.parametrize(
    ("url", "blows"),
    [
        (None, [Instant(requests=9, after_s=0.0), Instant(requests=6, after_s=0.02)]),
        ("postgres_url", [Instant(requests=9, after_s=0.0)]),
    ],
    ids=["sqlite", "postgres"],
)
async def test_kills_in_mid_start_lose_no_row_and_repeat_none_that_its_record_does_not_name(
    tmp_path: Path, request: pytest.FixtureRequest, url: str | None, blows: list[Blow]
) -> None:
    counts = Counts()
    state = None if url is None else str(request.getfixturevalue(url))
    await ImportTrial(tmp_path, counts, state, forks=True).run(blows)
    assert counts.violations == []
    assert counts.kills == len(blows)
    assert 0 < counts.unsure == counts.repeated


CAMPAIGN = f"""
import sys, time
from pathlib import Path
from campaign import forked
forked.PRELOADED = ()
words = ["sandbox", "--port", "0"]
print(forked.Forked(words, Path(sys.argv[1]), {{"HUBSPOT_TOKEN": "{TOKEN}"}}, ()).pid, flush=True)
time.sleep(600)
"""


def test_a_campaign_that_is_killed_leaves_no_poller_behind(tmp_path: Path) -> None:
    log = tmp_path / "stderr.log"
    log.touch()
    command = [sys.executable, "-c", CAMPAIGN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as campaign:  # noqa: S603 - our own
        try:
            assert campaign.stdout is not None
            pid = int(campaign.stdout.readline())
            wait_until(lambda: "http://" in log.read_text(), "the forked process")
        finally:
            campaign.kill()
    wait_until(lambda: not is_running(pid), "the end of the forked process")


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it may end in the middle of the reading
        return False
