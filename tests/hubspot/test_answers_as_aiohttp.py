"""Our protocol over aiohttp's parser means what aiohttp's own means: the same answer or the same trouble, for whatever
bytes a server sends, in pieces of any size, over kept connections too."""

import asyncio
import gzip
import zlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import aiohttp
import pytest
from yarl import URL

from poller.core.http_errors import http_error
from poller.hubspot.body import BodyTooLarge, read_body
from poller.hubspot.connection import LONGEST_HEADER, MOST_HEADERS, HostPool, open_pool
from tests.support.virtual import MemoryConnector, MemoryTransport

Step = bytes | float | str  # what a server sends, seconds in which it does nothing, or an end:
CLOSE, RESET = "close", "reset"
LIMIT = 70_000
TIMEOUT_S = 10.0
POLLS = 3
HOST = URL("http://hubspot.example/status")

BODY = b'{"status":"COMPLETE"}'
ZIPPED = gzip.compress(BODY, mtime=0)
BARE = zlib.compressobj(wbits=-15)
DEFLATED = BARE.compress(BODY) + BARE.flush()


def head(*lines: bytes) -> bytes:
    return b"\r\n".join(lines) + b"\r\n\r\n"


def http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    return head(b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers) + body


def to_the_end(body: bytes, *headers: bytes) -> bytes:
    return head(b"HTTP/1.1 200 OK", *headers) + body


def chunked(body: bytes, *headers: bytes, status: bytes = b"200 OK", end: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [body[at : at + 7] for at in range(0, len(body), 7)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head(b"HTTP/1.1 " + status, b"Transfer-Encoding: chunked", *headers) + chunks + end


HELLO = b"5\r\nhello\r\n"
CHUNKED = head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked")
GZIP = b"Content-Encoding: gzip"
LARGE = b"a" * 200_000
LONG = b"X-A: " + b"a" * 140_000

ANSWERS: dict[str, Sequence[Step]] = {
    "plain": [http(BODY)],
    "chunked": [chunked(BODY)],
    "chunked, trailer": [chunked(BODY, end=b"0\r\nX-T: 1\r\n\r\n")],
    "chunked, extension": [CHUNKED + b"5;a=b\r\nhello\r\n0\r\n\r\n"],
    "chunked, no size": [CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n"],
    "chunked, no size later": [CHUNKED + HELLO, 0.1, b"zz\r\nhello\r\n0\r\n\r\n"],
    "chunked, huge size": [CHUNKED + b"ffffffffffffffffff\r\nhello"],
    "chunked, cut in a chunk": [CHUNKED + b"5\r\nhel", CLOSE],
    "chunked, cut between chunks": [CHUNKED + HELLO, 0.1, CLOSE],
    "chunked with a length": [head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: chunked", b"Content-Length: 3") + HELLO],
    "gzip as transfer": [head(b"HTTP/1.1 200 OK", b"Transfer-Encoding: gzip, chunked") + HELLO + b"0\r\n\r\n"],
    "identity as transfer": [to_the_end(b"hello", b"Transfer-Encoding: identity"), CLOSE],
    "two lengths": [head(b"HTTP/1.1 200 OK", b"Content-Length: 3", b"Content-Length: 5") + b"hello"],
    "one length twice": [head(b"HTTP/1.1 200 OK", b"Content-Length: 5", b"Content-Length: 5") + b"hello"],
    "negative length": [to_the_end(b"hello", b"Content-Length: -5")],
    "a word as length": [to_the_end(b"hello", b"Content-Length: five")],
    "empty length": [to_the_end(b"hello", b"Content-Length: ")],
    "huge length": [to_the_end(b"hello", b"Content-Length: 99999999999999999999999")],
    "to the end": [to_the_end(BODY), CLOSE],
    "to the end, in two": [to_the_end(BODY[:5]), 0.1, BODY[5:], CLOSE],
    "to the end, never": [to_the_end(BODY)],
    "to the end, zipped": [to_the_end(ZIPPED, GZIP), CLOSE],
    "to the end, zipped and cut": [to_the_end(ZIPPED[:-9], GZIP), CLOSE],
    "to the end, large": [to_the_end(LARGE), CLOSE],
    "cut": [http(BODY)[:-3], CLOSE],
    "cut later": [http(BODY)[:-3], 0.1, CLOSE],
    "cut by a reset": [http(BODY)[:-3], 0.1, RESET],
    "reset after the end": [http(BODY), 0.1, RESET],
    "cut in the head": [http(BODY)[:30], CLOSE],
    "cut in the head by a reset": [http(BODY)[:30], 0.1, RESET],
    "hangs": [],
    "hangs in the head": [http(BODY)[:30]],
    "hangs in the body": [http(BODY)[:-3]],
    "hangs in a zipped body": [http(ZIPPED, GZIP)[:-4]],
    "continue": [head(b"HTTP/1.1 100 Continue") + http(BODY)],
    "continue, later": [head(b"HTTP/1.1 100 Continue"), 0.1, http(BODY)],
    "continue, and no more": [head(b"HTTP/1.1 100 Continue"), 0.1, CLOSE],
    "hints twice": [2 * head(b"HTTP/1.1 103 Early Hints", b"Link: a") + http(BODY)],
    "processing with a length": [head(b"HTTP/1.1 102 Processing", b"Content-Length: 5") + http(BODY)],
    "199": [head(b"HTTP/1.1 199 No") + http(BODY)],
    "switches": [head(b"HTTP/1.1 101 Switching Protocols", b"Upgrade: x", b"Connection: upgrade") + b"hello", CLOSE],
    "offers to switch": [http(BODY, b"Upgrade: h2c", b"Connection: Upgrade")],
    "204": [head(b"HTTP/1.1 204 No Content")],
    "204, zipped": [head(b"HTTP/1.1 204 No Content", GZIP)],
    "204 with a length": [head(b"HTTP/1.1 204 No Content", b"Content-Length: 5")],
    "304 with a length": [head(b"HTTP/1.1 304 Not Modified", b"Content-Length: 50")],
    "205": [http(b"", status=b"205 Reset Content")],
    "no body": [http(b"")],
    "no chunks": [chunked(b"")],
    "zipped": [http(ZIPPED, GZIP)],
    "zipped, in two": [http(ZIPPED, GZIP)[:-10], 0.1, ZIPPED[-10:]],
    "zipped, in chunks": [chunked(ZIPPED, GZIP)],
    "zipped, cut": [http(ZIPPED, GZIP)[:-6], CLOSE],
    "zipped, its end missing": [http(ZIPPED[:-9], GZIP)],
    "not zipped": [http(b"plain", GZIP)],
    "zipped nothing": [http(b"", GZIP)],
    "zipped twice over": [http(ZIPPED + ZIPPED, GZIP)],
    "zipped, and junk": [http(ZIPPED + b"junk", GZIP)],
    "zipped, in capitals": [http(ZIPPED, b"Content-Encoding: GZip")],
    "zipped bomb": [http(gzip.compress(b"a" * 3_000_000), GZIP)],
    "deflated": [http(zlib.compress(BODY), b"Content-Encoding: deflate")],
    "deflated, bare": [http(DEFLATED, b"Content-Encoding: deflate")],
    "an unknown encoding": [http(BODY, b"Content-Encoding: foo")],
    "two encodings": [http(ZIPPED, b"Content-Encoding: gzip, identity")],
    "as large as allowed": [http(b"a" * LIMIT)],
    "as large as allowed, in two": [http(b"a" * LIMIT)[:40_000], 0.1, http(b"a" * LIMIT)[40_000:]],
    "too large": [http(LARGE)],
    "long header": [http(BODY, LONG[:100_000])],
    "too long a header": [http(BODY, LONG)],
    "too long a header, in two": [http(BODY, LONG)[:70_000], 0.1, http(BODY, LONG)[70_000:]],
    "too long a reason": [http(BODY, status=b"200 " + LONG)],
    "many headers": [http(BODY, *(b"X-%d: a" % number for number in range(900)))],
    "too many headers": [http(BODY, *(b"X-%d: a" % number for number in range(1200)))],
    "many cookies": [http(BODY, *(b"Set-Cookie: a%d=b" % number for number in range(50)))],
    "no reason": [head(b"HTTP/1.1 200", b"Content-Length: 5") + b"hello"],
    "HTTP/1.0": [head(b"HTTP/1.0 200 OK", b"Content-Length: 5") + b"hello"],
    "HTTP/1.0, kept": [head(b"HTTP/1.0 200 OK", b"Connection: keep-alive", b"Content-Length: 5") + b"hello"],
    "HTTP/2.0": [head(b"HTTP/2.0 200 OK", b"Content-Length: 5") + b"hello"],
    "no HTTP": [b"SSH-2.0-OpenSSH\r\n", CLOSE],
    "no head": [b"hello", CLOSE],
    "closes by header": [http(BODY, b"Connection: close")],
    "closes as said": [http(BODY, b"Connection: close"), CLOSE],
    "line feeds only": [http(BODY).replace(b"\r\n", b"\n")],
    "empty lines first": [b"\r\n\r\n" + http(BODY)],
    "space before a colon": [http(BODY, b"X-A : b")],
    "folded header": [http(BODY, b"X-A: b\r\n  c")],
    "NUL in a header": [http(BODY, b"X-A: b\0c")],
    "space in a name": [http(BODY, b"X A: b")],
    "no colon": [http(BODY, b"XA")],
    "Latin-1 in a header": [http(BODY, b"X-A: \xe9")],
    "status 1000": [http(BODY, status=b"1000 OK")],
    "status 099": [http(BODY, status=b"099 OK")],
    "status 999": [http(BODY, status=b"999 OK")],
    "status abc": [http(BODY, status=b"abc OK")],
    "another answer at once": [http(BODY) + http(b"other")],
    "garbage at once": [http(BODY) + b"\x00\x01garbage"],
    "longer than its length": [http(BODY) + b"xx"],
    "garbage later": [http(BODY), 0.1, b"\x00garbage"],
    "redirect": [http(b"", b"Location: http://other.example/x", status=b"302 Found")],
    "refused": [http(b"{}", b"WWW-Authenticate: Basic", status=b"401 Unauthorized")],
    "throttled": [http(b"{}", b"Retry-After: 1", status=b"429 Too Many")],
    "broken, in chunks": [chunked(b"oops", status=b"500 No")],
}


@dataclass
class ScriptedServer(asyncio.Protocol):
    """Answers each request with the same steps; in pieces of `size` bytes, where that is not 0."""

    steps: Sequence[Step]
    size: int = 0
    requests: list[bytes] = field(default_factory=list)
    made: ClassVar[list["ScriptedServer"]] = []  # one a connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(self)
        assert isinstance(transport, MemoryTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self.requests.append(data)
        self._go_on(deque(self.steps))

    def _go_on(self, steps: deque[Step]) -> None:
        while steps and not self._transport.is_closing():
            match steps.popleft():
                case bytes(data):
                    size = self.size or len(data)
                    for at in range(0, len(data), size):
                        self._transport.write(data[at : at + size])
                case float(wait_s):
                    asyncio.get_running_loop().call_later(wait_s, self._go_on, steps)
                    return
                case end:
                    self._transport.close() if end == CLOSE else self._transport.abort()


Found = tuple[int | None, bytes | str]  # status and body, or the trouble's word


def _word(error: BaseException) -> str:
    return "too_large" if isinstance(error, BodyTooLarge) else http_error(error) or repr(error)


async def by_us(pool: HostPool) -> Found:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reply = await pool.get("/status", "A: b\r\n")
            try:
                body, trouble = await read_body(reply.content, LIMIT)
            finally:
                reply.release(keep=True)
    except Exception as error:  # noqa: BLE001 - its word is compared
        return None, _word(error)
    return reply.status, body if trouble is None else _word(trouble)


async def by_aiohttp(session: aiohttp.ClientSession) -> Found:
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            session.get(HOST, allow_redirects=False, headers={"A": "b"}) as response,
        ):
            body, trouble = await read_body(response.content, LIMIT)
            if trouble is not None:
                response.close()
    except Exception as error:  # noqa: BLE001 - its word is compared
        return None, _word(error)
    return response.status, body if trouble is None else _word(trouble)


async def found(steps: Sequence[Step], *, ours: bool, size: int = 0) -> list[Found]:
    """Return what some polls in a row find."""
    connector = MemoryConnector(lambda: ScriptedServer(steps, size))
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(),
        max_line_size=LONGEST_HEADER,
        max_field_size=LONGEST_HEADER,
        max_headers=MOST_HEADERS,
    ) as session:
        pool = await open_pool(session, HOST, fresh=False)
        answers = []
        for _ in range(POLLS):
            answers.append(await (by_us(pool) if ours else by_aiohttp(session)))
            await asyncio.sleep(1)
        pool.close()
        await asyncio.sleep(1)
        assert not connector._acquired, "a connection is left"
    return answers


# Where a chunk is broken that arrives after the head, aiohttp's own protocol waits for the rest until the time-out.
STUCK = {"chunked, no size", "chunked, no size later", "chunked, huge size"}


async def compare(name: str, size: int = 0) -> None:
    ours = await found(ANSWERS[name], ours=True, size=size)
    theirs = await found(ANSWERS[name], ours=False, size=size)
    if name in STUCK and theirs == [(None, "timeout")] * POLLS:
        assert ours == [(200, "bad_http")] * POLLS
    else:
        assert ours == theirs


@pytest.mark.parametrize("name", list(ANSWERS))
async def test_an_answer_means_the_same_to_us_as_to_aiohttp(name: str) -> None:
    await compare(name)


@pytest.mark.parametrize("name", [name for name, steps in ANSWERS.items() if len(repr(steps)) < 500])
async def test_an_answer_means_the_same_byte_by_byte(name: str) -> None:
    await compare(name, size=1)


async def test_a_stray_answer_that_aiohttp_gives_to_the_next_request_is_dropped() -> None:
    steps: list[Step] = [http(BODY), 0.1, http(b"other")]
    assert await found(steps, ours=True) == [(200, BODY)] * POLLS
    assert (200, b"other") in await found(steps, ours=False)


WHOLE = {"plain": http(BODY), "chunked": chunked(BODY), "zipped": http(ZIPPED, GZIP)}


@pytest.mark.parametrize(
    "at", [-21, -20, -4, -1]
)  # before the body, or the piece before it; in the body; its last byte
@pytest.mark.parametrize("whole", WHOLE.values(), ids=list(WHOLE))
async def test_nor_is_it_where_the_answer_before_came_in_two_pieces(whole: bytes, at: int) -> None:
    stray = http(b"other")
    steps: list[Step] = [whole[:at], 0.1, whole[at:] + stray[:30], 0.1, stray[30:]]
    assert await found(steps, ours=True) == [(200, BODY)] * POLLS
    assert await found(steps[:3], ours=True) == [(200, BODY)] * POLLS


@pytest.mark.parametrize("whole", WHOLE.values(), ids=list(WHOLE))
async def test_an_answer_in_two_pieces_leaves_its_connection_usable(whole: bytes) -> None:
    body_at = whole.index(b"\r\n\r\n") + 4
    for at in (body_at - 9, body_at, body_at + 9, len(whole) - 1):
        made = len(ScriptedServer.made)
        assert await found([whole[:at], 0.1, whole[at:]], ours=True) == [(200, BODY)] * POLLS
        assert len(ScriptedServer.made) == made + 1, at


@pytest.mark.parametrize("whole", WHOLE.values(), ids=list(WHOLE))
async def test_the_beginning_of_a_stray_answer_is_not_completed_by_the_next_one(whole: bytes) -> None:
    stray = http(b"other")
    steps: list[Step] = [whole + stray[:30], 0.1, stray[30:]]
    assert await found(steps, ours=True) == [(200, BODY)] * POLLS
    assert await found(steps[:1], ours=True) == [(200, BODY)] * POLLS
