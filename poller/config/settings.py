"""Every setting: its name, default and range. The defaults of the timing rules are those of `policy.Polling`."""

import re
import socket
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    model_validator,
)
from pydantic_settings import NoDecode

from poller.config.address import address_of, is_loopback_host, listen_address
from poller.config.merge import TOKEN_KEYS, KeyPath, overlay, variable
from poller.config.sources import SourceTable, source_tables
from poller.config.value_types import (
    ACCOUNT_NAME,
    AccountName,
    Count,
    Empty,
    FilePath,
    ReplicaName,
    Seconds,
    StateUrl,
    UrlPath,
    Variable,
    Word,
    api_host,
    http_url,
    known_zone,
    no_bool,
    plain_base,
    share_or_count,
    share_or_number,
    sink_specs,
    status_template,
    whole_from_one,
)
from poller.core.columns import COLUMN_NAMES
from poller.core.start_options import OPTIONS
from poller.schedule.knowledge import knowledge_key
from poller.schedule.policy import LONGEST_GAP_S, Polling
from poller.schedule.starts import StartRules

DEFAULT_SINK = "jsonl:finished.jsonl"
_RULES = Polling()
_STARTS = StartRules()
_FIXED = object()  # marks a setting that only a restart changes; a reload applies all others

_STRICT = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=False)


class PollingTable(BaseModel):
    """When to poll again; the meaning of each is defined in `policy.Polling`."""

    model_config = _STRICT

    policy: Literal["learned", "backoff", "fixed"] = _RULES.policy
    poll_cost_s: Annotated[Annotated[Seconds, Field(ge=0.01, le=3600)] | None, Word] = _RULES.poll_cost_s
    first_gap_s: Seconds = _RULES.first_gap_s
    longest_gap_s: Annotated[Seconds | None, Word] = _RULES.longest_gap_s
    age_share: Annotated[float, BeforeValidator(no_bool), Field(gt=0, le=10)] = _RULES.age_share
    jitter: Annotated[float, BeforeValidator(no_bool), Field(ge=0, lt=1)] = _RULES.jitter
    missing_again_s: Seconds = _RULES.missing_again_s
    line_by: Annotated[Annotated[str, Field(max_length=100)] | None, Empty] = _RULES.line_by
    trust_unknown: bool = _RULES.trust_unknown
    failure_gap_s: Seconds = _RULES.failure_gap_s
    longest_failure_gap_s: Seconds = _RULES.longest_failure_gap_s

    @model_validator(mode="after")
    def _gaps_are_ordered(self) -> Self:
        if self.first_gap_s > (LONGEST_GAP_S if self.longest_gap_s is None else self.longest_gap_s):
            raise ValueError("first_gap_s must not be more than longest_gap_s")
        if self.failure_gap_s > self.longest_failure_gap_s:
            raise ValueError("failure_gap_s must not be more than longest_failure_gap_s")
        return self


class OAuthTable(BaseModel):
    """How to get access tokens of a public app. The refresh token file is rewritten when HubSpot sends a new one."""

    model_config = _STRICT

    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr | None = None
    client_secret_env: Variable | None = None
    client_secret_file: FilePath | None = None
    refresh_token_env: Variable | None = None
    refresh_token_file: FilePath | None = None
    token_path: UrlPath = "/oauth/2026-03/token"  # noqa: S105 - a path

    @model_validator(mode="after")
    def _each_secret_has_one_place(self) -> Self:
        if _count_set(self.client_secret, self.client_secret_env, self.client_secret_file) != 1:
            raise ValueError("needs exactly one of client_secret_env, client_secret_file and client_secret")
        if _count_set(self.refresh_token_env, self.refresh_token_file) == 0:
            raise ValueError("needs refresh_token_file, refresh_token_env or both (the file wins once it exists)")
        return self


class InputTable(BaseModel):
    """How ids are read."""

    model_config = _STRICT

    feeds: Literal["ids", "imports"] = "ids"
    format: Literal["auto", "text", "jsonl", "csv"] = "auto"
    id_column: Annotated[str | None, Empty] = None
    max_line_bytes: Annotated[Count, Field(ge=256, le=16 * 2**20)] = 65_536


class ImportsTable(BaseModel):
    """How rows are read and started, where lines are rows to import."""

    model_config = _STRICT

    options: dict[str, str] = {}  # of HubSpot's start call, for rows without such a column; texts may have {column}
    columns: dict[str, str] = {}  # the person's column for url or an option
    key: Annotated[str | None, Empty] = None  # the column that identifies a row; None: url and all its options
    unsure: Literal["repeat", "hold"] = _STARTS.unsure
    underway: Annotated[Count, Field(le=1_000_000)] = _STARTS.underway
    trial: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=10_000)] = _STARTS.trial
    retries: Annotated[int, BeforeValidator(no_bool), Field(ge=0, le=5)] = 0

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name in self.options.keys() - set(OPTIONS):
            raise ValueError(f"options has {name!r}; known are {', '.join(OPTIONS)}")
        for name in self.columns.keys() - set(COLUMN_NAMES):
            raise ValueError(f"columns has {name!r}; known are {', '.join(COLUMN_NAMES)}")
        return self

    def rules(self) -> StartRules:
        """Return the rules of starts as the engine needs them."""
        return StartRules(unsure=self.unsure, underway=self.underway, trial=self.trial)


class LogTable(BaseModel):
    """How events are written to stderr."""

    model_config = _STRICT

    format: Literal["auto", "json", "console"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class AccountSettings(BaseModel):
    """Everything one account can set for itself."""

    model_config = _STRICT

    base_url: Annotated[str, AfterValidator(http_url), AfterValidator(plain_base), AfterValidator(api_host)] = (
        "https://api.hubapi.com"
    )
    allow_http: bool = False
    status_path: Annotated[str, AfterValidator(status_template)] = (
        "/files/v3/files/import-from-url/async/tasks/{task_id}/status"
    )
    expect_result: Annotated[bool | None, Word] = None  # None: as the status path's family does
    token_env: Variable = "HUBSPOT_TOKEN"  # noqa: S105 - a name
    token_file: Annotated[FilePath | None, Empty] = None
    oauth: OAuthTable | None = None
    requests: Annotated[Annotated[Count, Field(le=1_000_000)] | None, Word] = None  # None: learned from the answers
    window_s: Annotated[Annotated[Seconds, Field(ge=0.1, le=3600)] | None, Word] = None
    daily_limit: Annotated[Count | None, Word] = None
    daily_reserve: Annotated[
        float,
        BeforeValidator(share_or_number),
        BeforeValidator(no_bool),
        AfterValidator(whole_from_one),
        Field(ge=0, allow_inf_nan=False),
    ] = 0.1  # a share below 1, else a number of requests
    time_zone: Annotated[str, AfterValidator(known_zone)] = "UTC"
    workers: Annotated[Annotated[Count, Field(le=1024)] | None, Word] = None  # None: 16, more where the limit needs it
    deadline_s: Annotated[Seconds, Field(le=10 * 366 * 86_400)] = _RULES.deadline_s
    request_timeout_s: Annotated[Seconds, Field(le=600)] = 30.0
    max_body_bytes: Annotated[Count, Field(ge=1024, le=2**30)] = 2**20
    polling: PollingTable = PollingTable()

    @model_validator(mode="after")
    def _one_token_and_no_plain_http(self) -> Self:
        chosen = sorted(key for key in TOKEN_KEYS & self.model_fields_set if getattr(self, key) is not None)
        if len(chosen) > 1:
            raise ValueError(f"{' and '.join(chosen)} are set together: keep the one the token is to come from")
        url = urlsplit(self.base_url)
        if url.scheme == "http" and not self.allow_http and not is_loopback_host(url.hostname or ""):
            raise ValueError("base_url would send the token unencrypted: use https://, or set allow_http = true")
        return self

    @property
    def expects_result(self) -> bool:
        """Whether a COMPLETE without `result` has its own kind. Source-code extracts never have one."""
        return "source-code/extract" not in self.status_path if self.expect_result is None else self.expect_result

    def polling_rules(self) -> Polling:
        """Return the timing rules as the policy needs them."""
        return Polling(**self.polling.model_dump(), deadline_s=self.deadline_s, expects_result=self.expects_result)


class Settings(AccountSettings):
    """All settings. Its account settings are the defaults of `accounts`, which holds every account's merged ones."""

    state: Annotated[StateUrl, _FIXED] = "sqlite:///poller.db"
    fleet: Annotated[bool, _FIXED] = False  # this process is one of several on one state in PostgreSQL
    replica: Annotated[ReplicaName | None, Empty, _FIXED] = None  # its name; None: the host's
    beat_s: Annotated[Seconds, Field(ge=0.05, le=60), _FIXED] = 1.0  # all replicas need the same
    account: AccountName = "default"  # of ids without one
    accounts: dict[AccountName, AccountSettings] = {}
    input: InputTable = InputTable()
    imports: ImportsTable = ImportsTable()
    sources: Annotated[
        list[SourceTable], NoDecode, BeforeValidator(source_tables)
    ] = []  # and those of the command line
    sinks: Annotated[list[str | dict[str, Any]], NoDecode, BeforeValidator(sink_specs)] = []  # specs and tables
    log: LogTable = LogTable()
    listen: Annotated[str, AfterValidator(listen_address), _FIXED] = "127.0.0.1:8321"
    listen_token_env: Annotated[Variable | None, Empty, _FIXED] = None
    listen_token_file: Annotated[FilePath | None, Empty, _FIXED] = None
    follow: Annotated[bool, _FIXED] = False
    progress: Annotated[bool, _FIXED] = True
    summary_every_s: Annotated[Seconds, _FIXED] = 30.0
    traces: Annotated[Literal["auto", "on", "off"], _FIXED] = "auto"
    shutdown_s: Annotated[float, BeforeValidator(no_bool), Field(ge=0, le=86_400)] = 30.0
    give_up_s: Annotated[Seconds | None, Word] = None  # None: wait forever
    stop_on_failures: Annotated[
        Annotated[float, BeforeValidator(share_or_count), Field(gt=0, le=1e12, allow_inf_nan=False)] | None,
        Word,
        _FIXED,
    ] = None  # a share of a run's outcomes below 1, else a number of them; None: never
    retention_s: Annotated[Annotated[Seconds, Field(le=100 * 366 * 86_400)] | None, Word] = None  # None: forever
    proxy: Annotated[Annotated[str, AfterValidator(http_url)] | None, Empty, _FIXED] = None
    ca_file: Annotated[FilePath | None, Empty, _FIXED] = None

    _origins: dict[KeyPath, str] = PrivateAttr(default_factory=dict)
    _overridden: dict[KeyPath, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _accounts_inherit(cls, values: dict[str, Any]) -> dict[str, Any]:
        accounts = values.get("accounts")
        if not isinstance(accounts, dict):
            return values
        top = {key: value for key, value in values.items() if key in AccountSettings.model_fields}
        merged = {name: overlay(top, own) if isinstance(own, dict) else own for name, own in accounts.items()}
        first = next(iter(accounts), "")
        only = {"account": first} if len(accounts) == 1 and re.fullmatch(ACCOUNT_NAME, first) else {}
        return only | values | {"accounts": merged}

    @model_validator(mode="after")
    def _account_is_one_of_accounts(self) -> Self:
        if self.accounts and self.account not in self.accounts:
            given = f", not {self.account}" if "account" in self.model_fields_set else ""
            raise ValueError(
                f"account must name the account of ids that come without one: {', '.join(sorted(self.accounts))}{given}"
            )
        return self

    @model_validator(mode="after")
    def _others_need_a_token(self) -> Self:
        tokens = _count_set(self.listen_token_env, self.listen_token_file)
        if tokens > 1:
            raise ValueError("listen_token_env and listen_token_file are set together: keep one")
        address = address_of(self.listen)
        if address is not None and not address.is_loopback and not tokens:
            raise ValueError(
                "listen is an address that other machines can reach, so it needs a bearer token in a file or a "
                "variable: --listen-token-file or --listen-token-env, listen_token_file in the config, or "
                'POLLER_LISTEN_TOKEN_FILE. Or listen on "127.0.0.1:8321", or "off"'
            )
        return self

    @model_validator(mode="after")
    def _sources_name_accounts(self) -> Self:
        known = set(self.accounts) or {self.account}
        for number, table in enumerate(self.sources, 1):
            if table.account is not None and table.account not in known:
                raise ValueError(f"sources, table {number}: account must be one of {', '.join(sorted(known))}")
        if sum(table.found_kind == "stdin" or "-" in table.paths for table in self.sources) > 1:
            raise ValueError("sources: standard input can be read only once")
        return self

    @classmethod
    def fixed(cls) -> frozenset[str]:
        """Return the names of the settings that only a restart changes."""
        return frozenset(name for name, info in cls.model_fields.items() if _FIXED in info.metadata)

    @property
    def longest_deadline_s(self) -> float:
        """The longest deadline of an account."""
        return max(account.deadline_s for account in self.account_settings().values())

    @property
    def timing_keys(self) -> dict[str, str]:
        """By account, the key under which the state keeps what its polls taught."""
        return {name: knowledge_key(name, each.status_path) for name, each in self.account_settings().items()}

    def account_settings(self) -> dict[str, AccountSettings]:
        """Return every account's settings; where none is configured, the one account the top describes."""
        if self.accounts:
            return dict(self.accounts)
        own = {key: getattr(self, key) for key in AccountSettings.model_fields if key in self.model_fields_set}
        return {self.account: AccountSettings.model_validate(own)}

    @property
    def own_replica(self) -> str | None:
        """This process's name in its fleet; None where it is to own the state alone."""
        return (self.replica or socket.gethostname()) if self.fleet else None

    @property
    def feeds_imports(self) -> bool:
        """Whether any line of the input is a row to import."""
        return "imports" in {self.input.feeds, *(table.feeds for table in self.sources)}

    @property
    def trial(self) -> int:
        """Rows whose imports end before others begin; 0 where there is no trial, or where tasks are fed."""
        return self.imports.trial if self.input.feeds == "imports" else 0

    @property
    def sink_specs(self) -> list[str | dict[str, Any]]:
        """Where finished tasks go: the sinks that were set, or else a file."""
        return list(self.sinks) or [DEFAULT_SINK]

    def secret_variables(self) -> frozenset[str]:
        """Return the names of the environment variables that hold HubSpot's tokens and secrets."""
        names = {variable(("oauth", "client_secret"))} | {each for each in (self.listen_token_env,) if each}
        for name, account in self.account_settings().items():
            names |= {account.token_env, variable(("accounts", name, "oauth", "client_secret"))}
            if account.oauth is not None:
                names |= {each for each in (account.oauth.client_secret_env, account.oauth.refresh_token_env) if each}
        return frozenset(names)


def _count_set(*values: object) -> int:
    return sum(value is not None for value in values)
