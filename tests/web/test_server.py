"""Health, readiness and access: the admin server in memory, on virtual time."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from aiohttp import web

from poller.config import Address, address_of, load
from poller.core.accounts import Pause
from poller.core.errors import ConfigError
from poller.core.model import Kind
from poller.core.protocols import Clock
from poller.sandbox import Outage, Scenario, parse_durations
from poller.web import listen
from poller.web.openapi import describe
from tests.support.simulation import Simulation, named
from tests.support.site import SITE_TOKEN, WITH_TOKEN, json_of, visited

CALM = Scenario(fates={}, durations=parse_durations("fixed:20"))
BEARER = {"Authorization": f"Bearer {SITE_TOKEN}"}
PATHS = ("/metrics", "/v1/tasks/x", "/v1/finished", "/v1/openapi.json", "/v1/overview", "/nowhere")


@pytest.fixture
async def simulation(tmp_path: Path, clock: Clock) -> Simulation:
    return Simulation(tmp_path, clock, CALM)


async def test_a_run_at_work_is_alive_and_ready(simulation: Simulation) -> None:
    async with visited(simulation, simulation.write_ids(3)) as session:
        for method in ("GET", "HEAD"):
            async with session.request(method, "/healthz") as response:
                assert response.status == 200
        async with session.get("/readyz") as response:
            ready = await json_of(response)
            assert response.status == 200
    assert ready["ready"] is True
    assert ready["store"] == {"ready": True, "state": "writable"}
    assert ready["accounts"] == {"default": {"ready": True, "pause": None, "resume_at": None, "detail": None}}
    assert [sink["state"] for sink in ready["sinks"].values()] == ["delivering"]


@pytest.mark.parametrize(
    ("fault", "pause", "status"),
    [
        ("401", "token_refused", 503),
        ("403", "scope_missing", 503),
        ("html404", "wrong_path", 503),
        ("503", "outage", 200),
    ],
)
async def test_only_a_pause_that_a_person_must_end_makes_it_unready(
    tmp_path: Path, clock: Clock, fault: str, pause: str, status: int
) -> None:
    simulation = Simulation(tmp_path, clock, Scenario(outages=(Outage(from_s=0, to_s=9999, fault=fault),)))
    async with visited(simulation, simulation.write_ids(30)) as session:
        await asyncio.sleep(60)
        async with session.get("/readyz") as response:
            ready = await json_of(response)
            assert response.status == status
    assert ready["accounts"]["default"]["pause"] == pause
    assert ready["accounts"]["default"]["ready"] is (status == 200)


async def test_while_it_drains_it_is_alive_but_not_ready_and_takes_no_tasks(simulation: Simulation) -> None:
    simulation.network.latency_s = (2.0, 2.0)
    async with visited(simulation, simulation.write_ids(3)) as session:
        await asyncio.sleep(3)
        simulation.drain()
        async with session.get("/healthz") as response:
            assert response.status == 200
        async with session.get("/readyz") as response:
            assert (response.status, (await json_of(response))["draining"]) == (503, True)
        async with session.post("/v1/tasks", data="a1", headers={"Content-Type": "text/plain"}) as response:
            assert (response.status, (await json_of(response))["error"]) == (503, "draining")
            assert int(response.headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/healthz", "/v1/finished", "/nowhere"])
async def test_every_response_has_the_security_headers(simulation: Simulation, path: str) -> None:
    async with visited(simulation) as session, session.get(path) as response:
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]
        assert response.headers["Server"] == "poller"


async def test_an_unknown_path_is_answered_in_json(simulation: Simulation) -> None:
    async with visited(simulation) as session:
        async with session.get("/nowhere") as response:
            assert (response.status, (await json_of(response))["error"]) == (404, "not_found")
        async with session.delete("/v1/tasks") as response:
            assert (response.status, response.headers["Allow"]) == (405, "GET,HEAD,POST")
            assert "POST" in (await json_of(response))["message"]


async def test_the_description_has_every_path_and_this_runs_accounts(simulation: Simulation) -> None:
    async with visited(simulation) as session, session.get("/v1/openapi.json") as response:
        described = await json_of(response)
    assert described["components"]["schemas"]["Account"]["enum"] == ["default"]
    data = {path for path in simulation.site_paths if not path.startswith("/page/")}
    assert described["paths"].keys() == data


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("get", "/healthz", "", 200),
        ("get", "/readyz", "", 200),
        ("get", "/v1/overview", "", 200),
        ("get", "/v1/tasks/{task_id}", "", 200),
        ("get", "/v1/tasks/{task_id}", "?account=other", 404),
        ("get", "/v1/finished", "?limit=x", 400),
        ("post", "/v1/tasks", "", 200),
        ("post", "/v1/tasks", "?account=other", 400),
        ("post", "/v1/tasks", "?id_column=", 400),
    ],
)
async def test_a_served_response_is_valid_by_the_description(
    simulation: Simulation, method: str, path: str, query: str, status: int
) -> None:
    task_id = simulation.api.preload(1)[0]
    async with visited(simulation) as session:
        text = {"Content-Type": "text/plain"}
        async with session.post("/v1/tasks", data=f"{task_id}\nno id\n", headers=text):
            await asyncio.sleep(40)
        async with session.get("/v1/openapi.json") as response:
            described = await json_of(response)
        url = path.replace("{task_id}", task_id) + query
        async with session.request(method, url, data="a b\n" if method == "post" else None, headers=text) as response:
            assert response.status == status
            body = await json_of(response)
    responses = described["components"]["responses"]
    answer = described["paths"][path][method]["responses"][str(status)]
    answer = responses[answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
    schema = answer["content"]["application/json"]["schema"]
    validator = jsonschema.Draft202012Validator({**schema, "components": described["components"]})
    assert [error.message for error in validator.iter_errors(body)] == []
    assert validator.is_valid({}) is False  # the schema requires something


def test_the_description_has_every_kind_and_pause_of_the_code() -> None:
    schemas = describe()["components"]["schemas"]
    assert (set(schemas["Kind"]["enum"]), set(schemas["Pause"]["enum"])) == (set(Kind), set(Pause))


# --- without a token -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8321", "169.254.1.1", "localhost.evil.example", "[::2]", "[", ""]
)
async def test_without_a_token_a_foreign_host_is_refused(simulation: Simulation, host: str, events: list[Any]) -> None:
    async with visited(simulation) as session:
        for path in ("/healthz", "/", "/v1/finished"):
            async with session.get(path, headers={"Host": host}) as response:
                assert response.status == 403
    assert [event["reason"] for event in named(events, "web.refused")] == ["host"]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8321", "127.1.2.3", "[::1]:8321"])
async def test_the_own_names_of_this_machine_are_accepted(simulation: Simulation, host: str) -> None:
    async with visited(simulation) as session, session.get("/v1/finished", headers={"Host": host}) as response:
        assert response.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:8321"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({}, 200),
    ],
)
async def test_a_post_sent_by_a_page_of_another_site_is_refused(
    simulation: Simulation, headers: dict[str, str], status: int
) -> None:
    own = {"Content-Type": "text/plain", "Host": "127.0.0.1:8321"} | headers
    async with visited(simulation) as session, session.post("/v1/tasks", data="a1", headers=own) as response:
        assert response.status == status
    assert (await simulation.sums()).waiting == (status == 200)


# --- with a token ----------------------------------------------------------------------------------------------------


async def test_with_a_token_all_but_health_needs_it(simulation: Simulation, events: list[Any]) -> None:
    async with visited(simulation, None, WITH_TOKEN) as session:
        for path in ("/healthz", "/readyz"):
            async with session.get(path, headers={"Host": "poller.example"}) as response:
                assert response.status == 200
                assert "detail" not in str(await json_of(response))
        for path in PATHS:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SITE_TOKEN}"}):
                async with session.get(path, headers=headers) as response:
                    assert (response.status, (await json_of(response))["error"]) == (401, "unauthorized")
                    assert response.headers["WWW-Authenticate"].startswith("Bearer")
        async with session.post("/v1/tasks", data="a1", headers={"Content-Type": "text/plain"}) as response:
            assert response.status == 401
        async with session.get("/v1/finished", headers=BEARER | {"Host": "poller.example"}) as response:
            assert response.status == 200
        async with session.get("/readyz", headers=BEARER) as response:
            assert "detail" in str(await json_of(response))
    assert (await simulation.sums()).waiting == 0
    assert SITE_TOKEN not in str(events)
    assert len(named(events, "web.refused")) == 1


async def test_a_browser_without_the_token_receives_the_page_but_no_data(
    simulation: Simulation,
) -> None:
    async with visited(simulation, None, WITH_TOKEN) as session:
        async with session.get("/") as response:
            assert (response.status, response.content_type) == (401, "text/html")
        async with session.get("/page/main.js") as response:
            assert response.status == 200


async def test_a_token_that_is_replaced_in_its_file_counts_at_once(simulation: Simulation) -> None:
    file = simulation.folder / "token"
    file.write_text("first-token-of-the-site")
    flags = {"listen": "[::]:8321", "listen_token_file": str(file)}
    async with visited(simulation, None, flags) as session:
        for token, status in (("first-token-of-the-site", 401), ("second-token-of-the-site", 200)):
            file.write_text("second-token-of-the-site")
            async with session.get("/v1/finished", headers={"Authorization": f"Bearer {token}"}) as response:
                assert response.status == status
        file.unlink()
        async with session.get(
            "/v1/finished", headers={"Authorization": "Bearer second-token-of-the-site"}
        ) as response:
            assert response.status == 401


# --- slow clients, on loopback sockets but virtual time -------------------------------------------------------------


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def say_hello(request: web.Request) -> web.Response:
    if request.path == "/slow":
        await asyncio.sleep(5)
        await request.read()
    return web.Response(text="hello")


@asynccontextmanager
async def greeter() -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/", say_hello)
    app.router.add_get("/healthz", say_hello)
    app.router.add_route("*", "/slow", say_hello)
    async with listen(app, Address(host="127.0.0.1", port=0)) as address:
        yield address.port


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: local"])
async def test_a_connection_whose_first_request_does_not_come_is_dropped(sent: bytes) -> None:
    async with greeter() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        async with asyncio.timeout(20):
            assert await reader.read() == b""
        assert 14 < asyncio.get_running_loop().time() < 16
        writer.close()


async def test_a_connection_that_is_idle_or_half_way_into_its_next_request_is_dropped_later() -> None:
    async with greeter() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET + b"GET / HT")
        async with asyncio.timeout(100):
            assert (await reader.read()).count(b"hello") == 1
        assert 50 < asyncio.get_running_loop().time() < 70
        writer.close()


async def test_more_connections_than_are_allowed_are_turned_away_while_all_have_a_request_in_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("poller.web.server.MAX_CONNECTIONS", 3)
    async with greeter() as port:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for _, each in held:
            each.write(GET.replace(b"/ ", b"/slow "))
        await asyncio.sleep(0.1)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        assert [(await each.readuntil(b"hello"))[-5:] for each, _ in held] == [b"hello"] * 3
        for _, each in [*held, (reader, writer)]:
            each.close()


async def test_five_hundred_silent_connections_do_not_keep_a_request_out() -> None:
    """Those that ask nothing make room, the oldest first; those that have asked stay."""
    loop = asyncio.get_running_loop()
    async with greeter() as port, AsyncExitStack() as stack:
        held = []
        for number in range(520):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            held.append((reader, writer))
            if number == 0:
                writer.write(GET)
                await reader.readuntil(b"hello")
        began_at = loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        writer.write(GET)
        assert (await reader.readuntil(b"hello"))[-5:] == b"hello"
        assert await held[1][0].read() == b""
        assert loop.time() - began_at < 0.5
        held[0][1].write(GET)
        assert (await held[0][0].readuntil(b"hello"))[-5:] == b"hello"


@pytest.mark.parametrize("slow", [b"GET /slow HTTP/1.1", b"POST /slow HTTP/1.1\r\nContent-Length: 9"])
async def test_slow_requests_and_stalled_bodies_do_not_keep_a_probe_out(slow: bytes) -> None:
    async with greeter() as port, AsyncExitStack() as stack:
        held = []
        for _ in range(520):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
            writer.write(slow + b"\r\nHost: localhost\r\n\r\n")
            held.append(reader)
        await asyncio.sleep(0.5)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        writer.write(GET.replace(b"/ ", b"/healthz "))
        async with asyncio.timeout(0.5):
            assert (await reader.readuntil(b"hello"))[-5:] == b"hello"
        refused = await held[-1].readuntil(b"}")
        assert b" 503 " in refused
        assert b'"error":"busy"' in refused


async def test_idle_connections_make_room_where_none_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poller.web.server.MAX_CONNECTIONS", 2)
    async with greeter() as port, AsyncExitStack() as stack:
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        for reader, writer in held[2:]:  # the first two had to make room for them
            stack.callback(writer.close)
            writer.write(GET)
            await reader.readuntil(b"hello")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        writer.write(GET)
        assert (await reader.readuntil(b"hello"))[-5:] == b"hello"
        async with asyncio.timeout(0.5):
            assert await held[2][0].read() == b""
        for _, each in held[:2]:
            each.close()


# --- settings --------------------------------------------------------------------------------------------------------


async def test_a_host_s_name_that_cannot_be_one_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on a\.\.b:80: it is no name of a host\. Choose another"):
        async with listen(web.Application(), Address(host="a..b", port=80)):
            pass


@pytest.mark.parametrize("listen", ["0.0.0.0:8321", "[::]:8321", "192.168.1.5:80", "poller.example:1", "[fe80::1]:80"])
def test_listening_beyond_this_machine_needs_a_token(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match="listen_token_file"):
        load(None, {"listen": listen}, {}, secrets_dir=tmp_path)
    assert load(None, {"listen": listen, "listen_token_env": "T"}, {}, secrets_dir=tmp_path).listen == listen


@pytest.mark.parametrize(
    "listen", ["8321", ":8321", "localhost", "a b:1", "::1:80", "[x]:1", "h:99999", "http://h:1", "h:-1"]
)
def test_a_listen_value_that_is_not_an_address_is_refused(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        load(None, {"listen": listen}, {}, secrets_dir=tmp_path)


def test_the_default_is_for_this_machine_only(tmp_path: Path) -> None:
    address = address_of(load(None, {}, {}, secrets_dir=tmp_path).listen)
    assert address is not None
    assert address.is_loopback
