"""The life of each simulated task and the bodies of its answers. Pure: both follow from seed and id."""

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from poller.core.model import Kind
from poller.sandbox.file_store import StoredFile
from poller.sandbox.scenario import Fate, Scenario, chance, pick

STATUS_HOST = "https://api-na1.hubspot.com"  # as in HubSpot's own locators: not the host of the request
ID_SPACE_BITS = 34
ID_STEP = 0x2_545F_4915  # odd, so that steps of it visit every number of the space once
BEYOND_64_BITS = 2**70 + 1

_T = TypeVar("_T")


class Family(StrEnum):
    """The endpoints whose answers have the status shape; the value is the scope that each requires."""

    FILES = "files"
    FOLDERS = "files.ui_hidden.write"
    EXPORTS = "crm.export"
    SOURCE_CODE = "content"

    @property
    def has_task_id(self) -> bool:
        return self in (Family.FILES, Family.FOLDERS)

    @property
    def promises_result(self) -> bool:
        return self is not Family.SOURCE_CODE


_COMPLETING = (Fate.COMPLETE, Fate.COMPLETE_WITH_ERRORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTask:
    """A task's whole life, known from its start."""

    seed: int
    task_id: str
    fate: Fate
    url: str
    born_at: float
    starts_at: float
    ends_at: float
    big_ints: bool
    host_is_dead: bool = False  # then its one error is always the same
    file: StoredFile | None = None  # what a start call became, once it has landed
    is_duplicate: bool = False  # it was rejected as one

    @property
    def makes_file(self) -> bool:
        """Whether a file lands at `ends_at`, unless it is a duplicate."""
        return _completed(self, Family.FILES).result is not None if self.fate in _COMPLETING else False

    def draw(self, what: str) -> float:
        """Return a number in [0, 1) that depends on the seed, the task and `what` alone."""
        return chance(self.seed, self.task_id, what)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedOutcome:
    """What a poller must report, for tests to compare with. Bytes are exactly those in the answer."""

    kind: Kind
    ends_at: float | None  # None: never
    status: str | None = None  # HubSpot's last status; None where there is none
    errors: bytes | None = None  # None: absent or null
    num_errors: int | None = None  # as sent, which may differ from `errors`; None: not sent
    result: bytes | None = None


def task_id_of(seed: int, number: int) -> str:
    """Return the opaque id of the sandbox's task `number`; distinct for 2^34 of them."""
    space = 1 << ID_SPACE_BITS
    scrambled = ((number + int(chance(seed, "ids") * space)) * ID_STEP) % space
    return base64.urlsafe_b64encode(((1 << 36) | scrambled).to_bytes(8, "big")).decode().rstrip("=")


def id_decodes(task_id: str) -> bool:
    """Return whether HubSpot can decode the id; another one is a 400, not a 404."""
    try:
        raw = base64.urlsafe_b64decode(task_id + "=" * (-len(task_id) % 4))
    except ValueError:
        return False
    return len(raw) == 8 and base64.urlsafe_b64encode(raw).decode().rstrip("=") == task_id.rstrip("=")


def simulated_task(scenario: Scenario, task_id: str, born_at: float, url: str | None) -> SimulatedTask:
    """Return the life of the task that was started at `born_at`."""
    seed = scenario.seed
    duration_s = scenario.durations.draw_s(chance(seed, task_id, "part"), chance(seed, task_id, "duration"))
    queued_s = duration_s * 0.3 * chance(seed, task_id, "queued")
    fate = pick(scenario.fates, chance(seed, task_id, "fate")) or Fate.COMPLETE
    host_is_dead = bool(url and scenario.dead_hosts and urlsplit(url).hostname in scenario.dead_hosts)
    return SimulatedTask(
        seed=seed,
        task_id=task_id,
        fate=Fate.COMPLETE_WITH_ERRORS if host_is_dead else fate,
        host_is_dead=host_is_dead,
        url=url or f"https://assets.example.com/library/{task_id}.{_pick(tuple(_TYPES), seed, task_id)}",
        born_at=born_at,
        starts_at=born_at + queued_s,
        ends_at=born_at + duration_s,
        big_ints=chance(seed, task_id, "big_ints") < scenario.faults.get("big_ints", 0.0),
    )


def expected_outcome(task: SimulatedTask, family: Family) -> ExpectedOutcome:
    """Return the end of `task` as the endpoint of `family` reports it."""
    match task.fate:
        case Fate.UNKNOWN:
            return ExpectedOutcome(kind=Kind.NOT_FOUND, ends_at=task.born_at)
        case Fate.NEVER:
            return ExpectedOutcome(kind=Kind.TIMED_OUT, status="PROCESSING", ends_at=None)
        case Fate.CANCELED:
            return ExpectedOutcome(kind=Kind.CANCELED, status="CANCELED", ends_at=task.ends_at)
        case _:
            return _completed(task, family)


def _completed(task: SimulatedTask, family: Family) -> ExpectedOutcome:
    if task.host_is_dead or task.is_duplicate:
        reason = orjson.dumps([_duplicate(task) if task.is_duplicate else _not_downloaded(task)])
        kind = Kind.COMPLETE_WITH_ERRORS
        return ExpectedOutcome(kind=kind, status="COMPLETE", ends_at=task.ends_at, errors=reason, num_errors=1)
    errors, num_errors = _errors_sent(task) if family is not Family.SOURCE_CODE else (None, None)
    with_errors = task.fate is Fate.COMPLETE_WITH_ERRORS and family is not Family.SOURCE_CODE
    without_result = task.fate is Fate.COMPLETE_WITHOUT_RESULT or (with_errors and task.draw("lost") < 0.7)
    result = None if without_result or not family.promises_result else _result(task, family)
    kind = Kind.COMPLETE
    if with_errors:
        kind = Kind.COMPLETE_WITH_ERRORS
    elif result is None and family.promises_result:
        kind = Kind.COMPLETE_WITHOUT_RESULT
    return ExpectedOutcome(
        kind=kind, status="COMPLETE", ends_at=task.ends_at, errors=errors, num_errors=num_errors, result=result
    )


def status_fields(task: SimulatedTask, family: Family, now: float) -> dict[str, Any]:
    """Return the status answer at `now`, field by field, ready for `orjson.dumps`."""
    fields: dict[str, Any] = {"taskId": task.task_id} if family.has_task_id else {}
    fields["requestedAt"] = _instant(task.born_at, task)
    if now < task.starts_at:
        return fields | {"status": "PENDING"} | ({"startedAt": None} if task.draw("nulls") < 0.5 else {})
    fields["startedAt"] = _instant(task.starts_at, task)
    if now < task.ends_at or task.fate is Fate.NEVER:
        return fields | {"status": "PROCESSING"}
    outcome = expected_outcome(task, family)
    fields |= {"status": outcome.status, "completedAt": _instant(task.ends_at, task), "links": {}}
    for name, value in (("errors", outcome.errors), ("result", outcome.result)):
        if value is not None:
            fields[name] = orjson.Fragment(value)
        elif family.promises_result and task.draw(f"null {name}") < 0.2:
            fields[name] = None
    return fields if outcome.num_errors is None else fields | {"numErrors": outcome.num_errors}


def _pick(choices: tuple[_T, ...], *words: object) -> _T:
    return choices[int(chance(*words) * len(choices))]


def _instant(at: float, task: SimulatedTask) -> str:
    """Write an instant with 0, 3, 4 or 6 digits of a second, as HubSpot's answers vary."""
    digits = _pick((0, 3, 4, 6), task.seed, task.task_id, int(at))
    whole, _, fraction = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")[:26].partition(".")
    return f"{whole}.{fraction[:digits]}Z" if digits else f"{whole}Z"


# --- files, folders, exports -----------------------------------------------------------------------------------------

_TYPES = {"png": "IMG", "jpg": "IMG", "pdf": "DOCUMENT", "mp4": "MOVIE", "mp3": "AUDIO", "bin": "OTHER"}


def _result(task: SimulatedTask, family: Family) -> bytes:
    if family is Family.EXPORTS:
        return orjson.dumps(_export(task))
    built = orjson.dumps(_named_file(task) if family is Family.FILES else _folder(task))
    return built[:-1] + b',"revision":%d}' % BEYOND_64_BITS if task.big_ints else built


def _file(task: SimulatedTask) -> dict[str, Any]:
    leaf = task.url.partition("?")[0].rstrip("/").rpartition("/")[2] or "file"
    name, _, suffix = leaf.rpartition(".") if "." in leaf else (leaf, "", "bin")
    extension = suffix.lower() if suffix.lower() in _TYPES else suffix
    kind = _TYPES.get(extension, "OTHER")
    size = int(2 ** (10 + 18 * task.draw("size")))
    url = f"https://sandbox.fs1.hubspotusercontent-na1.net/hubfs/sandbox/library/{leaf}"
    return {
        **_created(task),
        "parentFolderId": _number_of(task, "folder"),
        "name": name,
        "path": f"/library/{leaf}",
        "size": size,
        **({"height": 64 + size % 2048, "width": 64 + size % 3072, "encoding": extension} if kind == "IMG" else {}),
        "type": kind,
        "extension": extension,
        "defaultHostingUrl": url,
        "url": url,
        "isUsableInContent": True,
        "access": _pick(("PUBLIC_INDEXABLE", "PUBLIC_NOT_INDEXABLE", "PRIVATE"), task.seed, task.task_id, "access"),
        "fileMd5": hashlib.blake2b(task.url.encode(errors="replace"), digest_size=16).hexdigest(),
        "sourceGroup": "CONTENT",
    }


def _named_file(task: SimulatedTask) -> dict[str, Any]:
    """Return the file with what the start call requested, or the older file that a duplicate check returned."""
    fields, file = _file(task), task.file
    if file is None:
        return fields
    name, dot, _ = file.name.rpartition(".")
    instant = _instant(file.created_at, task)
    return fields | {
        "id": file.id,
        "name": name if dot else file.name,
        "path": file.path,
        "access": file.options.access,
        "createdAt": instant,
        "updatedAt": instant,
    }


def _folder(task: SimulatedTask) -> dict[str, Any]:
    return {**_created(task), "parentFolderId": None, "name": "library", "path": "/library"}


def _created(task: SimulatedTask) -> dict[str, Any]:
    return {
        "id": _number_of(task, "id"),
        "createdAt": _instant(task.starts_at, task),
        "updatedAt": _instant(task.ends_at, task),
        "archived": False,
    }


def _export(task: SimulatedTask) -> str:
    signature = _number_of(task, "signature")
    return f"https://sandbox.example.com/exports/{_number_of(task, 'id')}.csv?Signature={signature}"


def _number_of(task: SimulatedTask, what: str) -> str:
    return str(int(1e10 + 8e10 * task.draw(what)))


# --- errors ----------------------------------------------------------------------------------------------------------


def _errors_sent(task: SimulatedTask) -> tuple[bytes | None, int | None]:
    """Return `errors` and `numErrors` as sent: they may differ, and either may be missing."""
    draw = task.draw("told")
    if task.fate is not Fate.COMPLETE_WITH_ERRORS:
        return (None, None) if draw < 0.5 else (b"[]", 0)
    reasons = _reasons(task)
    first = int(task.draw("reason") * len(reasons))
    count = 2 if task.draw("two") < 0.2 else 1
    errors = orjson.dumps([reasons[(first + n) % len(reasons)] for n in range(count)])
    if draw < 0.7:
        return errors, count
    if draw < 0.8:
        return errors, None
    if draw < 0.9:
        return errors, count + 2 if draw < 0.85 else 0
    return (b"[]" if draw < 0.95 else None), count


def _not_downloaded(task: SimulatedTask) -> dict[str, Any]:
    return {
        "status": "error",
        "id": hashlib.blake2b(task.task_id.encode(), digest_size=16).hexdigest(),
        "category": "VALIDATION_ERROR",
        "subCategory": "FileUploadErrors.DOWNLOAD_FAILED",
        "message": "The file could not be downloaded: the server answered 404",
        "errors": [
            {"message": "not reachable", "code": "DOWNLOAD_FAILED", "in": "url", "context": {"url": [task.url]}}
        ],
        "context": {"url": [task.url], "statusCode": ["404"]},
        "links": {},
    }


def _duplicate(task: SimulatedTask) -> dict[str, Any]:
    return {
        "status": "error",
        "category": "OBJECT_ALREADY_EXISTS",
        "message": "A file of this name is in the folder already",
        "errors": [{"message": "duplicate", "code": "DUPLICATE", "subCategory": "FileUploadErrors.DUPLICATE_FILE"}],
        "context": {"taskId": [task.task_id]},
    }


def _reasons(task: SimulatedTask) -> list[dict[str, Any]]:
    return [
        _not_downloaded(task),
        _not_downloaded(task),  # the most frequent one, as with real imports
        {
            "status": "error",
            "category": "DOWNLOAD_TIMEOUT",
            "subCategory": {"name": "TIMEOUT", "phase": "READ"},
            "message": "The file's server took too long to answer",
            "errors": [],
            "context": {"url": task.url},  # a plain string, as HubSpot published it too
            "links": {},
        },
        {
            "category": "VALIDATION_ERROR",
            "subCategory": None,
            "message": "The file exceeds the largest size that this account allows",
            "context": {"maxSizeBytes": ["20971520"]},
        },
        _duplicate(task),
        {"category": "FILE_TYPE_BLOCKED", "message": "Files of this type cannot be hosted", "links": {}},
        {"message": "internal error"},
    ]
