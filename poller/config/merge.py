"""Keys of settings and their names for people, and how layers of settings are merged. Pure."""

from collections.abc import Mapping
from typing import Any

KeyPath = tuple[str, ...]  # such as ("accounts", "eu", "workers")
PREFIX = "POLLER_"
TOKEN_KEYS = frozenset({"token_env", "token_file", "oauth"})  # setting one of them unsets those of lower layers
_FLAGS = {
    "sinks": "--sink",
    "input.format": "--format",
    "input.id_column": "--id-column",
    "progress": "--no-progress",
    "imports.trial": "--trial",
    "imports.underway": "--underway",
    "imports.retries": "--retries",
    "imports.key": "--key",
}


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, table by table. A token key in `over` unsets the others of `base`."""
    chosen = TOKEN_KEYS & over.keys()
    kept = {key: value for key, value in base.items() if not chosen or key not in TOKEN_KEYS - chosen}
    for key, value in over.items():
        below = kept.get(key)
        kept[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return kept


def dotted(path: KeyPath) -> str:
    return ".".join(path)


def variable(path: KeyPath) -> str:
    return PREFIX + "__".join(path).upper()


def flag(path: KeyPath) -> str:
    return _FLAGS.get(dotted(path)) or "--" + "-".join(path).replace("_", "-")
