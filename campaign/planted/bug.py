"""A bug to plant: a replacement of text that breaks one promise, and the tests that must fail then."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """One way to break the code."""

    name: str
    file: str
    old: str  # occurs exactly once in its file: a test of the suite lists the bugs whose text does not
    new: str
    tests: tuple[str, ...]  # files of tests/, without `.py`
