"""The options of `Poller` are the settings of the configuration file: their names, and what they accept."""

from typing import get_type_hints

from poller import AccountOptions, PollerOptions
from poller.config import AccountSettings, Settings

COMMAND_ONLY = {
    "input",
    "sources",
    "log",
    "follow",
    "progress",
    "summary_every_s",
    "traces",
    "stop_on_failures",
    "fleet",
    "replica",
    "beat_s",
}


def test_every_setting_is_an_option_or_belongs_to_the_command() -> None:
    accounts, all_of_them = get_type_hints(AccountOptions).keys(), get_type_hints(PollerOptions).keys()
    assert accounts - {"token"} == AccountSettings.model_fields.keys()
    assert all_of_them - {"token"} == Settings.model_fields.keys() - COMMAND_ONLY - {"state"}
