"""What a run writes for a person on stderr: its closing summary, and what to do next."""

import sys
from collections.abc import Sequence

import structlog

from poller.core import log as logs
from poller.core.errors import Exit, InputError, PollerError
from poller.core.model import Sums
from poller.core.text import without_controls
from poller.engine.metrics import Metrics
from poller.reports.ledger import failed_polls, imbalances, summary
from poller.reports.work import Work, exit_code, work_text
from poller.sources import Source

log = structlog.get_logger("poller")


def nothing_fed(sums: Sums, metrics: Metrics, sources: Sequence[Source], state_flag: str) -> InputError | None:
    """Return the error where the input had nothing to do; None where it had."""
    if metrics.tasks or metrics.duplicates:
        return None
    if metrics.rejected:
        listed = f"`poller status --rejected{state_flag}` lists each line with its reason"
        return InputError(f"no usable id in the input. {listed}")
    if sums.waiting or sums.finished:
        return None
    return InputError(
        "the input has no id" if sources else "no input was given, and the state has no tasks: poller run FILE"
    )


def conclude(sums: Sums, work: Work, metrics: Metrics, error: PollerError | None, state_flag: str) -> Exit:
    """Print the closing summary; return the exit code."""
    write("\n".join(filter(None, (summary(sums), failed_polls(metrics.failed_polls), work_text(work, state_flag)))))
    code, message = exit_code(sums, work), None
    if broken := imbalances(sums):
        log.error("ledger.broken", differences=[str(imbalance) for imbalance in broken])
        code = Exit.INTERNAL
    elif error is not None:
        code, message = error.exit_code, str(error)
    elif code is Exit.WORK_LEFT:
        undelivered = sum(sink.undelivered for sink in sums.sinks if sink.attached)
        left = f"{sums.waiting:,} tasks wait and {undelivered:,} records are not delivered"
        message = f"stopped with work left: {left}. Run the same command again to continue"
    if message is not None:
        write(f"poller: {message}")
    log.info("run.ended", exit_code=int(code), finished=sums.finished, waiting=sums.waiting, polls=metrics.polls)
    return code


def write(text: str) -> None:
    """Write to stderr for a person; ignore that it was closed."""
    stream = logs.QuietStream(sys.stderr)
    stream.write("".join(f"{without_controls(line)}\n" for line in text.splitlines()))
    stream.flush()
