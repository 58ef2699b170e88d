"""POST /v1/tasks: each line of a request is counted in the ledger once, and every accepted one is on disk."""

import asyncio
import gzip
import io
import json
import zlib
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.core.errors import Exit
from poller.core.protocols import Clock
from poller.reports.ledger import imbalances
from poller.sandbox import Scenario, parse_durations
from poller.web.request_body import MAX_BYTES, MAX_COMMAS, elements_of
from poller.web.responses import RequestRefused
from tests.support.simulation import Simulation, named
from tests.support.site import BASE, json_of, visited
from tests.support.virtual import MemoryConnector

TEXT, JSON, LINES, CSV = (
    {"Content-Type": f"{t}"} for t in ("text/plain", "application/json", "application/x-ndjson", "text/csv")
)
QUICK = Scenario(fates={}, durations=parse_durations("fixed:2"), requests=10_000)


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, QUICK)


async def post(session: aiohttp.ClientSession, body: Any, headers: dict[str, str], **query: str) -> dict[str, Any]:
    async with session.post("/v1/tasks", data=body, headers=headers, params=query) as response:
        assert response.status == 200, await response.text()
        return await json_of(response)


async def test_ids_posted_as_text_become_tasks_and_are_finished(simulation: Simulation) -> None:
    ids = simulation.api.preload(30)
    async with visited(simulation) as session:
        answer = await post(session, "# mine\n\n" + "\n".join([*ids, ids[0], "no good"]), TEXT)
        assert (answer["lines"], answer["accepted"], answer["duplicate"], answer["blank"]) == (34, 30, 1, 2)
        assert [(each["line"], each["excerpt"]) for each in answer["rejected"]] == [(34, "no good")]
        await asyncio.sleep(30)
    assert {record["task_id"] for record in simulation.records()} == set(ids)


@pytest.mark.parametrize(
    ("path", "name", "hint"),
    [
        ("/v1/tasks", "acount", "the nearest is account"),
        ("/v1/imports", "account_id", "the nearest is account"),
        ("/v1/tasks", "x\x1b", "known are account, id_column"),
    ],
)
async def test_a_mistyped_parameter_feeds_no_other_account(
    simulation: Simulation, path: str, name: str, hint: str
) -> None:
    flags = {"input": {"feeds": "imports"}, "imports": {"options": {"access": "PRIVATE", "folderPath": "/p"}}}
    async with (
        visited(simulation, flags=flags) as session,
        session.post(path, data="AAAA1\n", headers=TEXT, params={name: "eu"}) as response,
    ):
        answer = await json_of(response)
        assert (response.status, answer["error"], answer["accepted"]) == (400, "bad_query", 0)
        assert hint in answer["message"]
        assert answer["message"].isprintable()


async def test_each_content_type_is_read_in_its_format(simulation: Simulation) -> None:
    one, two, three, four, five, six = simulation.api.preload(6)
    async with visited(simulation) as session:
        lines = b'{"task_id": "%s", "url": "https://a/1"}\n"%s"\n' % (one.encode(), two.encode())
        assert (await post(session, lines, LINES))["accepted"] == 2
        array = orjson.dumps([{"id": three, "n": [1, {"x": "],["}]}, four])
        assert (await post(session, array, JSON))["accepted"] == 2
        assert (await post(session, f"name;taskId\na;{five}\n", CSV))["accepted"] == 1
        assert (await post(session, orjson.dumps({"id": six, "links": {}}), JSON))["accepted"] == 1
        async with session.get(f"/v1/tasks/{three}") as response:
            assert (await json_of(response))["ref"] == {"n": [1, {"x": "],["}]}
        async with session.post("/v1/tasks", data={"ids": one}) as response:
            assert response.status == 415
            assert "Content-Type: text/plain" in (await json_of(response))["message"]


async def test_ids_that_come_again_with_another_ref_are_counted(simulation: Simulation) -> None:
    one, two = simulation.api.preload(2)
    async with visited(simulation) as session:
        assert (await post(session, f"id,url\n{one},a\n{two},b\n", CSV))["other_refs"] == 0
        again = await post(session, f"id,url\n{one},a\n{two},c\n", CSV)
        assert (again["duplicate"], again["other_refs"]) == (2, 1)
        async with session.get(f"/v1/tasks/{two}") as response:
            assert (await json_of(response))["ref"] == {"url": "b"}


async def test_the_ledger_has_one_source_whose_lines_continue_after_a_restart(simulation: Simulation) -> None:
    ids = simulation.api.preload(4)
    async with visited(simulation) as session:
        await post(session, "\n".join([*ids[:2], "!"]), TEXT)
        await post(session, f"{ids[2]}\n", TEXT)
    async with visited(simulation) as session:
        await post(session, f"?\n{ids[3]}\n\n", TEXT)
    sums = await simulation.sums()
    assert imbalances(sums) == []
    assert [(each.name, each.lines, each.tasks, each.rejected, each.blank) for each in sums.sources] == [
        ("http", 7, 4, 2, 1)
    ]


async def test_a_request_of_too_many_lines_stores_nothing(simulation: Simulation) -> None:
    async with visited(simulation) as session:
        for body, headers in (
            ("\n".join(f"id{n}" for n in range(10_001)), TEXT),
            (orjson.dumps([f"id{n}" for n in range(10_001)]), JSON),
        ):
            async with session.post("/v1/tasks", data=body, headers=headers) as response:
                answer = await json_of(response)
                assert (response.status, answer["error"], answer["accepted"]) == (413, "too_many_lines", 0)
                assert "10,000" in answer["message"]
                assert "Nothing of this request is stored" in answer["message"]
    assert (await simulation.sums()).waiting == 0


async def test_ten_thousand_lines_and_a_header_are_not_too_many(simulation: Simulation) -> None:
    async with visited(simulation) as session:
        answer = await post(session, "task_id\n" + "\n".join(f"id{n}" for n in range(10_000)), CSV)
    assert (answer["accepted"], answer["blank"]) == (10_000, 1)


async def test_a_body_that_is_too_large_is_refused_compressed_or_not(simulation: Simulation) -> None:
    big, blank = b"x" * (MAX_BYTES + 1), gzip.compress(b"\n" * 1_000_000)
    async with visited(simulation) as session:
        for body, headers in ((big, TEXT), (gzip.compress(big), TEXT | {"Content-Encoding": "gzip"})):
            async with session.post("/v1/tasks", data=io.BytesIO(body), headers=headers) as response:
                assert (response.status, (await json_of(response))["error"]) == (413, "too_large")
        async with session.post("/v1/tasks", data=blank, headers=TEXT | {"Content-Encoding": "gzip"}) as response:
            assert (response.status, (await json_of(response))["error"]) == (413, "too_many_lines")
        packed = gzip.compress(b"id1\nid2\n")
        assert (await post(session, packed, TEXT | {"Content-Encoding": "gzip"}))["accepted"] == 2


@pytest.mark.parametrize("encoding", ["zstd", "br", "compress", "gzip, gzip", "none"])
async def test_a_content_encoding_that_is_not_known_is_refused_in_json(simulation: Simulation, encoding: str) -> None:
    body, headers = io.BytesIO(b"id1\n"), TEXT | {"Content-Encoding": encoding}
    async with visited(simulation) as session, session.post("/v1/tasks", data=body, headers=headers) as response:
        answer = await json_of(response)
        assert (response.status, answer["error"]) == (415, "unknown_content_encoding")
        assert "gzip" in answer["message"]
        assert "Nothing of this request is stored" in answer["message"]
    assert (await simulation.sums()).waiting == 0


RAW = zlib.compressobj(wbits=-15)
DEFLATED = {
    "gzip": gzip.compress(b"id1\n", mtime=0) + gzip.compress(b"id2\n", mtime=0),
    "deflate": zlib.compress(b"id1\nid2\n"),
}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [*DEFLATED.items(), ("deflate", RAW.compress(b"id1\nid2\n") + RAW.flush()), ("Identity", b"id1\nid2\n")],
)
async def test_a_body_is_unpacked_by_its_encoding(simulation: Simulation, encoding: str, body: bytes) -> None:
    async with visited(simulation) as session:
        headers = TEXT | {"Content-Encoding": encoding}
        assert (await post(session, io.BytesIO(body), headers))["accepted"] == 2


@pytest.mark.parametrize("body", [DEFLATED["gzip"][:-9], DEFLATED["deflate"][:-1], b"id1\nid2\n", b""])
async def test_a_packed_body_that_is_cut_off_or_not_packed_stores_nothing(simulation: Simulation, body: bytes) -> None:
    data, headers = io.BytesIO(body), TEXT | {"Content-Encoding": "gzip"}
    async with visited(simulation) as session, session.post("/v1/tasks", data=data, headers=headers) as response:
        answer = await json_of(response)
        assert (response.status, answer["error"]) == (400, "unreadable")
        assert "not encoded as its headers declare" in answer["message"]
    assert (await simulation.sums()).waiting == 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[1, 2", "truncated"),
        (b"[1 2] 3", "expected ',' or ']' (byte 3)"),
        (b"[1] 3", "trailing characters"),
        (b"[1,,2]", "byte 3"),
        (b'["a\n"]', "byte 3"),
        (b"[1,2)", "byte 4"),
        (b"[1}", "byte 2"),
        (b'["ok", {"id": tru}]', "byte 15"),
        (b"", "truncated"),
        (b"hello", "byte 0"),
        (b'{"id": ', "truncated"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
    ],
)
async def test_a_body_that_is_not_json_stores_nothing(simulation: Simulation, body: bytes, reason: str) -> None:
    async with visited(simulation) as session, session.post("/v1/tasks", data=body, headers=JSON) as response:
        answer = await json_of(response)
        assert response.status == 400
        assert "JSON" in answer["message"]
        assert reason in answer["message"]
    assert (await simulation.sums()).sources == ()


async def test_elements_that_are_not_ids_are_rejected_one_by_one(simulation: Simulation) -> None:
    body = b'[null, 17, "a/b", {"x": 1}, ' + b"[" * 300 + b"]" * 300 + b', {"id": true}, "ok"]'
    async with visited(simulation) as session:
        answer = await post(session, body, JSON)
    assert answer["accepted"] == 2
    assert [each["line"] for each in answer["rejected"]] == [1, 3, 4, 5, 6]


async def test_a_csv_without_an_id_column_is_refused_naming_its_columns(simulation: Simulation) -> None:
    async with visited(simulation) as session:
        async with session.post("/v1/tasks", data="name,nr\na,1\n", headers=CSV) as response:
            assert response.status == 400
            assert (
                "'name', 'nr'. Name the one that holds the task ids with ?id_column="
                in (await json_of(response))["message"]
            )
        assert (await post(session, "name,nr\na,1\n", CSV, id_column="nr"))["accepted"] == 1


async def test_lines_go_to_the_account_they_name_or_to_that_of_the_query(simulation: Simulation) -> None:
    accounts = {"accounts": {"eu": {"workers": 2}, "us": {"workers": 2}}, "account": "eu"}
    async with visited(simulation, None, accounts) as session:
        await post(session, '{"id": "a1"}\n{"id": "a2", "account": "us"}\n', LINES)
        await post(session, "a3\na1\n", TEXT, account="us")
        for task_id, account in (("a2", "us"), ("a3", "us")):
            async with session.get(f"/v1/tasks/{task_id}") as response:
                assert (await json_of(response))["account"] == account
        async with session.get("/v1/tasks/a1") as response:
            assert (response.status, (await json_of(response))["accounts"]) == (409, ["eu", "us"])
        async with session.get("/v1/tasks/a1", params={"account": "eu"}) as response:
            assert response.status == 200
        async with session.post("/v1/tasks", data="a4", headers=TEXT, params={"account": "asia"}) as response:
            assert response.status == 400
            assert "eu, us" in (await json_of(response))["message"]


async def test_a_slow_body_is_refused_after_a_minute(simulation: Simulation) -> None:
    async def drip() -> Any:
        for _ in range(100):
            yield b"a"
            await asyncio.sleep(1)

    async with visited(simulation) as session:
        began = asyncio.get_running_loop().time()
        async with session.post("/v1/tasks", data=drip(), headers=TEXT) as response:
            assert response.status == 408
        assert 60 <= asyncio.get_running_loop().time() - began < 62


async def test_a_finite_run_waits_for_a_body_in_transit(simulation: Simulation) -> None:
    ids = simulation.api.preload(2)
    file = simulation.folder / "ids.txt"
    file.write_text(f"{ids[0]}\n")

    async def slow() -> Any:
        yield ids[1].encode()
        await asyncio.sleep(40)
        yield b"\n"

    async with asyncio.TaskGroup() as group:
        running = group.create_task(simulation.run(file, {"listen": "127.0.0.1:8321"}))
        await simulation.site_is_open.wait()
        assert simulation.site is not None
        async with aiohttp.ClientSession(BASE, connector=MemoryConnector(simulation.site)) as session:
            assert (await post(session, slow(), TEXT))["accepted"] == 1
    assert running.result() is Exit.ALL_COMPLETE
    assert len(simulation.records()) == 2


async def test_a_request_logs_one_event(simulation: Simulation, events: list[Any]) -> None:
    async with visited(simulation) as session:
        await post(session, "a1\na1\n/\n\n", TEXT)
    (event,) = named(events, "tasks.fed")
    assert (event["tasks"], event["duplicates"], event["rejected"], event["blank"]) == (1, 1, 1, 1)


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(st.lists(JSONS, max_size=8), st.booleans(), st.sampled_from([None, 2]))
def test_each_element_of_an_array_is_one_line_whatever_its_white_space(
    values: list[Any], ascii_only: bool, indent: int | None
) -> None:
    lines = elements_of(json.dumps(values, indent=indent, ensure_ascii=ascii_only).encode())
    assert not any(b"\n" in line for line in lines)
    assert [json.loads(line) for line in lines] == values


@pytest.mark.parametrize("body", [b"[" * MAX_BYTES, b"," * MAX_BYTES, b"[" + b"," * (MAX_BYTES - 1)])
def test_a_hostile_array_is_refused_without_being_decoded(body: bytes) -> None:
    """Each stops at its first wrong or too deep byte, or, for many commas, before the decoder sees it."""
    with pytest.raises((ValueError, RequestRefused)):
        elements_of(body)


def test_an_array_of_too_many_elements_is_refused_before_they_are_counted() -> None:
    with pytest.raises(RequestRefused, match="10,000 lines"):
        elements_of(b"[" + b"1," * (MAX_COMMAS + 1) + b"!")  # not JSON: nothing decoded it
    with pytest.raises(RequestRefused, match="10,000 lines"):
        elements_of(b"[" + b"1," * 10_000 + b"1]")


async def test_a_full_disk_is_answered_at_once_and_its_lines_are_stored_once_there_is_room(
    simulation: Simulation,
) -> None:
    body = "\n".join(f"id-{number}" for number in range(3000))
    async with visited(simulation) as session:
        assert simulation.service is not None
        connection: Any = simulation.service._store._connection  # type: ignore[attr-defined]
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
        began = asyncio.get_running_loop().time()
        for pending in (3000, None):
            async with session.post("/v1/tasks", data=body, headers=TEXT) as response:
                answer = await json_of(response)
                assert (response.status, answer["error"], answer["accepted"]) == (503, "unwritable", 0)
                assert answer.get("pending") == pending
                assert "Retry-After" in response.headers
        assert asyncio.get_running_loop().time() - began < 5
        async with session.get("/readyz") as response:
            assert response.status == 503
            assert (await json_of(response))["store"]["state"] == "unwritable"
        connection.execute("PRAGMA max_page_count = 1000000")
        await asyncio.sleep(5)
        assert (await post(session, body, TEXT))["duplicate"] == 3000
    sums = await simulation.sums()
    assert imbalances(sums) == []
    assert sums.waiting + sums.finished == 3000
