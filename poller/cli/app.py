"""The `poller` command: the group of commands, errors as messages and exit codes, the standard streams.

Each command is a module in `commands/`. What takes long to import is imported in the functions that need it.
"""

import codecs
import errno
import io
import os
import re
import sys
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from poller import __version__
from poller.cli.commands import (
    check_config,
    demo,
    healthcheck,
    import_files,
    list_tasks,
    pause,
    plan,
    reload,
    replay,
    report,
    resume,
    run,
    sandbox,
    sinks,
    status,
    ui,
    verify,
    why,
)
from poller.cli.help import command_class
from poller.core.errors import ConfigError, Exit, PollerError


class Commands(typer.core.TyperGroup):
    """The group of commands. Prints expected errors as one message; a command's return value is the exit code."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        command = super().get_command(ctx, cmd_name)
        is_input = cmd_name == "-" or os.path.isfile(cmd_name)  # noqa: PTH113 - never raises
        if command is None and not ctx.resilient_parsing and is_input:
            ctx.fail(f"{cmd_name} is input, not a command: poller run {cmd_name}")
        return command

    def invoke(self, ctx: Any) -> NoReturn:
        _import_structlog_alone()
        try:
            code = super().invoke(ctx)
        except PollerError as error:
            _print_error(error)
            code = _exit_code(error)
        except KeyboardInterrupt:  # before or after a run, which handles the signal itself
            typer.echo("poller: interrupted", err=True)
            code = Exit.WORK_LEFT
        except Exception as error:
            if error is _why_unwritten() or _is_of_command_line(error):
                _drop_library_words(error)
                raise
            from poller.core.defect import defect

            found = defect(error)
            _print_error(found)
            code = found.exit_code
        raise typer.Exit(code or 0) from None


app = typer.Typer(
    name="poller",
    cls=Commands,
    help="Imports URLs into HubSpot, or polls imports that were started elsewhere, until each has its outcome.\n\n"
    "Stays within your API quota.",
    no_args_is_help=True,
    rich_markup_mode=None,  # rich reads "[default]" as markup, and takes 0.1 s to import
    add_completion=True,
    pretty_exceptions_enable=False,  # its tracebacks print local variables, the token among them
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"poller {__version__}")
        raise typer.Exit


app.command(import_files.NAME, epilog=import_files.EXAMPLES, cls=command_class(import_files))(
    import_files.import_files  # `import` is a keyword
)
for module in (
    *(run, check_config, plan, status, why, report, verify, replay, pause, resume, reload, sinks, ui),
    *(healthcheck, demo, sandbox),
):
    name = module.__name__.rpartition(".")[2]
    app.command(epilog=module.EXAMPLES, cls=command_class(module))(getattr(module, name))
app.command(list_tasks.NAME, epilog=list_tasks.EXAMPLES, cls=command_class(list_tasks))(list_tasks.list_tasks)


def _import_structlog_alone() -> None:
    """Import structlog without rich, which it takes for tracebacks where it can: our log renders them itself, and rich
    is a tenth of a start."""
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # as if it were not installed
        import structlog  # noqa: F401

        del sys.modules["rich"]


def _is_of_command_line(error: Exception) -> bool:
    """Whether typer handles it: a wrong command line, an exit."""
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "format_message")


def _drop_library_words(error: Exception) -> None:
    """Take pydantic's prefix from the message of a wrong command line."""
    if isinstance(message := getattr(error, "message", None), str):
        error.message = message.removeprefix("Value error, ")  # type: ignore[attr-defined]


def _exit_code(error: PollerError) -> Exit:
    """Return an error's exit code. Where only flags are refused, by whichever part, the command line is wrong."""
    is_of_flags = isinstance(error, ConfigError) and all(line.startswith("--") for line in str(error).splitlines())
    return Exit.USAGE if is_of_flags else error.exit_code


def _print_error(error: PollerError) -> None:
    from poller.core.text import without_controls

    first, *others = map(without_controls, str(error).splitlines() or [type(error).__name__])
    typer.echo("\n".join([f"poller: {first}", *(f"  {line}" for line in others)]), err=True)


def main() -> None:
    """Run the command line; the entry point of the distribution."""
    _replace_closed_streams()
    codecs.register_error("json_escapes", _json_escapes)
    for name, output in (("stdout", _Output), ("stderr", _Errors)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):  # it was not closed
            setattr(sys, name, _like(stream, output))
    try:
        app()
    except OSError as error:
        if error is not _why_unwritten():
            raise
    finally:
        _end_stdout()


def _replace_closed_streams() -> None:
    """Open /dev/null for each closed standard stream, so that no file of ours gets its number. Writing to stdout fails
    then, so that no record counts as delivered; what goes to stderr is dropped."""
    for fd, (name, mode) in enumerate((("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY))):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, mode)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
            setattr(sys, name, open(os.devnull, "r" if fd == 0 else "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - it stays open


def _json_escapes(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that the stream's encoding lacks by JSON's escapes: what is JSON stays the same JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass").hex()
    return re.sub("(....)", r"\\u\1", units), error.end


class _Output(io.FileIO):
    """Standard output. Keeps why it could not be written to: what is not on it by then may be in no buffer any more."""

    unwritten: OSError | None = None

    def write(self, data: Any) -> int | None:  # type: ignore[override]  # None: it is full, and does not block
        try:
            return super().write(data)
        except OSError as error:
            self.unwritten = error
            raise


class _Errors(io.FileIO):
    """Standard error. What it does not take is dropped: a message that is not seen must not change the exit code."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]  # None: it is full, and does not block
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _like(stream: io.TextIOWrapper, output: type[_Output] | type[_Errors]) -> io.TextIOWrapper:
    """Return a standard stream whose bytes go through `output`. One for data escapes what it cannot encode as JSON."""
    return io.TextIOWrapper(
        io.BufferedWriter(output(stream.fileno(), "w", closefd=False)),
        encoding=stream.encoding,
        errors="json_escapes" if output is _Output else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _why_unwritten() -> OSError | None:
    """Return why standard output could not be written to; None where it could."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.unwritten if isinstance(raw, _Output) else None


def _end_stdout() -> None:
    """Flush it. A reader that left early is no error; output that could not be written for another reason is one."""
    try:
        sys.stdout.flush()
    except OSError:  # redirect to /dev/null, so that Python does not exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    error = _why_unwritten()
    if error is not None and error.errno != errno.EPIPE:
        typer.echo(f"poller: standard output cannot be written to: {error.strerror}", err=True)
        raise SystemExit(Exit.CANNOT_CREATE) from None
