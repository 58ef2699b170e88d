"""Reads secrets from environment variables and files, and trusted certificates. No error contains a secret."""

import re
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path

from poller.core.errors import ConfigError

LARGEST_FILE = 65_536

_MISTAKES = (  # surely: any other secret, such as one for --listen, may have any signs
    (re.compile(r"(?i)(?:authorization:\s*)?bearer\s"), "has the word Bearer before the token"),
    (
        re.compile(r"""export\s+\w+\s*=|HUBSPOT_[A-Z0-9_]*(?:TOKEN|SECRET|KEY)[A-Z0-9_]*\s*=|\w+\s*[=:]\s*["']?pat-"""),
        "has a name before the token",
    ),
    (re.compile(r"\$\{|\{\{|\$[A-Z_]{4,}\Z|%[A-Z_]{4,}%\Z"), "has a variable's name in place of its value"),
    (re.compile(r'[{\[]\s*"'), "is JSON, not a token"),
    (re.compile(r"pat-.*\.\.\.\Z|.*…\Z"), "is a token that was shortened, or an example"),
)


def secret_in_env(name: str, environ: Mapping[str, str]) -> str:
    """Return the secret in an environment variable. Raises `ConfigError` naming the variable."""
    value = environ.get(name, "").strip()
    if not value:
        raise ConfigError(
            f"the environment variable {name} is not set or empty: it must contain the secret. Export {name}=…, or "
            "name another variable or a file (for HubSpot's token with --token-env or --token-file)."
        )
    return checked_token(value, f"the environment variable {name}")


def secret_in_file(path: Path) -> str:
    """Return the content of a regular file, stripped. Raises `ConfigError` naming the file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path} is not a regular file. It must contain the secret and nothing else.")
        with path.open("rb") as file:
            raw = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise unreadable_secret(path, error) from None
    if len(raw) > LARGEST_FILE:
        raise ConfigError(f"{path} is too large. It must contain the secret and nothing else.")
    value = raw.decode("utf-8-sig", errors="replace").strip()
    if not value:
        raise ConfigError(f"{path} is empty. It must contain the secret.")
    return checked_token(value, str(path))


def unreadable_secret(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot read the secret in {path}: {path_problem(error)}. Write the secret into it, or name another file (for "
        "HubSpot's token with --token-file)."
    )


def checked_token(value: str, where: str) -> str:
    """Return `value` if it can be a token. Raises `ConfigError` naming `where`.

    A line break or a space would end up in a header; quotes around a token, or more than the token, are frequent
    mistakes.
    """
    if (mistake := next((words for found, words in _MISTAKES if found.match(value)), None)) is not None:
        raise ConfigError(f"{where} {mistake}. Write the token alone.")
    if re.fullmatch(r"[!-~]{1,8192}", value) is None or value[0] in "\"'":
        raise ConfigError(f"{where} is not a token. A token is printable ASCII without spaces and quotes.")
    return value


def trusted_by(ca_file: Path | None, setting: str = "ca_file") -> ssl.SSLContext | bool:
    """Return what aiohttp checks certificates against: the file's, or without one the system's."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{setting} {ca_file} cannot be used: {error}") from None


def path_problem(error: Exception) -> str:
    """Return why a path cannot be used; the text does not contain the path."""
    return (error.strerror if isinstance(error, OSError) else None) or "the path cannot be used"
