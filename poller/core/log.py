"""Owns how events reach stderr: one line each, JSON for machines, colours for a terminal. Promises that no registered
secret and nothing that looks like a token is ever written, and that a stderr nobody reads never stops the service.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from poller.core.protocols import Clock

_HIDDEN = "***"
_TOKEN_LIKE = re.compile(r"(?i)(?<=bearer )[^\s\"',}]+|(?<=bearer%20)[^\s\"',}&]+|\bpat-[a-z0-9]{2,4}-[a-z0-9-]{8,}")
_LEAST_SECRET = 8  # a shorter "secret" would blank ordinary words
_FRAMES = 20  # of each exception, the innermost
_LONGEST_STORY = 60  # lines of a traceback
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DEEPEST = 6  # levels of a value that are written out; below, its type's name
_secrets: set[str] = set()


def keep_secret(token: str) -> None:
    """Never let `token` be written by this process's log, whatever value it is part of."""
    if len(token) >= _LEAST_SECRET:
        _secrets.add(token)


def configure(
    *,
    format: Literal["auto", "json", "console"],  # noqa: A002 - the setting's name
    level: str,
    clock: Clock,
    stream: TextIO | None = None,
) -> None:
    """Send structlog's and the standard library's events to `stream` (stderr). May be called again."""
    stream = stream or sys.stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _timestamp(clock),
        _render_exceptions,
        hide_secrets,
        *([_printable] if console else []),
    ]
    renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False) if console else _render_json
    quiet = QuietStream(stream)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", quiet)),
        cache_logger_on_first_use=False,
    )
    _configure_stdlib(quiet, max(least, logging.WARNING), [_event_of_stdlib, *shared, renderer])


_WITHOUT_DEBUG = [structlog.make_filtering_bound_logger(level) for level in (20, 30, 40, 50)]


def tells_debug() -> bool:
    """Tell whether debug events are written; asking costs a tenth of an event that is dropped."""
    return structlog.get_config()["wrapper_class"] not in _WITHOUT_DEBUG


class QuietStream:
    """A text stream whose reader may vanish or whose disk may be full: the line is lost, the service goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            self._forget()
        except (OSError, ValueError):  # no space; closed file
            pass
        return 0

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._forget()
        except (OSError, ValueError):
            pass

    def _forget(self) -> None:
        """Nobody reads any more. What is still buffered would fail again at exit and make the exit code 120."""
        with suppress(OSError, ValueError, AttributeError):  # not every stream has a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


class Folded:
    """Logs an event that repeats at most every `every_s`, with `repeated` counting those in between."""

    def __init__(self, log: Callable[..., Any], *, clock: Clock, every_s: float = 60.0) -> None:
        self._log = log
        self._clock = clock
        self._every_s = every_s
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def __call__(self, event: str, *, by: tuple[object, ...] = (), **values: object) -> bool:
        """Log, or count. Events with the same name and `by` are the same. Return whether it was logged."""
        key, now = (event, *by), self._clock()
        said_at, held = self._seen.get(key, (None, 0))
        if said_at is not None and 0 <= now - said_at < self._every_s:
            self._seen[key] = (said_at, held + 1)
            return False
        self._seen[key] = (now, 0)
        self._log(event, **values, **({"repeated": held} if held else {}))
        return True

    def forget(self, event: str, *, by: tuple[object, ...] = ()) -> None:
        """The matter is over: the next one is news again."""
        self._seen.pop((event, *by), None)


def hide_secrets(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Replace registered secrets and what looks like a token, in keys and values of any shape. The last defence."""
    if _is_plain(event):
        return event
    return {str(_without_secrets(key)): _without_secrets(value) for key, value in event.items()}


def _is_plain(event: EventDict) -> bool:
    """Tell, in one pass over most events, that there is nothing to hide and nothing that orjson cannot write."""
    texts: list[str] = []
    for key, value in event.items():
        texts.append(key)
        if type(value) is str:
            texts.append(value)
        elif not (value is None or type(value) in (bool, float) or (type(value) is int and abs(value) < 2**63)):
            return False
    text = "\n".join(texts)
    if _TOKEN_LIKE.search(text) is not None or any(secret in text for secret in _secrets):
        return False
    return text.isascii()


def _without_secrets(value: object, depth: int = 0) -> object:
    match value:
        case str():
            for secret in _secrets:
                value = value.replace(secret, _HIDDEN)
            return _TOKEN_LIKE.sub(_HIDDEN, value).encode("utf-8", "replace").decode()
        case bool() | float() | None:
            return value
        case int():
            return value if -(2**63) <= value < 2**64 else str(value)  # orjson writes 64 bits
        case _ if depth >= _DEEPEST:
            return type(value).__name__
        case Mapping():
            return {str(_without_secrets(str(k))): _without_secrets(v, depth + 1) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_without_secrets(part, depth + 1) for part in value]
        case bytes() | bytearray():
            return _without_secrets(value.decode("utf-8", "replace"), depth)
        case BaseException():
            return told(value)
        case _:
            return _without_secrets(str(value), depth)


def told(error: BaseException) -> str:
    """Return an exception as class and message. aiohttp's print the request with its headers: of these, the class."""
    name = type(error).__name__
    if type(error).__module__.startswith("aiohttp") or hasattr(error, "request_info"):
        return name
    text = str(_without_secrets(str(error)))
    return f"{name}: {text}" if text else name


def _timestamp(clock: Clock) -> Processor:
    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        at = datetime.fromtimestamp(clock(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        name, level = event.pop("event", ""), event.pop("level", "info")
        return {"timestamp": at, "level": level, "event": name, **event}

    return add


def _render_exceptions(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """`exc_info` becomes `exception` (class and message) and `traceback` (places and messages, no locals)."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info and error is None:
        error = sys.exc_info()[1]
    if error is None:
        return event
    return {**event, "exception": told(error), "traceback": list(islice(_story(error), _LONGEST_STORY))}


def _story(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__, limit=-_FRAMES):
        yield f"{frame.filename}:{frame.lineno} {frame.name}"
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for other in filter(None, (*parts, before)):
        yield f"from {told(other)}"
        yield from _story(other)


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return orjson.dumps(event).decode()


def _printable(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """What others sent must not steer the terminal."""
    return {key: _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", v) if isinstance(v, str) else v for key, v in event.items()}


def _event_of_stdlib(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Give a library's log record the shape of an event: its prose becomes `message`."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    values = {"logger": record.name, "message": event.pop("event", "")}
    return {**event, "event": "library.logged", **values}


def _configure_stdlib(stream: QuietStream, least: int, processors: list[Processor]) -> None:
    """Libraries (aiohttp, asyncio) speak through the same lines; below warnings they are of no use to a person."""
    formatter = structlog.stdlib.ProcessorFormatter(processors=processors, keep_exc_info=False, keep_stack_info=False)
    handler: logging.StreamHandler[Any] = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)
    logging.raiseExceptions = False  # a record that cannot be written is lost, not printed with a traceback
    logging.captureWarnings(capture=True)
