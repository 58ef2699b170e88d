"""The simulated HubSpot: strict counting, one behaviour for each seed, each fault as its name promises."""

import asyncio
import json
import re
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.core.errors import ConfigError
from poller.core.model import Kind
from poller.sandbox import (
    FAULTS,
    Family,
    Fate,
    Outage,
    SandboxApi,
    Scenario,
    make_app,
    parse_durations,
    parse_outage,
    serve,
)
from poller.sandbox.faults import BOMB_BYTES, HUGE_BYTES, NESTING
from poller.sandbox.reply import SandboxReply, SandboxRequest
from poller.sandbox.scenario import START_FAULTS, parse_fate, parse_fault, parse_latency_ms
from tests.support.virtual import MemoryConnector, serving

Clock = Callable[[], float]
HOST = "http://sandbox"
TOKEN = {"Authorization": "Bearer pat-na1-test"}
INSTANT = parse_durations("fixed:0")
BEGAN_AT = 1767571200.0  # 2026-01-05T00:00:00Z, a Monday


def path_of(task_id: str) -> str:
    return f"/files/v3/files/import-from-url/async/tasks/{task_id}/status"


def request_for(task_id: str, token: str | None = "pat") -> SandboxRequest:  # noqa: S107 - opens nothing
    return SandboxRequest(method="GET", path=path_of(task_id), token=token)


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = BEGAN_AT

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def client_of(api: SandboxApi) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=400)
    async with (
        serving(make_app(api)) as server,
        aiohttp.ClientSession(HOST, connector=MemoryConnector(server), headers=TOKEN, timeout=timeout) as session,
    ):
        yield session


def json_of(reply: SandboxReply) -> Any:
    return orjson.loads(reply.body)


# --- what people write -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "low", "high"),
    [("fixed:5", 5, 5), ("uniform:1,20", 1, 20), ("mix:0.5@fixed:5,0.5@uniform:900,2700", 5, 2700)],
)
def test_durations_stay_in_the_range_written(spec: str, low: float, high: float) -> None:
    durations = parse_durations(spec)
    drawn = [durations.draw_s(pick / 20, draw / 20) for pick in range(20) for draw in range(20)]
    assert low <= min(drawn) <= max(drawn) <= high


def test_the_first_number_of_a_lognormal_is_its_median() -> None:
    assert parse_durations("lognormal:30,1.2").draw_s(0.0, 0.5) == pytest.approx(30)


@pytest.mark.parametrize("spec", ["lognormal:30,200", "lognormal:30,1e300", "lognormal:0,1e300"])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 1e-12])
def test_a_lognormal_as_wide_as_can_be_written_is_drawn_without_an_error(spec: str, draw: float) -> None:
    assert parse_durations(spec).draw_s(0.0, draw) >= 0  # infinity: it never finishes


@pytest.mark.parametrize(
    ("parse", "spec", "hint"),
    [
        (parse_durations, "gamma:2", "unknown shape 'gamma'"),
        (parse_durations, "uniform:9,1", "low end"),
        (parse_durations, "fixed:soon", "'soon' is not a number"),
        (parse_durations, "fixed:nan", "finite"),
        (parse_durations, "lognormal:30", "takes 2 number"),
        (parse_durations, "mix:0.5@fixed:1,0.4@fixed:2", "add up to 1"),
        (parse_durations, "mix:fixed:1", "has no share"),
        (parse_fault, "earthquake=0.1", "known are 500, 502"),
        (parse_fault, "503", "503=0.05"),
        (parse_fault, "503=1.5", "from 0 to 1"),
        (parse_fate, "lost=0.1", "complete_with_errors"),
        (parse_latency_ms, "300-50", "smaller number first"),
        (parse_outage, "60=503", "FROM-TO=FAULT"),
    ],
)
def test_a_wrong_spec_is_refused_with_a_hint(parse: Callable[[str], object], spec: str, hint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(hint)):
        parse(spec)


def test_right_specs_are_read() -> None:
    assert parse_fault("reset=0.05") == ("reset", 0.05)
    assert parse_fate("never=0.1") == (Fate.NEVER, 0.1)
    assert parse_latency_ms("50-300") == (0.05, 0.3)
    assert parse_outage("60-120=hang") == Outage(from_s=60, to_s=120, fault="hang")


@pytest.mark.parametrize(
    "wrong",
    [
        {"faults": {"503": 0.7, "reset": 0.7}},
        {"daily_zone": "Mars/Base"},
        {"requests": 0},
        {"window_s": float("nan")},
        {"window_s": float("inf")},
        {"latency_s": (2.0, 1.0)},
    ],
)
def test_a_scenario_that_cannot_be_kept_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Scenario(**wrong)


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_a_status_goes_from_pending_over_processing_to_its_end() -> None:
    clock = Hand()
    api = SandboxApi(Scenario(durations=parse_durations("fixed:100"), fates={}, requests=10_000), clock)
    task_id = api.start("https://example.com/a/logo.png?x=1")
    seen = []
    for second in range(102):
        clock.now = BEGAN_AT + second
        seen.append(json_of(api.respond(request_for(task_id)))["status"])
    last = json_of(api.respond(request_for(task_id)))
    assert list(dict.fromkeys(seen)) == ["PENDING", "PROCESSING", "COMPLETE"]
    assert seen.index("COMPLETE") == 100
    assert last["taskId"] == task_id
    assert last["result"]["name"] == "logo"
    assert last["result"]["type"] == "IMG"


def test_ids_are_distinct_decodable_and_the_same_for_a_seed() -> None:
    one, two, other = (SandboxApi(Scenario(seed=seed), Hand()).preload(20_000) for seed in (7, 7, 8))
    assert one == two != other
    assert len(set(one)) == 20_000
    assert all(re.fullmatch(r"AAAAE[\w-]{6}", task_id) for task_id in one)


@given(st.randoms(use_true_random=False), st.integers(0, 2**32))
def test_one_seed_gives_one_behaviour_in_any_order_of_arrival(rng: Any, seed: int) -> None:
    scenario = Scenario(seed=seed, faults={"503": 0.2, "array": 0.2, "reset": 0.1}, send_headers=False)
    orders = []
    for shuffled in (False, True):
        clock = Hand()
        api = SandboxApi(scenario, clock)
        polls = api.preload(10) * 3
        clock.now += 40
        if shuffled:
            rng.shuffle(polls)
        orders.append(sorted((task_id, str(api.respond(request_for(task_id)))) for task_id in polls))
    assert orders[0] == orders[1]


def test_the_expected_outcome_is_in_the_answers_byte_for_byte() -> None:
    fates = dict.fromkeys(Fate, 1 / 6)
    scenario = Scenario(durations=INSTANT, fates=fates, faults={"big_ints": 0.3}, requests=10_000)
    api = SandboxApi(scenario, Hand())
    kinds = Counter[Kind]()
    for task_id in api.preload(600):
        expected, reply = api.expected(task_id), api.respond(request_for(task_id))
        kinds[expected.kind] += 1
        if expected.kind is Kind.NOT_FOUND:
            assert reply.code in (400, 404)
            assert json_of(reply)["category"]
            continue
        answer = json_of(reply)
        assert answer["status"] == expected.status
        assert answer.get("numErrors") == expected.num_errors
        assert (expected.kind is Kind.COMPLETE_WITH_ERRORS) == bool(answer.get("errors") or answer.get("numErrors"))
        assert (expected.kind is Kind.COMPLETE) <= (answer.get("result") is not None)
        for name, value in (("errors", expected.errors), ("result", expected.result)):
            assert (
                value is None if answer.get(name) is None else b'"%s":%s' % (name.encode(), value or b"?") in reply.body
            )
    assert len(kinds) == 6
    assert min(kinds.values()) > 60


def test_reasons_vary_and_numbers_of_errors_disagree_sometimes() -> None:
    api = SandboxApi(Scenario(durations=INSTANT, fates={Fate.COMPLETE_WITH_ERRORS: 1.0}), Hand())
    expectations = [api.expected(task_id) for task_id in api.preload(300)]
    messages = {error["message"] for expected in expectations for error in orjson.loads(expected.errors or b"[]")}
    assert {expected.kind for expected in expectations} == {Kind.COMPLETE_WITH_ERRORS}
    assert len(messages) >= 5
    assert any(expected.num_errors == 0 for expected in expectations)
    assert any(expected.errors is None and expected.num_errors for expected in expectations)


@pytest.mark.parametrize(
    ("path", "family", "result", "has_task_id"),
    [
        ("/files/2026-09/files/import-from-url/async/tasks/{}/status", Family.FILES, dict, True),
        ("/files/v3/folders/update/async/tasks/{}/status", Family.FOLDERS, dict, True),
        ("/crm/v3/exports/export/async/tasks/{}/status", Family.EXPORTS, str, False),
        ("/cms/v3/source-code/extract/async/tasks/{}/status", Family.SOURCE_CODE, type(None), False),
    ],
)
def test_every_family_answers_in_its_own_shape(path: str, family: Family, result: type, has_task_id: bool) -> None:
    api = SandboxApi(Scenario(durations=INSTANT, fates={}), Hand())
    task_id = api.start()
    answer = json_of(api.respond(SandboxRequest(method="GET", path=path.format(task_id), token="pat")))
    assert isinstance(answer.get("result"), result)
    assert ("taskId" in answer) is has_task_id
    assert api.expected(task_id, family).kind is Kind.COMPLETE


def test_unknown_ids_undecodable_ids_and_wrong_paths_differ() -> None:
    api = SandboxApi(Scenario(), Hand())
    unknown, undecodable = api.respond(request_for("AAAAEZ6whGI")), api.respond(request_for("x%21"))
    wrong_path = api.respond(SandboxRequest(method="GET", path="/files/v9/nothing", token="pat"))
    assert (unknown.code, undecodable.code, wrong_path.code) == (404, 400, 404)
    assert json_of(undecodable)["message"] == "Provided ID could not be decoded."
    assert wrong_path.content_type.startswith("text/html")
    assert unknown.content_type.startswith("application/json")


async def test_the_start_call_makes_a_task_and_points_to_another_host(clock: Clock) -> None:
    api = SandboxApi(Scenario(), clock)
    start = "/files/v3/files/import-from-url/async"
    async with client_of(api) as session:
        body = {"url": "https://example.com/a.png", "access": "PRIVATE", "folderPath": "/a"}
        async with session.post(start, json=body) as answer:
            locator, code = await answer.json(), answer.status
        async with session.post(start, data=b"{}") as answer:
            refusal = await answer.json()
            refused = answer.status
        async with session.get(path_of(locator["id"])) as answer:
            assert (await answer.json())["taskId"] == locator["id"]
    assert (code, refused) == (202, 400)
    assert locator["links"]["status"] == f"https://api-na1.hubspot.com{path_of(locator['id'])}"
    assert "[url, access]" in refusal["message"]


# --- quota -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 4), min_size=1, max_size=80), st.integers(1, 9))
def test_the_window_is_strict_and_counts_what_it_refuses(gaps: list[float], limit: int) -> None:
    clock = Hand()
    api = SandboxApi(Scenario(requests=limit, window_s=10), clock)
    task_id = api.start()
    at: list[float] = []
    codes, worst = [], 0
    for gap in gaps:
        clock.now += gap
        at.append(clock.now)
        in_window = sum(clock.now - 10 < arrival for arrival in at)
        worst = max(worst, in_window)
        codes.append((api.respond(request_for(task_id)).code == 429, in_window > limit))
    assert all(refused == over for refused, over in codes)
    assert api.stats().max_in_window == worst


def test_429_and_the_headers_are_those_of_hubspot() -> None:
    api = SandboxApi(Scenario(requests=2, daily=3, send_retry_after=True), Hand())
    task_id = api.start()
    replies = [api.respond(request_for(task_id)) for _ in range(4)]
    window, daily = json_of(replies[2]), json_of(replies[3])
    assert [reply.code for reply in replies] == [200, 200, 429, 429]
    assert [window["policyName"], daily["policyName"]] == ["TEN_SECONDLY_ROLLING", "DAILY"]
    assert window["message"] == "You have reached your ten_secondly_rolling limit."
    assert window["errorType"] == "RATE_LIMIT"
    assert "category" not in window
    assert replies[2].headers["Retry-After"] == "10"
    assert replies[0].headers["X-HubSpot-RateLimit-Remaining"] == "1"
    assert replies[0].headers["X-HubSpot-RateLimit-Interval-Milliseconds"] == "10000"
    assert replies[3].headers["X-HubSpot-RateLimit-Daily-Remaining"] == "0"
    assert replies[0].headers["x-hubspot-correlation-id"]


@pytest.mark.parametrize(
    ("reset", "after_s"),
    [({"daily_zone": "America/New_York"}, 5 * 3600), ({"daily_zone": "UTC"}, 86_400), ({"daily_every_s": 60.0}, 60)],
)
def test_the_daily_quota_comes_back_at_its_reset_and_not_before(reset: dict[str, Any], after_s: float) -> None:
    clock = Hand()
    api = SandboxApi(Scenario(daily=1, **reset), clock)
    task_id = api.start()
    codes = []
    for second in (0, 1, after_s - 0.5, after_s):
        clock.now = BEGAN_AT + second
        codes.append(api.respond(request_for(task_id)).code)
    assert codes == [200, 429, 429, 200]
    assert api.stats().throttled_daily_total == 2


def test_tokens_share_one_window_unless_each_has_its_own() -> None:
    counts = []
    for window_per_token in (False, True):
        api = SandboxApi(Scenario(requests=2, window_per_token=window_per_token), Hand())
        task_id = api.start()
        counts.append([api.respond(request_for(task_id, token)).code for token in ("a", "b", "a", "b")])
    assert counts == [[200, 200, 429, 429], [200, 200, 200, 200]]


async def test_an_arrival_counts_when_it_arrives_not_when_it_is_answered(clock: Clock) -> None:
    api = SandboxApi(Scenario(requests=3, latency_s=(20, 20)), clock)
    task_id = api.start()

    async def poll(session: aiohttp.ClientSession) -> int:
        async with session.get(path_of(task_id)) as answer:
            return answer.status

    async with client_of(api) as session:
        codes = await asyncio.gather(*(poll(session) for _ in range(5)))
        async with session.get("/_sandbox/stats") as answer:
            stats = await answer.json()
    assert Counter(codes) == {200: 3, 429: 2}
    assert (stats["requests_total"], stats["max_in_window"], stats["throttled_total"]) == (5, 5, 2)
    assert (stats["polls_total"], stats["errors_total"]) == (5, 2)


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_are_refused_accepted_and_may_lack_a_scope() -> None:
    api = SandboxApi(Scenario(tokens=frozenset({"good"})), Hand())
    task_id = api.start()
    before = [api.respond(request_for(task_id, token)).code for token in ("good", "bad", None)]
    api.refuse_token("good")
    api.accept_token("bad")
    after = [api.respond(request_for(task_id, token)).code for token in ("good", "bad")]
    api.scope_missing = True
    refusal = api.respond(request_for(task_id, "bad"))
    assert (before, after, refusal.code) == ([200, 401, 401], [401, 200], 403)
    assert json_of(refusal)["errors"][0]["context"]["requiredScopes"] == ["files"]


def test_the_token_endpoint_refreshes_rotates_and_its_tokens_expire() -> None:
    clock = Hand()
    scenario = Scenario(tokens=frozenset(), rotate_refresh_token=True, oauth_refusals=1)
    api = SandboxApi(scenario, clock)
    task_id = api.start()

    def refresh(token: str) -> SandboxReply:
        form = f"grant_type=refresh_token&refresh_token={token}&client_id=c&client_secret=s"
        return api.respond(SandboxRequest(method="POST", path="/oauth/2026-03/token", body=form.encode()))

    busy, granted, stale = (refresh("sandbox-refresh") for _ in range(3))
    access_token = json_of(granted)["access_token"]
    fresh = api.respond(request_for(task_id, access_token))
    clock.now += 1800
    expired = api.respond(request_for(task_id, access_token))
    again = refresh(json_of(granted)["refresh_token"])
    assert [reply.code for reply in (busy, granted, stale, fresh, expired, again)] == [429, 200, 400, 200, 401, 200]
    assert json_of(granted)["expires_in"] == 1800
    assert json_of(expired)["category"] == "EXPIRED_AUTHENTICATION"
    assert api.stats().token_requests_total == 4


# --- faults ----------------------------------------------------------------------------------------------------------


async def _poll_at_fault(fault: str, clock: Clock, variant_seed: int = 1) -> tuple[SandboxApi, str, bytes, Any]:
    """Poll once at a finished task under `fault`; return the body and the answer, or the exception in its place."""
    scenario = Scenario(seed=variant_seed, durations=INSTANT, fates={}, faults={fault: 1.0}, hang_s=50)
    api = SandboxApi(scenario, clock)
    task_id = api.start()
    async with client_of(api) as session:
        try:
            async with session.get(path_of(task_id), allow_redirects=False, auto_decompress=False) as answer:
                return api, task_id, await answer.read(), answer
        except aiohttp.ClientError as error:
            return api, task_id, b"", error


@pytest.mark.parametrize("fault", ["500", "502", "503", "504", "401", "403", "423", "477", "530"])
async def test_a_fault_named_by_a_code_answers_with_it(fault: str, clock: Clock) -> None:
    api, _, _, answer = await _poll_at_fault(fault, clock)
    assert answer.status == int(fault)
    assert answer.headers.get("Retry-After") == ("30" if fault == "477" else None)
    assert api.stats().faults == {fault: 1}


BODIES: dict[str, Callable[[bytes, str], bool]] = {
    "empty": lambda body, _: body == b"",
    "null": lambda body, _: body == b"null",
    "array": lambda body, task_id: json.loads(body)[0]["taskId"] == task_id,
    "html200": lambda body, _: body.startswith(b"<!DOCTYPE html>"),
    "unknown_status": lambda body, _: json.loads(body)["status"] in ("FAILED", "ARCHIVING", ""),
    "foreign_id": lambda body, task_id: json.loads(body)["taskId"] != task_id and b"COMPLETE" in body,
    "huge": lambda body, task_id: len(body) > HUGE_BYTES and json.loads(body)["taskId"] == task_id,
    "gzip_bomb": lambda body, _: len(body) < 100_000 and len(zlib.decompress(body, wbits=31)) > BOMB_BYTES,
    "deep": lambda body, _: body.count(b"[") >= NESTING,
    "bad_utf8": lambda body, _: body != body.decode(errors="replace").encode(),
    "duplicate_keys": lambda body, task_id: body.count(b'"status"') == 2 and json.loads(body)["taskId"] == task_id,
    "nan": lambda body, _: b'"numErrors":NaN' in body,
    "big_ints": lambda body, _: json.loads(body)["result"]["revision"] == 2**70 + 1,
    "drip": lambda body, task_id: json.loads(body)["taskId"] == task_id,
}


@pytest.mark.parametrize("fault", BODIES)
async def test_a_fault_of_the_body_comes_with_200_and_that_body(fault: str, clock: Clock) -> None:
    _, task_id, body, answer = await _poll_at_fault(fault, clock)
    assert answer.status == 200
    assert BODIES[fault](body, task_id)


async def test_a_drip_brings_five_bytes_a_second(clock: Clock) -> None:
    began_at = clock()
    _, _, body, _ = await _poll_at_fault("drip", clock)
    assert clock() - began_at == pytest.approx(len(body) / 5, abs=2)


async def test_wrong_types_come_in_several_forms(clock: Clock) -> None:
    bodies = [json.loads((await _poll_at_fault("wrong_types", clock, seed))[2]) for seed in range(20)]
    assert {type(body["status"]) for body in bodies} == {str, int, list}
    assert any(body["status"] == "COMPLETE" and body["completedAt"] is False for body in bodies)
    assert any(body["status"] == "PROCESSING" and body["errors"] == "none" for body in bodies)


async def test_html404_redirect_and_big_headers_are_as_named(clock: Clock) -> None:
    *_, page = await _poll_at_fault("html404", clock)
    *_, redirect = await _poll_at_fault("redirect", clock)
    *_, refused = await _poll_at_fault("big_headers", clock)
    assert (page.status, page.content_type) == (404, "text/html")
    assert (redirect.status, redirect.headers["Location"][:24]) == (302, "https://elsewhere.invali")
    assert isinstance(refused, aiohttp.ClientError)  # aiohttp reads headers up to 8 kB


async def test_reset_and_hang_break_the_connection(clock: Clock) -> None:
    *_, reset = await _poll_at_fault("reset", clock)
    before = clock()
    *_, hung = await _poll_at_fault("hang", clock)
    assert isinstance(reset, aiohttp.ClientError)
    assert isinstance(hung, aiohttp.ClientError)
    assert clock() - before >= 50


async def test_truncated_bodies_come_with_a_length_and_without(clock: Clock) -> None:
    polls = [(await _poll_at_fault("truncated", clock, seed))[2:] for seed in range(12)]
    cut_bare = [body for body, answer in polls if not isinstance(answer, aiohttp.ClientError)]
    cut_length = [answer for _, answer in polls if isinstance(answer, aiohttp.ClientPayloadError)]
    assert len(cut_bare) + len(cut_length) == 12
    assert cut_bare
    assert cut_length
    assert all(body.startswith(b"{") and not body.endswith(b"}") for body in cut_bare)


async def test_a_stray_answer_reaches_the_next_request_on_the_connection(clock: Clock) -> None:
    api = SandboxApi(Scenario(durations=INSTANT, fates={}, faults={"stray": 1.0}), clock)
    first, second = api.preload(2)
    async with client_of(api) as session:
        ids = []
        for task_id in (first, second):
            async with session.get(path_of(task_id)) as answer:
                ids.append((await answer.json())["taskId"])
            await asyncio.sleep(1)
    assert ids[0] == first
    assert ids[1] != second


def test_every_fault_has_a_test_here() -> None:
    codes = {name for name in FAULTS if name.isdigit()}
    others = {"wrong_types", "html404", "redirect", "big_headers", "reset", "hang", "truncated", "stray"}
    assert codes | BODIES.keys() | others == FAULTS.keys() - START_FAULTS  # those of starts: test_starts.py


def test_an_outage_holds_for_its_span_and_starts_no_tasks() -> None:
    clock = Hand()
    api = SandboxApi(Scenario(outages=(Outage(from_s=10, to_s=20, fault="503"),)), clock)
    task_id = api.start()
    body = b'{"url":"https://a","access":"PRIVATE","folderId":"7"}'
    start = SandboxRequest(method="POST", path="/files/v3/files/import-from-url/async", token="pat", body=body)
    codes = []
    for second in (9.9, 10, 19.9, 20):
        clock.now = BEGAN_AT + second
        codes.append((api.respond(request_for(task_id)).code, api.respond(start).code))
    assert codes == [(200, 202), (503, 503), (503, 503), (200, 202)]
    assert api.stats().tasks == 3


# --- sockets ---------------------------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_over_real_sockets_it_serves_resets_and_stops_at_once() -> None:
    api = SandboxApi(Scenario(durations=INSTANT, fates={}, latency_s=(0, 0)), Hand())
    rough = SandboxApi(Scenario(faults={"reset": 1.0}, latency_s=(0, 0)), Hand())
    hanging = SandboxApi(Scenario(faults={"hang": 1.0}, latency_s=(0, 0)), Hand())
    task_id, rough_id, hanging_id = api.start(), rough.start(), hanging.start()
    async with asyncio.timeout(10), aiohttp.ClientSession(headers=TOKEN) as session:
        async with serve(api) as url, session.get(url + path_of(task_id)) as answer:
            body = await answer.read()
        async with serve(rough) as url:
            with pytest.raises((aiohttp.ClientError, ConnectionResetError)):
                await (await session.get(url + path_of(rough_id))).read()
        async with serve(hanging) as url:
            with pytest.raises(TimeoutError):
                await session.get(url + path_of(hanging_id), timeout=aiohttp.ClientTimeout(total=0.2))
    assert orjson.loads(body)["status"] == "COMPLETE"


async def test_hosts_beyond_loopback_and_taken_ports_are_refused(clock: Clock) -> None:
    api = SandboxApi(Scenario(), clock)
    with pytest.raises(ConfigError, match="reachable from other machines"):
        async with serve(api, host="0.0.0.0"):  # noqa: S104 - refused
            pass
    async with serve(api) as url:
        with pytest.raises(ConfigError, match="port 0 takes a free one"):
            async with serve(api, port=int(url.rpartition(":")[2])):
                pass
