"""Settings: where they may come from, what is refused, and the messages."""

import json
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from poller.cli.options import InputFormat
from poller.config import AccountSettings, OAuthTable, PollingTable, Settings, describe, load, unknown_variables
from poller.config.settings import InputTable, LogTable
from poller.core.errors import ConfigError
from poller.schedule.policy import Polling

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
SECRET = "pat-na1-11111111-2222-3333-4444-555555555555"


@pytest.fixture
def toml(tmp_path: Path) -> Any:
    """Return a function that loads settings from TOML text, with flags and variables."""

    def load_text(
        text: str, flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
    ) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text, "utf-8")
        return load(file, flags or {}, environ or {}, tmp_path / "secrets")

    return load_text


def problems(toml: Any, text: str, **sources: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        toml(text, **sources)
    assert caught.value.__cause__ is None
    return [line.split("config.toml: ")[-1] for line in str(caught.value).splitlines()]


# --- sources ---------------------------------------------------------------------------------------------------------


def test_without_any_source_the_defaults_are_in_force(tmp_path: Path) -> None:
    settings = load(None, {}, {}, tmp_path / "none")
    assert settings == Settings()
    assert list(settings.account_settings()) == ["default"]
    assert settings.account_settings()["default"] == AccountSettings()


def test_flags_beat_environment_beats_secrets_files_beat_toml_beat_defaults(tmp_path: Path) -> None:
    file, secrets = tmp_path / "config.toml", tmp_path / "secrets"
    file.write_text("workers = 2\nshutdown_s = 2\nsummary_every_s = 2\ndeadline_s = 2\n")
    secrets.mkdir()
    for name in ("workers", "shutdown_s", "summary_every_s"):
        (secrets / f"poller_{name}").write_text("3\n")
    settings = load(file, {"workers": 5}, {"POLLER_WORKERS": "4", "POLLER_SHUTDOWN_S": "4"}, secrets)
    assert (settings.workers, settings.shutdown_s, settings.summary_every_s) == (5, 4, 3)
    assert (settings.deadline_s, settings.request_timeout_s) == (2, 30)


def test_variables_nest_by_two_underscores(toml: Any) -> None:
    settings = toml(
        "[accounts.EU]\nworkers = 3",
        environ={
            "POLLER_LOG__FORMAT": "json",
            "POLLER_POLLING__LONGEST_GAP_S": "90",
            "POLLER_ACCOUNTS__EU__TOKEN_ENV": "EU_TOKEN",
            "POLLER_SINKS": '["stdout", "jsonl:a b.jsonl"]',
            "POLLER_STATE": "",
        },
    )
    assert settings.log.format == "json"
    assert settings.polling.longest_gap_s == 90
    assert settings.sinks == ["stdout", "jsonl:a b.jsonl"]
    assert settings.state == "sqlite:///poller.db"
    assert {name: account.token_env for name, account in settings.account_settings().items()} == {"EU": "EU_TOKEN"}


def test_flags_that_were_not_given_change_nothing(toml: Any) -> None:
    flags: dict[str, Any] = {"workers": None, "sinks": [], "log": {"format": "json", "level": None}}
    text = "workers = 2\nsinks = ['stdout']\n[log]\nlevel = 'debug'"
    settings = toml(text, flags | {"input": {"format": InputFormat.CSV}})
    assert (settings.workers, settings.sinks) == (2, ["stdout"])
    assert (settings.log.format, settings.log.level, settings.input.format) == ("json", "debug", "csv")


def test_a_higher_layer_can_unset_what_a_lower_one_set(toml: Any) -> None:
    settings = toml("requests = 10\ngive_up_s = 5", environ={"POLLER_REQUESTS": "auto", "POLLER_GIVE_UP_S": "never"})
    assert (settings.requests, settings.give_up_s) == (None, None)


def test_sinks_are_specs_tables_or_one_word(toml: Any) -> None:
    text = 'sinks = ["stdout", {kind = "jsonl", path = "a.jsonl"}]'
    assert toml(text).sinks == ["stdout", {"kind": "jsonl", "path": "a.jsonl"}]
    text = '[[sinks]]\nkind = "webhook"\nurl = "https://x/y"\nbatch = 5\n[[sinks]]\nkind = "stdout"'
    assert toml(text).sinks == [{"kind": "webhook", "url": "https://x/y", "batch": 5}, {"kind": "stdout"}]
    assert toml("", environ={"POLLER_SINKS": "jsonl:a,b.jsonl"}).sinks == ["jsonl:a,b.jsonl"]
    assert toml("", environ={"POLLER_SINKS": '["stdout", {"kind": "sql"}]'}).sinks == ["stdout", {"kind": "sql"}]


def test_a_token_in_a_command_is_not_described(toml: Any) -> None:
    command = 'command:curl -H "Authorization: Bearer a-secret-of-theirs" -d @- https://example.com/'
    described = describe(
        toml("", environ={"POLLER_SINKS": json.dumps([command, {"kind": "command", "line": command}])})
    )
    assert "a-secret-of-theirs" not in described
    assert described.count('Bearer ***\\" -d @- https://example.com/') == 2


def test_secrets_in_a_sink_s_table_are_not_described(toml: Any) -> None:
    table = {
        "kind": "webhook",
        "secret": SECRET,
        "secret_env": "SHOWN",
        "url": f"https://me:{SECRET}/@host/path?key={SECRET}",
        "api_key": SECRET,
        "secret_file": "shown_too",
    }
    described = describe(toml("", environ={"POLLER_SINKS": json.dumps([table])}))
    assert SECRET not in described
    assert "SHOWN" in described
    assert "shown_too" in described
    for dsn in (f"postgresql://me:my {SECRET}@host/db", f'postgresql://me:a"{SECRET}@host/db?password=a {SECRET}'):
        described = describe(toml("", environ={"POLLER_STATE": dsn}))
        assert SECRET not in described
        assert "@host/db" in described


def test_the_variables_that_hold_hubspot_s_secrets_are_known(toml: Any) -> None:
    settings = toml(
        "[accounts.eu]\ntoken_env = 'EU'\n[accounts.us]\n"
        "oauth = {client_id = 'x', client_secret_env = 'CLIENT', refresh_token_env = 'REFRESH'}\n"
        "[accounts.uk]\ntoken_file = 'x'",
        {"account": "eu"},
    )
    assert {"EU", "CLIENT", "REFRESH", "POLLER_OAUTH__CLIENT_SECRET"} <= settings.secret_variables()


def test_the_timing_rules_are_those_of_the_policy() -> None:
    assert Settings().account_settings()["default"].polling_rules() == Polling()


# --- accounts --------------------------------------------------------------------------------------------------------


def test_an_account_inherits_what_it_does_not_set(toml: Any) -> None:
    settings = toml(
        "account = 'eu'\nworkers = 3\nrequests = 50\npolling.jitter = 0.5\n"
        "[accounts.eu]\nworkers = 7\npolling.longest_gap_s = 10\n[accounts.us]\n"
    )
    eu, us = settings.account_settings()["eu"], settings.account_settings()["us"]
    assert (eu.workers, eu.requests, eu.polling.jitter, eu.polling.longest_gap_s) == (7, 50, 0.5, 10)
    assert (us.workers, us.requests, us.polling.jitter, us.polling.longest_gap_s) == (3, 50, 0.5, None)


@pytest.mark.parametrize(
    ("text", "meant"), [('"20%"', 0.2), ("0.25", 0.25), ("20000", 20_000), ('"12.5 %"', 0.125), ("0", 0)]
)
def test_the_daily_reserve_is_a_share_or_a_number(toml: Any, text: str, meant: float) -> None:
    assert toml(f"daily_reserve = {text}").daily_reserve == meant
    assert toml("", environ={"POLLER_DAILY_RESERVE": text.strip('"')}).daily_reserve == meant


def test_limits_between_settings_are_checked_after_merging(toml: Any) -> None:
    settings = toml("polling.first_gap_s = 0.1\n[accounts.eu]\npolling.longest_gap_s = 0.5")
    assert settings.account_settings()["eu"].polling.first_gap_s == 0.1


def test_an_own_token_setting_unsets_the_inherited_one(toml: Any) -> None:
    settings = toml("token_file = 'top'\n[accounts.eu]\ntoken_env = 'EU'")
    assert (settings.accounts["eu"].token_env, settings.accounts["eu"].token_file) == ("EU", None)
    flagged = toml("token_file = 'top'", flags={"token_env": "MINE"})
    assert (flagged.token_env, flagged.token_file) == ("MINE", None)
    assert problems(toml, "token_file = 'top'\ntoken_env = 'EU'") == [
        "token_env and token_file are set together: keep the one the token is to come from"
    ]


def test_the_only_account_is_that_of_ids_without_one_and_of_several_one_must_be_named(toml: Any) -> None:
    assert toml("[accounts.eu]").account == "eu"
    assert problems(toml, "[accounts.eu]\n[accounts.us]") == [
        "account must name the account of ids that come without one: eu, us"
    ]
    assert problems(toml, "account = 'main'\n[accounts.eu]") == [
        "account must name the account of ids that come without one: eu, not main"
    ]


def test_a_wrong_setting_that_accounts_inherit_is_reported_once_and_where_it_was_set(toml: Any) -> None:
    text = "workers = 0\n[accounts.eu]\n[accounts.us]\nworkers = -1"
    assert problems(toml, text) == [
        "workers: must be greater than 0",
        "accounts.us.workers: must be greater than 0",
    ]


def test_oauth_needs_each_secret_once_and_is_shown_without_it(toml: Any) -> None:
    text = "[oauth]\nclient_id = 'me'\nrefresh_token_file = 'r'\nclient_secret_file = 's'"
    assert toml(text).oauth == OAuthTable(
        client_id="me", refresh_token_file=Path("r"), client_secret_file=Path("s"), token_path="/oauth/2026-03/token"
    )
    assert problems(toml, "[oauth]\nclient_id = 'me'\nrefresh_token_file = 'r'") == [
        "oauth: needs exactly one of client_secret_env, client_secret_file and client_secret"
    ]
    secret = toml(
        "[oauth]\nclient_id = 'me'\nrefresh_token_file = 'r'", environ={"POLLER_OAUTH__CLIENT_SECRET": SECRET}
    )
    assert secret.oauth.client_secret.get_secret_value() == SECRET
    assert SECRET not in describe(secret) + repr(secret)


def test_a_result_is_expected_by_the_path_s_family_unless_set() -> None:
    extract = "/cms/v3/source-code/extract/async/tasks/{task_id}/status"
    assert AccountSettings().expects_result
    assert not AccountSettings(status_path=extract).expects_result
    assert AccountSettings(status_path=extract, expect_result=True).expects_result


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wrokers = 3", "wrokers: there is no such setting; did you mean workers?"),
        ("longest_gap = 3", "longest_gap: there is no such setting; did you mean polling.longest_gap_s?"),
        ("[log]\nlevle = 'info'", "log.levle: there is no such setting; did you mean level?"),
        ("[accounts.eu]\ndaily = 1", "accounts.eu.daily: there is no such setting; did you mean daily_limit?"),
        ("xyzzy = 3", "xyzzy: there is no such setting; see config.example.toml"),
        ("workers = 0", "workers: must be greater than 0"),
        ("workers = true", "workers: must be a number"),
        ("workers = 'many'", "workers: must be a whole number"),
        ("workers = 1.5", "workers: must be a whole number"),
        ("window_s = nan", "window_s: must be greater than 0"),
        ("progress = 'perhaps'", "progress: must be true or false"),
        ("polling = 3", "polling: must be a table"),
        ("polling.longest_gap_s = 0.5", "polling: first_gap_s must not be more than longest_gap_s"),
        ("log.format = 'xml'", "log.format: must be 'auto', 'json' or 'console'"),
        (
            "time_zone = 'Mars/Base'",
            'time_zone: must be a time zone of the IANA list, such as "UTC" or "Europe/Berlin"',
        ),
        ("daily_reserve = 1.5", 'daily_reserve: must be a share below 1 (0.2 or "20%") or a whole number of requests'),
        ("status_path = '/tasks'", "status_path: must contain {task_id} exactly once"),
        ("status_path = 'x/{task_id}'", "status_path: must be a plain path that starts with /"),
        ("base_url = 'ftp://x'", 'base_url: must be a URL such as "https://api.hubapi.com"'),
        (f"base_url = 'https://{'a' * 64}.example'", 'base_url: must be a URL such as "https://api.hubapi.com"'),
        ("base_url = 'http://example.com'", "base_url would send the token unencrypted: use https://"),
        (
            "base_url = 'https://app.hubspot.com'",
            "base_url: is HubSpot's site for people, not its API; did you mean https://api",
        ),
        (
            "base_url = 'https://app-eu1.hubspot.com/x'",
            "base_url: is HubSpot's site for people, not its API; did you mean https://api-eu1.hubapi.com?",
        ),
        ("base_url = 'https://www.hubspot.com'", "base_url: is HubSpot's site for people"),
        (
            "[account.eu]\ntoken_env = 'T'",
            "account: must be the name of an account, in quotes. Its settings belong into a table [accounts.",
        ),
        ("[state]\nurl = 'sqlite:///a'", "state: must be text, in quotes"),
        ("state = 'poller'", 'state: must be a URL such as "sqlite:///poller.db"'),
        ("state = 'sqlite:///.'", 'state: must be a URL such as "sqlite:///poller.db"'),
        ("state = 'a/poller.db'", "state: must be a URL; did you mean sqlite:///a/poller.db?"),
        ("state = '/a/poller.db'", "state: must be a URL; did you mean sqlite:////a/poller.db?"),
        ("state = 'sqlite://my.sqlite3'", "state: must be a URL; did you mean sqlite:///my.sqlite3?"),
        ("sinks = ['out.jsonl']", "sinks: a sink is KIND or KIND:TARGET; did you mean jsonl:out.jsonl?"),
        ("sinks = ['/out/out.csv']", "sinks: a sink is KIND or KIND:TARGET; did you mean csv:/out/out.csv?"),
        ("sinks = ['https://u:pw@a/b']", "sinks: a sink is KIND or KIND:TARGET; did you mean webhook:URL?"),
        ("sinks = ['postgresql://u:pw@a/b']", "sinks: a sink is KIND or KIND:TARGET; did you mean sql:URL?"),
        ('token_file = "C:\\new\\token"', "token_file: has a character that no path has. In TOML write a Windows path"),
        ('sinks = ["jsonl:C:\\new"]', "sinks: has a character that no path has. In TOML write a Windows path"),
        ("sinks = ['a sink']", "sinks: a sink is KIND or KIND:TARGET"),
        ("sinks = ['stdout', 'stdout']", "sinks: names a sink twice"),
        ("[[sinks]]\nkind = 'sql'\n[[sinks]]\nkind = 'sql'", "sinks: names a sink twice"),
        ("[[sinks]]\nurl = 'https://x'", 'sinks: a sink table needs its kind, such as kind = "jsonl"'),
        ("sinks = 3", "sinks: must be a list such as"),
        ("[accounts.'a b']", "accounts.a b: an account's name is 1 to 64 of A-Z a-z 0-9 _ . -"),
        ("[oauth]\nrefresh_token_file = 'r'", "oauth.client_id: is missing"),
    ],
)
def test_an_impossible_setting_is_refused_by_name_with_a_reason(toml: Any, text: str, message: str) -> None:
    assert [line[: len(message)] for line in problems(toml, text)] == [message]


def test_a_table_in_place_of_a_value_is_reported_with_its_file_or_variable(toml: Any) -> None:
    """Only its keys have an origin of their own."""
    with pytest.raises(ConfigError, match=r"config\.toml: account: must be the name of an account"):
        toml("[account.eu]\ntoken_env = 'T'")


@pytest.mark.parametrize(
    "host",
    ["api.hubapi.com", "api-eu1.hubapi.com", "api.hubspot.com", "api-na1.hubspot.com", "hubspot.com.proxy.example"],
)
def test_an_api_host_or_a_gateway_is_no_site_for_people(toml: Any, host: str) -> None:
    assert toml(f"base_url = 'https://{host}'").base_url == f"https://{host}"


def test_all_problems_are_reported_each_with_its_location(toml: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        toml("wrokers = 3", {"window_s": -1.0, "sinks": ["?"]}, {"POLLER_LOG__LEVEL": "loud", "POLLER_LOG__X": "1"})
    assert sorted(str(caught.value).splitlines()) == [
        '--sink: a sink is KIND or KIND:TARGET, such as "stdout" or "jsonl:finished.jsonl"',
        "--window-s: must be greater than 0",
        f"{tmp_path}/config.toml: wrokers: there is no such setting; did you mean workers?",
        "POLLER_LOG__LEVEL: must be 'debug', 'info', 'warning' or 'error'",
        "POLLER_LOG__X: there is no such setting; see config.example.toml",
    ]


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost", "[::1]:80"])
def test_plain_http_is_for_this_machine_or_where_it_is_allowed(toml: Any, host: str) -> None:
    assert toml(f"base_url = 'http://{host}/'").base_url == f"http://{host}"
    assert toml("base_url = 'http://example.com'\nallow_http = true").base_url == "http://example.com"


@pytest.mark.parametrize(
    "text",
    [
        f"token = '{SECRET}'",
        f"token_env = '{SECRET}'",
        f"requests = '{SECRET}'",
        f"daily_reserve = '{SECRET}%'",
        f"proxy = 'http://{SECRET}:{SECRET}'",
        f"base_url = 'https://{SECRET}@api.hubapi.com'",
        f"state = '{SECRET}'",
        f"sinks = ['{SECRET} x']",
        f"time_zone = '{SECRET}'",
        f"log.level = '{SECRET}'",
        f"polling = '{SECRET}'",
        f"account = '{SECRET} '",
        f"oauth = {{client_id = 'x', client_secret = ['{SECRET}'], refresh_token_file = 'r'}}",
    ],
)
def test_no_message_has_a_token_that_is_in_the_wrong_setting(toml: Any, text: str) -> None:
    assert SECRET not in "\n".join(problems(toml, text))
    name, _, value = text.partition(" = ")
    with pytest.raises(ConfigError) as caught:
        toml("", environ={f"POLLER_{name.upper().replace('.', '__')}": value.strip("'"), "POLLER_WORKERS": "x"})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"workers = \n", "(at line 1, column 11)"),
        (b"state = poller.db\n", "Text needs quotes"),
        (b"state = '\xff'\n", "byte 9 is not UTF-8"),
        (None, "no such file"),
    ],
)
def test_a_file_that_is_not_toml_is_named_with_line_and_remedy(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "config.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load(file, {}, {}, tmp_path)
    assert str(file) in str(caught.value)


def test_a_byte_order_mark_is_fine(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(b"\xef\xbb\xbfworkers = 3\n")
    assert load(file, {}, {}, tmp_path).workers == 3


@given(st.dictionaries(st.sampled_from([*Settings.model_fields, "nonsense"]), st.text(max_size=20), max_size=4))
def test_any_flags_give_settings_or_a_config_error(flags: dict[str, str]) -> None:
    with suppress(ConfigError):
        assert describe(load(None, flags, {}, Path("/nonexistent")))


VARIABLES = [f"POLLER_{key.upper()}" for key in Settings.model_fields] + [
    "POLLER_LOG__FORMAT",
    "POLLER_POLLING__JITTER",
    "POLLER_ACCOUNTS__EU",
    "POLLER_ACCOUNTS__EU__WORKERS",
    "POLLER_ACCOUNTS____",
    "POLLER_OAUTH__CLIENT_SECRET__X",
    "POLLER_LOG__",
]
VALUES = st.text(max_size=20) | st.sampled_from(
    ["{}", "[]", '{"a": 1}', '{"a": {"workers": []}}', "null", "1e999", "NaN"]
)


@given(st.dictionaries(st.sampled_from(VARIABLES), VALUES, max_size=4))
def test_any_variables_give_settings_or_a_config_error(environ: dict[str, str]) -> None:
    with suppress(ConfigError):
        assert describe(load(None, {}, environ, Path("/nonexistent")))


def test_a_table_in_one_variable_is_refused_with_the_way_to_set_it(toml: Any) -> None:
    with pytest.raises(ConfigError, match=r"^POLLER_LOG: a table is set key by key, as in POLLER_LOG__FORMAT=json$"):
        toml("", environ={"POLLER_LOG": "json"})


# --- messages ---------------------------------------------------------------------------------------------------------


def test_variables_that_set_nothing_are_listed_with_the_most_similar_one() -> None:
    environ = {
        "POLLER_SERVICE_HOST": "10.0.0.1",
        "POLLER_WORKER": "3",
        "POLLER_WORKERS": "3",
        "POLLER_LOG__FORMAT": "json",
        "POLLER_LOG_FORMAT": "json",
        "PATH": "/bin",
    }
    unknown = unknown_variables(environ)
    assert unknown.keys() == {"POLLER_SERVICE_HOST", "POLLER_WORKER", "POLLER_LOG_FORMAT"}
    assert unknown["POLLER_WORKER"] == "POLLER_WORKERS"
    assert unknown["POLLER_LOG_FORMAT"] == "POLLER_LOG__FORMAT"


def test_the_description_has_the_origin_of_each_setting_that_was_set(toml: Any, tmp_path: Path) -> None:
    settings = toml(
        "workers = 3\nproxy = 'http://me:hunter2@proxy:3128'\n[accounts.eu]\ntoken_env = 'EU'\npolling.jitter = 0",
        {"input": {"format": "csv"}},
        {"POLLER_LOG__LEVEL": "debug"},
    )
    lines = describe(settings).splitlines()
    assert f"workers = 3  # {tmp_path}/config.toml: workers" in lines
    assert 'level = "debug"  # POLLER_LOG__LEVEL' in lines
    assert 'format = "csv"  # --format' in lines
    assert 'state = "sqlite:///poller.db"' in lines
    assert lines[lines.index("[accounts.eu]") + 1].startswith('token_env = "EU"')
    assert "[accounts.eu.polling]" in lines
    assert "hunter2" not in describe(settings)


# --- the example -----------------------------------------------------------------------------------------------------


def _uncommented() -> str:
    return re.sub(r"(?m)^# (?=[a-z_]+ = )", "", EXAMPLE.read_text("utf-8"))


def test_the_example_sets_nothing(tmp_path: Path) -> None:
    assert load(EXAMPLE, {}, {}, tmp_path / "none").model_dump() == Settings().model_dump()


def test_the_example_with_every_line_uncommented_gives_exactly_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(_uncommented(), "utf-8")
    assert load(file, {}, {}, tmp_path / "none").model_dump() == Settings().model_dump()


def test_the_example_holds_every_setting() -> None:
    values = tomllib.loads(_uncommented())
    prose = EXAMPLE.read_text("utf-8")
    tables: dict[str, type[BaseModel]] = {"polling": PollingTable, "input": InputTable, "log": LogTable}
    assert values.keys() == Settings.model_fields.keys() - {"accounts", "oauth"}
    assert {name: values[name].keys() for name in tables} == {
        name: table.model_fields.keys() for name, table in tables.items()
    }
    assert [key for key in OAuthTable.model_fields if key not in prose] == []


def test_the_example_s_samples_work_too(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    sample = re.sub(r"(?m)^#     ", "", EXAMPLE.read_text("utf-8"))
    file.write_text('account = "eu"\n' + sample, "utf-8")
    settings = load(file, {}, {}, tmp_path / "none")
    assert settings.accounts["us"].polling.longest_gap_s == 120
    assert settings.oauth is not None


def test_a_default_is_described_by_the_word_that_sets_it() -> None:
    example = (Path(__file__).parents[2] / "config.example.toml").read_text("utf-8")
    words = re.findall(r'^# (\w+ = "(?:auto|never)")$', example, re.MULTILINE)
    assert len(words) > 9
    assert set(words) <= set(describe(load(None, {}, {}, Path("/nonexistent"))).splitlines())
