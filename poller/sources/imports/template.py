"""`--set` texts with `{column}`: the row's value, or a piece of its URL's path. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from poller.core.columns import is_blank, matching
from poller.core.csv_cells import damage
from poller.core.errors import ConfigError, UnfitInput

URL_PIECES: Mapping[str, str] = {
    "url.file": "the file's name in the URL's path",
    "url.folder": "the path before it",
}
_FIELD = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The text of one option. `pieces` alternates literal text and field names, as `re.split` gives them."""

    option: str
    text: str
    pieces: tuple[str, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        return self.pieces[1::2]

    def render(self, columns: Mapping[str, str], ref: Mapping[str, Any], url: str) -> str:
        """Return the text for a row. `columns` has the row's column for each field. Raises `ValueError`."""
        parts = list(self.pieces)
        for at in range(1, len(parts), 2):
            name = parts[at]
            value = _URL_VALUES[name](url) if name in _URL_VALUES else ref.get(columns[name])
            if is_blank(value) or isinstance(value, dict | list):
                raise ValueError(f"{{{name}}} has no value in the row, and --set {self.option}={self.text} needs it")
            parts[at] = text = str(value).strip()
            if name not in _URL_VALUES and (found := damage(text)) is not None:
                raise ValueError(f"{columns[name]} {found}")
        return "".join(parts)


def read_template(option: str, text: str) -> Template | None:
    """Return the template in an option's text; None for plain text. Raises `ConfigError` for one that is broken."""
    pieces = tuple(_FIELD.split(text))
    if any("{" in piece or "}" in piece for piece in pieces[0::2]):
        raise ConfigError(f"--set {option}={text}: write a column as {{name}}, with both braces")
    pieces = tuple(piece.strip() if at % 2 else piece for at, piece in enumerate(pieces))
    return Template(option=option, text=text, pieces=pieces) if len(pieces) > 1 else None


def columns_for(template: Template, names: Sequence[str]) -> dict[str, str]:
    """Return the column of `names` for each field. Raises `UnfitInput` for a field that is none of them."""
    found = {}
    for field in template.fields:
        if field in _URL_VALUES:
            continue
        column = matching(tuple(names), field)
        if column is None:
            known = ", ".join([*names[:20], *_URL_VALUES])
            raise UnfitInput(f"--set {template.option}={template.text}: there is no column {field!r}. Known: {known}")
        found[field] = column
    return found


def _file(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[2])


def _folder(url: str) -> str:
    return unquote(urlsplit(url).path.rpartition("/")[0])


_URL_VALUES: Mapping[str, Callable[[str], str]] = {"url.file": _file, "url.folder": _folder}
