"""Where tokens come from, by settings: those of accounts and that of the server. Each is registered with the log."""

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from poller.config import AccountSettings, OAuthTable, Settings
from poller.core import log as logs
from poller.core.credentials import secret_in_env, secret_in_file
from poller.core.protocols import Clock
from poller.core.request_protocols import TokenSource
from poller.hubspot.client import Connections
from poller.hubspot.tokens import EnvToken, FileToken, OAuthToken


async def account_tokens(
    account: AccountSettings,
    environ: Mapping[str, str],
    connections: Connections,
    *,
    clock: Clock,
    kept: dict[bytes, OAuthToken],
) -> TokenSource:
    """Return where an account's token comes from. Raises `ConfigError` where there is none.

    An OAuth source is in `kept` from then on, and a reload finds it there: it may be about to renew its token, or have
    a refresh token that is not on disk yet.
    """
    if account.oauth is None:
        return await _stored_token(account.token_file, account.token_env, environ)
    oauth = account.oauth
    secret, refresh_token = _oauth_secrets(oauth, environ)
    logs.keep_secret(secret)
    file, token_url = oauth.refresh_token_file, account.base_url + oauth.token_path
    made_of = blake2b(repr((oauth.client_id, secret, refresh_token, file, token_url)).encode()).digest()
    if made_of not in kept:
        kept[made_of] = OAuthToken(
            client_id=oauth.client_id,
            client_secret=secret,
            refresh_token=refresh_token,
            refresh_token_file=file,
            token_url=token_url,
            post=connections.post,
            carry_out=connections.carry_out,
            clock=clock,
        )
    return _HiddenToken(kept[made_of])


async def check_tokens(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` where the token of an account, or that of the server, is missing."""
    for account in settings.account_settings().values():
        if account.oauth is not None:
            _oauth_secrets(account.oauth, environ)
        else:
            await _stored_token(account.token_file, account.token_env, environ)
    await site_token(settings, environ)


def _oauth_secrets(oauth: OAuthTable, environ: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the client's secret, and the refresh token where a variable has it. Raises `ConfigError`."""
    if oauth.client_secret is not None:
        secret = oauth.client_secret.get_secret_value()
    elif oauth.client_secret_env is not None:
        secret = secret_in_env(oauth.client_secret_env, environ)
    else:
        secret = secret_in_file(oauth.client_secret_file or Path())
    variable = oauth.refresh_token_env
    return secret, None if variable is None else secret_in_env(variable, environ)


async def site_token(settings: Settings, environ: Mapping[str, str]) -> TokenSource | None:
    """Return where the token of the server comes from, None where none is set. Raises `ConfigError`."""
    file, variable = settings.listen_token_file, settings.listen_token_env
    if file is None and variable is None:
        return None
    return await _stored_token(file, variable or "", environ)


async def credentials_hash(account: AccountSettings, tokens: TokenSource) -> bytes:
    """Return a hash that two accounts share if HubSpot counts their requests together."""
    if account.oauth is None:
        words = await tokens.token()
    else:
        words = repr((account.oauth.client_id, account.oauth.refresh_token_env, account.oauth.refresh_token_file))
    return blake2b(words.encode()).digest()


async def _stored_token(file: Path | None, variable: str, environ: Mapping[str, str]) -> TokenSource:
    """Return a token in a file, or else in a variable. Raises `ConfigError` where there is none."""
    if file is None:
        unchanging = EnvToken(variable, environ)
        logs.keep_secret(await unchanging.token())
        return unchanging
    source = _HiddenToken(FileToken(file))
    await source.token()
    return source


class _HiddenToken:
    """A token source that registers each token with the log, which then never writes it."""

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._known: str | None = None

    @property
    def credentials(self) -> bytes:
        return self._source.credentials

    async def token(self) -> str:
        token = await self._source.token()
        if token is not self._known:
            logs.keep_secret(token)
            self._known = token
        return token

    def refused(self, token: str) -> None:
        self._source.refused(token)

    def has_changed(self) -> bool:
        return self._source.has_changed()
