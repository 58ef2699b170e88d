"""Bugs to plant, a module for each room of the package, and for fleets, starts and timing."""

from campaign.planted.app import APP_BUGS
from campaign.planted.core import CORE_BUGS
from campaign.planted.engine import ENGINE_BUGS
from campaign.planted.fleet import FLEET_BUGS
from campaign.planted.hubspot import HUBSPOT_BUGS
from campaign.planted.limits import LIMITS_BUGS
from campaign.planted.reports import REPORTS_BUGS
from campaign.planted.schedule import SCHEDULE_BUGS
from campaign.planted.sinks import SINKS_BUGS
from campaign.planted.sources import SOURCES_BUGS
from campaign.planted.starts import START_BUGS
from campaign.planted.store import STORE_BUGS
from campaign.planted.timing import TIMING_BUGS
from campaign.planted.web import WEB_BUGS

BUGS = (
    *APP_BUGS,
    *CORE_BUGS,
    *ENGINE_BUGS,
    *HUBSPOT_BUGS,
    *LIMITS_BUGS,
    *REPORTS_BUGS,
    *SCHEDULE_BUGS,
    *SINKS_BUGS,
    *SOURCES_BUGS,
    *STORE_BUGS,
    *WEB_BUGS,
    *START_BUGS,
    *TIMING_BUGS,
    *FLEET_BUGS,
)
