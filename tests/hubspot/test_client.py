"""The client against hostile servers over real sockets: every poll ends in an outcome, none in a wrong one."""

import asyncio
import gc
import gzip
import inspect
import io
import logging
import shutil
import socket
import ssl
import subprocess
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import structlog
from aiohttp import client_exceptions, http_exceptions
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler

from poller.core.errors import ConfigError
from poller.core.http_errors import HTTP_ERRORS
from poller.core.model import Answer, Finished, Missing, Outcome, Refused, Running, Throttled, Unreachable
from poller.core.request_protocols import RightLost
from poller.hubspot.client import (
    LARGEST_PROBLEM,
    Connections,
    HubSpotClient,
    Trouble,
    answers_name_task,
    status_url,
    trouble_of,
)
from poller.hubspot.connection import KEEPALIVE_S
from poller.hubspot.tokens import TokenUnavailable
from poller.hubspot.unanswered import untrusted
from tests.support.makers import make_task
from tests.support.virtual import MemoryConnector, MemoryTransport, SimulatedNetwork

TOKEN = "pat-na1-s3cr3t"
PATH = "/files/v3/files/import-from-url/async/tasks/{task_id}/status"
ID = make_task().task_id
COMPLETE = orjson.dumps({"status": "COMPLETE", "taskId": ID, "result": {"id": "1"}})
UNNAMED = b'{"status":"COMPLETE","result":{"id":"1"}}'


def http(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    data: bytes
    close: bool = False
    reset: bool = False
    late: bytes = b""  # sent after `late_s`, requested or not
    late_s: float = 0.01
    drip_s: float | None = None  # one byte at a time


def stray(body: bytes, status: str = "200 OK") -> Reply:
    """Answer correctly, then leave another answer on the connection."""
    return Reply(http(COMPLETE), late=http(body, status))


@dataclass
class RawServer:
    """Answers the n-th request with the n-th reply, and with the last one from then on."""

    replies: tuple[Reply, ...]
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                request = await reader.readuntil(b"\r\n\r\n")
                reply = self.replies[min(len(self.requests), len(self.replies) - 1)]
                self.requests.append(request)
                await self._send(reply, writer)
                if reply.reset:
                    writer.transport.abort()
                if reply.close or reply.reset:
                    return
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _send(self, reply: Reply, writer: asyncio.StreamWriter) -> None:
        pieces = [reply.data] if reply.drip_s is None else [bytes([byte]) for byte in reply.data]
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(reply.drip_s or 0)
        if reply.late:
            await asyncio.sleep(reply.late_s)
            writer.write(reply.late)
            await writer.drain()


@asynccontextmanager
async def answering(*replies: Reply | bytes) -> AsyncIterator[RawServer]:
    raw = RawServer(tuple(Reply(reply) if isinstance(reply, bytes) else reply for reply in replies))
    server = await asyncio.start_server(raw.converse, "127.0.0.1", 0)
    raw.port = server.sockets[0].getsockname()[1]
    try:
        yield raw
    finally:
        server.close()


class Tokens:
    """A token source that notes what was refused."""

    def __init__(self, error: Exception | None = None, token: str = TOKEN) -> None:
        self.error = error
        self.held = token
        self.credentials = blake2b(token.encode()).digest()
        self.refusals: list[str] = []

    async def token(self) -> str:
        if self.error is not None:
            raise self.error
        return self.held

    def refused(self, token: str) -> None:
        self.refusals.append(token)

    def has_changed(self) -> bool:
        return False


@asynccontextmanager
async def client_of(
    base_url: str, *, path: str = PATH, tokens: Tokens | None = None, connections: Connections | None = None, **how: Any
) -> AsyncIterator[HubSpotClient]:
    async with connections or Connections() as opened:
        yield HubSpotClient(opened, base_url=base_url, status_path=path, tokens=tokens or Tokens(), **how)


async def outcomes(*replies: Reply | bytes, polls: int = 1, gap_s: float = 0.1, **how: Any) -> list[Outcome]:
    """Return the outcomes of this many polls of one task."""
    async with answering(*replies) as server, client_of(server.url, **how) as client:
        found = []
        for _ in range(polls):
            found.append((await client.poll(make_task())).outcome)
            await asyncio.sleep(gap_s)
        assert len(server.requests) <= polls
        return found


async def outcome_of(reply: Reply | bytes, **how: Any) -> Outcome:
    return (await outcomes(reply, **how))[0]


async def reason_of(reply: Reply | bytes, **how: Any) -> str:
    outcome = await outcome_of(reply, **how)
    assert isinstance(outcome, Unreachable)
    return outcome.reason


# --- a member of a fleet ---------------------------------------------------------------------------------------------


@pytest.mark.real_time
async def test_a_request_whose_right_ended_on_the_way_never_leaves_and_its_connection_is_kept() -> None:
    is_trusted = True
    async with answering(http(COMPLETE)) as server, client_of(server.url, is_trusted=lambda: is_trusted) as client:
        assert isinstance((await client.poll(make_task())).outcome, Finished)
        is_trusted = False
        with pytest.raises(RightLost):
            await client.poll(make_task())
        is_trusted = True
        assert isinstance((await client.poll(make_task())).outcome, Finished)
    assert len(server.requests) == 2
    assert server.connections == 1


@pytest.mark.real_time
@pytest.mark.parametrize("token_is_there", [True, False])
async def test_a_host_that_has_moved_is_looked_up_again_as_soon_as_its_old_address_fails(
    monkeypatch: pytest.MonkeyPatch, token_is_there: bool
) -> None:
    """Its address was remembered for a minute, which the growing gaps between the probes of an outage made two."""

    class Resolver(AbstractResolver):
        addresses = iter(["127.0.0.2"])  # where nothing listens; then the server's

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            address = next(self.addresses, "127.0.0.1")
            return [ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)]

        async def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr("aiohttp.connector.DefaultResolver", lambda **_: Resolver())
    async with answering(http(COMPLETE)) as server, Connections() as connections:
        base_url = f"http://hub.test:{server.port}"
        if token_is_there:
            client = HubSpotClient(connections, base_url=base_url, status_path=PATH, tokens=Tokens())
            assert (await client.poll(make_task())).outcome == Unreachable(reason="connection_refused")
            assert isinstance((await client.poll(make_task())).outcome, Finished)
        else:
            with pytest.raises(TokenUnavailable):
                await connections.post(f"{base_url}/oauth/v1/token", {})
            assert (await connections.post(f"{base_url}/oauth/v1/token", {}))[0] == 200


# --- the request -----------------------------------------------------------------------------------------------------


async def test_a_poll_is_one_get_with_the_token_in_its_header_only() -> None:
    async with answering(http(COMPLETE)) as server, client_of(server.url + "/prefix/") as client:
        answer = await client.poll(make_task())
    assert isinstance(answer.outcome, Finished)
    [request] = server.requests
    line, *headers = request.decode().splitlines()
    assert line == f"GET /prefix{PATH.format(task_id=ID)} HTTP/1.1"
    assert f"Authorization: Bearer {TOKEN}" in headers
    assert any(header.startswith("User-Agent: hubspot-import-poller/") for header in headers)
    assert request.decode().count(TOKEN) == 1


@pytest.mark.parametrize(
    "task_id",
    ["", ".", "..", "a/b", "../../oauth/v1/x", "a%41", "a?b", "a#b", "a\r\nX: y", "\ud800", "ä", "a" * 257, "a b"],
)
async def test_a_hostile_id_is_never_requested(task_id: str) -> None:
    async with answering(http(COMPLETE)) as server, client_of(server.url) as client:
        answer = await client.poll(make_task(task_id=task_id))
    assert answer.outcome == Unreachable(reason="bad_url")
    assert server.requests == []


@pytest.mark.parametrize(
    ("task_id", "sent"), [("AZaz09-._~", "AZaz09-._~"), ("a+b==", "a%2Bb%3D%3D"), ("...", "..."), ("a..b", "a..b")]
)
def test_an_id_reaches_the_path_unchanged(task_id: str, sent: str) -> None:
    url = status_url("https://api.example/p" + PATH, task_id)
    assert str(url) == "https://api.example/p" + PATH.replace("{task_id}", sent)


async def test_limits_are_read_from_any_answer() -> None:
    reply = http(b"", "429 Too Many Requests", "X-HubSpot-RateLimit-Max: 100", "Retry-After: 3")
    async with answering(reply) as server, client_of(server.url) as client:
        answer = await client.poll(make_task())
    assert answer.outcome == Throttled(policy="window", retry_after_s=3.0)
    assert answer.limits.max == 100


async def test_connections_are_kept_after_answers_that_name_their_task() -> None:
    async with answering(http(COMPLETE)) as server, client_of(server.url) as client:
        for _ in range(5):
            await client.poll(make_task())
    assert (len(server.requests), server.connections) == (5, 1)


# --- hostile answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"<html>ok</html>", "unreadable_body"),
        (COMPLETE[:-5], "unreadable_body"),
        (b"\xff\xfe", "unreadable_body"),
        (b"[" * 200_000, "unreadable_body"),
        (b'{"status":NaN}', "unreadable_body"),
        (b"[]", "not_an_object"),
        (b"{}", "no_status"),
        (b'"' + b"x" * 2_000_000 + b'"', "body_too_large"),
        (orjson.dumps({"status": "COMPLETE", "taskId": "another"}), "foreign_answer"),
    ],
)
async def test_a_body_without_this_task_s_status_is_unreachable(body: bytes, reason: str) -> None:
    assert await reason_of(http(body)) == reason


async def test_integers_beyond_64_bits_pass_through() -> None:
    body = b'{"status":"COMPLETE","taskId":"' + ID.encode() + b'","result":{"size":99999999999999999999999}}'
    outcome = await outcome_of(http(body))
    assert isinstance(outcome, Finished)
    assert outcome.result == b'{"size":99999999999999999999999}'


LENGTH_OF_MORE = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + COMPLETE
CHUNK_OF_MORE = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(COMPLETE), COMPLETE)
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n" + COMPLETE[:20]
BAD_GZIP = http(b"\x1f\x8b\x08nonsense", "200 OK", "Content-Encoding: gzip")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply(LENGTH_OF_MORE, close=True), "body_cut"),
        (Reply(LENGTH_OF_MORE, reset=True), "body_cut"),
        (Reply(CHUNK_OF_MORE, close=True), "body_cut"),
        (Reply(UNTIL_CLOSE, close=True), "unreadable_body"),
        (Reply(BAD_GZIP), "body_cut"),
        (Reply(b"", close=True), "connection_lost"),
        (Reply(b"", reset=True), "connection_lost"),
        (Reply(b"HTTP/1.1 200 OK\r\nContent-Le", close=True), "connection_lost"),
        (Reply(b"220 mail.example ESMTP\r\n\r\n"), "bad_http"),
        (Reply(b"HTTP/1.1 999999 OK\r\n\r\n"), "bad_http"),
        (Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"), "bad_http"),
        (Reply(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 300_000 + b"\r\n\r\n"), "bad_http"),
        (Reply(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"), "timeout"),
        (Reply(b""), "timeout"),
        (Reply(http(COMPLETE), drip_s=1), "timeout"),
        (Reply(b"HTTP/1.1 103 Early\r\n\r\n" * 100, drip_s=0.2), "timeout"),
    ],
)
async def test_a_broken_connection_is_unreachable_within_the_timeout(reply: Reply, reason: str) -> None:
    began = asyncio.get_running_loop().time()
    assert await reason_of(reply, request_timeout_s=7.3) == reason
    assert asyncio.get_running_loop().time() - began < 7.5


async def test_64_kb_of_headers_do_no_harm() -> None:
    many = [f"X-Filler-{number}: {'x' * 80}" for number in range(700)]
    assert isinstance(await outcome_of(http(COMPLETE, "200 OK", *many)), Finished)
    assert isinstance(await outcome_of(http(COMPLETE, "200 OK", f"X-Filler: {'x' * 65_536}")), Finished)


@pytest.mark.parametrize("status", ["401 Unauthorized", "200 OK"])
async def test_a_gzip_bomb_is_given_up_at_the_cap(status: str) -> None:
    bomb = gzip.compress(b" " * 50_000_000, compresslevel=1)
    tracemalloc.start()
    try:
        outcome = await outcome_of(http(bomb, status, "Content-Encoding: gzip"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Unreachable if status == "200 OK" else Refused)
    assert peak < 10_000_000


@pytest.mark.parametrize(
    "reply",
    [
        http(b"<" * (LARGEST_PROBLEM + 1), "403 Forbidden", "x-hubspot-correlation-id: ab-1"),
        Reply(b"HTTP/1.1 403 Forbidden\r\nX-HubSpot-Correlation-Id: ab-1\r\nContent-Length: 500\r\n\r\n{", close=True),
    ],
)
async def test_an_error_status_counts_even_if_its_body_does_not(reply: Reply | bytes) -> None:
    outcome = await outcome_of(reply)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "scope_missing"


async def test_a_redirect_is_not_followed_and_its_target_gets_no_token() -> None:
    async with answering(http(COMPLETE)) as other:
        for status in ("301 Moved", "302 Found", "307 Temporary", "308 Permanent"):
            reply = http(b"", status, f"Location: {other.url}/files")
            outcome = await outcome_of(reply)
            assert isinstance(outcome, Refused)
            assert outcome.reason == "wrong_host"
            assert f"points to {other.url}/files" in outcome.detail
    assert other.requests == []


async def test_a_cookie_is_not_sent_back() -> None:
    async with answering(http(COMPLETE, "200 OK", "Set-Cookie: a=b")) as server, client_of(server.url) as client:
        await client.poll(make_task())
        await client.poll(make_task())
    assert b"Cookie" not in server.requests[1]


# --- kept connections ------------------------------------------------------------------------------------------------


async def test_accounts_share_kept_connections() -> None:
    async with answering(http(COMPLETE)) as server, Connections() as connections:
        for _ in range(5):
            for token in ("pat-na1-first", "pat-na1-second"):
                client = HubSpotClient(connections, base_url=server.url, status_path=PATH, tokens=Tokens(token=token))
                assert isinstance((await client.poll(make_task())).outcome, Finished)
    assert server.connections == 1
    assert {b"first" in request for request in server.requests} == {True, False}


async def test_a_connection_is_kept_for_a_while_and_no_longer() -> None:
    async with answering(http(COMPLETE)) as server, client_of(server.url) as client:
        for gap_s, connections in ((0.0, 1), (KEEPALIVE_S - 2, 1), (KEEPALIVE_S - 2, 1), (KEEPALIVE_S + 2, 2)):
            await asyncio.sleep(gap_s)
            assert isinstance((await client.poll(make_task())).outcome, Finished)
            assert server.connections == connections


# --- stray answers ---------------------------------------------------------------------------------------------------


async def test_a_stray_answer_on_an_idle_connection_is_thrown_away_with_it() -> None:
    other = orjson.dumps({"status": "CANCELED", "taskId": "another"})
    async with answering(stray(other), http(COMPLETE)) as server, client_of(server.url) as client:
        for _ in range(4):
            assert isinstance((await client.poll(make_task())).outcome, Finished)
            await asyncio.sleep(0.1)
    assert server.connections == 2


async def test_a_piece_of_a_stray_answer_on_an_idle_connection_is_thrown_away_with_it() -> None:
    piece = http(orjson.dumps({"status": "CANCELED", "taskId": "another"}))[:60]
    async with answering(Reply(http(COMPLETE), late=piece), http(COMPLETE)) as server, client_of(server.url) as client:
        for _ in range(2):
            assert isinstance((await client.poll(make_task())).outcome, Finished)
            await asyncio.sleep(0.1)
    assert server.connections == 2


LARGE = orjson.dumps({"status": "COMPLETE", "taskId": ID, "result": {"id": "1", "name": "a" * 900_000}})


@pytest.mark.parametrize(
    "reply",
    [
        http(LARGE),
        http(zlib.compress(LARGE), "200 OK", "Content-Encoding: deflate"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(LARGE), LARGE),
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + http(LARGE),
    ],
    ids=["plain", "compressed", "chunked", "after-hints"],
)
async def test_an_answer_larger_than_what_is_read_at_once_is_read_whole_and_keeps_its_connection(reply: bytes) -> None:
    async with answering(reply) as server, client_of(server.url) as client:
        for _ in range(2):
            outcome = (await client.poll(make_task())).outcome
            assert isinstance(outcome, Finished)
            assert outcome.result is not None
            assert len(outcome.result) > 900_000
    assert server.connections == 1


async def test_a_stray_answer_of_another_task_is_rejected_and_the_connection_is_dropped() -> None:
    other = orjson.dumps({"status": "CANCELED", "taskId": "another"})
    first = Reply(http(other) + http(COMPLETE))  # arrives when the request has been sent
    async with answering(http(COMPLETE), first, http(COMPLETE)) as server, client_of(server.url) as client:
        found = [(await client.poll(make_task())).outcome for _ in range(4)]
    assert found[1] == Unreachable(reason="foreign_answer")
    assert [type(outcome) for outcome in found] == [Finished, Unreachable, Finished, Finished]
    assert server.connections == 2


async def test_an_unnamed_answer_counts_only_over_a_fresh_connection() -> None:
    async with answering(http(COMPLETE), http(UNNAMED)) as server, client_of(server.url) as client:
        found = [(await client.poll(make_task())).outcome for _ in range(4)]
    assert found[1] == Unreachable(reason="unnamed_answer")
    assert [type(outcome) for outcome in found] == [Finished, Unreachable, Finished, Finished]
    assert server.connections == 3


async def test_a_stray_404_does_not_make_a_task_missing_twice() -> None:
    gone = Reply(http(b'{"category":"OBJECT_NOT_FOUND"}', "404 Not Found") + http(COMPLETE))
    async with answering(http(COMPLETE), gone, http(COMPLETE)) as server, client_of(server.url) as client:
        assert isinstance((await client.poll(make_task())).outcome, Finished)
        assert isinstance((await client.poll(make_task())).outcome, Missing)
        assert isinstance((await client.poll(make_task(missing_at=1.0))).outcome, Finished)
    assert server.connections == 2


@pytest.mark.parametrize(
    "reply", [http(b"null"), http(b"", "503 No"), http(b"{}", "404 No"), http(b"", "401 No"), http(b"[]")]
)
async def test_no_connection_is_kept_after_an_answer_that_names_no_task(reply: bytes) -> None:
    async with answering(reply) as server, client_of(server.url) as client:
        for _ in range(3):
            await client.poll(make_task())
    assert server.connections == 3


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (PATH, True),
        ("/files/2026-09/files/import-from-url/async/tasks/{task_id}/status", True),
        ("/files/v3/folders/update/async/tasks/{task_id}/status", True),
        ("/crm/v3/exports/export/async/tasks/{task_id}/status", False),
        ("/cms/v3/source-code/extract/async/tasks/{task_id}/status", False),
    ],
)
async def test_families_that_send_no_id_start_with_fresh_connections(path: str, named: bool) -> None:
    found = await outcomes(http(UNNAMED), polls=2, path=path)
    assert [isinstance(outcome, Finished) for outcome in found] == [not named, True]
    assert answers_name_task(path) == named


# --- one request a poll ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reset", [False, True])
async def test_a_request_is_never_sent_again_when_a_kept_connection_drops(reset: bool) -> None:
    replies = Reply(http(COMPLETE)), Reply(b"", close=not reset, reset=reset), Reply(http(COMPLETE))
    async with answering(*replies) as server, client_of(server.url) as client:
        assert isinstance((await client.poll(make_task())).outcome, Finished)
        second = (await client.poll(make_task())).outcome
        assert len(server.requests) == 2
        third = (await client.poll(make_task())).outcome
    assert isinstance(second, Unreachable)
    assert second.reason in ("connection_lost", "connection_reset")
    assert isinstance(third, Finished)
    assert len(server.requests) == 3


async def test_a_connection_that_the_server_closed_while_idle_is_not_used() -> None:
    found = await outcomes(Reply(http(COMPLETE), close=True), polls=4)
    assert all(isinstance(outcome, Finished) for outcome in found)


# --- no connection ---------------------------------------------------------------------------------------------------


async def test_a_refused_connection_is_unreachable() -> None:
    async with answering(http(COMPLETE)) as server:
        pass
    async with client_of(server.url) as client:
        assert (await client.poll(make_task())).outcome == Unreachable(reason="connection_refused")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "speaks SSH, and that is no HTTP: correct base_url"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: BR\r\nContent-Length: 4\r\n\r\n\x8b\0\x80\3",
            "speaks HTTP compressed by br, and gzip was asked for: correct the proxy",
        ),
        (b"\x15\x03\x01\x00\x02\x02\x46", "speaks TLS, and base_url begins with http://: write https://"),
        (b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\x10\0\0", "speaks HTTP/2, and the poller speaks HTTP/1.1"),
        (b"\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\1", "speaks HTTP/2, and the poller speaks HTTP/1.1"),
    ],
)
async def test_another_protocol_is_named_as_what_it_is(data: bytes, words: str) -> None:
    outcome = await outcome_of(Reply(data))
    assert isinstance(outcome, Refused)
    assert outcome.reason == "unknown_answer"
    assert f"of 127.0.0.1 {words}" in outcome.detail


async def test_a_server_that_speaks_before_it_is_asked_is_not_connected_to_again_and_again() -> None:
    class Hasty(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, MemoryTransport)
            transport.write(b"\0\0\x12\4\0\0\0\0\0\0\3\0\0\0\x64\0\4\0\x10\0\0")

    class LateConnector(MemoryConnector):
        async def _create_connection(self, *how: Any) -> ResponseHandler:
            made = await super()._create_connection(*how)
            await asyncio.sleep(0.1)  # a handshake: the server's first bytes are there before it ends
            return made

    connector = LateConnector(Hasty)
    async with client_of("http://api.example", connections=Connections(connector=lambda _fresh: connector)) as client:
        outcome = (await client.poll(make_task())).outcome
    assert isinstance(outcome, Refused)
    assert "speaks HTTP/2" in outcome.detail
    assert connector.connections_total <= 2


@asynccontextmanager
async def speaking_plain_http() -> AsyncIterator[int]:
    """Answer without TLS; yields the port."""

    async def plain(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"", "400 Bad Request"))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_server_without_tls_is_named_as_what_it_is() -> None:
    async with speaking_plain_http() as port, client_of(f"https://127.0.0.1:{port}") as client:
        outcome = (await client.poll(make_task())).outcome
    assert isinstance(outcome, Refused)
    assert outcome.reason == "unknown_answer"
    assert outcome.detail.startswith(
        f"port {port} of 127.0.0.1 speaks no TLS, and https:// needs it: correct scheme and"
    )


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
async def test_a_certificate_that_is_not_trusted_needs_a_person_and_with_its_authority_named_the_answer_counts(
    tmp_path: Path,
) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)  # noqa: S603, ASYNC221
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(http(COMPLETE))
        await writer.drain()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        async with client_of(url) as client:
            refused = (await client.poll(make_task())).outcome
        assert isinstance(refused, Refused)
        assert refused.reason == "untrusted_certificate"
        assert "127.0.0.1 was refused (self" in refused.detail
        assert "set ca_file" in refused.detail
        assert requests == []  # the token did not leave
        async with client_of(url, connections=Connections(ca_file=certificate)) as client:
            assert isinstance((await client.poll(make_task())).outcome, Finished)


@pytest.mark.parametrize(
    "words", ["certificate is not yet valid", "certificate has expired", "self-signed certificate"]
)
async def test_a_certificate_out_of_date_may_be_due_to_this_machines_clock(words: str) -> None:
    error = ssl.SSLCertVerificationError()
    error.verify_message = words
    error.verify_code = {"certificate is not yet valid": 9, "certificate has expired": 10}.get(words, 18)
    key = aiohttp.client_reqrep.ConnectionKey("api.example", 443, True, True, None, None, None)
    refused = untrusted(aiohttp.ClientConnectorCertificateError(key, error), "api.example")
    assert refused.detail.startswith(f"the certificate of api.example was refused ({words}): check ")
    assert ("clock" in refused.detail) == (words != "self-signed certificate")


@pytest.mark.parametrize(
    ("status", "detail"),
    [
        (
            "407 Proxy Authentication Required",
            "the proxy refuses its user and password (407): write them into proxy",
        ),
        ("403 Forbidden", "the proxy lets no request to api.example pass (403): allow it there, or correct proxy and"),
        ("404 Not Found", "the proxy lets no request to api.example pass (404)"),
    ],
)
async def test_a_proxy_that_refuses_needs_a_person(status: str, detail: str) -> None:
    async with answering(http(b"", status)) as proxy:
        through = Connections(proxy=f"http://user:{TOKEN}@127.0.0.1:{proxy.port}")
        async with client_of("https://api.example", connections=through) as client:
            outcome = (await client.poll(make_task())).outcome
    assert isinstance(outcome, Refused)
    assert outcome.reason == "unknown_answer"
    assert outcome.detail.startswith(detail)
    assert TOKEN not in outcome.detail


async def test_a_broken_proxy_is_unreachable() -> None:
    async with answering(http(b"", "503 Service Unavailable")) as proxy:
        through = Connections(proxy=f"http://127.0.0.1:{proxy.port}")
        async with client_of("https://api.example", connections=through) as client:
            assert (await client.poll(make_task())).outcome == Unreachable(reason="proxy")
    gone = Connections(proxy=f"http://127.0.0.1:{proxy.port}")
    async with client_of("https://api.example", connections=gone) as client:
        assert (await client.poll(make_task())).outcome == Unreachable(reason="proxy")


async def test_another_connector_can_be_put_in() -> None:
    def connector(fresh: bool) -> aiohttp.BaseConnector:
        return MemoryConnector({}, SimulatedNetwork(), force_close=fresh)

    async with client_of("https://api.example", connections=Connections(connector=connector)) as client:
        assert (await client.poll(make_task())).outcome == Unreachable(reason="connection_refused")


async def test_closed_connections_are_an_outcome_too() -> None:
    async with client_of("https://api.example") as client:
        pass
    assert (await client.poll(make_task())).outcome == Unreachable(reason="client_error")


async def test_an_unusable_ca_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigError, match=name):
            await Connections(ca_file=tmp_path / name).__aenter__()


def _classes_of(*modules: Any) -> list[type[Exception]]:
    return [
        found
        for module in modules
        for found in vars(module).values()
        if inspect.isclass(found) and issubclass(found, Exception) and found.__module__ == module.__name__
    ]


@pytest.mark.parametrize("known", _classes_of(client_exceptions, http_exceptions))
def test_every_exception_class_of_aiohttp_has_a_meaning(known: type[Exception]) -> None:
    covering = next(covered for covered, _ in HTTP_ERRORS if issubclass(known, covered))
    assert covering != (aiohttp.ClientError,) or known is aiohttp.ClientError


@pytest.mark.parametrize("error", [ValueError(TOKEN), UnicodeError(TOKEN), AssertionError(TOKEN), RuntimeError(TOKEN)])
def test_an_unknown_exception_is_logged_by_its_class_only(
    error: Exception, events: list[MutableMapping[str, Any]]
) -> None:
    assert trouble_of(error) is Trouble.CLIENT
    assert events == [{"event": "poll.broken", "log_level": "warning", "error": type(error).__name__}]


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (ssl.SSLCertVerificationError(), Trouble.TLS),
        (TimeoutError(), Trouble.TIMEOUT),
        (aiohttp.ConnectionTimeoutError(), Trouble.TIMEOUT),
        (aiohttp.ServerDisconnectedError(), Trouble.LOST),
        (aiohttp.ClientOSError(104, "reset"), Trouble.RESET),
        (BrokenPipeError(), Trouble.RESET),
    ],
)
def test_an_exception_gets_its_most_specific_meaning(error: Exception, trouble: Trouble) -> None:
    assert trouble_of(error) is trouble


# --- the token -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["401 Unauthorized", "530 No"])
async def test_a_refused_token_is_given_back_to_its_source(status: str) -> None:
    tokens = Tokens()
    outcome = await outcome_of(http(b"", status), tokens=tokens)
    assert isinstance(outcome, Refused)
    assert outcome.reason == "token_refused"
    assert tokens.refusals == [TOKEN]


async def test_a_missing_scope_does_not_refuse_the_token() -> None:
    tokens = Tokens()
    await outcome_of(http(b"", "403 Forbidden"), tokens=tokens)
    assert tokens.refusals == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ConfigError("T is not set"), Refused(reason="token_refused", detail="T is not set")),
        (TokenUnavailable("later"), Unreachable(reason="token_unavailable")),
        (TokenUnavailable("later", Unreachable(reason="dns")), Unreachable(reason="dns")),
        (
            TokenUnavailable("never", Refused(reason="untrusted_certificate", detail="set ca_file")),
            Refused(reason="untrusted_certificate", detail="set ca_file"),
        ),
        (ValueError(TOKEN), Unreachable(reason="client_error")),
    ],
)
async def test_without_a_token_nothing_is_sent(error: Exception, outcome: Outcome) -> None:
    async with answering(http(COMPLETE)) as server, client_of(server.url, tokens=Tokens(error)) as client:
        assert await client.poll(make_task()) == Answer(outcome=outcome)
    assert server.requests == []


async def test_a_cancelled_poll_leaves_the_client_usable() -> None:
    async with answering(Reply(b""), Reply(http(COMPLETE))) as server, client_of(server.url) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await client.poll(make_task())
        assert isinstance((await client.poll(make_task())).outcome, Finished)


HOSTILE = [
    Reply(b"", close=True),
    Reply(b"", reset=True),
    Reply(b"nonsense\r\n\r\n"),
    Reply(LENGTH_OF_MORE, close=True),
    Reply(b""),
    Reply(http(b"", "302 Found", "Location: http://[")),
    Reply(http(orjson.dumps({"status": "COMPLETE", "taskId": TOKEN}))),
    Reply(http(orjson.dumps({"category": TOKEN, "message": TOKEN}), "401 No")),
]


async def test_the_token_is_in_no_log_repr_or_traceback(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At debug level, with the loop's own debug mode on, whatever the server does."""
    written = io.StringIO()
    with structlog.testing.capture_logs() as events:
        monkeypatch.setattr(logging.getLogger(), "level", logging.DEBUG)
        asyncio.get_running_loop().set_debug(True)
        for reply in HOSTILE:
            async with answering(reply) as server, client_of(server.url) as client:
                answer = await client.poll(make_task())
                print(answer, client, vars(client), client._connections, file=written)
    text = written.getvalue() + repr(events) + caplog.text + "".join(capfd.readouterr())
    for secret_holder in (found for found in gc.get_objects() if isinstance(found, aiohttp.ClientError)):
        text += "".join(traceback.format_exception(secret_holder))
    assert TOKEN not in text


async def test_a_form_is_posted_and_a_broken_endpoint_raises_an_error_without_it() -> None:
    async with Connections() as connections:
        async with answering(http(b"{}", "400 Bad")) as server:
            assert await connections.post(server.url + "/oauth", {"client_secret": TOKEN}) == (400, b"{}")
        for reply in HOSTILE[:5]:
            async with answering(reply) as server:
                with pytest.raises(TokenUnavailable) as caught:
                    await connections.post(server.url, {"client_secret": TOKEN})
                assert len(server.requests) == 1
            assert TOKEN not in "".join(traceback.format_exception(caught.value))


async def test_a_form_that_finds_no_tls_shows_what_a_person_must_do() -> None:
    async with speaking_plain_http() as port, Connections() as connections:
        with pytest.raises(TokenUnavailable) as caught:
            await connections.post(f"https://127.0.0.1:{port}/oauth", {})
    assert isinstance(caught.value.shows, Refused)
    assert "speaks no TLS, and https:// needs it" in caught.value.shows.detail


async def test_a_form_that_finds_no_host_shows_that() -> None:
    async with Connections(connector=lambda _fresh: MemoryConnector({})) as connections:
        with pytest.raises(TokenUnavailable) as caught:
            await connections.post("http://api.example/oauth", {})
    assert caught.value.shows == Unreachable(reason="connection_refused")


async def test_a_redirect_never_carries_the_secrets_of_a_form_elsewhere() -> None:
    async with answering(http(b"{}")) as elsewhere:
        moved = http(b"", "307 Temporary Redirect", f"Location: {elsewhere.url}/")
        async with answering(moved) as server, Connections() as connections:
            assert await connections.post(server.url, {"client_secret": TOKEN}) == (307, b"")
        assert elsewhere.requests == []


async def test_answers_that_mix_tasks_up_are_a_warning_once(events: list[MutableMapping[str, Any]]) -> None:
    body = orjson.dumps({"status": "PENDING", "taskId": "another"})
    found = await outcomes(http(body), polls=5)
    assert found == [Unreachable(reason="foreign_answer")] * 5
    levels = [event["log_level"] for event in events if event["event"] == "answer.distrusted"]
    assert levels == ["warning", "debug", "debug", "debug", "debug"]


async def test_an_empty_body_means_running_and_stays_with_kept_connections() -> None:
    found = await outcomes(http(b""), http(b"null"), http(COMPLETE), polls=3)
    assert found[:2] == [Running(status=None)] * 2
    assert isinstance(found[2], Finished)
