"""What `poller import --check` finds in the rows before anything is sent. Pure: no request, no name is resolved."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from poller.core.columns import Columns
from poller.core.model import Chunk, FedRow
from poller.core.start_options import HIDDEN_ACCESSES
from poller.core.text import counted, printable, redacted_url
from poller.core.timestamps import epoch
from poller.sources.imports.url import is_share_page

STARTS_A_S = 4.5  # of 10 requests a second, with 2.2 requests a file
FREE_BYTES, PAID_BYTES = 20 * 2**20, 2 * 2**30  # HubSpot's limits of a file
BODIES_SHOWN, SAMPLES, TOP = 3, 3, 8
LISTED = 10_000  # rejected lines that are kept, some 2 MB; the others are only counted
_AMZ_DATE = "%Y%m%dT%H%M%SZ"


@dataclass(slots=True)
class _Warning:
    text: str
    count: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, sample: str) -> None:
        self.count += 1
        if len(self.samples) < SAMPLES:
            self.samples.append(printable(sample))


class ImportCheck:
    """Gathers what a run would read. Rows of one identity count once, as in a run with an empty state."""

    def __init__(self, columns: Columns, *, now: float) -> None:
        self.lines = self.rows = self.duplicates = self.blank = 0
        self.rejected: Counter[str] = Counter()  # by reason
        self._rejected_at: dict[str, str] = {}  # the first line of each reason
        self._listed: dict[str, list[dict[str, str | int]]] = {}  # by reason, at most `LISTED` lines
        self._unlisted = LISTED  # lines that may still be kept
        self._columns = columns
        self._now = now
        self._seen: set[int] = set()
        self._targets: set[int] = set()  # folder and name
        self._hosts: Counter[str] = Counter()
        self._extensions: Counter[str] = Counter()
        self._folders: Counter[str] = Counter()
        self._bodies: list[bytes] = []
        self._warnings = {
            "names": _Warning("files have the folder and name of an earlier row: HubSpot renames or overwrites one"),
            "expiry": _Warning("URLs expire before their turn: sign them for longer, or feed them in parts"),
            "page": _Warning("URLs are share pages, not files: HubSpot would store the page"),
            "large": _Warning("files are larger than HubSpot's 2 GB"),
            "free": _Warning("files are larger than the 20 MB of a free account"),
            "hidden": _Warning("rows have an access that HubSpot's start call refuses"),
        }

    def add(self, chunk: Chunk, source: str) -> None:
        """Take a chunk of a source."""
        self.blank += chunk.blank
        self.lines += chunk.blank + len(chunk.rejected) + len(chunk.rows)
        for rejection in chunk.rejected:
            self.rejected[rejection.reason] += 1
            self._rejected_at.setdefault(rejection.reason, f"{source}, line {rejection.line}")
            if self._unlisted:
                self._unlisted -= 1
                line: dict[str, str | int] = {"source": source, "line": rejection.line, "excerpt": rejection.excerpt}
                self._listed.setdefault(rejection.reason, []).append(line)
        for row in chunk.rows:
            identity = hash((row.account, row.row))
            if identity in self._seen:
                self.duplicates += 1
                continue
            self._seen.add(identity)
            self._add_row(row)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was rejected or warned of."""
        return not self.rejected and not any(warning.count for warning in self._warnings.values())

    def _add_row(self, row: FedRow) -> None:
        body = orjson.loads(row.body)
        url = str(body["url"])
        parts = urlsplit(url)
        leaf = unquote(parts.path.rpartition("/")[2])
        name = str(body.get("name") or leaf)
        folder = str(body.get("folderPath") or f"id {body.get('folderId')}")
        if len(self._bodies) < BODIES_SHOWN:
            self._bodies.append(row.body)
        self._hosts[parts.hostname or ""] += 1
        self._extensions[_extension(leaf)] += 1
        self._folders[folder] += 1
        self._warn(row, body, url, (row.account, folder.strip("/"), name))
        self.rows += 1

    def _warn(self, row: FedRow, body: Mapping[str, Any], url: str, target: tuple[str, str, str]) -> None:
        warnings = self._warnings
        if hash(target) in self._targets:
            warnings["names"].add(f"{target[1]}/{target[2]}")
        self._targets.add(hash(target))
        if (expires_at := _expires_at(url)) is not None and expires_at < self._now + self.rows / STARTS_A_S:
            warnings["expiry"].add(redacted_url(url))
        if is_share_page(url):
            warnings["page"].add(redacted_url(url))
        if body["access"] in HIDDEN_ACCESSES:
            warnings["hidden"].add(str(body["access"]))
        size = _size(self._columns.value(orjson.loads(row.ref), "size"))
        if size > PAID_BYTES:
            warnings["large"].add(redacted_url(url))
        elif size > FREE_BYTES:
            warnings["free"].add(redacted_url(url))

    def to_text(self) -> str:
        """Return the findings for people."""
        return "\n".join(self._text_lines())

    def _text_lines(self) -> Iterator[str]:
        yield (
            f"{counted(self.lines, 'line')} = {counted(self.rows, 'row')} + {counted(self.duplicates, 'duplicate')} + "
            f"{self.rejected.total():,} rejected + {self.blank:,} header or blank"
        )
        for title, counts in (("hosts", self._hosts), ("extensions", self._extensions), ("folders", self._folders)):
            if counts:
                shown = ", ".join(f"{printable(name)} {count:,}" for name, count in counts.most_common(TOP))
                more = f" and {len(counts) - TOP:,} more" if len(counts) > TOP else ""
                yield f"{title:<11} {shown}{more}"
        for reason, count in self.rejected.most_common(TOP):
            others = f"; --json lists all {count:,}" if 1 < count == len(self._listed.get(reason, ())) else ""
            yield f"rejected    {count:,} × {reason} (first: {self._rejected_at[reason]}{others})"
        if rarer := self.rejected.most_common()[TOP:]:
            rest = sum(count for _, count in rarer)
            yield f"rejected    {rest:,} × for {counted(len(rarer), 'rarer reason')}: --json lists them"
        for warning in self._warnings.values():
            if warning.count:
                more = ", …" if warning.count > len(warning.samples) else ""
                yield f"warning     {warning.count:,} × {warning.text}: {', '.join(warning.samples)}{more}"
        if self._bodies:
            yield "the first start calls:"
        yield from (f"  {body.decode()}" for body in self._bodies)

    def to_json(self) -> dict[str, object]:
        """Return the findings for programs."""
        return {
            "lines": self.lines,
            "rows": self.rows,
            "duplicates": self.duplicates,
            "blank": self.blank,
            "rejected": [
                {
                    "reason": reason,
                    "count": count,
                    "first": self._rejected_at[reason],
                    "lines": self._listed.get(reason, []),
                }
                for reason, count in self.rejected.most_common()
            ],
            "warnings": [
                {"name": name, "count": warning.count, "text": warning.text, "samples": warning.samples}
                for name, warning in self._warnings.items()
                if warning.count
            ],
            "hosts": dict(self._hosts.most_common(100)),
            "extensions": dict(self._extensions.most_common(100)),
            "folders": dict(self._folders.most_common(100)),
            "bodies": [orjson.Fragment(body) for body in self._bodies],
        }


def _extension(leaf: str) -> str:
    _, dot, extension = leaf.rpartition(".")
    return extension.lower() if dot and re.fullmatch(r"[A-Za-z0-9]{1,8}", extension) else "(none)"


def _size(value: object) -> int:
    text = str(value).strip()
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else 0


def _expires_at(url: str) -> float | None:
    """Return when a presigned URL expires: S3, Google Cloud Storage, CloudFront, Azure; None where it shows nothing."""
    query = urlsplit(url).query
    if not query:
        return None
    fields = {name.lower(): values[0] for name, values in parse_qs(query).items()}
    for prefix in ("x-amz-", "x-goog-"):
        signed_at, lasts_s = fields.get(f"{prefix}date"), fields.get(f"{prefix}expires")
        if signed_at is not None and lasts_s is not None and re.fullmatch("[0-9]{1,9}", lasts_s):
            try:
                return datetime.strptime(signed_at, _AMZ_DATE).replace(tzinfo=UTC).timestamp() + int(lasts_s)
            except ValueError:
                return None
    if re.fullmatch("[0-9]{9,11}", at := fields.get("expires", "")):
        return float(at)
    return epoch(fields["se"]) if "sig" in fields and "se" in fields else None
