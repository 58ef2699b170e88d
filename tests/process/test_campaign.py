"""The crash campaign in short: the real process killed, failed and cut off at chosen points. `make crash` is long."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from campaign import trace
from campaign.bugs import misfits
from campaign.crash import BAD_DISK, DISK_FULL, KILL, Blow, Counts, Trial, carry_out, random_kills
from campaign.disk import Create, Disk, Rename, Sync, Truncate, Unlink, Write, steps
from campaign.power import FILES, cut_all
from campaign.rig import Shape
from campaign.targets import TARGETS
from campaign.trace import Point

traced = pytest.mark.skipif(trace.usable() is not None, reason=f"{trace.usable()}")
ALL = Shape(targets=list(TARGETS.values()))


async def counts_of(trials: list[Trial]) -> Counts:
    counts = Counts()
    await carry_out(trials, counts, float("inf"), lambda _words: None)
    return counts


# --- the real process ------------------------------------------------------------------------------------------------


@traced
@pytest.mark.real_time
async def test_a_kill_before_any_system_call_loses_and_repeats_nothing() -> None:
    points = [("pwrite64", 150), ("fdatasync", 25), ("write", 5), ("unlink", 6)]
    blows = [Blow(point=Point(call=call, number=number), fault=KILL) for call, number in points]
    counts = await counts_of([Trial(shape=ALL, blows=(blow,)) for blow in blows])
    assert counts.violations == []
    assert counts.killed_at == Counter(call for call, _ in points)


@traced
@pytest.mark.real_time
async def test_a_second_kill_while_the_first_is_recovered_from_loses_and_repeats_nothing() -> None:
    first, second = (Blow(point=Point(call="pwrite64", number=number), fault=KILL) for number in (150, 40))
    counts = await counts_of([Trial(shape=ALL, blows=(first, second))])
    assert counts.violations == []
    assert counts.blows == 2


@traced
@pytest.mark.real_time
async def test_a_failing_disk_is_never_taken_for_a_good_one() -> None:
    blows = [
        Blow(point=Point(call="pwrite64", number=120), fault=DISK_FULL, times=5),
        Blow(point=Point(call="fdatasync", number=20), fault=BAD_DISK),
    ]
    counts = await counts_of([Trial(shape=ALL, blows=(blow,)) for blow in blows])
    assert counts.violations == []
    assert (counts.blows, sum(counts.codes.values())) == (2, 2)


@traced
@pytest.mark.real_time
async def test_a_failing_call_that_is_never_made_is_no_blow() -> None:
    counts = await counts_of(
        [Trial(shape=ALL, blows=(Blow(point=Point(call="fdatasync", number=9999), fault=BAD_DISK),))]
    )
    assert (counts.violations, counts.blows) == ([], 0)


@traced
@pytest.mark.real_time
async def test_a_kill_before_what_is_sent_to_postgresql_loses_and_repeats_nothing() -> None:
    shape = Shape(targets=[TARGETS["jsonl"]], tasks=6, on_postgres=True)
    counts = await counts_of([Trial(shape=shape, blows=(Blow(point=Point(call="sendto", number=120), fault=KILL),))])
    assert counts.violations == []
    assert counts.blows == 1


@traced
@pytest.mark.real_time
async def test_a_power_cut_takes_back_nothing_that_a_reader_saw() -> None:
    shape = Shape(targets=[TARGETS[name] for name in FILES])
    recorded, violations = await cut_all(shape, None, 6, Random(5))
    assert violations == []
    assert recorded > 200


@pytest.mark.real_time
async def test_kills_at_random_instants_lose_and_repeat_nothing() -> None:
    counts = Counts()
    await random_kills(Shape(targets=ALL.targets, tasks=60, requests=5), 2, Random(3), counts)
    assert counts.violations == []
    assert counts.blows == 2


# --- the model of the disk -------------------------------------------------------------------------------------------

FOLDER = "/f"
FILE = "/f/a"


def disk_after(*done: Create | Write | Truncate | Sync | Unlink | Rename) -> Disk:
    disk = Disk(FOLDER)
    for step in done:
        disk.apply(step)
    return disk


NAMED = (Create(path=FILE), Sync(path=FOLDER))
WRITTEN = Write(path=FILE, offset=0, data=b"x" * 2000)


def test_what_was_synced_survives_every_cut() -> None:
    disk = disk_after(*NAMED, WRITTEN, Sync(path=FILE))
    assert all(disk.cut(Random(seed)) == {FILE: WRITTEN.data} for seed in range(50))


def test_what_was_not_synced_survives_in_any_part_sector_by_sector() -> None:
    disk = disk_after(*NAMED, WRITTEN)
    survivors = {disk.cut(Random(seed))[FILE] for seed in range(300)}
    assert b"" in survivors
    assert WRITTEN.data in survivors
    assert any(left.startswith(bytes(512)) and b"x" in left for left in survivors)
    assert disk.cut(None) == {FILE: b""}
    assert disk.seen() == {FILE: WRITTEN.data}


def test_a_name_is_safe_only_when_its_folder_was_synced() -> None:
    assert disk_after(Create(path=FILE), WRITTEN, Sync(path=FILE)).cut(None) == {}
    moved = disk_after(*NAMED, WRITTEN, Sync(path=FILE), Rename(path=FILE, to="/f/b"))
    assert moved.cut(None) == {FILE: WRITTEN.data}
    assert moved.seen() == {"/f/b": WRITTEN.data}
    assert disk_after(*NAMED, Unlink(path=FILE)).cut(None) == {FILE: b""}
    assert disk_after(*NAMED, Unlink(path=FILE), Sync(path=FOLDER)).cut(None) == {}


def test_a_log_of_strace_is_read_as_what_was_done(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        '7 openat(AT_FDCWD<\\x2f>, "\\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 3<\\x2f\\x66\\x2f\\x61>\n'
        '7 pwrite64(3<\\x2f\\x66\\x2f\\x61>, "\\x68\\x69\\x21", 3, 4096) = 2\n'
        "7 ftruncate(3<\\x2f\\x66\\x2f\\x61>, 1) = 0\n"
        "7 fdatasync(3<\\x2f\\x66\\x2f\\x61>) = -1 EIO (Input/output error)\n"
        "7 fsync(4<\\x2f\\x66>)             = 0\n"
        '7 unlink("\\x2f\\x66\\x2f\\x61") = ?\n'
    )
    assert steps(log, Path(FOLDER)) == [
        Create(path=FILE),
        Write(path=FILE, offset=4096, data=b"hi"),
        Truncate(path=FILE, size=1),
        Sync(path=FOLDER),
    ]


# --- the planted bugs ------------------------------------------------------------------------------------------------


def test_every_bug_can_still_be_planted() -> None:
    assert misfits() == []
