"""What the shell offers after Tab where an option takes one of a few words. Light: each Tab starts the program anew."""

from collections.abc import Iterator, Mapping

from poller.core.text import KIND_TEXT

SINKS = {
    "jsonl:finished.jsonl": "a file: each finished task exactly once, as a line",
    "csv:finished.csv": "a file: each finished task exactly once, as a row",
    "stdout": "lines on standard output",
    "webhook:https://": "signed POST requests",
    "sql:sqlite:///finished.db": "a table in SQLite",
    "sql:postgresql://": "a table in PostgreSQL",
    "command:": "lines on the standard input of a program",
}
STATES = {"sqlite:///poller.db": "a file of this folder", "postgresql://": "a database"}
LEVELS = {
    "debug": "every poll",
    "info": "every finished task",
    "warning": "what a person should see",
    "error": "what stops work",
}
DURATIONS = {
    "lognormal:30,1.2": "median 30 s, and a long tail",
    "fixed:10": "10 s each",
    "uniform:5,60": "anything from 5 to 60 s",
}

Offer = tuple[str, str]  # a word, and what it means


def sinks(incomplete: str) -> Iterator[Offer]:
    return _offered(SINKS, incomplete)


def states(incomplete: str) -> Iterator[Offer]:
    return _offered(STATES, incomplete)


def kinds(incomplete: str) -> Iterator[Offer]:
    return _offered(KIND_TEXT, incomplete)


def levels(incomplete: str) -> Iterator[Offer]:
    return _offered(LEVELS, incomplete)


def durations(incomplete: str) -> Iterator[Offer]:
    return _offered(DURATIONS, incomplete)


def fates(incomplete: str) -> Iterator[Offer]:
    from poller.sandbox.scenario import Fate

    return _offered({f"{fate}=": "a share of the tasks, such as 0.1" for fate in Fate}, incomplete)


def faults(incomplete: str) -> Iterator[Offer]:
    from poller.sandbox.scenario import FAULTS

    return _offered({f"{name}=": meaning for name, meaning in FAULTS.items()}, incomplete)


def _offered(words: Mapping[str, str], incomplete: str) -> Iterator[Offer]:
    return ((word, meaning) for word, meaning in words.items() if word.startswith(incomplete))
