"""One start call: a connection of its own, and whether a byte of it left is known, not guessed."""

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from poller.core.errors import ConfigError
from poller.core.model import Refused
from poller.core.starts import NotSent, Started, Unsure
from poller.hubspot.client import Connections
from poller.hubspot.start_client import HubSpotStarts
from poller.hubspot.tokens import TokenUnavailable
from tests.support.virtual import MemoryConnector, serving

PATH = "/files/v3/files/import-from-url/async"


class Token:
    def __init__(self, value: str | Exception = "pat-secret") -> None:
        self.value = value
        self.credentials = b""
        self.refusals: list[str] = []

    async def token(self) -> str:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    def refused(self, token: str) -> None:
        self.refusals.append(token)

    def has_changed(self) -> bool:
        return False


Handler = Callable[[web.Request], object]


@asynccontextmanager
async def client_for(
    handler: object, token: Token | None = None, is_trusted: Callable[[], bool] | None = None
) -> AsyncIterator[HubSpotStarts]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)  # type: ignore[arg-type]
    async with (
        serving(app) as server,
        Connections(connector=lambda fresh: MemoryConnector(server, force_close=fresh)) as connections,
    ):
        yield HubSpotStarts(
            connections,
            base_url="https://api.hubapi.com",
            start_path=PATH,
            tokens=token or Token(),
            request_timeout_s=5.0,
            is_trusted=is_trusted,
        )


async def test_it_posts_the_body_once_and_each_over_a_connection_of_its_own() -> None:
    seen: list[tuple[object, str, str, bytes, str]] = []

    async def handle(request: web.Request) -> web.Response:
        body, kind = await request.read(), request.headers["Content-Type"]
        seen.append((request.transport, request.method, request.path, body, kind))
        assert request.headers["Authorization"] == "Bearer pat-secret"
        return web.json_response({"id": f"AAAA{len(seen)}"}, status=202)

    async with client_for(handle) as client:
        answers = [await client.start(f'{{"url":"https://a/{n}"}}'.encode()) for n in range(3)]
    assert [answer.outcome for answer in answers] == [Started(task_id=f"AAAA{n}") for n in (1, 2, 3)]
    assert [each[1:] for each in seen] == [
        ("POST", PATH, f'{{"url":"https://a/{n}"}}'.encode(), "application/json") for n in range(3)
    ]
    assert len({id(each[0]) for each in seen}) == 3, "no connection is used twice"


async def test_a_redirect_is_not_followed_and_a_reset_or_silence_after_the_request_is_unsure() -> None:
    paths: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        await request.read()
        match len(paths):
            case 1:
                return web.Response(status=307, headers={"Location": "/elsewhere"})
            case 2:
                assert request.transport is not None
                request.transport.abort()
            case 3:
                import asyncio

                await asyncio.sleep(60)
        return web.Response()

    async with client_for(handle) as client:
        outcomes = [(await client.start(b"{}")).outcome for _ in range(3)]
    assert outcomes[0] == Unsure(reason="http_307")
    assert all(isinstance(outcome, Unsure) for outcome in outcomes[1:])
    assert outcomes[2] == Unsure(reason="timeout")
    assert paths == [PATH] * 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (aiohttp.ServerDisconnectedError(), "connection_lost"),
        (TimeoutError(), "timeout"),
        (OSError(), "connection_refused"),
    ],
)
async def test_without_a_connection_nothing_was_sent(error: Exception, reason: str) -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.Response()

    class Broken(MemoryConnector):
        async def connect(self, *_args: object, **_more: object) -> object:  # type: ignore[override]
            raise error

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    async with (
        serving(app) as server,
        Connections(connector=lambda fresh: Broken(server, force_close=fresh)) as connections,
    ):
        client = HubSpotStarts(connections, base_url="https://api.hubapi.com", start_path=PATH, tokens=Token())
        outcome = (await client.start(b"{}")).outcome
    assert isinstance(outcome, NotSent)
    assert not outcome.left


async def test_without_a_token_nothing_is_sent() -> None:
    async def handle(request: web.Request) -> web.Response:
        raise AssertionError("it was sent")

    async with client_for(handle, Token(TokenUnavailable("down"))) as client:
        assert (await client.start(b"{}")).outcome == NotSent(reason="token_unavailable", left=False)
    distrusted = Refused(reason="untrusted_certificate", detail="set ca_file")
    async with client_for(handle, Token(TokenUnavailable("never", distrusted))) as client:
        assert (await client.start(b"{}")).outcome == distrusted
    async with client_for(handle, Token(ConfigError("no HUBSPOT_TOKEN"))) as client:
        outcome = (await client.start(b"{}")).outcome
    assert outcome == Refused(reason="token_refused", detail="no HUBSPOT_TOKEN")


async def test_a_start_whose_right_ended_on_the_way_never_leaves_and_its_connection_is_closed() -> None:
    async def handle(request: web.Request) -> web.Response:
        raise AssertionError("it was sent")

    async with client_for(handle, is_trusted=lambda: False) as client:
        assert (await client.start(b"{}")).outcome == NotSent(reason="right_lost", left=False)
    gc.collect()  # a connection that was left open would warn now


async def test_a_refused_token_is_reported_to_its_source() -> None:
    async def handle(request: web.Request) -> web.Response:
        return web.json_response({"category": "INVALID_AUTHENTICATION", "correlationId": "1"}, status=401)

    token = Token()
    async with client_for(handle, token) as client:
        assert isinstance((await client.start(b"{}")).outcome, Refused)
    assert token.refusals == ["pat-secret"]
