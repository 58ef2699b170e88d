"""Every setting: where it may come from, its default, its range. An unknown or impossible one stops the start with a
message that has its location and the remedy, and never a secret.

Account settings at the top are the defaults of every account; `[accounts.NAME]` overrides them.
"""

from poller.config.address import Address, address_of, is_loopback_host
from poller.config.load import load, settings_from
from poller.config.merge import TOKEN_KEYS
from poller.config.messages import describe, problems_in_table, unknown_variables, unused_proxies
from poller.config.settings import AccountSettings, OAuthTable, PollingTable, Settings
from poller.config.sources import SourceTable

__all__ = [
    "TOKEN_KEYS",
    "AccountSettings",
    "Address",
    "OAuthTable",
    "PollingTable",
    "Settings",
    "SourceTable",
    "address_of",
    "describe",
    "is_loopback_host",
    "load",
    "problems_in_table",
    "settings_from",
    "unknown_variables",
    "unused_proxies",
]
