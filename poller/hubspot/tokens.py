"""The sources of bearer tokens: the environment, a file, or OAuth. No message and no repr contains a secret.

Where a person must act to have a token, `token()` raises `ConfigError`; where there may be one later,
`TokenUnavailable`.
"""

import asyncio
import math
import os
import re
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import structlog

from poller.core.credentials import checked_token, secret_in_env, secret_in_file, unreadable_secret
from poller.core.errors import ConfigError
from poller.core.model import Refused, Unreachable
from poller.core.protocols import Clock

log = structlog.get_logger("poller")

Post = Callable[[str, Mapping[str, str]], Awaitable[tuple[int, bytes]]]  # url, form → status, body
CarryOut = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]  # to its end, also if its caller is cancelled

USUAL_LIFE_S = 1800.0  # of HubSpot's access tokens; the default where an answer has no `expires_in`
SHORTEST_LIFE_S, LONGEST_LIFE_S = 60.0, 86_400.0  # bounds of `expires_in`
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 1.0, 60.0  # after temporary failures
SAVE_AGAIN_S = 10.0  # after a new refresh token could not be written
REFUSED_BACKOFF_S = 5.0  # after a refusal: a person's fix should work within seconds


class TokenUnavailable(Exception):
    """There is no token now, but may be later: the token endpoint is down, throttled or unreachable."""

    def __init__(self, message: str, shows: Refused | Unreachable | None = None) -> None:
        """`shows`: what that is of the host, which is also that of polls; None: nothing but that there is no token."""
        super().__init__(message)
        self.shows = shows

    def again(self) -> "TokenUnavailable":
        """Return the same without a traceback, for another caller."""
        return TokenUnavailable(str(self), self.shows)


class EnvToken:
    """A token in an environment variable, which cannot change while the process runs."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.credentials = b""
        self._name, self._environ = name, environ
        self._token: str | None = None

    async def token(self) -> str:
        """Return the variable's value. Raises `ConfigError` where it is not set or cannot be a token."""
        if self._token is None:
            self._token = secret_in_env(self._name, self._environ)
            self.credentials = _hash(self._token)
        return self._token

    def refused(self, token: str) -> None:
        """The variable cannot have changed."""

    def has_changed(self) -> bool:
        return False


class FileToken:
    """A token in a file, such as a Docker or Kubernetes secret; re-read when refused and when the file changes."""

    def __init__(self, path: Path) -> None:
        self.credentials = b""
        self._path = path
        self._token: str | None = None
        self._seen: tuple[int, ...] = ()

    async def token(self) -> str:
        """Return the file's content. Raises `ConfigError` where it is missing, empty or not a token."""
        identity = _identity(self._path)
        if self._token is None or identity != self._seen:
            self._token, self._seen = None, identity
            self._token = secret_in_file(self._path)
            self.credentials = _hash(self._token)
        return self._token

    def refused(self, token: str) -> None:
        """Re-read the file on the next use, even if it looks unchanged."""
        if token == self._token:
            self._token = None

    def has_changed(self) -> bool:
        return _is_changed(self._path, self._seen)


@dataclass(frozen=True, slots=True)
class _Access:
    token: str
    refresh_at: float  # from here on it is renewed
    ends_at: float


class OAuthToken:
    """Access tokens of an OAuth app, renewed before they expire, by one request however many callers wait.

    A renewal is carried out to its end whatever becomes of those that wait for it: HubSpot may return another refresh
    token, and the one that was sent is then worth nothing. The refresh token is `refresh_token` until
    `refresh_token_file` exists; a new one that HubSpot returns is written to that file, and is used from memory until
    that succeeds. `post` sends a form to `token_url` and raises `TokenUnavailable` on a network error.
    """

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        refresh_token: str | None,
        refresh_token_file: Path | None,
        token_url: str,
        post: Post,
        carry_out: CarryOut,
        clock: Clock,
    ) -> None:
        self.credentials = b""
        self._client_id, self._client_secret = client_id, client_secret
        self._refresh_token, self._file = refresh_token, refresh_token_file
        self._file_seen: tuple[int, ...] = ()  # the file's identity when it was last read or written …
        self._file_token: str | None = None  # … and what it had
        self._save_at = math.inf  # when to write the refresh token to the file, which has an older one; infinity: never
        self._token_url, self._post, self._carry_out, self._clock = token_url, post, carry_out, clock
        self._access: _Access | None = None
        self._renewal: asyncio.Task[None] | None = None  # the latest
        self._failure: ConfigError | TokenUnavailable | None = None  # the latest, until a renewal succeeds
        self._failures = 0
        self._retry_at = 0.0

    async def token(self) -> str:
        """Return an access token that has not expired. Raises `ConfigError` or `TokenUnavailable` if there is none."""
        access, now = self._access, self._clock()
        if now >= self._save_at:
            self._save(now)
        is_renewing = self._renewal is not None and not self._renewal.done()
        if access is not None and now < (access.ends_at if is_renewing else access.refresh_at):
            return access.token
        is_backing_off = now < self._retry_at <= now + LONGEST_BACKOFF_S  # beyond that the clock was set back
        if self._renewal is None or not (is_renewing or (is_backing_off and not self.has_changed())):
            self._renewal = self._carry_out(self._renew())
        await asyncio.shield(self._renewal)
        access = self._access
        if access is not None and self._clock() < access.ends_at:
            return access.token  # of a renewal, or the old one: that none succeeded does not matter until it expires
        failure = self._failure or TokenUnavailable("the access token expired before it could be used")
        raise failure.again() if isinstance(failure, TokenUnavailable) else ConfigError(str(failure))

    def refused(self, token: str) -> None:
        """Renew before the next use."""
        if self._access is not None and token == self._access.token:
            self._access = None

    def has_changed(self) -> bool:
        """Whether a person may have put another refresh token into the file."""
        return self._failure is not None and self._file is not None and _is_changed(self._file, self._file_seen)

    async def _renew(self) -> None:
        try:
            self._access = await self._request()
        except TokenUnavailable as failure:
            wait_s = min(FIRST_BACKOFF_S * 2.0 ** min(self._failures, 16), LONGEST_BACKOFF_S)
            self._back_off(failure, wait_s)
        except ConfigError as failure:
            self._back_off(failure, REFUSED_BACKOFF_S)
        else:
            self._failure, self._failures, self._retry_at = None, 0, 0.0

    def _back_off(self, failure: ConfigError | TokenUnavailable, wait_s: float) -> None:
        """Raise the same failure without a request for `wait_s`."""
        self._failure = failure.with_traceback(None)
        self._failures += 1
        self._retry_at = self._clock() + wait_s
        log.warning("token.not_renewed", reason=str(failure), failures=self._failures, wait_s=wait_s)

    async def _request(self) -> _Access:
        began_at = self._clock()
        form = {
            "grant_type": "refresh_token",
            "client_id": self._client_id,
            "client_secret": self._client_secret,
            "refresh_token": self._current_refresh_token(),
        }
        status, body = await self._post(self._token_url, form)
        access, renewed = _granted(status, body, began_at)
        if renewed is not None and renewed != form["refresh_token"]:
            self._keep(renewed)
        self.credentials = _hash(f"{self._client_id} {renewed or form['refresh_token']}")
        log.info("token.renewed", life_s=round(access.ends_at - began_at))
        return access

    def _current_refresh_token(self) -> str:
        """Return the file's token once the file exists: it is the newest, and a person may replace it. A newer one that
        could not be written wins over the file as it was."""
        if self._refresh_token is not None and self._save_at < math.inf and not self._is_replaced():
            return self._refresh_token
        self._save_at = math.inf
        if self._file is not None and (self._refresh_token is None or _is_there(self._file)):
            self._file_seen = _identity(self._file)
            self._file_token = secret_in_file(self._file)
            return self._file_token
        if self._refresh_token is None:
            raise ConfigError("oauth: there is no refresh token. Set refresh_token_env or refresh_token_file.")
        return self._refresh_token

    def _keep(self, renewed: str) -> None:
        self._refresh_token = renewed
        if self._file is None:
            log.warning(
                "token.not_kept", reason="no refresh_token_file is set: the new refresh token is lost after this run"
            )
        else:
            self._save(self._clock())

    def _is_replaced(self) -> bool:
        """Whether the file has another refresh token than when it was last read or written: a person's."""
        if self._file is None or not _is_changed(self._file, self._file_seen):
            return False
        try:
            return secret_in_file(self._file) != self._file_token
        except ConfigError:
            return False

    def _save(self, now: float) -> None:
        """Write the refresh token to its file, unless a person has just written another one there."""
        was_late, self._save_at = self._save_at < math.inf, math.inf
        if self._file is None or self._refresh_token is None or self._is_replaced():
            return
        try:
            _write_secret(self._file, self._refresh_token)
            self._file_seen, self._file_token = _stat(self._file), self._refresh_token
        except OSError as error:  # until it succeeds, the token in memory is used
            self._save_at = now + SAVE_AGAIN_S
            if not was_late:
                log.warning("token.not_kept", reason=f"cannot write refresh_token_file: {error.strerror}")
        else:
            if was_late:
                log.info("token.kept")


def _hash(secret: str) -> bytes:
    return blake2b(secret.encode(), digest_size=16).digest()


def _identity(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written or replaced, also by Kubernetes' swapped symbolic links."""
    try:
        return _stat(path)
    except (OSError, ValueError) as error:
        raise unreadable_secret(path, error) from None


def _is_there(path: Path) -> bool:
    """Return whether a file exists. Raises `ConfigError` where that cannot be seen, as in a folder of another user."""
    try:
        _stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise unreadable_secret(path, error) from None
    return True


def _stat(path: Path) -> tuple[int, ...]:
    now = path.stat()
    return (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_ctime_ns, now.st_size)


def _is_changed(path: Path, seen: tuple[int, ...]) -> bool:
    try:
        return _identity(path) != seen
    except ConfigError:  # there is nothing to read
        return False


def _granted(status: int, body: bytes, began_at: float) -> tuple[_Access, str | None]:
    """Return the access token in the token endpoint's answer, and the refresh token that comes with it."""
    if status in (408, 423, 425, 429, 477) or not 200 <= status <= 499:
        raise TokenUnavailable(f"the token endpoint answered {status}")
    if 300 <= status <= 399 or (status >= 400 and body.lstrip()[:1] == b"<"):
        raise ConfigError(
            f"oauth: the token endpoint's answer {status} is not HubSpot's. Check base_url and token_path, and the "
            "proxy or gateway on the way."
        )
    if status == 404:
        raise ConfigError("oauth: the token endpoint answered 404. Check token_path and base_url.")
    if status >= 400:
        raise ConfigError(
            f"oauth: HubSpot refused the refresh token ({status}). Check client_id, client_secret and the refresh "
            "token, or have the app reinstalled in the account."
        )
    try:
        answer = orjson.loads(body)
        token = checked_token(answer["access_token"], "the answer")
    except (ValueError, TypeError, LookupError, ConfigError):
        raise TokenUnavailable("the token endpoint answered without an access token") from None
    life_s = _life_s(answer.get("expires_in"))
    ahead_s = min(max(life_s * 0.2, 300.0), life_s / 2)
    ends_at = began_at + life_s
    access = _Access(token=token, refresh_at=ends_at - ahead_s, ends_at=ends_at)
    renewed = answer.get("refresh_token")
    return access, renewed if isinstance(renewed, str) and re.fullmatch(r"[!-~]{1,8192}", renewed) else None


def _life_s(expires_in: object) -> float:
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float) or not expires_in > 0:
        return USUAL_LIFE_S
    return min(max(float(expires_in), SHORTEST_LIFE_S), LONGEST_LIFE_S)


def _write_secret(path: Path, secret: str) -> None:
    """Replace the file's content atomically, with mode 0600; it is on disk when this returns."""
    path = path.resolve()  # replace the target of a link, not the link
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - `temporary` is a str from mkstemp
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
