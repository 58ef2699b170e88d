"""Text for people that several rooms show. Pure."""

from collections.abc import Mapping

from poller.core.model import Pause

WORDS: Mapping[str, str] = {
    Pause.THROTTLED: "HubSpot asks for fewer requests; goes on when its window has passed",
    Pause.DAILY_QUOTA: "the day's quota is used, but for your reserve; goes on after the account's midnight",
    Pause.TOKEN_REFUSED: "HubSpot refuses the token; replace it, the run goes on by itself",
    Pause.SCOPE_MISSING: "the token lacks a scope; grant it, the run goes on by itself",
    Pause.WRONG_PATH: "HubSpot does not know the path; see --base-url and --status-path",
    Pause.MIGRATING: "HubSpot is moving the account to another data centre; goes on by itself",
    Pause.OUTAGE: "HubSpot does not answer; asking now and then, goes on by itself",
}


def human(seconds: float) -> str:
    """Return a duration as a person would say it, such as `3 min` or `5.6 h`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
