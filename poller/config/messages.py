"""Messages on settings: problems with location and remedy, and the settings in force. Never a secret. Pure."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from poller.config.merge import PREFIX, KeyPath, dotted, variable
from poller.config.settings import (
    AccountSettings,
    ImportsTable,
    InputTable,
    LogTable,
    OAuthTable,
    PollingTable,
    Settings,
)
from poller.config.sources import SourceTable

_TABLES: dict[str, type[BaseModel]] = {
    "polling": PollingTable,
    "oauth": OAuthTable,
    "input": InputTable,
    "imports": ImportsTable,
    "log": LogTable,
}
_SECRET_KEY = re.compile(r"(?i)(secret|passw|token|key|auth)(?!.*_(env|file)$)")
_WORDS = {
    "int_parsing": "must be a whole number",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "string_type": "must be text, in quotes",
    "path_type": "must be a path, in quotes",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "missing": "is missing",
    "string_too_short": "must not be empty",
}


def messages_of(problems: Iterable[ErrorDetails], origins: Mapping[KeyPath, str]) -> list[str]:
    """Return one line a problem. One that accounts inherit is reported once, where it was set."""
    found = [(tuple(str(part) for part in problem["loc"]), problem["type"], problem["msg"]) for problem in problems]
    return list(
        dict.fromkeys(
            f"{_location(path, origins)}{_message(path, kind, text)}"
            for path, kind, text in found
            if _is_own(path, origins) or (path[2:], kind, text) not in found
        )
    )


def _is_own(path: KeyPath, origins: Mapping[KeyPath, str]) -> bool:
    """Whether the setting was set at `path` itself, and not inherited by an account."""
    return path[0:1] != ("accounts",) or any(path[:size] in origins for size in range(3, len(path) + 1))


def _location(path: KeyPath, origins: Mapping[KeyPath, str]) -> str:
    exact = next((origins[path[:size]] for size in range(len(path), 0, -1) if path[:size] in origins), None)
    if exact is None and path:  # a table where a value belongs has origins of its keys only
        exact = next(
            (origin.replace(dotted(at), dotted(path)) for at, origin in origins.items() if at[: len(path)] == path),
            None,
        )
    inherited = next((origins[path[2:size]] for size in range(len(path), 2, -1) if path[2:size] in origins), None)
    location = exact or (inherited if path[0:1] == ("accounts",) else None) or dotted(path)
    if path[0:1] == ("sources",) and len(path) > 1:
        location = ": ".join((f"{origins.get(path[:1], 'sources')}, table {int(path[1]) + 1}", *path[2:3]))
    return f"{location}: " if location else ""


def _message(path: KeyPath, kind: str, text: str) -> str:
    if kind == "extra_forbidden":
        return _unknown(path[-1], _known_keys(path[:-1]))
    if path == ("account",) and kind == "string_type":
        return "must be the name of an account, in quotes. Its settings belong into a table [accounts.NAME]"
    return _WORDS.get(kind) or text.removeprefix("Value error, ").replace("Input should be", "must be")


def _unknown(key: str, known: Mapping[str, str]) -> str:
    if key in ("token", "access_token", "api_key"):
        return "a token does not belong into settings. Name where it is: token_env or token_file"
    if f"{key}_env" in known:
        return f"a secret does not belong into settings. Name where it is: {key}_env or {key}_file"
    nearest = _nearest(key, known)
    return "there is no such setting" + (f"; did you mean {nearest}?" if nearest else "; see config.example.toml")


def _known_keys(table: KeyPath) -> dict[str, str]:
    """Return the keys of `table` and of the tables in it, each with how to write it there."""
    model: type[BaseModel] = Settings
    if table[0:1] == ("sources",):
        model, table = SourceTable, ()
    if table[0:1] == ("accounts",):
        model, table = AccountSettings, table[2:]
    for name in table:
        model = _TABLES[name]
    below = {
        key: f"{name}.{key}" for name in model.model_fields if name in _TABLES for key in _TABLES[name].model_fields
    }
    return below | {key: key for key in model.model_fields}


def problems_in_table(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Return one line a problem of a single table, such as a sink's."""
    known = {key: key for key in model.model_fields}
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        path = tuple(str(part) for part in problem["loc"])
        unknown = problem["type"] == "extra_forbidden"
        message = _unknown(path[-1], known) if unknown else _message(path, problem["type"], problem["msg"])
        lines.append(f"{path[0]}: {message}" if path else message)
    return list(dict.fromkeys(lines))


def _nearest(key: str, known: Mapping[str, str]) -> str | None:
    return next((known[match] for match in get_close_matches(key, known, n=1)), None)


def unknown_variables(environ: Mapping[str, str]) -> dict[str, str | None]:
    """Return `POLLER_…` variables that set nothing, each with the most similar one that does.

    They are not errors: Kubernetes sets POLLER_SERVICE_HOST for a service named poller.
    """
    known = {variable((key,)): variable((key,)) for key in Settings.model_fields}
    known |= {
        variable((table, key)): variable((table, key)) for table in _TABLES for key in _TABLES[table].model_fields
    }
    unknown = [name for name in environ if name.upper().startswith(PREFIX) and name.upper().split("__")[0] not in known]
    return {name: _nearest(name.upper(), known) for name in sorted(unknown)}


def unused_proxies(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return the variables of a proxy that the poller does not read, though other programs do."""
    if settings.proxy is not None:
        return []
    return [name for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy") if environ.get(name)]


def describe(settings: Settings) -> str:
    """Return the settings in force as TOML-like text, each that was set with its origin. Has no secret."""
    origins, beaten = settings._origins, settings._overridden  # noqa: SLF001 - this module's own fields
    origins = {path: f"{origin}, not {beaten[path]}" if path in beaten else origin for path, origin in origins.items()}
    values = settings.model_dump(mode="json") | {"sinks": settings.sink_specs}
    values["sources"] = [table.to_json() for table in settings.sources]
    accounts = values.pop("accounts")
    lines = list(_described(values, (), origins))
    for name, own in accounts.items():
        lines += ["", f"[accounts.{name}]", *_described(own, ("accounts", name), origins, only_set=True)]
    return "\n".join(lines)


def _described(
    values: Mapping[str, Any], path: KeyPath, origins: Mapping[KeyPath, str], *, only_set: bool = False
) -> Iterator[str]:
    flat = {key: value for key, value in values.items() if not isinstance(value, dict)}
    for key, value in flat.items():
        origin = origins.get((*path, key))
        if origin or not only_set:
            shown = f'"{_NONE[key]}"' if value is None and key in _NONE else _shown(value)
            yield f"{key} = {shown}" + (f"  # {origin}" if origin else "")
    for key in values.keys() - flat.keys():
        lines = list(_described(values[key], (*path, key), origins, only_set=only_set))
        if lines:
            yield from ("", f"[{dotted((*path, key))}]", *lines)


_NONE = dict.fromkeys(("give_up_s", "stop_on_failures", "retention_s"), "never") | dict.fromkeys(
    ("expect_result", "requests", "window_s", "daily_limit", "workers", "poll_cost_s", "longest_gap_s"), "auto"
)  # what a person writes for None


def _shown(value: object) -> str:
    """Hide what may be secret: user and query of URLs, what looks like a token, and values of a sink's own keys."""
    if isinstance(value, list):
        value = [_without_secrets(each) if isinstance(each, dict) else each for each in value]
    text = "unset" if value is None else json.dumps(_without_tokens(value), ensure_ascii=False)
    text = re.sub(r'//(?:[^"\\]|\\.)*@', "//***@", text)  # a password may have spaces
    return re.sub(r'\?[^"\s]*', "?***", re.sub(r'(postgres[^"?]*)\?(?:[^"\\]|\\.)*', r"\1?***", text))


def _without_tokens(value: Any) -> Any:
    from poller.core.log import without_tokens  # takes long to import

    if isinstance(value, list):
        return list(map(_without_tokens, value))
    if isinstance(value, dict):
        return {key: _without_tokens(each) for key, each in value.items()}
    return without_tokens(value) if isinstance(value, str) else value


def _without_secrets(table: Mapping[str, Any]) -> dict[str, Any]:
    """Only the sink itself validates its table: before that, a key may have a secret in place of its location."""
    return {key: "***" if _SECRET_KEY.search(key) else value for key, value in table.items()}
