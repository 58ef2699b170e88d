"""When to look next, learned from how long imports took. Pure: instants and ages come in, waits go out."""

from poller.timing.account import AccountTiming, Unreadable, knowledge_name, recalled
from poller.timing.forecast import Course, Forecast, forecast
from poller.timing.learned import Learned, Price
from poller.timing.lifetimes import Lifetimes

__all__ = [
    "AccountTiming",
    "Course",
    "Forecast",
    "Learned",
    "Lifetimes",
    "Price",
    "Unreadable",
    "forecast",
    "knowledge_name",
    "recalled",
]
