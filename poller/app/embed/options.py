"""The keyword arguments of `Poller`: the settings of the configuration file that make sense within a program, typed.

docs/reference/config.md describes each; a test holds names and types against the settings.
"""

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypedDict

from poller.config import TOKEN_KEYS, Settings, settings_from
from poller.core.credentials import checked_token
from poller.core.errors import ConfigError


class AccountOptions(TypedDict, total=False):
    """What an account can set for itself."""

    token: str  # or one of the next three
    token_env: str
    token_file: str | Path
    oauth: Mapping[str, Any]
    base_url: str
    allow_http: bool
    status_path: str
    expect_result: bool | None
    requests: int | None
    window_s: float | None
    daily_limit: int | None
    daily_reserve: float
    time_zone: str
    workers: int | None
    deadline_s: float
    request_timeout_s: float
    max_body_bytes: int
    polling: Mapping[str, Any]


class PollerOptions(AccountOptions, total=False):
    """What a `Poller` can set; its account options are the defaults of `accounts`."""

    account: str  # of rows that name none
    imports: Mapping[str, Any]  # how rows are imported; needed for `import_files`
    accounts: Mapping[str, AccountOptions]
    sinks: Sequence[str | Mapping[str, Any]]  # beside the loop over `finished()`
    listen: str  # the live page; "off" unless it is set
    listen_token_env: str | None
    listen_token_file: str | Path | None
    give_up_s: float | None
    shutdown_s: float
    retention_s: float | None
    proxy: str | None
    ca_file: str | Path | None


def settings_of(state: str, options: PollerOptions) -> tuple[Settings, dict[str, str]]:
    """Return the settings of a `Poller`, and the variables that hold the tokens that were given as text.

    Raises `ConfigError` naming each problem, and `TypeError` for a name that is no option.
    """
    _refuse_unknown(options, PollerOptions, "Poller()")
    values: dict[str, Any] = dict(options)
    accounts: dict[str, dict[str, Any]] = {name: dict(own) for name, own in options.get("accounts", {}).items()}
    tokens: dict[str, str] = {}
    _move_token(values, "token", tokens)
    for name, own in accounts.items():
        _refuse_unknown(own, AccountOptions, f"accounts[{name!r}]")
        _move_token(own, f"accounts.{name}.token", tokens)
    if "imports" in values:
        values["input"] = {"feeds": "imports"}
    settings = settings_from({"listen": "off"} | values | {"accounts": accounts, "state": state, "follow": True})
    for name, account in settings.account_settings().items():
        has_token = account.oauth or account.token_file or (os.environ | tokens).get(account.token_env)
        if not has_token:
            raise ConfigError(
                f"account {name} has no token: give token=… or token_file=…, or set the environment variable "
                f"{account.token_env}"
            )
    return settings, tokens


def _refuse_unknown(given: Mapping[str, Any], known: type, where: str) -> None:
    names = known.__annotations__
    for name in given.keys() - names.keys():
        near = get_close_matches(name, names, 1)
        raise TypeError(f"{where} has no option {name!r}{f'; did you mean {near[0]!r}?' if near else ''}")


def _move_token(options: dict[str, Any], where: str, tokens: dict[str, str]) -> None:
    """Replace a token by the name of a variable that holds it: settings never do."""
    token = options.pop("token", None)
    if token is None:
        return
    if others := sorted(TOKEN_KEYS & options.keys()):
        raise ConfigError(f"{where} and {' and '.join(others)} are given together: keep one")
    if not isinstance(token, str):  # whose text would be sent: b'…' of bytes, ********** of a SecretStr
        raise ConfigError(f"{where} must be a str, not {type(token).__name__}: decode it, or take its secret value")
    variable = f"POLLER_GIVEN_TOKEN_{len(tokens)}"
    tokens[variable] = checked_token(token.strip(), where)
    options["token_env"] = variable
