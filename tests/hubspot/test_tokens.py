"""Tokens: re-read when they change, renewed by one request for all callers, and never shown."""

import asyncio
import errno
import os
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

import orjson
import pytest

from poller.core.errors import ConfigError
from poller.core.model import Refused
from poller.core.request_protocols import TokenSource
from poller.core.shared_timeout import SharedTimeout
from poller.hubspot import tokens as tokens_module
from poller.hubspot.client import Connections
from poller.hubspot.tokens import CarryOut, EnvToken, FileToken, OAuthToken, TokenUnavailable

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
    endpoint: TokenEndpoint,
    clock: Clock,
    initial: str | None = "refresh-0",
    file: Path | None = None,
    carry_out: CarryOut = asyncio.create_task,
) -> OAuthToken:
    return OAuthToken(
        client_id="app",
        client_secret="hush-hush",
        refresh_token=initial,
        refresh_token_file=file,
        token_url=URL,
        post=endpoint.post,
        carry_out=carry_out,
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


@pytest.mark.parametrize("answer", [(429, b""), (503, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}")])
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


@pytest.mark.parametrize(("status", "body"), [(302, b""), (403, b"<html>Access denied</html>")])
async def test_a_stranger_s_answer_is_not_taken_for_a_refused_refresh_token(
    endpoint: TokenEndpoint, clock: Clock, status: int, body: bytes
) -> None:
    endpoint.answer = (status, body)
    with pytest.raises(ConfigError, match=r"is not HubSpot's\. Check base_url and token_path, and the proxy"):
        await oauth(endpoint, clock).token()


async def test_every_caller_learns_what_a_host_without_an_answer_shows(endpoint: TokenEndpoint, clock: Clock) -> None:
    endpoint.error = TokenUnavailable("never", Refused(reason="untrusted_certificate", detail="set ca_file"))
    tokens = oauth(endpoint, clock)
    for _ in range(3):
        with pytest.raises(TokenUnavailable) as caught:
            await tokens.token()
        assert caught.value.shows == endpoint.error.shows
    assert len(endpoint.forms) == 1


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


class RotatingEndpoint(TokenEndpoint):
    """A token endpoint whose refresh tokens work once."""

    def __init__(self, took_s: float = 0.5) -> None:
        super().__init__()
        self.accepts = "refresh-0"
        self.took_s = took_s

    async def post(self, url: str, form: Mapping[str, str]) -> tuple[int, bytes]:
        assert url == URL
        self.forms.append(dict(form))
        if form["refresh_token"] != self.accepts:
            return 400, b'{"message":"BAD_REFRESH_TOKEN"}'
        self.granted += 1
        self.accepts = f"refresh-{self.granted}"
        await asyncio.sleep(self.took_s)
        granted = {"access_token": f"access-{self.granted}", "expires_in": 1800, "refresh_token": self.accepts}
        return 200, orjson.dumps(granted)


async def test_a_rotated_refresh_token_is_kept_though_all_that_waited_for_it_were_out_of_time(
    clock: Clock, tmp_path: Path
) -> None:
    """HubSpot accepts the token that was sent no more: to drop the answer would mean to install the app again."""
    file, endpoint = tmp_path / "refresh", RotatingEndpoint(took_s=6)
    file.write_text("refresh-0")
    tokens = oauth(endpoint, clock, None, file)
    timeout = SharedTimeout(5)

    async def poll() -> str:
        with timeout:
            return await tokens.token()

    polls = await asyncio.gather(*(poll() for _ in range(4)), return_exceptions=True)
    assert [type(each) for each in polls] == [TimeoutError] * 4
    assert await poll() == "access-1"
    assert file.read_text() == "refresh-1\n"
    assert len(endpoint.forms) == 1


async def test_a_cancelled_run_still_keeps_the_refresh_token_of_a_renewal_under_way(
    clock: Clock, tmp_path: Path
) -> None:
    file, endpoint, connections = tmp_path / "refresh", RotatingEndpoint(took_s=6), Connections()
    file.write_text("refresh-0")
    tokens = oauth(endpoint, clock, None, file, carry_out=connections.carry_out)

    async def run() -> None:
        async with connections:
            await tokens.token()

    running = asyncio.create_task(run())
    await asyncio.sleep(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert file.read_text() == "refresh-1\n"


async def test_an_endpoint_that_answers_after_the_time_out_of_polls_is_requested_more_and_more_rarely(
    endpoint: TokenEndpoint, clock: Clock
) -> None:
    endpoint.error = TokenUnavailable("out of reach")
    tokens = oauth(endpoint, clock)
    for _ in range(600):
        with pytest.raises((TimeoutError, TokenUnavailable)):
            async with asyncio.timeout(0.1):
                await tokens.token()
        await asyncio.sleep(1)
    assert len(endpoint.forms) <= 20


async def test_a_refresh_token_that_a_full_disk_did_not_take_is_used_from_memory_and_written_once_there_is_room(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[MutableMapping[str, Any]]
) -> None:
    file, endpoint = tmp_path / "refresh", RotatingEndpoint()
    file.write_text("refresh-0")
    tokens, write = oauth(endpoint, clock, None, file), tokens_module._write_secret

    def full(_path: Path, _secret: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tokens_module, "_write_secret", full)
    for number in (1, 2, 3):
        assert await tokens.token() == f"access-{number}"
        await asyncio.sleep(1700)
    assert file.read_text() == "refresh-0"
    monkeypatch.setattr(tokens_module, "_write_secret", write)
    await tokens.token()
    assert file.read_text() == f"{endpoint.accepts}\n"
    assert await oauth(endpoint, clock, None, file).token() == f"access-{endpoint.granted}"
    kept = [event["event"] for event in events if event["event"] in ("token.not_kept", "token.kept")]
    assert kept == ["token.not_kept", "token.kept"]


async def test_a_refresh_token_that_a_person_writes_wins_over_one_that_could_not_be_written(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, endpoint = tmp_path / "refresh", RotatingEndpoint()
    file.write_text("refresh-0")
    tokens = oauth(endpoint, clock, None, file)

    def full(_path: Path, _secret: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tokens_module, "_write_secret", full)
        await tokens.token()
    endpoint.accepts = "of-a-person"  # the app was installed again
    file.write_text("of-a-person")
    await asyncio.sleep(100)
    assert await tokens.token() == "access-1"
    assert file.read_text() == "of-a-person"
    await asyncio.sleep(1700)
    assert await tokens.token() == "access-2"
    assert endpoint.forms[-1]["refresh_token"] == "of-a-person"


async def test_a_touched_file_does_not_count_as_a_person_s(clock: Clock, tmp_path: Path) -> None:
    file, endpoint = tmp_path / "refresh", RotatingEndpoint(took_s=6)
    file.write_text("refresh-0")
    tokens = oauth(endpoint, clock, None, file)
    renewing = asyncio.create_task(tokens.token())
    await asyncio.sleep(1)
    file.chmod(0o640)
    await renewing
    assert file.read_text() == "refresh-1\n"


async def test_a_refresh_token_file_that_cannot_be_seen_is_named_and_nothing_is_requested(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path
) -> None:
    unseen = tmp_path / ("x" * 300)  # as in a folder that only another user may enter
    with pytest.raises(ConfigError, match="cannot read the secret"):
        await oauth(endpoint, clock, "refresh-0", unseen).token()
    assert endpoint.forms == []


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


async def test_renewals_keep_the_credentials_and_another_refresh_token_or_token_has_others(
    endpoint: TokenEndpoint, clock: Clock, tmp_path: Path
) -> None:
    tokens, other = oauth(endpoint, clock), oauth(endpoint, clock, initial="refresh-of-another-account")
    first = await tokens.token()
    before = tokens.credentials
    tokens.refused(first)
    assert await tokens.token() != first
    await other.token()
    assert len({b"", before, other.credentials}) == 3
    assert tokens.credentials == before
    file = FileToken(tmp_path / "token")
    seen = []
    for content in ("one", "two ", "one"):
        (tmp_path / "token").write_text(content)
        await file.token()
        seen.append(file.credentials)
    assert seen[0] == seen[2] != seen[1]


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
