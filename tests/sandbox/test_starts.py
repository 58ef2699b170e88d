"""The sandbox's start call: checked as HubSpot's, with files that land, collide and are found as duplicates."""

from typing import Any, get_args

import aiohttp
import orjson
import pytest

from poller.core.model import Kind
from poller.sandbox import Fate, SandboxApi, Scenario, make_app, parse_durations
from poller.sandbox.file_store import DuplicatesBy
from poller.sandbox.reply import SandboxReply, SandboxRequest, Transmission
from poller.sandbox.scenario import START_FAULTS, parse_fault
from tests.support.virtual import MemoryConnector, serving

BEGAN_AT = 1767571200.0
V3 = "/files/v3/files/import-from-url/async"
DATED = "/files/2026-09/files/import-from-url/async"
GOOD = {"url": "https://cdn.example.com/p/1.png?sig=a", "access": "PRIVATE", "folderPath": "/p", "name": "one"}
OPTIONS = {"overwrite": False, "duplicateValidationStrategy": "NONE", "duplicateValidationScope": "ENTIRE_PORTAL"}
CHECKED = {"duplicateValidationStrategy": "RETURN_EXISTING", "duplicateValidationScope": "EXACT_FOLDER"}


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = BEGAN_AT

    def __call__(self) -> float:
        return self.now


QUICK: dict[str, Any] = {"durations": parse_durations("fixed:10"), "fates": {}, "requests": 10_000}


def sandbox(clock: Hand, **more: Any) -> SandboxApi:
    return SandboxApi(Scenario(**(QUICK | more)), clock)


def post(api: SandboxApi, body: object, path: str = V3) -> SandboxReply:
    sent = body if isinstance(body, bytes) else orjson.dumps(body)
    return api.respond(SandboxRequest(method="POST", path=path, token="pat", body=sent))


def started(api: SandboxApi, **options: Any) -> str:
    reply = post(api, GOOD | options)
    assert reply.code == 202, reply.body
    return str(orjson.loads(reply.body)["id"])


def result_of(api: SandboxApi, task_id: str) -> Any:
    reply = api.respond(SandboxRequest(method="GET", path=f"{V3}/tasks/{task_id}/status", token="pat"))
    return orjson.loads(reply.body).get("result")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"url": None}, "[url]"),
        ({"access": None}, "[access]"),
        ({"folderPath": None}, "folderId and folderPath"),
        ({"folderId": "7"}, "folderId and folderPath"),
        ({"url": "ftp://a/b"}, "valid URL"),
        ({"access": "HIDDEN_PRIVATE"}, "cannot be created"),
        ({"access": "private"}, "must be one of"),
        ({"duplicateValidationStrategy": "MAYBE"}, "must be one of"),
        ({"overwrite": "true"}, "true or false"),
        ({"name": "a/b"}, "must not contain"),
        ({"ttl": "P2Y"}, "P1D to P1Y"),
        ({"ttl": "PT1H"}, "P1D to P1Y"),
    ],
)
def test_a_start_that_hubspot_refuses_is_refused_with_the_field(change: dict[str, Any], complaint: str) -> None:
    api = sandbox(Hand())
    body = {name: value for name, value in (GOOD | change).items() if value is not None}
    reply = post(api, body)
    assert (reply.code, orjson.loads(reply.body)["category"]) == (400, "VALIDATION_ERROR")
    assert complaint in orjson.loads(reply.body)["message"]
    assert (api.stats().tasks, api.stats().starts_total) == (0, 0)


def test_dated_versions_require_more_than_v3_and_unknown_keys_are_ignored() -> None:
    api = sandbox(Hand())
    assert post(api, GOOD | {"fileName": "x", "ttl": "P3M"}).code == 202
    refused = post(api, GOOD, DATED)
    assert refused.code == 400
    assert b"[overwrite, duplicateValidationStrategy, duplicateValidationScope]" in refused.body
    assert post(api, GOOD | OPTIONS, DATED).code == 202
    assert [post(api, body).code for body in (b"", b"[]", b"{", b"null")] == [400] * 4


def test_a_file_lands_with_its_name_folder_and_access_and_a_second_one_is_renamed() -> None:
    clock = Hand()
    api = sandbox(clock)
    first = started(api)
    assert result_of(api, first) is None
    clock.now += 11
    second = started(api, folderPath="p/")
    clock.now += 11
    names = [result_of(api, task_id) for task_id in (first, second)]
    assert [(each["name"], each["path"], each["access"]) for each in names] == [
        ("one", "/p/one.png", "PRIVATE"),
        ("one-1", "/p/one-1.png", "PRIVATE"),
    ]
    assert (api.stats().files, api.stats().files_twice, api.stats().starts_max) == (2, 1, 2)


def test_overwriting_replaces_the_file_under_a_new_id() -> None:
    clock = Hand()
    api = sandbox(clock)
    first = started(api)
    clock.now += 11
    second = started(api, overwrite=True)
    clock.now += 11
    old, new = result_of(api, first), result_of(api, second)
    assert old["path"] == new["path"]
    assert old["id"] != new["id"]
    assert (api.stats().files, api.stats().files_twice) == (1, 0)


def test_a_duplicate_is_found_only_once_the_first_file_has_landed() -> None:
    clock = Hand()
    api = sandbox(clock)
    first = started(api, **CHECKED)
    clock.now += 5
    too_early = started(api, **CHECKED)
    clock.now += 11
    late = started(api, **CHECKED, url="https://cdn.example.com/p/1.png?sig=b", name="other")
    clock.now += 11
    results = [result_of(api, task_id)["id"] for task_id in (first, too_early, late)]
    assert results[1] == results[0], "each is checked when its own download ends"
    assert results[2] == results[0], "the older file, whatever the query"
    assert (api.stats().files, api.stats().files_twice) == (1, 0)


def test_two_downloads_that_end_out_of_order_become_two_files() -> None:
    clock = Hand()
    api = sandbox(clock, duplicates_by="never")
    for _ in range(2):
        started(api, **CHECKED)
    clock.now += 11
    assert (api.stats().files, api.stats().files_twice) == (2, 1)


@pytest.mark.parametrize(
    ("by", "twin", "files"),
    [
        ("content", {"name": "other"}, 1),
        ("content", {"url": "https://cdn.example.com/p/2.png"}, 2),
        ("name", {"url": "https://cdn.example.com/p/2.png"}, 1),
        ("name", {"name": "other"}, 2),
        ("never", {}, 2),
        ("content", {"folderPath": "/elsewhere"}, 2),
        ("content", {"folderPath": "/elsewhere", "duplicateValidationScope": "ENTIRE_PORTAL"}, 1),
    ],
)
def test_what_counts_as_a_duplicate_is_chosen(by: DuplicatesBy, twin: dict[str, str], files: int) -> None:
    clock = Hand()
    api = sandbox(clock, duplicates_by=by)
    started(api)
    clock.now += 11
    started(api, **(CHECKED | twin))
    clock.now += 11
    assert api.stats().files == files


def test_reject_ends_a_duplicate_with_an_error() -> None:
    clock = Hand()
    api = sandbox(clock)
    started(api)
    clock.now += 11
    second = started(api, **(CHECKED | {"duplicateValidationStrategy": "REJECT"}))
    clock.now += 11
    expected = api.expected(second)
    assert (expected.kind, expected.result) == (Kind.COMPLETE_WITH_ERRORS, None)
    assert b"OBJECT_ALREADY_EXISTS" in (expected.errors or b"")


def test_a_dead_host_fails_each_of_its_imports_for_one_reason() -> None:
    clock = Hand()
    api = sandbox(clock, dead_hosts=frozenset({"cdn.example.com"}))
    ids = [started(api, url=f"https://cdn.example.com/{number}.png") for number in range(9)]
    alive = started(api, url="https://other.example.com/1.png")
    assert {api.expected(task_id).kind for task_id in ids} == {Kind.COMPLETE_WITH_ERRORS}
    assert api.expected(alive).kind is Kind.COMPLETE
    clock.now += 11
    assert api.stats().files == 1


FAULTS_SHOWN = {  # the code, how it is sent, whether an import began
    "start_lost": (202, Transmission.LOST, True),
    "start_hang": (202, Transmission.HANG, True),
    "start_500_done": (500, Transmission.WHOLE, True),
    "start_500_undone": (500, Transmission.WHOLE, False),
    "start_no_id": (202, Transmission.WHOLE, True),
    "start_before": (200, Transmission.LOST, False),
    "start_403_storage": (403, Transmission.WHOLE, False),
    "start_400": (400, Transmission.WHOLE, False),
}


@pytest.mark.parametrize("fault", sorted(START_FAULTS))
def test_each_fault_of_a_start_is_as_its_name_promises(fault: str) -> None:
    clock = Hand()
    api = sandbox(clock, faults={fault: 1.0})
    reply = post(api, GOOD)
    code, transmission, is_accepted = FAULTS_SHOWN[fault]
    assert (reply.code, reply.transmission, api.stats().tasks) == (code, transmission, int(is_accepted))
    assert (api.stats().starts_total, api.stats().starts_accepted) == (1, int(is_accepted))
    assert api.stats().faults == {fault: 1}
    clock.now += 11
    assert api.stats().files == int(is_accepted)


def test_shares_of_starts_and_of_polls_are_chosen_apart() -> None:
    both = Scenario(faults={"503": 1.0, "start_lost": 1.0})
    api = SandboxApi(both, Hand())
    assert post(api, GOOD).transmission is Transmission.LOST
    with pytest.raises(ValueError, match="all together at most 1"):
        Scenario(faults={"start_lost": 0.6, "start_hang": 0.6})
    assert parse_fault("start_lost=0.05") == ("start_lost", 0.05)
    assert get_args(DuplicatesBy) == ("content", "name", "never")
    with pytest.raises(ValueError, match="duplicates_by 'maybe'"):
        Scenario(duplicates_by="maybe")  # type: ignore[arg-type]


async def test_a_lost_start_reaches_the_client_as_a_reset_without_a_byte(clock: Any) -> None:
    api = SandboxApi(Scenario(faults={"start_lost": 1.0}), clock)
    async with (
        serving(make_app(api)) as server,
        aiohttp.ClientSession("http://sandbox", connector=MemoryConnector(server)) as session,
    ):
        with pytest.raises(aiohttp.ClientError):
            await session.post(V3, json=GOOD, headers={"Authorization": "Bearer pat"})
    assert api.stats().starts_accepted == 1


def test_only_tasks_with_a_result_become_files() -> None:
    clock = Hand()
    fates = {Fate.COMPLETE_WITHOUT_RESULT: 0.25, Fate.CANCELED: 0.25, Fate.NEVER: 0.25, Fate.UNKNOWN: 0.25}
    api = sandbox(clock, fates=fates)
    for number in range(20):
        started(api, url=f"https://cdn.example.com/{number}.png")
    clock.now += 11
    assert (api.stats().files, api.stats().starts_accepted) == (0, 20)
