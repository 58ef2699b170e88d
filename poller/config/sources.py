"""The `[[sources]]` tables: the keys of each kind of source. Pure."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from poller.config.value_types import AccountName, Empty, Seconds, distinct, no_controls

Kind = Literal["file", "glob", "folder", "stdin"]

_KEYS: dict[Kind, str] = {"file": "path", "glob": "glob", "folder": "folder", "stdin": "stdin"}
_WHICH = 'needs one of path = "ids.txt", glob = "in/*.csv", folder = "in" and stdin = true'


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError("must be a path")
    return str(no_controls(text))


def _paths(value: str | list[str]) -> str | list[str]:
    for path in [value] if isinstance(value, str) else value:
        _path(path)
    if not value:
        raise ValueError("must name at least one file")
    return value


class SourceTable(BaseModel):
    """One source of ids. Its kind follows from which of the keys path, glob, folder and stdin is set."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kind: Kind | None = None
    path: Annotated[str | list[str], AfterValidator(_paths)] | None = None  # "-" is standard input
    glob: Annotated[str, AfterValidator(_path)] | None = None
    folder: Annotated[str, AfterValidator(_path)] | None = None  # files are moved out of it once they are read
    stdin: Literal[True] | None = None
    follow: bool | None = None  # None: as the run
    feeds: Literal["ids", "imports"] | None = None  # None, here and below: as in [input]
    format: Literal["auto", "text", "jsonl", "csv"] | None = None
    id_column: Annotated[str | None, Empty] = None
    account: AccountName | None = None  # of lines that name none
    settle_s: Annotated[Seconds, Field(le=86_400)] = 2.0  # a dropped file must be unchanged for this long

    @model_validator(mode="after")
    def _has_one_kind(self) -> Self:
        named = [kind for kind, key in _KEYS.items() if getattr(self, key) is not None]
        if self.kind == "stdin" and not named:
            named = ["stdin"]
        if len(named) != 1:
            raise ValueError(_WHICH)
        if self.kind is not None and self.kind != named[0]:
            raise ValueError(f'kind = "{self.kind}" needs {_KEYS[self.kind]}, not {_KEYS[named[0]]}')
        if "settle_s" in self.model_fields_set and named[0] != "folder":
            raise ValueError("settle_s goes only with folder")
        if self.follow and (named[0] == "stdin" or self.paths == ("-",)):
            raise ValueError("standard input ends by itself: it cannot be followed")
        return self

    @property
    def found_kind(self) -> Kind:
        """The kind, also where `kind` is not set."""
        return next((kind for kind, key in _KEYS.items() if getattr(self, key) is not None), "stdin")

    @property
    def paths(self) -> tuple[str, ...]:
        """The files of a source of files."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path or ())

    def to_json(self) -> dict[str, Any]:
        """Return the keys that were set."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def source_tables(value: object) -> object:
    """Accept one path, a list of paths and tables, and such a list as JSON (environment)."""
    return distinct(
        value,
        lambda each: {"path": each} if isinstance(each, str | Path) else each,
        noun="source",
        example="ids.txt",
    )
