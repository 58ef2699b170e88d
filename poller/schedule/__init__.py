"""Decides when to poll next, from how long imports took. Pure: instants and ages in, waits out."""

from poller.schedule.account import AccountTiming
from poller.schedule.knowledge import (
    KnowledgeUnreadable,
    KnownLine,
    explanation_of,
    knowledge_key,
    line_of,
    planner_from,
)
from poller.schedule.learned import PollPlanner, Tradeoff
from poller.schedule.poll_order import PollOrder
from poller.schedule.simulate import Course, SimulatedRun, simulate_run
from poller.schedule.standstill import Standstill
from poller.schedule.survival import SurvivalCurve

__all__ = [
    "AccountTiming",
    "Course",
    "KnowledgeUnreadable",
    "KnownLine",
    "PollOrder",
    "PollPlanner",
    "SimulatedRun",
    "Standstill",
    "SurvivalCurve",
    "Tradeoff",
    "explanation_of",
    "knowledge_key",
    "line_of",
    "planner_from",
    "simulate_run",
]
