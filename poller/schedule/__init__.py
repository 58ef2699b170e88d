"""When to poll next, learned from how long imports took. Pure: instants and ages come in, waits go out."""

from poller.schedule.account import AccountTiming, Unreadable, knowledge_name, recalled
from poller.schedule.learned import Learned, Price
from poller.schedule.simulate import Course, SimulatedRun, simulate_run
from poller.schedule.survival import Lifetimes

__all__ = [
    "AccountTiming",
    "Course",
    "Learned",
    "Lifetimes",
    "Price",
    "SimulatedRun",
    "Unreadable",
    "knowledge_name",
    "recalled",
    "simulate_run",
]
