"""Tokens: re-read when they change, renewed by one request for all callers, and never shown."""

import asyncio
import os
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from poller.core.errors import ConfigError
from poller.core.request_protocols import TokenSource
from poller.hubspot.tokens import EnvToken, FileToken, OAuthToken, TokenUnavailable

SECRET = "pat-na1-s3cr3t"
URL = "https://api.hubapi.com/oauth/2026-03/token"


# --- environment -----------------------------------------------------------------------------------------------------


async def test_a_variable_holds_the_token() -> None:
    assert await EnvToken("HUBSPOT_TOKEN", {"HUBSPOT_TOKEN": f" {SECRET}\n"}).token() == SECRET


@pytest.mark.parametrize("environ", [{}, {"HUBSPOT_TOKEN": ""}, {"HUBSPOT_TOKEN": " \n"}])
async def test_a_missing_variable_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="HUBSPOT_TOKEN is not set"):
        await EnvToken("HUBSPOT_TOKEN", environ).token()


@pytest.mark.parametrize("value", ["a b", "a\nb", "a\r\nX-Evil: 1", "tökén", f'"{SECRET}"', "a\x00b", "x" * 9000])
async def test_what_cannot_be_a_token_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await EnvToken("HUBSPOT_TOKEN", {"HUBSPOT_TOKEN": value}).token()
    assert value not in str(caught.value)
    assert "HUBSPOT_TOKEN" in str(caught.value)


# --- file ------------------------------------------------------------------------------------------------------------


async def test_a_file_that_changes_is_re_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"\xef\xbb\xbffirst\r\n")
    tokens = FileToken(path)
    assert await tokens.token() == "first"
    replacement = tmp_path / "new"
    replacement.write_text("second\n")
    replacement.rename(path)
    assert await tokens.token() == "second"


async def test_a_kubernetes_secret_that_is_swapped_is_re_read(tmp_path: Path) -> None:
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(version)
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    tokens = FileToken(tmp_path / "token")
    assert await tokens.token() == "one"
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").rename(tmp_path / "..data")
    assert await tokens.token() == "two"


async def test_a_refused_file_is_re_read_though_it_looks_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poller.hubspot.tokens._identity", lambda _: (1,))
    path = tmp_path / "token"
    path.write_text("first")
    tokens = FileToken(path)
    assert await tokens.token() == "first"
    path.write_text("other")
    assert await tokens.token() == "first"
    tokens.refused("something older")
    assert await tokens.token() == "first"
    tokens.refused("first")
    assert await tokens.token() == "other"


def _make_missing(path: Path) -> None:
    pass


def _make_empty(path: Path) -> None:
    path.write_text(" \n")


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_large(path: Path) -> None:
    path.write_bytes(b"x" * 100_000)


def _make_dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_make_missing, _make_empty, _make_folder, _make_pipe, _make_large, _make_dangling])
async def test_a_file_without_a_token_is_named_and_used_once_it_has_one(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "the-token"
    make(path)
    tokens = FileToken(path)
    with pytest.raises(ConfigError, match="the-token"):
        await tokens.token()
    replacement = tmp_path / "new"
    replacement.write_text(SECRET)
    if path.is_dir():
        path.rmdir()
    replacement.rename(path)
    assert await tokens.token() == SECRET


@pytest.mark.parametrize("make", [_make_missing, _make_empty, _make_large])
async def test_a_file_counts_as_changed_from_its_change_until_it_is_re_read(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    tokens = FileToken(path)
    await tokens.token()
    tokens.refused("first")
    assert not tokens.has_changed()
    path.unlink()
    make(path)
    with pytest.raises(ConfigError):
        await tokens.token()
    assert not tokens.has_changed()
    path.unlink(missing_ok=True)
    path.write_text("second-one")
    assert tokens.has_changed()
    await tokens.token()
    assert not tokens.has_changed()


# --- OAuth -----------------------------------------------------------------------------------------------------------

Clock = Callable[[], float]


class TokenEndpoint:
    """A token endpoint: grants access-1, access-2, …, or gives the `answer` that a test sets."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.answer: tuple[int, bytes] | None = None
        self.error: Exception | None = None
        self.extra: dict[str, Any] = {}
        self.granted = 0

    async def post(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        assert url == URL
        self.forms.append(dict(form))
        await asyncio.sleep(0.5)
        if self.error is not None:
            raise self.error
        if self.answer is not None:
            return self.answer
        self.granted += 1
        return 200, orjson.dumps({"access_token": f"access-{self.granted}", "expires_in": 1800} | self.extra)


@pytest.fixture
def endpoint() -> TokenEndpoint:
    return TokenEndpoint()


def oauth(
    endpoint: TokenEndpoint, clock: Clock, initial: str | None = "refresh-0", file: Path | None = None
) -> OAuthToken:
    return OAuthToken(
        client_id="app",
        client_secret="hush-hush",
        refresh_token=initial,
        refresh_token_file=file,
        token_url=URL,
        post=endpoint.post,
        clock=clock,
    )


async def test_a_token_is_requested_once_for_all_callers(endpoint: TokenEndpoint, clock: Clock) -> None:
    tokens = oauth(endpoint, clock)
    assert await asyncio.gather(*(tokens.token() for _ in range(50))) == ["access-1"] * 50
    assert endpoint.forms == [
        {
            "grant_type": "refresh_token",
            "client_id": "app",
            "client_secret": "hush-hush",
            "refresh_token": "refresh-0",
        }
    ]


async def test_a_token_is_renewed_before_it_expires_while_other_callers_use_the_old_one(
    endpoint: TokenEndpoint, clock: Clock
) -> None:
    tokens = oauth(endpoint, clock)
    await tokens.token()
    await asyncio.sleep(1400)
    assert await tokens.token() == "access-1"
    await asyncio.sleep(60)
    assert list(await asyncio.gather(tokens.token(), tokens.token())) == ["access-2", "access-1"]
    assert endpoint.granted == 2


@pytest.mark.parametrize("expires_in", [1, 59, None, "1800", -5, True])
async def test_an_odd_life_time_never_makes_a_request_for_each_poll(
    endpoint: TokenEndpoint, clock: Clock, expires_in: object
) -> None:
    endpoint.extra = {"expires_in": expires_in}
    tokens = oauth(endpoint, clock)
    for _ in range(100):
        await tokens.token()
        await asyncio.sleep(0.1)
    assert endpoint.granted == 1


async def test_a_refused_token_is_renewed_once(endpoint: TokenEndpoint, clock: Clock) -> None:
    tokens = oauth(endpoint, clock)
    await tokens.token()
    tokens.refused("access-1")
    assert await tokens.token() == "access-2"
    tokens.refused("access-1")
    assert await tokens.token() == "access-2"


@pytest.mark.parametrize("answer", [(429, b""), (503, b""), (302, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}")])
async def test_a_failing_endpoint_is_requested_more_and_more_rarely(
    endpoint: TokenEndpoint, clock: Clock, answer: tuple[int, bytes]
) -> None:
    endpoint.answer = answer
    tokens = oauth(endpoint, clock)
    for _ in range(600):
        with pytest.raises(TokenUnavailable):
            await tokens.token()
        await asyncio.sleep(1)
    assert 10 <= len(endpoint.forms) <= 20
    endpoint.answer = None
    await asyncio.sleep(60)
    assert await tokens.token() == "access-1"


async def test_a_failing_endpoint_does_no_harm_while_the_old_token_is_valid(
    endpoint: TokenEndpoint, clock: Clock
) -> None:
    tokens = oauth(endpoint, clock)
    await tokens.token()
    endpoint.error = TokenUnavailable("out of reach")
    await asyncio.sleep(1700)
    assert await tokens.token() == "access-1"
    await asyncio.sleep(120)
    with pytest.raises(TokenUnavailable):
        await tokens.token()


async def test_another_refresh_token_in_the_file_counts_as_a_change_only_while_the_old_one_fails(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path
) -> None:
    path = tmp_path / "refresh"
    path.write_text("refresh-1")
    tokens = oauth(endpoint, clock, None, path)
    endpoint.answer = (400, b"{}")
    with pytest.raises(ConfigError):
        await tokens.token()
    assert not tokens.has_changed()
    endpoint.answer = None
    path.write_text("refresh-two")
    assert tokens.has_changed()
    assert await tokens.token() == "access-1"  # at once, without the back-off of 5 s
    path.write_text("refresh-three")
    assert not tokens.has_changed()


@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_a_refused_refresh_token_raises_a_config_error(
    endpoint: TokenEndpoint, clock: Clock, status: int
) -> None:
    endpoint.answer = (status, b'{"message":"BAD_REFRESH_TOKEN hush-hush"}')
    tokens = oauth(endpoint, clock)
    for _ in range(20):
        with pytest.raises(ConfigError, match="oauth") as caught:
            await tokens.token()
        assert "hush-hush" not in str(caught.value)
    assert len(endpoint.forms) == 1
    endpoint.answer = None
    await asyncio.sleep(5)
    assert await tokens.token() == "access-1"


def _names_in(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


async def test_a_new_refresh_token_is_kept_for_the_next_run(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path
) -> None:
    file = tmp_path / "refresh"
    endpoint.extra = {"refresh_token": "refresh-1"}
    await oauth(endpoint, clock, file=file).token()
    assert file.read_text() == "refresh-1\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert _names_in(tmp_path) == ["refresh"]
    await oauth(endpoint, clock, file=file).token()
    assert [form["refresh_token"] for form in endpoint.forms] == ["refresh-0", "refresh-1"]


async def test_a_new_refresh_token_is_on_disk_before_its_file_is_and_then_the_name_is_too(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, replace = os.fsync, os.replace
    calls: list[tuple[str, bytes | str]] = []

    def recorded_fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        calls.append(("synced", path.name if path.is_dir() else path.read_bytes()))
        fsync(fd)

    def recorded_replace(source: str, target: Path) -> None:
        calls.append(("renamed", target.name))
        replace(source, target)

    monkeypatch.setattr("os.fsync", recorded_fsync)
    monkeypatch.setattr("os.replace", recorded_replace)
    endpoint.extra = {"refresh_token": "refresh-1"}
    await oauth(endpoint, clock, file=tmp_path / "refresh").token()
    assert calls == [("synced", b"refresh-1\n"), ("renamed", "refresh"), ("synced", tmp_path.name)]


async def test_a_refresh_token_that_cannot_be_kept_is_still_used(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    tokens = oauth(endpoint, clock, file=tmp_path / "no such folder" / "refresh")
    endpoint.extra = {"refresh_token": "refresh-1"}
    assert await tokens.token() == "access-1"
    tokens.refused("access-1")
    assert await tokens.token() == "access-2"
    assert [form["refresh_token"] for form in endpoint.forms] == ["refresh-0", "refresh-1"]
    assert [event["event"] for event in events if event["log_level"] == "warning"] == ["token.not_kept"]


async def test_without_any_refresh_token_the_settings_are_named(endpoint: TokenEndpoint, clock: Clock) -> None:
    with pytest.raises(ConfigError, match="refresh_token_env"):
        await oauth(endpoint, clock, initial=None).token()
    assert endpoint.forms == []


async def test_a_renewal_that_is_cancelled_leaves_the_source_usable(endpoint: TokenEndpoint, clock: Clock) -> None:
    tokens = oauth(endpoint, clock)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await tokens.token()
    assert await tokens.token() == "access-1"


# --- secrecy ---------------------------------------------------------------------------------------------------------


async def test_no_source_shows_a_secret(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path, events: list[MutableMapping[str, Any]]
) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET)
    broken = tmp_path / "broken"
    broken.write_text(f"{SECRET} {SECRET}")
    endpoint.extra = {"refresh_token": SECRET}
    sources: list[TokenSource] = [
        EnvToken("T", {"T": SECRET}),
        EnvToken("T", {"T": f"{SECRET} x"}),
        FileToken(path),
        FileToken(broken),
        oauth(endpoint, clock, initial=SECRET),
        oauth(endpoint, clock, file=broken),
    ]
    shown = []
    for source in sources:
        try:
            await source.token()
        except ConfigError as error:
            shown.append("".join(traceback.format_exception(error)))
        shown.append(repr(source) + str(source))
    text = "\n".join(shown) + repr(events)
    assert SECRET not in text
    assert "hush-hush" not in text
