"""The campaign of kills for starts in short: `make crash` is long."""

from pathlib import Path

import pytest

from campaign.starts import campaign


@pytest.mark.real_time
async def test_kills_in_mid_start_lose_no_row_and_repeat_none_that_its_record_does_not_name(tmp_path: Path) -> None:
    counts = await campaign(4, 0, seed=11, a_trial=4, into=tmp_path)
    assert counts.violations == []
    assert counts.kills == 4
