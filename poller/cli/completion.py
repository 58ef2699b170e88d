"""What the shell offers after Tab where an option takes one of a few words. Light: each Tab starts the program."""

from collections.abc import Callable, Iterator, Mapping

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
    "warning": "what needs attention",
    "error": "what stops work",
}
DURATIONS = {
    "lognormal:30,1.2": "median 30 s, and a long tail",
    "fixed:10": "10 s each",
    "uniform:5,60": "evenly from 5 to 60 s",
}

Offer = tuple[str, str]  # a word, and its meaning


def _offering(words: Mapping[str, str]) -> Callable[[str], Iterator[Offer]]:
    """Return the completion of an option that takes one of `words`."""

    def offer(incomplete: str) -> Iterator[Offer]:
        return _offered(words, incomplete)

    return offer


sinks, states, kinds, levels, durations = map(_offering, (SINKS, STATES, KIND_TEXT, LEVELS, DURATIONS))


def fates(incomplete: str) -> Iterator[Offer]:
    from poller.sandbox.scenario import Fate

    return _offered({f"{fate}=": "a share of the tasks, such as 0.1" for fate in Fate}, incomplete)


def faults(incomplete: str) -> Iterator[Offer]:
    from poller.sandbox.scenario import FAULTS

    return _offered({f"{name}=": meaning for name, meaning in FAULTS.items()}, incomplete)


def _offered(words: Mapping[str, str], incomplete: str) -> Iterator[Offer]:
    return ((word, meaning) for word, meaning in words.items() if word.startswith(incomplete))
