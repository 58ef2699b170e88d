"""Finds the column or key with the task id by its name. Pure. Where several may hold it, no guess is made."""

import re
from collections.abc import Sequence
from functools import lru_cache

from poller.core.text import printable

TASK_ID, ID = "taskid", "id"  # in any spelling; `id` only where no name has `taskid` in it
_SIGNS = re.compile(r"[\s_.:#\-\u200b-\u200d\u2060\ufeff]")
_HEADING = re.compile(r"[a-z]*taskids?|tasks?|ids|(?:import|hubspot|hs|job|upload)+s?(?:ids?)?")  # never an id
_NAME_SHOWN = 40  # characters


class AmbiguousId(ValueError):
    """Several columns, or keys, may hold the id."""

    def __init__(self, message: str, places: tuple[int, ...]) -> None:
        super().__init__(message)
        self.places = places


def find_id(names: Sequence[str], id_column: str | None, noun: str) -> int | None:
    """Return where the id is: under `id_column`, or else under `task_id` or `id` in any spelling; None where no name is
    the id's. Raises `AmbiguousId`."""
    places = _places(tuple(names), id_column)
    if len(places) > 1:
        raise AmbiguousId(_message([names[at] for at in places], places, id_column, noun), places)
    return places[0] if places else None


@lru_cache(maxsize=1024)  # every line of a file has the same keys
def _places(names: tuple[str, ...], id_column: str | None) -> tuple[int, ...]:
    if id_column is not None:
        for fold in (str, str.casefold, letters_of):
            if places := [at for at, name in enumerate(names) if fold(name) == fold(id_column)]:
                return tuple(places)
        return ()
    letters = [letters_of(name) for name in names]
    if TASK_ID in letters:
        return tuple(at for at, name in enumerate(letters) if name == TASK_ID)
    if len(names) == 1 and is_heading(names[0]):
        return (0,)
    if ID in letters:
        return tuple(at for at, name in enumerate(letters) if name == ID or TASK_ID in name)
    return ()


def letters_of(name: str) -> str:
    """Return a name in lower case without spaces, of any kind and width, and without signs that names have."""
    return _SIGNS.sub("", name.casefold())


def is_heading(text: str) -> bool:
    """Return whether `text` is what people write above ids, such as `import_task_id`, though it could be an id."""
    return _HEADING.fullmatch(letters_of(text)) is not None


def _message(found: Sequence[str], places: Sequence[int], id_column: str | None, noun: str) -> str:
    names = [f"'{printable(name[:_NAME_SHOWN])}'" for name in found]
    numbers = " and ".join(str(at + 1) for at in places)
    if len(set(found)) == 1:
        return f"the {noun}s {numbers} are both named {names[0]}: give the number of the one with the task ids"
    if id_column is not None:
        return f"the {noun}s {' and '.join(names)} are both spelled like {id_column!r}: give the exact name"
    return f"the {noun}s {' and '.join(names)} may both hold the task ids: name the one that does"
