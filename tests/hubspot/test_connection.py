"""The non-public parts of aiohttp that hubspot/connection.py uses: each has a test, and no other module uses any."""

import ast
import asyncio
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import client_middlewares, client_proto, connector, http_exceptions, http_parser, streams

HOUSE = Path(__file__).parents[2]
INTERNALS = {"aiohttp.client_middlewares", "aiohttp.client_proto", "aiohttp.connector", "aiohttp.http_parser"}
INTERNALS |= {"aiohttp.streams"}
PUBLIC = {
    "aiohttp.hdrs",
    "aiohttp.http_exceptions",
    "aiohttp.typedefs",
    "aiohttp.web",
}  # documented, or without behaviour

# What connection.py calls, with the arguments that it passes.
CALLED: list[tuple[Any, str, tuple[str, ...], tuple[str, ...]]] = [  # owner, name, positional, by keyword
    (client_proto.ResponseHandler, "connection_lost", ("exc",), ()),
    (connector.BaseConnector, "connect", ("req", "traces", "timeout"), ()),
    (connector.BaseConnector, "_create_connection", ("req", "traces", "timeout"), ()),  # tests/support/virtual.py
    (connector.Connection, "close", (), ()),
    (streams.StreamReader, "is_eof", (), ()),
    (streams.StreamReader, "read_nowait", (), ()),
    (streams.StreamReader, "readany", (), ()),
    (streams.StreamReader, "set_exception", ("exc",), ()),
    (streams.StreamReader, "exception", (), ()),
    (aiohttp.ClientRequest, "is_ssl", (), ()),
]
AWAITED = {"connect", "_create_connection", "readany"}
# What it reads: properties of the class, and what an instance has.
PROPERTIES = [
    (streams.StreamReader, "total_bytes"),
    (client_proto.ResponseHandler, "should_close"),
    (connector.Connection, "protocol"),
    (connector.Connection, "transport"),
    (aiohttp.ClientSession, "connector"),
    (http_parser.RawResponseMessage, "code"),
    (http_parser.RawResponseMessage, "headers"),
    (http_parser.RawResponseMessage, "should_close"),
    (http_parser.RawResponseMessage, "chunked"),
    (http_parser.RawResponseMessage, "compression"),
]


def how_to_go_on(what: str) -> str:
    """Return the message of a failure: what changed, where it is used, what to do."""
    locked = re.search(r"^aiohttp==(\S+)", (HOUSE / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    return (
        f"aiohttp {version('aiohttp')}: {what}, which poller/hubspot/connection.py uses. Adapt connection.py and this "
        "table, then raise the upper bound in pyproject.toml; or return to the version of the lock: "
        f"python -m pip install 'aiohttp=={locked[1]}'"
    )


def changed_call(owner: Any, name: str, positional: tuple[str, ...], keywords: tuple[str, ...]) -> str | None:
    """Return what is different about a method; None where it can be called as connection.py does."""
    method = inspect.getattr_static(owner, name, None)
    where = f"{owner.__name__}.{name}"
    if method is None:
        return f"{where} is gone"
    found = getattr(owner, name)
    if inspect.iscoroutinefunction(found) != (name in AWAITED):
        return f"{where} is {'now' if inspect.iscoroutinefunction(found) else 'no longer'} a coroutine function"
    signature = inspect.signature(found)
    if missing := [word for word in (*positional, *keywords) if word not in signature.parameters]:
        return f"{where} has no parameter {', '.join(missing)} any more"
    try:
        signature.bind("self", *positional, **dict.fromkeys(keywords))
    except TypeError as error:
        return f"{where} is called differently ({error})"
    return None


@pytest.mark.parametrize(
    ("owner", "name", "positional", "keywords"), [pytest.param(*call, id=f"{call[1]}") for call in CALLED]
)
def test_aiohttp_has_the_method(owner: Any, name: str, positional: tuple[str, ...], keywords: tuple[str, ...]) -> None:
    changed = changed_call(owner, name, positional, keywords)
    assert changed is None, how_to_go_on(changed or "")


@pytest.mark.parametrize(("owner", "name"), PROPERTIES)
def test_aiohttp_has_the_property(owner: Any, name: str) -> None:
    changed = f"{owner.__name__}.{name} is gone, or no property any more"
    assert inspect.isdatadescriptor(inspect.getattr_static(owner, name, None)), how_to_go_on(changed)


async def test_a_request_has_the_attributes_that_connections_are_made_from() -> None:
    captured: list[aiohttp.ClientRequest] = []

    async def capture(request: aiohttp.ClientRequest, _send: client_middlewares.ClientHandlerType) -> Any:
        captured.append(request)
        raise ZeroDivisionError

    async with aiohttp.ClientSession(proxy="http://127.0.0.1:1") as session:
        with pytest.raises(ZeroDivisionError):
            await session.get("http://api.example/a", middlewares=(capture,))
    [request] = captured
    for name in ("proxy", "url", "headers"):
        assert hasattr(request, name), how_to_go_on(f"ClientRequest.{name} is gone")
    assert str(request.url.origin()) == "http://api.example", how_to_go_on("ClientRequest.url is another URL")
    assert str(request.proxy) == "http://127.0.0.1:1", how_to_go_on("ClientRequest.proxy is another URL")
    assert request.headers["Host"] == "api.example", how_to_go_on("ClientRequest.headers has no Host")


async def test_what_arrives_before_a_request_is_kept_and_closes_the_connection() -> None:
    handler: Any = client_proto.ResponseHandler(asyncio.get_running_loop())
    handler.data_received(b"SSH-2.0")
    assert getattr(handler, "_tail", None) == b"SSH-2.0", how_to_go_on("ResponseHandler._tail is gone, or another one")
    assert handler.should_close, how_to_go_on("ResponseHandler.should_close does not see what came unasked")


class ParsersProtocol(asyncio.Protocol):
    """All that the parser and its contents ask of a protocol, as `AnswerProtocol` has it."""

    connected = True

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.parser: Any = None

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")
        self.parser.pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: ARG002 - aiohttp's signature
        self.calls.append("resume_reading")


async def test_the_parser_is_made_fed_and_ended_as_before() -> None:
    protocol: Any = ParsersProtocol()
    try:
        protocol.parser = parser = http_parser.HttpResponseParser(
            protocol,
            asyncio.get_running_loop(),
            10,
            payload_exception=aiohttp.ClientPayloadError,
            read_until_eof=True,
            max_line_size=100,
            max_field_size=100,
            max_headers=5,
        )
        [(message, content)], is_upgraded, rest = parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n")
        assert (message.code, message.should_close, is_upgraded, rest) == (200, False, False, b"")
        assert not content.is_eof()
        parser.feed_data(b"0123456789" * 2 + b"0")
        assert protocol.calls == ["pause_reading"]
        for rest in (b"", b"123456789", b""):  # b"": continues
            messages, is_upgraded, _ = parser.feed_data(rest)
            assert (list(messages), is_upgraded) == ([], False)
        assert content.is_eof()
        assert (b"".join(content._buffer), content.total_bytes) == (b"0123456789" * 3, 30)
        assert content.read_nowait() == b"0123456789" * 3
        assert "resume_reading" in protocol.calls
        [(_, empty)], _, _ = parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert (empty.is_eof(), empty.exception(), empty.total_bytes) == (True, None, 0)
        parser.feed_data(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
        with pytest.raises(http_exceptions.ContentLengthError):
            parser.feed_eof()
    except (AttributeError, TypeError, ValueError, AssertionError) as error:
        pytest.fail(how_to_go_on(f"HttpResponseParser is used differently ({error!r})"))


def test_a_change_is_named() -> None:
    class Changed:
        async def connect(self, req: object) -> None: ...

        def _create_connection(self) -> None: ...

        async def readany(self, count: int) -> None: ...

    assert changed_call(Changed, "connect", ("req", "traces"), ()) == "Changed.connect has no parameter traces any more"
    assert (
        changed_call(Changed, "_create_connection", (), ())
        == "Changed._create_connection is no longer a coroutine function"
    )
    assert changed_call(Changed, "is_eof", (), ()) == "Changed.is_eof is gone"
    assert "missing a required argument: 'count'" in (changed_call(Changed, "readany", (), ()) or "")
    assert re.search(r"python -m pip install 'aiohttp==3\.\d+\.\d+'$", how_to_go_on("it"))


def _modules_of_aiohttp(source: str) -> set[str]:
    """Return the modules of aiohttp that a file imports, or imports from."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{each.name}" for each in node.names} if node.module == "aiohttp" else set()
            found |= {node.module} | {name for name in inner if inspect.ismodule(getattr(aiohttp, name[8:], None))}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return {name for name in found if name.startswith("aiohttp.")}


def test_no_other_module_imports_from_inside_aiohttp() -> None:
    used = {path: _modules_of_aiohttp(path.read_text()) for path in (HOUSE / "poller").rglob("*.py")}
    assert used.pop(HOUSE / "poller/hubspot/connection.py") - PUBLIC == INTERNALS
    assert {str(path): names - PUBLIC for path, names in used.items() if names - PUBLIC} == {}


def test_the_range_ends_with_the_minor_version_that_is_locked() -> None:
    project = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    [wanted] = [each for each in project["dependencies"] if each.startswith("aiohttp>")]
    locked = re.search(r"^aiohttp==(\d+)\.(\d+)\.", (HOUSE / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert wanted.endswith(f",<{locked[1]}.{int(locked[2]) + 1}")
