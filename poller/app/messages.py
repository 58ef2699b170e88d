"""What a run writes for a person on stderr: its closing summary, and what to do next."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import structlog

from poller.config import Settings
from poller.core import log as logs
from poller.core.errors import Exit, InputError, PollerError
from poller.core.sums import Sums
from poller.core.text import counted, duration, redacted_url, without_controls
from poller.engine import Service
from poller.engine.metrics import Metrics
from poller.reports.ledger import failed_polls, imbalances, summary
from poller.reports.work import Work, exit_code, work_text
from poller.sources import Source

log = structlog.get_logger("poller")

LONGEST_COMMAND = 500  # characters; a longer one is not worth copying
STDIN = "-"
LIKELY_PERCENT = 100  # a smaller number of tasks may be meant as a percentage
NO_INPUT = "no input was given, and the state has no tasks: poller {command} FILE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """How a person continues a run that stopped with work left."""

    command: Sequence[str] = ()  # the words of the command line that began it; empty: not known
    otherwise: str = "Run the same command again{stdin} to continue"

    def text(self, *, is_fed: bool = False) -> str:
        """Return the sentence with the command to copy, without a word that may be a secret. `is_fed`: all of the input
        is in the state."""
        words = [word for word in self.command if word != STDIN or not is_fed]
        command, stdin = shlex.join(words), " with the same standard input" if STDIN in words else ""
        if not words or len(command) > LONGEST_COMMAND or any(map(_has_secret, words)):
            return self.otherwise.format(stdin=stdin)
        return f"Run it again{stdin} to continue: {without_controls(command)}"


def _has_secret(word: str) -> bool:
    """Whether a word of a command line has a URL with a user, a password or a query."""
    url = word.partition("=")[2] if word.startswith("--") else word
    kind, _, target = url.partition(":")
    shown = target if kind in ("webhook", "sql") else url
    return "://" in shown and redacted_url(shown) != shown


def awaited(service: Service) -> str:
    """Return what the end of the run waits for: a state that cannot be written, requests, deliveries, and
    for how long at most; empty for nothing."""
    reason = service.unwritable_reason
    parts = [f"the state, which cannot be written ({without_controls(reason)})"] if reason else []
    requests = sum(lane.gate.reading().in_flight for lane in service.lanes.values())
    noun = "request" if any(lane.imports is not None for lane in service.lanes.values()) else "poll"
    parts += [f"{counted(requests, noun)} {'held up' if reason else 'in flight'}"] if requests else []
    behind = [loop for loop in service.deliveries.loops if loop.stopped_by is None and loop.undelivered]
    parts += [f"{counted(loop.undelivered, 'record')} for {without_controls(loop.sink.name)}" for loop in behind]
    left_s = service.drain_left_s
    return ", ".join(parts) + (f", at most {duration(round(left_s))} more" if parts and left_s is not None else "")


def no_input(settings: Settings) -> InputError:
    """Return the error where neither input nor state has anything to do."""
    return InputError(NO_INPUT.format(command="import" if settings.input.feeds == "imports" else "run"))


def nothing_fed(
    sums: Sums, metrics: Metrics, sources: Sequence[Source], settings: Settings, refused: int = 0
) -> InputError | None:
    """Return the error where the input had nothing to do; None where it had. `refused`: dropped files in which nothing
    was usable."""
    noun = "row" if settings.input.feeds == "imports" else "id"
    if metrics.tasks or metrics.duplicates:
        return None
    if metrics.rejected:
        listed = f"`poller status --rejected{state_flag(settings)}` lists each line with its reason"
        return InputError(f"no usable {noun} in the input. {listed}")
    if refused:
        moved = f"{counted(refused, 'file is', 'files are')} in `failed`"
        return InputError(f"no usable {noun} in the input. {moved}: source.file_failed in the log has the reason")
    if sums.waiting or sums.finished:
        return None
    return InputError(f"the input has no {noun}") if sources else no_input(settings)


def state_flag(settings: Settings) -> str:
    """Return the flag that names the state, for commands to copy; empty where it is the usual one."""
    return f" --state {redacted_url(settings.state)}" if "state" in settings.model_fields_set else ""


def notes_at_start(settings: Settings) -> Iterator[str]:
    """Yield what a person may have meant otherwise."""
    count = settings.stop_on_failures
    if count is not None and 1 <= count <= LIKELY_PERCENT:
        tasks = counted(int(count), "task")
        yield f"the run stops after {tasks} that did not complete; for a share write --stop-on-failures {count:.0f}%"


def conclude(sums: Sums, work: Work, metrics: Metrics, error: PollerError | None, state_flag: str, again: str) -> Exit:
    """Print the closing summary; return the exit code. `again` is how a person continues."""
    write("\n".join(filter(None, (summary(sums), failed_polls(metrics.failed_polls), work_text(work, state_flag)))))
    code, message = exit_code(sums, work), None
    if broken := imbalances(sums):
        log.error("ledger.broken", differences=[str(imbalance) for imbalance in broken])
        code = Exit.INTERNAL
    elif error is not None:
        code, message = error.exit_code, str(error)
    elif code is Exit.WORK_LEFT:
        undelivered = sum(sink.undelivered for sink in sums.sinks if sink.attached)
        parts = [(sums.waiting, "task", "waiting"), (undelivered, "record", "not delivered")]
        left = [f"{counted(count, noun)} {state}" for count, noun, state in parts if count]
        unread = f" ({work.unread_reason})" if work.unread_reason else ""
        left += [f"input not read to its end{unread}"] if work.is_input_left else []
        why = f"the state cannot be written ({work.unwritable})" if work.unwritable else ""
        message = f"stopped with work left: {'; '.join(filter(None, (', '.join(left), why)))}. {again}"
    if message is not None:
        write(f"poller: {message}")
    log.info(
        "run.ended",
        exit_code=int(code),
        finished=sums.finished,
        waiting=sums.waiting,
        polls=metrics.polls,
        reason=message,
    )
    return code


def write(text: str, stream: logs.TextStream | None = None) -> None:
    """Write to `stream` (stderr) for a person; ignore that it was closed."""
    out = logs.QuietStream(stream or sys.stderr)
    out.write("".join(f"{without_controls(line)}\n" for line in text.splitlines()))
    out.flush()
