"""Turns a row's values into the body of its start call, or into the reason why it is not one. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import Any, TypeGuard

import orjson

from poller.core.columns import COLUMN_NAMES, Columns, did_you_mean, first_value, is_blank, matching, normalized
from poller.core.csv_cells import damage
from poller.core.errors import ConfigError, UnfitInput
from poller.core.model import JsonObject
from poller.core.start_options import ACCESSES, CHOICES, FOLDERS, OPTIONS, option_value, options_from
from poller.core.text import printable
from poller.sources.imports.template import Template, columns_for, read_template
from poller.sources.imports.url import checked_url

LARGEST_BODY = 16_384  # bytes
LEAST = {"overwrite": False, "duplicateValidationStrategy": "NONE", "duplicateValidationScope": "ENTIRE_PORTAL"}
SHORTEST_TTL_DAYS, LONGEST_TTL_DAYS = 1, 366
_TTL = re.compile(
    r"P(?=\d|T)(?:(\d{1,4})Y)?(?:(\d{1,4})M)?(?:(\d{1,4})W)?(?:(\d{1,5})D)?(?:T(?:\d+H)?(?:\d+M)?(?:\d+S)?)?"
)
_TTL_DAYS = (365, 30, 7, 1)
NOT_UTF_8 = "the row is not UTF-8 text: save the file as CSV UTF-8"
_REPLACED = "\ufffd"  # what reading puts in place of bytes that are not UTF-8
_REPLACED_BYTES = _REPLACED.encode()
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SAFE_KEY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_KNOWN_COLUMNS = frozenset(name for names in COLUMN_NAMES.values() for name in names)
_LONG_OPTIONS = [name.lower() for name in OPTIONS if len(name) > 4]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowOptions:
    """How the person wants rows read."""

    columns: Columns = field(default_factory=Columns)
    defaults: Mapping[str, str] = field(default_factory=dict)  # `--set` over `[imports] set`: options and templates
    key: str | None = None  # the column that identifies a row; None: its body does


class RowReader:
    """Reads rows with the same columns. Raises `UnfitInput` where the options cannot fit any of them."""

    def __init__(self, options: RowOptions, names: tuple[str, ...]) -> None:
        columns = options.columns
        for meaning, name in columns.named.items():
            _column(names, name, f"--column {meaning}=")
        self.url_names = columns.names(names, "url")
        self._names = {option: columns.names(names, option) for option in OPTIONS}
        self._key = None if options.key is None else _column(names, options.key, "--key ")
        self._defaults, self._templates = read_defaults(options.defaults)
        self._fields = {name: columns_for(template, names) for name, template in self._templates.items()}
        self._misspelt = _misspelt(names)
        self._refuse_lacking_options()
        can_vary = {name for name, found in self._names.items() if found} | self._templates.keys()
        if can_vary & set(FOLDERS):
            can_vary |= set(FOLDERS)
        self._varying = tuple(name for name in OPTIONS if name in can_vary)
        self._fixed = LEAST | {name: value for name, value in self._defaults.items() if name not in can_vary}

    def _refuse_lacking_options(self) -> None:
        """`access` and the folder have no default: what is right differs from account to account."""
        given = self._defaults.keys() | self._templates.keys() | {name for name, found in self._names.items() if found}
        if "access" not in given:
            choices = ", ".join(f"--set access={access}" for access in ACCESSES)
            raise UnfitInput(f"no column and no --set gives the access. Add one of {choices}")
        if not given & set(FOLDERS):
            raise UnfitInput("no column and no --set gives the folder. Add one such as --set folderPath=/imports")

    def read(self, ref: Mapping[str, Any]) -> tuple[str, bytes]:
        """Return the row's identity and the body of its start call. Raises `ValueError` with what is wrong."""
        if self._misspelt is not None:
            name, option = self._misspelt
            raise ValueError(
                f"the column {name!r} is nearly the option {option}, which HubSpot would ignore: rename it"
            )
        url = checked_url(_undamaged(self._url(ref), "url"))
        body = {"url": url, **self._fixed}
        if self._varying:
            body |= options_from(
                lambda name: _undamaged(first_value(ref, self._names[name]), name),
                lambda name: self._default(name, ref, url),
                self._varying,
            )
        encoded = encode(_checked(body))
        if _REPLACED_BYTES in encoded:
            raise ValueError(NOT_UTF_8)
        if len(encoded) > LARGEST_BODY:
            raise ValueError(f"the start call would have {len(encoded):,} bytes, more than {LARGEST_BODY:,}")
        return self._identity(ref, encoded), encoded

    def _url(self, ref: Mapping[str, Any]) -> Any:
        """Return the row's URL. Raises `ValueError` where two columns have different ones: an import stays."""
        if len(self.url_names) > 1:
            urls = {name: url.strip() for name in self.url_names if _is_url(url := ref.get(name))}
            if len(set(urls.values())) > 1:
                names = " and ".join(repr(printable(name[:40])) for name in urls)
                raise ValueError(
                    f"the columns {names} have different URLs: name the one to import with --column url=NAME"
                )
            if urls:
                return next(iter(urls.values()))
        return first_value(ref, self.url_names)

    def _default(self, name: str, ref: Mapping[str, Any], url: str) -> str | bool | None:
        if (template := self._templates.get(name)) is not None:
            return template.render(self._fields[name], ref, url)
        return self._defaults.get(name)

    def _identity(self, ref: Mapping[str, Any], body: bytes) -> str:
        if self._key is None:
            return _digest(body)
        value = ref.get(self._key)
        if is_blank(value) or isinstance(value, dict | list):
            raise ValueError(f"the key column {self._key} has no value in the row")
        text = str(_undamaged(value, self._key)).strip()
        if _REPLACED in text:
            raise ValueError(NOT_UTF_8)
        return text if _SAFE_KEY.fullmatch(text) else _digest(text.encode(errors="surrogatepass"))


def _column(names: tuple[str, ...], name: str, option: str) -> str:
    """Return the column that a person named. Raises `UnfitInput`."""
    if (column := matching(names, name)) is None:
        known = ", ".join(names[:20])
        raise UnfitInput(f"{option}{name}: there is no such column{did_you_mean(name, names)}. Known: {known}")
    return column


def _undamaged(value: Any, name: str) -> Any:
    """Return the value. Raises `ValueError` for what a spreadsheet made of another one."""
    if isinstance(value, str) and (found := damage(value)) is not None:
        raise ValueError(f"{name} {found}")
    return value


def _is_url(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.lstrip()[:8].lower().startswith(("http://", "https://"))


def read_defaults(texts: Mapping[str, str]) -> tuple[dict[str, str | bool], dict[str, Template]]:
    """Return the options that are the same for every row, and the templates. Raises `ConfigError`."""
    plain: dict[str, str | bool] = {}
    templates: dict[str, Template] = {}
    for name, text in texts.items():
        if (template := read_template(name, text)) is not None:
            templates[name] = template
            continue
        try:
            plain[name] = option_value(name, text)
            _checked(plain, whole=False)
        except ValueError as error:
            raise ConfigError(f"--set {name}={text}: {str(error).replace(' in the row', '')}") from None
    if set(FOLDERS) <= plain.keys() | templates.keys():
        raise ConfigError("--set has folderId and folderPath: HubSpot accepts one of them, so keep one")
    return plain, templates


def _checked(body: JsonObject, *, whole: bool = True) -> JsonObject:
    """Return the body. Raises `ValueError` for a value that HubSpot would refuse; `whole`: also for one it lacks."""
    for name, choices in CHOICES.items():
        if name in body and body[name] not in choices:
            raise ValueError(f"unknown {name} {str(body[name])[:40]!r}; known: {', '.join(choices[:3])}")
    for name in ("name", "folderPath"):
        if _CONTROL.search(str(body.get(name, ""))):
            raise ValueError(f"the {name} has a line break or another control character: correct the cell")
    if "/" in str(body.get("name", "")):
        raise ValueError("the name has a /: folders go into folderPath")
    if "ttl" in body and not SHORTEST_TTL_DAYS <= _ttl_days(body["ttl"]) <= LONGEST_TTL_DAYS:
        raise ValueError(f"ttl {str(body['ttl'])[:20]!r} is not a duration from P1D to P1Y")
    if not whole:
        return body
    if "access" not in body:
        raise ValueError("the row has no access")
    folders = [name for name in FOLDERS if name in body]
    if len(folders) != 1:
        raise ValueError("the row has folderId and folderPath: keep one" if folders else "the row has no folder")
    return body


def _ttl_days(ttl: str) -> int:
    found = _TTL.fullmatch(ttl)
    return sum(int(count or 0) * days for count, days in zip(found.groups(), _TTL_DAYS, strict=True)) if found else 0


@lru_cache(maxsize=256)
def _misspelt(names: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the first column that is nearly an option's name, and that option."""
    for name in names:
        word = normalized(name)
        if word not in _KNOWN_COLUMNS and (close := get_close_matches(word, _LONG_OPTIONS, n=1, cutoff=0.88)):
            return name, next(option for option in OPTIONS if option.lower() == close[0])
    return None


def encode(value: JsonObject) -> bytes:
    """Return JSON in as much memory as it needs: orjson's own bytes keep up to 4 kB each, 250 MB a chunk of rows."""
    return bytes(memoryview(orjson.dumps(value)))


def _digest(content: bytes) -> str:
    return blake2b(content, digest_size=12).hexdigest()


class RowReaders:
    """One `RowReader` for each set of columns: lines of JSON may differ."""

    def __init__(self, options: RowOptions) -> None:
        self._options = options
        self._readers: dict[tuple[str, ...], RowReader] = {}

    def read(self, ref: Mapping[str, Any]) -> tuple[str, bytes]:
        """Read a row of any columns. Raises `ValueError`, and `UnfitInput` where the first cannot be read at all."""
        names = tuple(ref)
        reader = self._readers.get(names)
        if reader is None:
            reader = self._new_reader(names)
        return reader.read(ref)

    def _new_reader(self, names: tuple[str, ...]) -> RowReader:
        try:
            reader = RowReader(self._options, names)
        except UnfitInput as error:
            if not self._readers:
                raise
            raise ValueError(str(error)) from None
        if len(self._readers) < _MOST_READERS:
            self._readers[names] = reader
        return reader

    @cached_property
    def url_names(self) -> tuple[str, ...]:
        """Return the names under which a URL is found."""
        named = self._options.columns.named.get("url")
        return COLUMN_NAMES["url"] if named is None else (named,)


_MOST_READERS = 256
