"""An exception that the code does not expect, as an error for a person."""

import traceback
from pathlib import Path

from poller.core.errors import Defect
from poller.core.log import error_message


def defect(error: BaseException) -> Defect:
    """Return the error for a person: what happened, where in the code, what to do. Has no secret."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return Defect(
        f"unexpected {error_message(error)}{place}. This is a defect of the poller: report it; "
        "what is stored is safe, so the same command may be run again"
    )
