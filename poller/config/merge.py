"""Owns keys and how layers of settings are laid on each other: a key's place, its names for people, the merge. Pure."""

from collections.abc import Mapping
from typing import Any

KeyPath = tuple[str, ...]  # a key's place: ("accounts", "eu", "workers")
PREFIX = "POLLER_"
TOKEN_KEYS = frozenset({"token_env", "token_file", "oauth"})  # naming one way to a token displaces inherited others
_FLAGS = {"sinks": "--sink", "input.format": "--format", "input.id_column": "--id-column", "progress": "--no-progress"}


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `over` laid on it, table by table. A way to a token in `over` displaces those of `base`."""
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
