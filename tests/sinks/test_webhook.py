"""The webhook sink against a real aiohttp receiver: signed, in order, retried, and the guilty record found."""

import asyncio
import base64
import hmac
import re
import shutil
import ssl
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from poller.core.deliveries import Delivery, Retry, Written
from poller.core.errors import ConfigError, SinkError
from poller.core.protocols import Clock
from poller.core.steady_clock import SteadyClock
from poller.sinks import make_sink
from poller.sinks.webhook.signature import key_of, message_id, signed_headers
from poller.sinks.webhook.sink import SCHEDULE_S, WebhookSink, WebhookTable
from tests.support.makers import sink_environment
from tests.support.virtual import EPOCH, MemoryConnector, SimulatedNetwork, VirtualLoop, serving

Events = list[MutableMapping[str, Any]]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYqr"
URL = "https://receiver.example/finished"
Rule = Callable[[web.Request, bytes], int | web.Response]


def delivery(number: int, body: bytes | None = None) -> Delivery:
    return Delivery(number=number, account="main", task_id=f"t{number}", body=body or b'{"task_id":"t%d"}' % number)


def deliveries(count: int) -> list[Delivery]:
    return [delivery(number) for number in range(count)]


class Receiver:
    """Keeps what it took; answers by `rule`, which may change."""

    def __init__(self) -> None:
        self.rule: Rule = lambda _request, _body: 204
        self.requests: list[tuple[float, dict[str, str], bytes]] = []  # all
        self.taken: list[str] = []  # ids of accepted tasks, in order
        self.outages = SimulatedNetwork()
        self.at_once = self.most_at_once = 0
        self.delay_s = 0.0

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((asyncio.get_running_loop().time(), dict(request.headers), body))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.delay_s)
        self.at_once -= 1
        answer = self.rule(request, body)
        response = web.Response(status=answer) if isinstance(answer, int) else answer
        if 200 <= response.status <= 299:
            records = orjson.loads(body)
            self.taken += [each["task_id"] for each in (records if isinstance(records, list) else [records])]
        return response

    def header(self, name: str) -> list[str]:
        return [headers[name] for _, headers, _ in self.requests]

    @asynccontextmanager
    async def sink(self, clock: Clock, key: bytes | None = None, **options: Any) -> AsyncIterator[WebhookSink]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.handle)
        async with serving(app) as server:
            sink = WebhookSink(
                WebhookTable(url=URL, **options),
                url=URL,
                key=key,
                clock=clock,
                rng=Random(0),
                connector=lambda: MemoryConnector(server, self.outages, force_close=True),
            )
            await sink.open(None, [])
            try:
                yield sink
            finally:
                await sink.close()


async def until_written(sink: WebhookSink, batch: Sequence[Delivery]) -> Written:
    """What a delivery loop does: bring the same batch again until it is written."""
    for _ in range(1000):
        answer = await sink.write(batch)
        if isinstance(answer, Written):
            return answer
        await asyncio.sleep(answer.wait_s)
    raise AssertionError("never written")


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


# --- what is sent ----------------------------------------------------------------------------------------------------


async def test_by_default_each_record_is_posted_by_itself_in_order(receiver: Receiver, clock: Clock) -> None:
    async with receiver.sink(clock) as sink:
        assert await sink.write(deliveries(5)) == Written()
    assert [body for _, _, body in receiver.requests] == [one.body for one in deliveries(5)]
    assert set(receiver.header("Content-Type")) == {"application/json"}
    assert receiver.most_at_once == 1


async def test_a_batch_is_an_array_also_of_one(receiver: Receiver, clock: Clock) -> None:
    async with receiver.sink(clock, batch=3) as sink:
        await sink.write(deliveries(7))
    assert [len(orjson.loads(body)) for _, _, body in receiver.requests] == [3, 3, 1]
    assert receiver.taken == [one.task_id for one in deliveries(7)]


async def test_a_record_is_sent_as_its_very_bytes(receiver: Receiver, clock: Clock) -> None:
    body = '{"task_id":"x", "n":123456789012345678901234567890, "n":1e400,"s":"\\ud800 ü"}'.encode()
    receiver.rule = lambda _request, _body: 500  # it cannot parse that either
    async with receiver.sink(clock) as sink:
        await sink.write([delivery(0, body)])
    assert receiver.requests[0][2] == body


async def test_requests_at_a_time_are_bounded_and_each_record_is_sent_once(receiver: Receiver, clock: Clock) -> None:
    receiver.delay_s = 0.3
    async with receiver.sink(clock, concurrency=4) as sink:
        await sink.write(deliveries(40))
    assert receiver.most_at_once == 4
    assert Counter(receiver.taken) == Counter(one.task_id for one in deliveries(40))
    assert asyncio.get_running_loop().time() == pytest.approx(3.0, abs=0.1)


# --- signatures ------------------------------------------------------------------------------------------------------


async def test_the_specification_s_reference_verifies_every_request(
    receiver: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Now(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Now":
            return cls.fromtimestamp(clock(), tz)

    monkeypatch.setattr("standardwebhooks.webhooks.datetime", Now)
    async with receiver.sink(clock, key=key_of(SECRET), batch=2) as sink:
        await sink.write([delivery(0, '{"task_id":"ü \\u0000"}'.encode()), *deliveries(4)[1:]])
    for _, headers, body in receiver.requests:
        Webhook(SECRET).verify(body, headers)
        with pytest.raises(Exception, match="No matching signature"):
            Webhook(SECRET).verify(body + b" ", headers)
    assert len(receiver.requests) == 2


@given(st.binary(min_size=24, max_size=64), st.text(), st.integers(0, 2**37))
def test_signatures_are_those_of_the_specification(key: bytes, body: str, second: int) -> None:
    sent = body.encode("utf-8", "replace")
    headers = signed_headers(key, "msg_1", second + 0.9, sent)
    digest = hmac.digest(key, b"msg_1.%d." % second + sent, "sha256")
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(second),
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


def test_the_id_is_the_record_s_own() -> None:
    same, other_body = delivery(7, b"{}"), delivery(7, b"{ }")
    assert message_id([delivery(9, b"{}")]) != message_id([same])
    ids = [message_id(each) for each in ([same], [other_body], [same, same], [same, other_body])]
    assert len(set(ids)) == len(ids)
    assert message_id([same]) == message_id([delivery(7, b"{}")]) == "msg_" + message_id([same])[4:44]


async def test_the_timestamp_is_of_the_machine_s_clock_as_it_is(receiver: Receiver, clock: Clock) -> None:
    """A receiver refuses one that is more than 5 minutes off. The run's clock is the server's, in a fleet,
    and stays where the machine's is set right."""
    wrong_by_s = [0.0]
    steady = SteadyClock(lambda: clock() + wrong_by_s[0], asyncio.get_running_loop().time)
    steady.move(7200, since="the server of the state")
    async with receiver.sink(steady, key=key_of(SECRET)) as sink:
        await sink.write(deliveries(1))
        wrong_by_s[0] = -3600.0
        await sink.write(deliveries(1))
    stamps = [int(stamp) for stamp in receiver.header("webhook-timestamp")]
    assert stamps == [int(EPOCH + at + by_s) for (at, _, _), by_s in zip(receiver.requests, (0, -3600), strict=True)]


async def test_a_repeated_record_has_the_same_id_and_a_new_timestamp(receiver: Receiver, clock: Clock) -> None:
    answers = [503, 503, 200]
    receiver.rule = lambda _request, _body: answers.pop(0)
    async with receiver.sink(clock, key=key_of(SECRET), retries_s=[60]) as sink:
        await until_written(sink, deliveries(1))
        receiver.rule = lambda _request, _body: 200
    async with receiver.sink(clock, key=key_of(SECRET)) as sink:  # the process died before the note
        await sink.write(deliveries(1))
    assert len(set(receiver.header("webhook-id"))) == 1
    stamps = [int(stamp) for stamp in receiver.header("webhook-timestamp")]
    assert stamps == [int(EPOCH + at) for at, _, _ in receiver.requests]
    assert len(set(stamps)) >= 3


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!", "whsec_c2hvcnQ=", "two words", "QUFB" * 40])
def test_an_unusable_secret_is_refused_with_the_way_to_make_one(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        key_of(secret)


def test_the_secret_comes_from_a_variable_or_a_file_and_must_be_there_when_named(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    table = {"kind": "webhook", "url": URL}
    for spec, environ in (
        (table, {"WEBHOOK_SECRET": SECRET}),
        (table | {"secret_env": "MINE"}, {"MINE": SECRET}),
        (table | {"secret_file": str(file)}, {}),
    ):
        sink = make_sink(spec, sink_environment(**environ))
        assert isinstance(sink, WebhookSink)
        assert sink._key == key_of(SECRET)
    with pytest.raises(ConfigError, match="MINE is not set"):
        make_sink(table | {"secret_env": "MINE"}, sink_environment())
    with pytest.raises(ConfigError, match="the secret in WEBHOOK_SECRET must be whsec_") as caught:
        make_sink(table, sink_environment(WEBHOOK_SECRET="hunter2hunter2"))
    assert "hunter2" not in str(caught.value)


async def test_without_a_secret_it_logs_that_it_does_not_sign(receiver: Receiver, clock: Clock, events: Events) -> None:
    async with receiver.sink(clock) as sink:
        await sink.write(deliveries(1))
    assert [event["event"] for event in events] == ["webhook.unsigned"]
    assert "webhook-signature" not in receiver.requests[0][1]
    assert receiver.requests[0][1]["webhook-id"].startswith("msg_")


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 4, 100])
async def test_only_the_guilty_records_of_a_batch_are_dead_letters(
    receiver: Receiver, clock: Clock, batch: int
) -> None:
    guilty = {b'"t3"', b'"t17"', b'"t18"'}
    receiver.rule = lambda _request, body: 422 if any(each in body for each in guilty) else 200
    async with receiver.sink(clock, batch=batch) as sink:
        answer = await sink.write(deliveries(25))
    assert answer == Written(refused=dict.fromkeys((3, 17, 18), "it answered 422"))
    assert receiver.taken == [f"t{number}" for number in range(25) if number not in (3, 17, 18)], "order holds"


@pytest.mark.parametrize("status", [401, 403, 404, 405, 407, 418])
async def test_a_receiver_that_refuses_everything_for_a_while_costs_no_record(
    receiver: Receiver, clock: Clock, status: int
) -> None:
    receiver.rule = lambda _request, _body: status if len(receiver.requests) <= 5 else 200
    async with receiver.sink(clock) as sink:
        assert await until_written(sink, deliveries(5)) == Written()
    assert receiver.taken == [one.task_id for one in deliveries(5)]


@pytest.mark.parametrize("status", [401, 404])
async def test_a_record_that_is_refused_on_the_first_steps_of_the_schedule_is_a_dead_letter(
    receiver: Receiver, clock: Clock, status: int
) -> None:
    receiver.rule = lambda _request, body: status if b"t1" in body else 200
    async with receiver.sink(clock) as sink:
        written = await until_written(sink, deliveries(3))
    assert re.fullmatch(rf"it answered {status}, [3-6] times in a row", written.refused[1])
    assert receiver.taken == ["t0", "t2"]
    assert asyncio.get_running_loop().time() <= 900, "the records behind it do not wait for hours"


async def test_a_receiver_that_has_taken_nothing_yet_gets_the_whole_patience(receiver: Receiver, clock: Clock) -> None:
    receiver.rule = lambda _request, _body: 404
    async with receiver.sink(clock) as sink:
        written = await until_written(sink, deliveries(1))
    assert written.refused == {0: "it answered 404, 6 times in a row"}
    assert asyncio.get_running_loop().time() <= sum(SCHEDULE_S[:5])


@pytest.mark.parametrize("value", ["0", "0.0", "date", "past"])
@pytest.mark.parametrize("status", [429, 503, 500])
async def test_a_receiver_that_asks_for_no_wait_gets_no_more_requests_than_the_schedule_s_pace(
    receiver: Receiver, clock: Clock, status: int, value: str
) -> None:
    def refuse(_request: web.Request, _body: bytes) -> web.Response:
        now = clock() + 86_400  # the receiver's clock is a day ahead
        dates = {"date": now, "past": now - 3600}
        text = format_datetime(datetime.fromtimestamp(dates[value], UTC), usegmt=True) if value in dates else value
        date = format_datetime(datetime.fromtimestamp(now, UTC), usegmt=True)
        return web.Response(status=status, headers={"Retry-After": text, "Date": date})

    receiver.rule = refuse
    async with receiver.sink(clock) as sink:
        for _ in range(8):
            answer = await sink.write(deliveries(1))
            assert isinstance(answer, Retry)
            assert SCHEDULE_S[0] <= answer.wait_s <= 1.1 * SCHEDULE_S[0]


@pytest.mark.parametrize("status", [400, 409, 413, 422, 451])
async def test_a_4xx_about_the_record_makes_a_dead_letter_at_once(
    receiver: Receiver, clock: Clock, status: int
) -> None:
    receiver.rule = lambda _request, _body: status
    async with receiver.sink(clock) as sink:
        assert await sink.write(deliveries(1)) == Written(refused={0: f"it answered {status}"})
    assert len(receiver.requests) == 1


async def test_a_record_that_cannot_be_signed_is_a_dead_letter(receiver: Receiver, clock: Clock) -> None:
    batch = [delivery(0, b'{"task_id":"t0"}'), delivery(1, b'{"task_id":"\xff"}'), delivery(2, b'{"task_id":"t2"}')]
    async with receiver.sink(clock, key=key_of(SECRET), batch=3) as sink:
        assert await sink.write(batch) == Written(refused={1: "is not UTF-8: it cannot be signed"})
    assert receiver.taken == ["t0", "t2"]


async def test_gone_stops_the_sink(receiver: Receiver, clock: Clock) -> None:
    receiver.rule = lambda _request, _body: 410
    async with receiver.sink(clock, concurrency=3) as sink:
        with pytest.raises(SinkError, match="410 Gone"):
            await sink.write(deliveries(9))


# --- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 521, 301, 302, 307, 308])
async def test_what_may_pass_is_retried_and_redirects_are_not_followed(
    receiver: Receiver, clock: Clock, status: int
) -> None:
    answers: list[int | web.Response] = [web.Response(status=status, headers={"Location": "/elsewhere"}), 200, 200]
    receiver.rule = lambda request, _body: answers.pop(0) if request.path == "/finished" else 200
    async with receiver.sink(clock) as sink:
        answer = await sink.write(deliveries(2))
        assert isinstance(answer, Retry)
        assert str(status) in answer.reason
        assert await sink.write(deliveries(2)) == Written()
    assert receiver.taken == ["t0", "t1"]
    assert len(receiver.requests) == 3


async def test_accepted_records_are_not_sent_twice_when_the_rest_is_retried(receiver: Receiver, clock: Clock) -> None:
    receiver.rule = lambda _request, body: 503 if b"t3" in body and len(receiver.requests) < 10 else 200
    async with receiver.sink(clock) as sink:
        await until_written(sink, deliveries(6))
    assert receiver.taken == ["t0", "t1", "t2", "t3", "t4", "t5"]


async def test_waits_follow_the_schedule_with_full_jitter(receiver: Receiver, clock: Clock) -> None:
    receiver.rule = lambda _request, _body: 503
    waits = []
    async with receiver.sink(clock) as sink:
        for _ in range(len(SCHEDULE_S) + 3):
            answer = await sink.write(deliveries(1))
            assert isinstance(answer, Retry)
            waits.append(answer.wait_s)
    steps = [*SCHEDULE_S, *SCHEDULE_S[-1:] * 3]
    assert all(0 <= wait_s <= step for wait_s, step in zip(waits, steps, strict=True))
    assert len({round(wait_s / step, 3) for wait_s, step in zip(waits, steps, strict=True)}) > 8


@pytest.mark.parametrize("form", ["120", "date"])
async def test_retry_after_is_honoured(receiver: Receiver, clock: Clock, form: str) -> None:
    value = form if form == "120" else format_datetime(datetime.fromtimestamp(EPOCH + 120, UTC), usegmt=True)
    date = format_datetime(datetime.fromtimestamp(EPOCH, UTC), usegmt=True)
    headers = {"Retry-After": value, "Date": date}
    receiver.rule = lambda _request, _body: web.Response(status=429, headers=headers)
    async with receiver.sink(clock) as sink:
        answer = await sink.write(deliveries(1))
    assert isinstance(answer, Retry)
    assert 119 <= answer.wait_s <= 133


@pytest.mark.parametrize("value", ["", "soon", "-5", "1e9", "Mon, 99 Foo 2026", "9" * 30, "9" * 18])
async def test_nonsense_in_retry_after_is_ignored(receiver: Receiver, clock: Clock, value: str) -> None:
    receiver.rule = lambda _request, _body: web.Response(status=503, headers={"Retry-After": value})
    async with receiver.sink(clock) as sink:
        answer = await sink.write(deliveries(1))
    assert isinstance(answer, Retry)
    assert 0 <= answer.wait_s <= 1.1 * 86_400


async def test_a_record_that_breaks_the_receiver_dies_after_the_whole_schedule_and_lets_the_others_pass(
    receiver: Receiver, clock: Clock
) -> None:
    receiver.rule = lambda _request, body: 500 if b"t1" in body else 200
    async with receiver.sink(clock) as sink:
        written = await until_written(sink, deliveries(3))
    assert written.refused == {1: "it answered 500, 10 times in a row"}
    assert receiver.taken == ["t0", "t2"]
    assert sum(b"t1" in body for _, _, body in receiver.requests) == 10


async def test_a_receiver_that_is_away_for_weeks_costs_no_record(receiver: Receiver, clock: Clock) -> None:
    receiver.outages.down = True
    back_at = 30 * 86_400
    asyncio.get_running_loop().call_at(back_at, setattr, receiver.outages, "down", False)
    async with receiver.sink(clock) as sink:
        assert await until_written(sink, deliveries(20)) == Written()
    assert receiver.taken == [one.task_id for one in deliveries(20)]
    assert asyncio.get_running_loop().time() < back_at + 86_401


async def test_a_failed_batch_keeps_its_composition_and_so_its_id(receiver: Receiver, clock: Clock) -> None:
    receiver.rule = lambda _request, _body: 503 if len(receiver.requests) < 2 else 200
    async with receiver.sink(clock, batch=10) as sink:
        await sink.write(deliveries(3))
        await sink.write(deliveries(30))  # more has finished meanwhile
    first, second = receiver.header("webhook-id")[:2]
    assert first == second
    assert receiver.taken == [one.task_id for one in deliveries(30)]


async def test_a_receiver_that_hangs_is_out_of_time(receiver: Receiver, clock: Clock) -> None:
    receiver.delay_s = 1000
    async with receiver.sink(clock, timeout_s=7) as sink:
        answer = await sink.write(deliveries(1))
        assert asyncio.get_running_loop().time() == pytest.approx(7, abs=0.1)
    assert isinstance(answer, Retry)
    assert answer.reason == "no answer in time"


async def test_an_answer_that_came_while_the_process_stood_still_counts(receiver: Receiver, clock: Clock) -> None:
    """Stopped for a minute, the sink gave up requests that the receiver had answered, and sent them again."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    receiver.delay_s = 3
    async with receiver.sink(clock, timeout_s=7) as sink, asyncio.TaskGroup() as group:
        writing = group.create_task(sink.write(deliveries(1)))
        await asyncio.sleep(1)
        loop.stand_still(60.0)
        assert await writing == Written()
    assert len(receiver.requests) == 1


@pytest.mark.parametrize("split", [0.0, 1.0])
async def test_outages_lose_nothing(receiver: Receiver, clock: Clock, split: float) -> None:
    receiver.outages.reset, receiver.outages.split = 0.2, split
    async with receiver.sink(clock, concurrency=3, batch=2, retries_s=[1]) as sink:
        assert await until_written(sink, deliveries(60)) == Written()
    assert set(receiver.taken) == {one.task_id for one in deliveries(60)}


async def test_connections_are_not_kept(receiver: Receiver, clock: Clock) -> None:
    connectors: list[MemoryConnector] = []
    async with receiver.sink(clock) as sink:
        await sink.write(deliveries(4))
        assert sink._session is not None
        connector = sink._session.connector
        assert isinstance(connector, MemoryConnector)
        connectors.append(connector)
    assert connectors[0].connections_total == 4


async def test_a_cancelled_write_leaves_the_sink_usable(receiver: Receiver, clock: Clock) -> None:
    receiver.delay_s = 2
    async with receiver.sink(clock) as sink:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await sink.write(deliveries(5))
        assert await sink.write(deliveries(5)) == Written()
    assert set(receiver.taken) == {one.task_id for one in deliveries(5)}


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("webhook:https://me:hunter2@x.example:8443/in/?key=hunter2#hunter2", "webhook:https://x.example:8443/in/"),
        ("webhook:http://[::1]:80/a", "webhook:http://[::1]:80/a"),
        ({"kind": "webhook", "url_env": "CRM_URL"}, "webhook:$CRM_URL"),
        ({"kind": "webhook", "url": URL, "name": "crm"}, "crm"),
    ],
)
def test_the_name_is_stable_and_holds_no_secret(spec: Any, name: str) -> None:
    sink = make_sink(spec, sink_environment(CRM_URL="https://x.example/hunter2"))
    assert sink.name == name
    assert "hunter2" not in repr(vars(sink)["_table"])


async def opened(table: dict[str, Any]) -> None:
    await make_sink(table, sink_environment(X="https://x")).open(None, [])


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"timeot_s": 3}, "timeot_s: there is no such setting; did you mean timeout_s?"),
        ({"secret": "hunter2"}, "secret: a secret does not belong into settings. Name where it is: secret_env"),
        ({"batch": 0}, "batch: must be greater than 0"),
        ({"batch": True}, "batch: must be a number"),
        ({"concurrency": 65}, "concurrency: must be less than or equal to 64"),
        ({"retries_s": []}, "retries_s: "),
        ({"proxy": "hunter2"}, "proxy: must be a URL"),
        ({"url": "ftp://hunter2/x"}, "url: must be an http"),
        ({"url_env": "X"}, "needs one of url, url_env and url_file"),
        ({"url": "https://u:p/w@hunter2/x"}, "write / @ : in a user or password as %2F"),
        ({"ca_file": "/nonexistent"}, "ca_file /nonexistent cannot be used"),
    ],
)
async def test_a_wrong_setting_is_named_and_no_value_shown(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await opened({"kind": "webhook", "url": URL} | table)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("sink webhook: ")
    assert "hunter2" not in str(caught.value)


# --- real sockets ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(handler: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_over_sockets_basic_authentication_goes_along_and_a_closed_port_is_retried(
    receiver: Receiver, events: Events
) -> None:
    async with listening(receiver.handle) as port:
        sink = make_sink(f"webhook:http://me:pass@127.0.0.1:{port}/x", sink_environment(WEBHOOK_SECRET=SECRET))
        await sink.open(None, [])
        assert await sink.write(deliveries(3)) == Written()
    answer = await sink.write([delivery(9)])
    await sink.close()
    assert receiver.taken == ["t0", "t1", "t2"]
    assert receiver.header("Authorization") == ["Basic bWU6cGFzcw=="] * 3
    assert isinstance(answer, Retry)
    assert answer.reason == "no connection"
    assert "pass" not in str(events)


async def test_a_proxy_of_its_own_is_used(receiver: Receiver) -> None:
    asked = []

    async def proxy(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.raw_path if isinstance(request, web.Request) else "")
        return web.Response(status=200)

    runner = web.ServerRunner(web.Server(proxy))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port = runner.addresses[0][1]
        table = {"kind": "webhook", "url": "http://receiver.example/x", "proxy": f"http://127.0.0.1:{port}"}
        sink = make_sink(table, sink_environment())
        await sink.open(None, [])
        assert await sink.write(deliveries(1)) == Written()
        await sink.close()
    finally:
        await runner.cleanup()
    assert len(asked) == 1


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_a_private_authority_is_trusted_only_when_named(receiver: Receiver, tmp_path: Path) -> None:
    certificate, key = str(tmp_path / "certificate.pem"), str(tmp_path / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)  # noqa: S603, ASYNC221
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with listening(receiver.handle, context) as port:
        table = {"kind": "webhook", "url": f"https://127.0.0.1:{port}/"}
        for options, expected in (({}, Retry), ({"ca_file": certificate}, Written)):
            sink = make_sink(table | options, sink_environment())
            await sink.open(None, [])
            answer = await sink.write(deliveries(1))
            await sink.close()
            assert isinstance(answer, expected)
            assert isinstance(answer, Written) or answer.reason == "its certificate is not trusted"
    assert receiver.taken == ["t0"]
