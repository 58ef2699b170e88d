"""An exception that the code does not expect, as an error for a person."""

import os
import traceback
from pathlib import Path

from poller.core.errors import Defect, FolderGone, PollerError
from poller.core.log import error_message


def defect(error: BaseException) -> PollerError:
    """Return the error for a person: what happened, where in the code, what to do. Has no secret. Where the working
    folder is gone, that is the reason, and no defect."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, FileNotFoundError) and not _has_folder():
        return FolderGone("the working folder was deleted. Change to one that exists, and run the same command there")
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return Defect(
        f"unexpected {error_message(error)}{place}. This is a defect of the poller: report it; "
        "what is stored is safe, so the same command may be run again"
    )


def _has_folder() -> bool:
    try:
        os.getcwd()  # noqa: PTH109 - only whether there is one
    except FileNotFoundError:
        return False
    return True
