"""`poller import --check`: reads rows as an import would, and sends nothing."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poller.cli.options import AsJson, Config, DefaultAccount, Format, named_values, run_async, settings_of
from poller.core.columns import COLUMN_NAMES, Columns
from poller.core.errors import ConfigError, Exit, InputError

if TYPE_CHECKING:
    from poller.reports.import_check import ImportCheck
    from poller.sources import ReadOptions

NAME = "import"
EXAMPLES = "\b\nExample:\n  poller import urls.csv --set access=PRIVATE --set folderPath='/products/{brand}' --check"


def import_files(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Rows as CSV, JSON lines or URLs; - for stdin.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read every row and send nothing.")] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OPTION=TEXT",
            help="For rows without such a column; {column}, {url.file} and {url.folder} are the row's. Repeatable.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="MEANING=NAME", help="Your column for url or an option; repeatable.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What identifies a row. [url and all its options]")
    ] = None,
    config: Config = None,
    account: DefaultAccount = None,
    format: Format = None,  # noqa: A002 - the flag's name
    as_json: AsJson = False,
) -> Exit:
    """Check rows of URLs for HubSpot's start call; nothing is sent.

    Prints what is wrong or surprising in them, and ready bodies for the first three. This version needs --check: it
    does not start imports itself.

    \b
    Exit codes:
       0  every row is ready
       1  rows were rejected or warned of
      65  the input has no usable row
      78  an option is wrong, or access or folder is missing
    """
    from poller.app.inputs import feeding
    from poller.core.start_options import OPTIONS

    if not check:
        raise ConfigError("poller import needs --check: this version does not start imports itself")
    if not files:
        raise InputError("no input was given: poller import FILE --check")
    imports = {
        "options": named_values(set_ or [], "--set", OPTIONS),
        "columns": named_values(column or [], "--column", tuple(COLUMN_NAMES)),
        "key": key,
    }
    settings = settings_of(config, account=account, input={"format": format, "feeds": "imports"}, imports=imports)
    found = run_async(check_rows(files, feeding(settings), Columns(named=settings.imports.columns)))
    if as_json:
        import orjson

        sys.stdout.write(orjson.dumps(found.to_json()).decode() + "\n")
    else:
        sys.stdout.write(found.to_text() + "\n")
    if not found.rows:
        raise InputError("no usable row in the input")
    return Exit.ALL_COMPLETE if found.is_clean else Exit.NOT_ALL_COMPLETE


async def check_rows(files: Sequence[str], options: "ReadOptions", columns: Columns) -> "ImportCheck":
    """Read the files as a run would. Raises `InputError` and `ConfigError` as it would, too."""
    from poller.reports.import_check import ImportCheck
    from poller.sources import STDIN, Parser
    from poller.sources.files.open_file import check_readable, open_file

    check_readable(files)
    found = ImportCheck(columns, now=time.time())
    for spec in files:
        name = "standard input" if spec == STDIN else Path(spec).name
        with open_file(spec) as file:
            parser = Parser(options, file.name)
            while block := await file.block():
                for chunk in parser.push(block):
                    found.add(chunk, name)
            for chunk in parser.end():
                found.add(chunk, name)
    return found
