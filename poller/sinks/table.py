"""A sink's settings: the keys that its table may have, and the messages for wrong ones. No message repeats a value."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from poller.config import problems_in_table
from poller.config.value_types import Variable
from poller.core.credentials import secret_in_env, secret_in_file
from poller.core.errors import ConfigError
from poller.core.log import keep_secret
from poller.core.protocols import Clock, Sink


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkEnvironment:
    """The injected clock, random numbers and variables."""

    clock: Clock
    rng: Random
    environ: Mapping[str, str]
    hidden: frozenset[str] = frozenset()  # names of variables with tokens, which commands do not get


class SinkTable(BaseModel, ABC):
    """The settings of one kind of sink, each with its default, and the sink that they make."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=False)

    KIND: ClassVar[str]
    TARGET: ClassVar[str | None] = None  # the key that follows the colon of a spec
    EXAMPLE: ClassVar[str]  # a spec

    @abstractmethod
    def make(self, environment: SinkEnvironment) -> Sink:
        """Return the sink, not opened. Raises `ConfigError` where a named variable or file is wrong."""

    def check_new(self) -> None:
        """Raise `SinkError` where a state that has never seen the sink could not use it. Creates nothing."""

    def check_target(self) -> None:
        """Raise `ConfigError` where the target can be no sink's, whatever the state. Creates nothing."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings in `values`. Raises `ConfigError` with every problem, one a line."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems = problems_in_table(error, cls)
        raise ConfigError("\n".join(f"sink {cls.KIND}: {problem}" for problem in problems))


class UrlTable(SinkTable):
    """Settings with a URL, which may contain a password: given directly, by a variable or by a file."""

    TARGET: ClassVar[str | None] = "url"

    url: Annotated[str | None, Field(repr=False)] = None
    url_env: Variable | None = None
    url_file: Path | None = None

    @field_validator("url")
    @classmethod
    @abstractmethod
    def check_url(cls, url: str) -> str:
        """Return `url`. Raises `ValueError` where the sink cannot use it."""

    def find_url(self, environ: Mapping[str, str]) -> str:
        """Return the URL. Raises `ConfigError` unless exactly one of the three keys is set and leads to one."""
        if sum(each is not None for each in (self.url, self.url_env, self.url_file)) != 1:
            raise ConfigError(f"sink {self.KIND}: needs one of url, url_env and url_file, such as {self.EXAMPLE}")
        if self.url is not None:
            return self.url
        url = secret_in_env(self.url_env, environ) if self.url_env else secret_in_file(self.url_file or Path())
        keep_secret(url)
        try:
            return self.check_url(url)
        except ValueError as error:
            raise ConfigError(f"sink {self.KIND}: url {error}") from None

    def name_for(self, url: str) -> str:
        """Return a name for the sink that contains no password or token and stays the same when one changes."""
        if self.url_env is not None:
            return f"{self.KIND}:${self.url_env}"
        if self.url_file is not None:
            return f"{self.KIND}:{self.url_file}"
        try:
            return f"{self.KIND}:{plain_url(url)}"
        except ValueError as error:
            raise ConfigError(f"sink {self.KIND}: url {error}") from None


def plain_url(url: str) -> str:
    """Return `url` without user, password, query and fragment. Raises `ValueError` with a remedy, but not the URL."""
    try:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise ValueError("is not a URL; write / @ : in a password as %2F %40 %3A") from None
    if re.search(r"[@\s]", parts.path):  # a password with an unquoted slash would end up in the path
        raise ValueError("has a space or @ in its path; write them as %20 and %40")
    return f"{parts.scheme}://{host}{port}{parts.path}"
