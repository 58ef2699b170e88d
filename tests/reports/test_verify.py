"""Proving a file against the state."""

from collections.abc import AsyncIterator, Sequence

import orjson
from hypothesis import given
from hypothesis import strategies as st

from poller.core.deliveries import Delivery
from poller.reports.verify import Comparison, compare


def record(number: int, note: str = "") -> Delivery:
    body = orjson.dumps({"task_id": f"t{number}", "account": "default", "note": note})
    return Delivery(number=number, account="default", task_id=f"t{number}", body=body)


async def compared(lines: Sequence[bytes], records: Sequence[Delivery]) -> Comparison:
    async def stream() -> AsyncIterator[Delivery]:
        for one in records:
            yield one

    return await compare(iter(lines), stream())


RECORDS = [record(number) for number in range(1, 6)]
LINES = [one.body for one in RECORDS]
FINISHED = {("default", one.task_id) for one in RECORDS}


async def differences(lines: Sequence[bytes]) -> list[str]:
    comparison = await compared(lines, RECORDS)
    return list(comparison.differences(FINISHED & comparison.suspects()))


async def test_a_file_with_each_record_once_is_equal_in_any_order() -> None:
    assert (await compared(LINES, RECORDS)).is_equal
    assert (await compared(LINES[::-1], RECORDS)).is_equal


async def test_a_missing_record_is_named() -> None:
    assert await differences(LINES[:2] + LINES[3:]) == ["missing: task t3 of account default (record 3)"]


async def test_a_record_that_is_there_twice_is_named_with_its_line() -> None:
    assert await differences([*LINES, LINES[1]]) == ["line 6: task t2 of account default is in the file twice"]


async def test_a_record_that_is_there_twice_in_front_of_its_place_is_named() -> None:
    assert await differences([LINES[4], LINES[4], *LINES[:4]]) == [
        "line 2: task t5 of account default is in the file twice"
    ]


async def test_a_changed_record_is_named_once() -> None:
    changed = [LINES[0], record(2, "changed").body, *LINES[2:]]
    assert await differences(changed) == ["line 2: task t2 of account default differs from its record"]


async def test_a_foreign_line_and_a_torn_line_are_named() -> None:
    assert await differences([*LINES, record(9).body, LINES[0][:10]]) == [
        "line 6: task t9 of account default is not in the state",
        "line 7: is not a record: cut off, or written by another program",
    ]


async def test_no_identity_in_a_line_can_steer_a_terminal() -> None:
    hostile = orjson.dumps({"task_id": "\x1b[2Jt", "account": "\x9b1m"})
    assert await differences([*LINES, hostile]) == ["line 6: task \ufffd[2Jt of account \ufffd1m is not in the state"]


@given(data=st.data())
async def test_a_file_is_equal_exactly_when_it_is_a_permutation_of_the_records(data: st.DataObject) -> None:
    lines = data.draw(st.lists(st.sampled_from([*LINES, b"{}", record(7).body]), max_size=8))
    comparison = await compared(lines, RECORDS)
    assert comparison.is_equal == (sorted(lines) == sorted(LINES))
    assert (comparison.lines, comparison.records) == (len(lines), len(RECORDS))
