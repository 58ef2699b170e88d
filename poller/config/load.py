"""Loads settings: flags > environment (`POLLER_…`, `__` nests) > secrets files > TOML > defaults."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsError

from poller.config.merge import PREFIX, KeyPath, dotted, flag, overlay, variable
from poller.config.messages import messages_of
from poller.config.settings import Settings
from poller.config.value_types import WINDOWS_PATH
from poller.core.errors import ConfigError

SECRETS_DIR = Path("/run/secrets")  # where Docker and Kubernetes put secrets by default


def load(
    config_file: Path | None,
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    secrets_dir: Path = SECRETS_DIR,
) -> Settings:
    """Return the settings in force. `flags` is shaped like the TOML; None and empty lists in it count as not given.

    Raises `ConfigError` with every problem found, one a line.
    """
    toml = _read_toml(config_file) if config_file else {}
    secrets = _read_secrets(secrets_dir)
    layers: tuple[tuple[dict[str, Any], Callable[[KeyPath], str]], ...] = (  # values, and the name of a key for people
        (toml, lambda path: f"{config_file}: {dotted(path)}"),
        (_from_variables(secrets, toml), lambda path: str(secrets_dir / variable(path).lower())),
        (_from_variables(environ, toml), variable),
        (_given(flags), flag),
    )
    merged: dict[str, Any] = {}
    origins: dict[KeyPath, str] = {}
    overridden: dict[KeyPath, str] = {}  # where the value was set that the one in force beats
    for values, name in layers:
        merged = overlay(merged, values)
        given = {path: name(path) for path in _leaves(values)}
        overridden |= {path: origins[path] for path in given if path in origins}
        origins |= given
    settings = _settings(merged, origins)
    settings._overridden.update(overridden)  # noqa: SLF001 - as in `_settings`
    return settings


def settings_from(values: Mapping[str, Any]) -> Settings:
    """Return the settings that `values`, shaped like the TOML, describe; nothing else is read. Raises `ConfigError`."""
    return _settings(values, {path: dotted(path) for path in _leaves(values)})


def _settings(values: Mapping[str, Any], origins: Mapping[KeyPath, str]) -> Settings:
    try:
        settings = Settings(**values)
    except ValidationError as error:
        problems = error.errors(include_input=False, include_url=False, include_context=False)
        raise ConfigError("\n".join(messages_of(problems, origins))) from None
    settings._origins.update(origins)  # noqa: SLF001 - pydantic has no public way to hand a private field in
    return settings


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file. Start from config.example.toml, or name another with -c") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: byte {error.start} is not UTF-8. Save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        hint = WINDOWS_PATH if _has_backslash(file, str(error)) else "Text needs quotes, a table begins with [name]"
        raise ConfigError(f"{file}: not TOML: {error}. {hint}") from None


def _has_backslash(file: Path, problem: str) -> bool:
    """Whether the line that `problem` names has a backslash."""
    lines, line = file.read_text("utf-8", "replace").splitlines(), re.search(r"at line (\d+)", problem)
    return line is not None and int(line[1]) <= len(lines) and "\\" in lines[int(line[1]) - 1]


def _read_secrets(folder: Path) -> dict[str, str]:
    try:
        files = [file for file in folder.iterdir() if file.name.lower().startswith(PREFIX.lower()) and file.is_file()]
        return {file.name: file.read_text("utf-8").strip() for file in files}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{folder}: its files named {PREFIX.lower()}… must be readable text") from None


def _from_variables(variables: Mapping[str, str], toml: Mapping[str, Any]) -> dict[str, Any]:
    if not any(name.upper().startswith(PREFIX) for name in variables):
        return {}
    settings_type = cast("type[BaseSettings]", Settings)  # the source reads only its fields
    source = EnvSettingsSource(settings_type, env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True)
    source.env_vars = {name.lower(): value for name, value in variables.items() if value}
    try:
        values = source()
    except SettingsError as error:
        table = next(iter(re.findall(r'field "(\w+)"', str(error))), "accounts")
        raise ConfigError(f"{variable((table,))}: a table is set key by key, as in {PREFIX}LOG__FORMAT=json") from None
    accounts = values.get("accounts")
    if isinstance(accounts, dict):  # variables know no case, account names do
        names = {name.lower(): name for name in toml.get("accounts", {})}
        values["accounts"] = {names.get(name, name): own for name, own in accounts.items()}
    return values


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    values = {key: _given(value) if isinstance(value, Mapping) else value for key, value in flags.items()}
    return {key: value for key, value in values.items() if value is not None and value not in ([], (), {})}


def _leaves(values: Mapping[str, Any], path: KeyPath = ()) -> Iterator[KeyPath]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key)
