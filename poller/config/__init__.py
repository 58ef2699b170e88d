"""Every setting: where it may come from, its default, its range. An unknown or impossible one stops the start with a
message that names place and remedy, and never holds a secret.

The settings of an account may stand at the top, as the default of every account, and in `[accounts.NAME]`.
"""

from poller.config.address import Address, address_of, is_loopback_host
from poller.config.load import load
from poller.config.messages import describe, problems_in_table, unknown_variables
from poller.config.settings import AccountSettings, OAuthTable, PollingTable, Settings
from poller.config.sources import SourceTable

__all__ = [
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
    "unknown_variables",
]
