"""Words that every kind of store shares."""

from collections.abc import Sequence

LONGEST_TEXT = 300  # characters of a reason or a status word: they are for people, and reasons are indexed


def storable(text: str) -> str:
    """Return `text` bounded, without what JSON can carry and databases cannot: lone surrogates and NUL."""
    return text[:LONGEST_TEXT].encode("utf-8", "replace").decode().replace("\0", "?")


def storable_name(name: str) -> str:
    """Return `name` as every database can hold it, still another one for another name: paths need not be UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def unknown_sink(sink: str, known: Sequence[str]) -> str:
    """Return why nothing can be replayed into `sink`."""
    named = ", ".join(known) or "none yet"
    return f"the state knows no sink {sink!r} (known: {named}). Name one of these, or start a run with --sink {sink}."
