"""Log events to stderr: one line each, JSON for machines, colours for a terminal. No registered secret and nothing that
looks like a token is ever written, and a closed or full stderr never stops the service.
"""

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import islice
from typing import Any, Literal, Protocol, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from poller.core.protocols import Clock
from poller.core.timestamps import iso

_HIDDEN = "***"
_TOKEN_LIKE = re.compile(r"(?i)(?<=bearer )[^\s\"',}]+|(?<=bearer%20)[^\s\"',}&]+|\bpat-[a-z0-9]{2,4}-[a-z0-9-]{8,}")
_LEAST_SECRET = 8  # a shorter "secret" would blank ordinary words
_FRAMES = 20  # of each exception, the innermost
_TRACEBACK_LINES = 60  # at most
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_DEEPEST = 6  # levels of a value that are written; below them, the name of its type
_LEVELS = frozenset({"debug", "info", "warning", "error"})
_SPECIAL = frozenset({"exc_info", "level", "timestamp"})  # keys that the processors change or must not lose
_secrets: set[str] = set()
_written_to: "QuietStream | None" = None
_is_json = False
OURS = "poller"  # our modules get their logger by this name; it is also the standard library's


def keep_secret(token: str) -> None:
    """Hide `token` in everything that this process logs from now on."""
    if len(token) >= _LEAST_SECRET:
        _secrets.add(token)


def without_tokens(text: str) -> str:
    """Return text without what looks like a token."""
    return _TOKEN_LIKE.sub(_HIDDEN, text)


def configure(
    *,
    format: Literal["auto", "json", "console"],  # noqa: A002 - the setting's name
    level: str,
    clock: Clock,
    stream: "TextStream | None" = None,
) -> None:
    """Send structlog's and the standard library's events to `stream` (stderr). May be called again."""
    stream = stream or sys.stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        _timestamp(clock),
        _render_exceptions,
        hide_secrets,
        *([_printable] if console else []),
    ]
    renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), sort_keys=False) if console else _render_json
    global _written_to, _is_json
    quiet, merge = QuietStream(stream), structlog.contextvars.merge_contextvars
    _written_to, _is_json = quiet, not console
    structlog.configure(
        processors=[merge, *shared, renderer] if console else [merge, _plain_first(clock, [*shared, renderer])],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", quiet)),
        cache_logger_on_first_use=False,
    )
    _configure_stdlib(
        quiet,
        max(least, logging.WARNING),
        [_event_of_stdlib, structlog.contextvars.merge_contextvars, *shared, renderer],
    )


def use_stdlib_unless_configured() -> None:
    """Within another program: send our events to the standard library's logger `poller`, unless the program configured
    structlog, which then decides. What the program logs with structlog stays as it is."""
    if structlog.is_configured():
        return
    output, theirs = logging.getLogger(OURS), structlog.get_config()
    make_logger, processors = theirs["logger_factory"], list(theirs["processors"])

    def process(logger: WrappedLogger, name: str, event: EventDict) -> Any:
        if logger is output:
            return _for_stdlib(output, name, event)
        for processor in processors:
            event = processor(logger, name, event)
        return event

    structlog.configure(
        processors=[process],
        logger_factory=lambda *names: output if names == (OURS,) else make_logger(*names),
    )


def _for_stdlib(output: logging.Logger, name: str, event: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """Return the arguments of a call of the standard library's logger."""
    if not output.isEnabledFor(logging.getLevelNamesMapping().get(name.upper(), logging.ERROR)):
        raise structlog.DropEvent
    event = hide_secrets(output, name, _render_exceptions(output, name, event))
    title = event.pop("event", "")
    return (" ".join([title, *(f"{key}={value!r}" for key, value in event.items())]),), {"extra": {"poller": event}}


def gathered() -> AbstractContextManager[None]:
    """Write the lines of the events inside in one piece at the end. Not for code that awaits or takes long."""
    return nullcontext() if _written_to is None else _written_to.gathering()


_WITHOUT_DEBUG = [structlog.make_filtering_bound_logger(level) for level in (20, 30, 40, 50)]


def is_debug() -> bool:
    """Return whether debug events are written; asking costs a tenth of a dropped event."""
    return structlog.get_config()["wrapper_class"] not in _WITHOUT_DEBUG


def is_json() -> bool:
    """Return whether events are written as JSON, for programs: a message for a person is no event."""
    return _is_json


class TextStream(Protocol):
    """What a log needs of its stream."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...
    def fileno(self) -> int: ...


class QuietStream:
    """A text stream whose errors are ignored: a line is lost if the pipe is closed or the disk is full."""

    def __init__(self, stream: TextStream) -> None:
        self._stream = stream
        self._gathered: list[str] | None = None

    def write(self, text: str) -> int:
        if self._gathered is not None:
            self._gathered.append(text)
            return len(text)
        return self._attempt(lambda: self._stream.write(text))

    def flush(self) -> None:
        if self._gathered is None:
            self._attempt(self._stream.flush)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """Write what comes meanwhile in one piece at the end."""
        self._gathered = gathered = self._gathered or []
        try:
            yield
        finally:
            self._gathered = None
            if text := "".join(gathered):
                self.write(text)
                self.flush()

    def _attempt(self, act: Callable[[], int | None]) -> int:
        try:
            return act() or 0
        except BrokenPipeError:
            self._forget()
        except (OSError, ValueError):  # no space; closed file
            pass
        return 0

    def _forget(self) -> None:
        """On a closed pipe, redirect to /dev/null so that Python does not exit with 120."""
        with suppress(OSError, ValueError, AttributeError):  # not every stream has a descriptor
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, self._stream.fileno())
            os.close(devnull)


class Folded:
    """Logs a repeated event at most once in `every_s`, with `repeated` counting those in between."""

    def __init__(self, log: Callable[..., Any], *, clock: Clock, every_s: float = 60.0) -> None:
        self._log = log
        self._clock = clock
        self._every_s = every_s
        self._seen: dict[tuple[object, ...], tuple[float, int]] = {}

    def __call__(self, event: str, *, by: tuple[object, ...] = (), **values: object) -> bool:
        """Log the event or count it; return whether it was logged. Events with the same name and `by` are the same."""
        key, now = (event, *by), self._clock()
        logged_at, held = self._seen.get(key, (None, 0))
        if logged_at is not None and 0 <= now - logged_at < self._every_s:
            self._seen[key] = (logged_at, held + 1)
            return False
        self._seen[key] = (now, 0)
        self._log(event, **values, **({"repeated": held} if held else {}))
        return True

    def forget(self, event: str, *, by: tuple[object, ...] = ()) -> None:
        """The cause is gone: log the next such event at once."""
        self._seen.pop((event, *by), None)


def hide_secrets(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Replace registered secrets and what looks like a token, in keys and values of any shape."""
    if _is_plain(event):
        return event
    return {str(_without_secrets(key)): _without_secrets(value) for key, value in event.items()}


def _is_plain(event: EventDict) -> bool:
    """Return whether an event has nothing to hide and nothing that orjson cannot write; true for most."""
    texts = list(event)
    for value in event.values():
        kind = type(value)
        if kind is str:
            texts.append(value)
        elif not (value is None or kind is bool or kind is float or (kind is int and -(2**63) < value < 2**63)):
            return False
    text = "\n".join(texts)
    if not text.isascii() or any(secret in text for secret in _secrets):
        return False
    lower = text.lower()  # a search for the two words costs a tenth of one by the expression
    return ("pat-" not in lower and "bearer" not in lower) or _TOKEN_LIKE.search(text) is None


def _without_secrets(value: object, depth: int = 0) -> object:
    match value:
        case str():
            for secret in _secrets:
                value = value.replace(secret, _HIDDEN)
            return without_tokens(value).encode("utf-8", "replace").decode()
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
            return error_message(value)
        case _:
            return _without_secrets(str(value), depth)


def error_message(error: BaseException) -> str:
    """Return an exception as class and message; of aiohttp's only the class: they print the request's headers."""
    name = type(error).__name__
    if type(error).__module__.startswith("aiohttp") or hasattr(error, "request_info"):
        return name
    text = str(_without_secrets(str(error)))
    return f"{name}: {text}" if text else name


def _timestamp(clock: Clock) -> Processor:
    def add(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        name, level = event.pop("event", ""), event.pop("level", "info")
        return {"timestamp": iso(clock()), "level": level, "event": name, **event}

    return add


def _render_exceptions(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Replace `exc_info` by `exception` (class and message) and `traceback` (lines and messages, no locals)."""
    info = event.pop("exc_info", None)
    error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else None
    if info and error is None:
        error = sys.exc_info()[1]
    if error is None:
        return event
    return {
        **event,
        "exception": error_message(error),
        "traceback": list(islice(_traceback(error), _TRACEBACK_LINES)),
    }


def _traceback(error: BaseException) -> Iterator[str]:
    for frame in traceback.extract_tb(error.__traceback__, limit=-_FRAMES):
        yield f"{frame.filename}:{frame.lineno} {frame.name}"
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for other in filter(None, (*parts, before)):
        yield f"from {error_message(other)}"
        yield from _traceback(other)


def _plain_first(clock: Clock, processors: Sequence[Processor]) -> Processor:
    """Return what these processors together do; most events take a short way, at a third of the cost."""

    def render(logger: WrappedLogger, name: str, event: EventDict) -> Any:
        if name in _LEVELS and event.keys().isdisjoint(_SPECIAL) and _is_plain(event):
            title = event.pop("event", "")
            return orjson.dumps({"timestamp": iso(clock()), "level": name, "event": title, **event}).decode()
        rendered: Any = event
        for processor in processors:
            rendered = processor(logger, name, rendered)
        return rendered

    return render


def _render_json(_logger: WrappedLogger, _name: str, event: EventDict) -> str:
    return orjson.dumps(event).decode()


def _printable(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Replace control characters: received text must not steer the terminal."""
    return {key: _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", v) if isinstance(v, str) else v for key, v in event.items()}


def _event_of_stdlib(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Turn a library's log record into an event; its text becomes `message`."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog", None)
    values = {"logger": record.name, "message": event.pop("event", "")}
    return {**event, "event": "library.logged", **values}


def _configure_stdlib(stream: QuietStream, least: int, processors: list[Processor]) -> None:
    """Write the warnings of libraries (aiohttp, asyncio) as events, too."""
    formatter = structlog.stdlib.ProcessorFormatter(processors=processors, keep_exc_info=False, keep_stack_info=False)
    handler: logging.StreamHandler[Any] = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(least)
    logging.raiseExceptions = False  # a record that cannot be written is lost, not printed with a traceback
    logging.captureWarnings(capture=True)
