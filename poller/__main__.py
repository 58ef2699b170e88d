"""The `poller` command, also as `python -m poller`: what signals do while its modules are imported, half a second."""

import gc
import signal
import sys

RUNS = ("run", "import")
OBJECTS_BETWEEN_COLLECTIONS = 50_000  # imports make a hundred thousand, of which next to none is garbage


def main() -> None:
    """Import and run the command line. Until it handles signals itself, Ctrl-C ends it without a traceback: nothing has
    begun. A run that is asked to reload is not ended by it: it has not read its settings yet."""
    gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
    is_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a background job ignores it
    if is_interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if is_run := bool(sys.argv[1:2]) and sys.argv[1] in RUNS:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from poller.cli.app import main as run_command_line

    if is_interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run_command_line()
    finally:
        gc.freeze()  # or Python would search all that there is for garbage, several times, before it exits
        if is_run:  # its exit code is settled; Python itself resets all other handlers as it ends
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)


if __name__ == "__main__":
    main()
