"""The campaign of kills for starts in short, at chosen instants: `make crash` is long."""

from pathlib import Path

import pytest

from campaign.starts import Blow, Counts, ImportTrial, Instant

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
    await ImportTrial(tmp_path, counts, state).run(blows)
    assert counts.violations == []
    assert counts.kills == len(blows)
    assert 0 < counts.unsure == counts.repeated
