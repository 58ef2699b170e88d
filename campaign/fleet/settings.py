"""The settings of one replica of a campaign or a measurement."""

from collections.abc import Sequence

from campaign.fleet.replica import token_variable

_TOP = """\
fleet = true
replica = "{name}"
state = "{state}"
base_url = "{hubspot}"
listen = "127.0.0.1:0"
follow = true
progress = false
requests = {requests}
window_s = {window_s}
account = "{first}"
{more}

[polling]
policy = "backoff"
first_gap_s = {first_gap_s}
longest_gap_s = {longest_gap_s}
{more_polling}
"""
_ACCOUNT = '\n[accounts.{name}]\ntoken_env = "{variable}"\n'


def replica_settings(
    name: str,
    *,
    state: str,
    hubspot: str,
    requests: int,
    window_s: float,
    gaps_s: tuple[float, float],
    accounts: Sequence[str],
    more: str,
    more_polling: str = "",
    tables: str = "",
) -> str:
    """Return a config: `gaps_s` are the first and the longest gap between two polls of a task; `more` are lines of the
    top level, `tables` whole tables."""
    first_gap_s, longest_gap_s = gaps_s
    top = _TOP.format(
        name=name,
        state=state,
        hubspot=hubspot,
        requests=requests,
        window_s=window_s,
        first=accounts[0],
        first_gap_s=first_gap_s,
        longest_gap_s=longest_gap_s,
        more=more,
        more_polling=more_polling,
    )
    return top + tables + "".join(_ACCOUNT.format(name=each, variable=token_variable(each)) for each in accounts)
